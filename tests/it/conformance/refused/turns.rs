//! Orders that the database refuses to change at their turn: the order before them ends as usual.

use orderly::lease::Outcome;
use orderly::order::{OnFailure, OrderId, OrderStatus, Ordering};
use orderly::store::Acted;

use crate::support::make::{NODE_A, claim_by, failed, order_of};
use crate::support::{Harness, until};

conformance! {
    an_order_settles_although_its_users_next_order_cannot_change,
    an_order_is_cancelled_although_its_users_next_order_cannot_change,
    a_refused_turn_is_passed_on_after_a_restart,
}

const ORDERINGS: [OnFailure; 2] = [OnFailure::Skip, OnFailure::Block];

/// Two orders of one user; the database refuses every change of the second.
async fn pair_with_bad_second(harness: &mut Harness, on_failure: OnFailure) -> [OrderId; 2] {
    harness.reopen_with_ordering(Ordering::by_user(on_failure)).await;
    let ids = harness.accept([1, 1].map(order_of).into()).await;
    harness.refuse_changes(&ids[1..]).await;
    [ids[0], ids[1]]
}

/// Claims until this order has started, and ends it. No other order may start.
async fn until_ended(harness: &Harness, id: OrderId) {
    until("the order has started", async || {
        let leases = harness.claim(10).await;
        let Some(lease) = leases.first() else { return false };
        assert_eq!((leases.len(), lease.order.order_id), (1, id));
        harness.settle(lease, Outcome::COMPLETED).await;
        true
    })
    .await;
}

/// Asserts that the second order waits with an explanation and holds up no other user, until the rule is gone.
async fn assert_second_waits(harness: &Harness, second: OrderId) {
    let later = harness.accept(vec![order_of(2)]).await[0];
    until_ended(harness, later).await;
    harness.store().claim(claim_by(NODE_A, 1)).await.unwrap();
    let explanation = harness.store().explain(second).await.unwrap().unwrap();
    assert_eq!(explanation.order.status, OrderStatus::Pending);
    assert!(explanation.refused.is_some());
    harness.allow_changes().await;
    until_ended(harness, second).await;
}

async fn an_order_settles_although_its_users_next_order_cannot_change(harness: &mut Harness) {
    for on_failure in ORDERINGS {
        let [first, second] = pair_with_bad_second(harness, on_failure).await;
        let lease = harness.claim_only(first).await;
        assert_eq!(
            harness.settle(&lease, Outcome::COMPLETED).await,
            OrderStatus::Completed
        );
        assert_second_waits(harness, second).await;
    }
    let [first, second] = pair_with_bad_second(harness, OnFailure::Skip).await;
    let lease = harness.claim_only(first).await;
    assert_eq!(harness.settle(&lease, failed()).await, OrderStatus::Failed);
    assert_second_waits(harness, second).await;
    harness.assert_sound().await;
}

async fn an_order_is_cancelled_although_its_users_next_order_cannot_change(harness: &mut Harness) {
    for on_failure in ORDERINGS {
        let [first, second] = pair_with_bad_second(harness, on_failure).await;
        let cancelled = harness.store().cancel(first, None).await.unwrap();
        assert!(matches!(cancelled, Acted::Done(_)), "{cancelled:?}");
        assert_second_waits(harness, second).await;
    }
    harness.assert_sound().await;
}

async fn a_refused_turn_is_passed_on_after_a_restart(harness: &mut Harness) {
    let [first, second] = pair_with_bad_second(harness, OnFailure::Skip).await;
    let lease = harness.claim_only(first).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    harness.allow_changes().await;
    harness
        .reopen_with_ordering(Ordering::by_user(OnFailure::Skip))
        .await;
    until_ended(harness, second).await;
}
