//! Rules for stores where the orders of a user wait for each other.

use super::*;
use crate::order::{OnFailure, Ordering, UserId};

/// Two orders of the same user, both Processing.
fn two_at_once(ordering: Ordering) -> FakeStore {
    let mut store = FakeStore::default();
    store.ordering = ordering;
    for (id, kind) in [(1, Accepted), (2, Accepted), (1, Started), (2, Started)] {
        store.then(id, kind);
    }
    store
}

#[tokio::test]
async fn two_concurrent_orders_of_a_user_are_found() {
    let in_turn = Ordering::by_user(OnFailure::Skip);
    assert_eq!(found(two_at_once(in_turn)).await, [(Promise::UserTurns, Some(2))]);
    assert_eq!(found(two_at_once(Ordering::None)).await, []);
}

#[tokio::test]
async fn orders_of_other_users_may_overtake_a_waiting_order() {
    let mut store = FakeStore::default();
    store.ordering = Ordering::by_user(OnFailure::Skip);
    for (id, kind) in [
        (1, Accepted),
        (2, Accepted),
        (3, Accepted),
        (3, Started),
        (2, Started),
    ] {
        store.then(id, kind);
    }
    store.order(3).order.request.user_id = UserId::Number(2);
    assert_eq!(
        found(store).await,
        [(Promise::FifoStart, Some(2))],
        "order 1 of its user waits"
    );
}
