//! The rule for deadlines.

use std::time::Duration;

use super::fake_store::{FakeStore, sound};
use super::found;
use crate::event::EventKind;
use crate::verify::Promise;

/// The last order of the sound store, which has not started.
const WAITING: i64 = 9;

fn with_overdue_order() -> FakeStore {
    let mut store = sound();
    store.then(WAITING, EventKind::Overdue);
    let record = store.order(WAITING);
    record.order.request.deadline = Some(record.order.created_at);
    store
}

#[tokio::test]
async fn an_overdue_order_is_sound() {
    let mut store = with_overdue_order();
    store.then(WAITING, EventKind::Started);
    store.then(WAITING, EventKind::Completed);
    assert_eq!(found(store).await, []);
}

#[tokio::test]
async fn each_breach_of_a_deadline_is_found() {
    let breach = [(Promise::Deadlines, Some(WAITING))];
    let mut store = with_overdue_order();
    store.then(WAITING, EventKind::Overdue);
    assert_eq!(found(store).await, breach);
    let mut store = with_overdue_order();
    store.order(WAITING).order.overdue = false;
    assert_eq!(found(store).await, breach);
    let mut store = sound();
    store.order(WAITING).order.overdue = true;
    assert_eq!(found(store).await, breach);
    for deadline in [None, Some(Duration::from_hours(1))] {
        let mut store = with_overdue_order();
        let order = &mut store.order(WAITING).order;
        order.request.deadline = deadline.map(|span| order.created_at.plus(span));
        assert_eq!(found(store).await, breach);
    }
}
