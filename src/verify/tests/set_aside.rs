//! Rules for orders that are set aside: held and scheduled ones.

use std::time::Duration;

use super::fake_store::{FakeStore, sound};
use super::found;
use crate::event::EventKind;
use crate::verify::Promise;

/// The last order of the sound store, which has not started.
const WAITING: i64 = 9;

fn with_held_order() -> FakeStore {
    let mut store = sound();
    store.then(WAITING, EventKind::Held);
    store
}

#[tokio::test]
async fn a_held_order_waits_in_no_line_and_overtakes_nothing_once_released() {
    assert_eq!(found(with_held_order()).await, []);
    let mut store = with_held_order();
    store.then(10, EventKind::Accepted);
    store.then(10, EventKind::Started);
    store.then(WAITING, EventKind::Unheld);
    store.then(WAITING, EventKind::Started);
    assert_eq!(found(store).await, []);
}

#[tokio::test]
async fn a_held_order_in_a_line_is_found() {
    let mut store = with_held_order();
    store.order(WAITING).set_aside = false;
    assert_eq!(found(store).await, [(Promise::SecondLine, Some(WAITING))]);
}

#[tokio::test]
async fn a_lost_hold_is_found() {
    let mut store = with_held_order();
    let record = store.order(WAITING);
    record.order.held_at = None;
    record.set_aside = false;
    assert_eq!(found(store).await, [(Promise::LastEvent, Some(WAITING))]);
}

#[tokio::test]
async fn an_order_without_a_time_that_waits_in_no_line_is_found() {
    let mut store = sound();
    store.order(WAITING).set_aside = true;
    assert_eq!(found(store).await, [(Promise::SecondLine, Some(WAITING))]);
    let mut store = sound();
    let record = store.order(WAITING);
    record.set_aside = true;
    record.order.request.start_after = Some(record.order.created_at.plus(Duration::from_secs(1)));
    assert_eq!(found(store).await, []);
}
