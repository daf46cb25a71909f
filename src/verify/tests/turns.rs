//! What is judged otherwise where the orders of a user wait for each other.

use super::*;
use crate::order::{OnFailure, Ordering};

/// Two orders of the one user that all of these have, both in processing.
fn two_at_once(ordering: Ordering) -> Hand {
    let mut hand = Hand::default();
    hand.ordering = ordering;
    for (id, kind) in [(1, Accepted), (2, Accepted), (1, Started), (2, Started)] {
        hand.then(id, kind);
    }
    hand
}

#[tokio::test]
async fn two_orders_of_a_user_at_once_are_found_where_they_wait_for_each_other() {
    let in_turn = Ordering::User(OnFailure::Skip);
    assert_eq!(found(two_at_once(in_turn)).await, [(Promise::UserTurns, Some(2))]);
    assert_eq!(found(two_at_once(Ordering::None)).await, []);
}

#[tokio::test]
async fn where_orders_wait_for_others_of_their_user_those_of_others_may_overtake_them() {
    let mut hand = Hand::default();
    hand.ordering = Ordering::User(OnFailure::Skip);
    for (id, kind) in [
        (1, Accepted),
        (2, Accepted),
        (3, Accepted),
        (3, Started),
        (2, Started),
    ] {
        hand.then(id, kind);
    }
    hand.order(3).order.request.user_id = 2;
    assert_eq!(
        found(hand).await,
        [(Promise::FifoStart, Some(2))],
        "order 1 of its user waits"
    );
}
