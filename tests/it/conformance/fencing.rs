//! `settle` with a lost lease changes nothing.

use futures_util::future::join_all;
use orderly::lease::{Lease, LeaseKey, Outcome};
use orderly::order::OrderId;
use orderly::store::{Settled, StoreError};

use crate::support::Harness;
use crate::support::make::{FIRST_FENCE, LONGER_THAN_A_LEASE, NODE_B, failed, retry_after};

conformance! {
    a_given_back_lease_changes_nothing,
    a_given_back_lease_changes_nothing_after_a_new_claim,
    a_released_lease_changes_nothing,
    a_lease_of_a_cancelled_order_changes_nothing,
    a_lease_of_a_cancelled_and_redriven_order_changes_nothing,
    a_second_settle_changes_nothing,
    a_fence_that_was_never_granted_changes_nothing,
    a_lease_of_an_unknown_order_changes_nothing,
    an_expired_lease_may_still_settle_until_it_is_given_back,
    stale_completions_of_many_orders_at_once_change_nothing,
    only_one_of_two_concurrent_outcomes_counts,
    only_one_of_a_concurrent_cancel_and_outcome_counts,
}

async fn a_given_back_lease_changes_nothing(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    assert_eq!(harness.give_back().await.pending, 1);
    assert_stale(harness, &lease).await;
}

async fn a_given_back_lease_changes_nothing_after_a_new_claim(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let old = harness.claim_only(id).await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    harness.give_back().await;
    let new = harness.claim_as(NODE_B, 1).await.remove(0);
    assert!(new.fence > old.fence);
    assert_stale(harness, &old).await;
    harness.settle(&new, Outcome::COMPLETED).await;
}

async fn a_released_lease_changes_nothing(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    harness.settle(&lease, Outcome::Released).await;
    assert_stale(harness, &lease).await;
    harness.claim_only(id).await;
    assert_stale(harness, &lease).await;
}

async fn a_lease_of_a_cancelled_order_changes_nothing(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    harness.cancel(id).await;
    assert_stale(harness, &lease).await;
}

async fn a_lease_of_a_cancelled_and_redriven_order_changes_nothing(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    harness.cancel(id).await;
    harness.redrive(id).await;
    assert_stale(harness, &lease).await;
    assert!(harness.claim_only(id).await.fence > lease.fence);
    assert_stale(harness, &lease).await;
}

async fn a_second_settle_changes_nothing(harness: &mut Harness) {
    for outcome in [Outcome::COMPLETED, failed(), retry_after(60)] {
        let id = harness.accept_one().await;
        let lease = harness.claim_only(id).await;
        harness.settle(&lease, outcome).await;
        assert_stale(harness, &lease).await;
    }
}

async fn a_fence_that_was_never_granted_changes_nothing(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let mut lease = harness.claim_only(id).await;
    let granted = lease.fence;
    for fence in [granted + 1, granted + 1_000_000, granted - 1, 0] {
        lease.fence = fence;
        assert_stale(harness, &lease).await;
    }
}

async fn a_lease_of_an_unknown_order_changes_nothing(harness: &mut Harness) {
    let key = LeaseKey {
        order_id: OrderId(1_000_000),
        fence: FIRST_FENCE,
        node: NODE_B,
    };
    let settled = harness.store().settle(key, Outcome::COMPLETED).await.unwrap();
    assert_eq!(settled, Settled::Stale);
}

async fn an_expired_lease_may_still_settle_until_it_is_given_back(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    assert_eq!(harness.give_back().await.pending, 0);
}

async fn only_one_of_two_concurrent_outcomes_counts(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    let (one, other) = tokio::join!(
        harness.store().settle(lease.key(), Outcome::COMPLETED),
        harness.store().settle(lease.key(), failed())
    );
    let stale = [one.unwrap(), other.unwrap()]
        .iter()
        .filter(|settled| **settled == Settled::Stale)
        .count();
    assert_eq!(stale, 1);
    assert_eq!(harness.order(id).await.version, 3);
}

async fn only_one_of_a_concurrent_cancel_and_outcome_counts(harness: &mut Harness) {
    for _ in 0..10 {
        let id = harness.accept_one().await;
        let lease = harness.claim_only(id).await;
        let (cancelled, settled) = tokio::join!(
            harness.store().cancel(id, None),
            harness.store().settle(lease.key(), Outcome::COMPLETED)
        );
        let was_cancelled = matches!(cancelled.unwrap(), orderly::store::Acted::Done(_));
        let was_stale = settled.unwrap() == Settled::Stale;
        assert_eq!(was_cancelled, was_stale);
        assert_eq!(harness.order(id).await.version, 3);
    }
}

async fn assert_stale(harness: &Harness, lease: &Lease) {
    let id = lease.order.order_id;
    let before = (harness.order(id).await, harness.counters().await);
    for outcome in [Outcome::COMPLETED, failed(), retry_after(1), Outcome::Released] {
        let settled = harness.store().settle(lease.key(), outcome).await.unwrap();
        assert_eq!(settled, Settled::Stale);
    }
    assert_eq!((harness.order(id).await, harness.counters().await), before);
}

/// A store may complete orders with consecutive ids together.
async fn stale_completions_of_many_orders_at_once_change_nothing(harness: &mut Harness) {
    const ORDERS: usize = 100;
    harness.accept_some(ORDERS).await;
    let stale = harness.claim(ORDERS).await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    harness.give_back().await;
    let valid = harness.claim_as(NODE_B, ORDERS).await;
    for (leases, completed) in [(stale, 0), (valid, ORDERS)] {
        let settles = leases
            .iter()
            .map(|lease| harness.store().settle(lease.key(), Outcome::COMPLETED));
        let settled = join_all(settles).await;
        let done = |settled: &&Result<Settled, StoreError>| matches!(settled, Ok(Settled::Done(_)));
        assert_eq!(settled.iter().filter(done).count(), completed);
        assert_eq!(harness.counters().await.completed, completed as u64);
    }
}
