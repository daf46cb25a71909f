//! The store's clock: it never runs backwards, whatever the wall clock does.

use std::time::Duration;

use orderly::lease::Outcome;
use orderly::order::OrderStatus;

use crate::support::Harness;
use crate::support::make::{LONGER_THAN_A_LEASE, retry_after};

conformance! {
    creation_times_never_run_backwards,
    creation_times_never_run_backwards_across_a_restart,
    retries_become_due_after_the_clock_stepped_back,
    leases_expire_after_the_clock_stepped_back,
    an_order_never_finishes_before_it_started,
}

const HOUR: Duration = Duration::from_hours(1);

async fn creation_times_never_run_backwards(harness: &mut Harness) {
    let mut times = Vec::new();
    for _ in 0..5 {
        let id = harness.accept_one().await;
        times.push(harness.order(id).await.created_at);
        harness.step_clock_back(HOUR).await;
        harness.advance(Duration::from_secs(1)).await;
    }
    assert!(times.is_sorted(), "{times:?}");
}

async fn creation_times_never_run_backwards_across_a_restart(harness: &mut Harness) {
    let before = harness.accept_one().await;
    harness.step_clock_back(HOUR).await;
    harness.reopen().await;
    let after = harness.accept_one().await;
    assert!(harness.order(after).await.created_at >= harness.order(before).await.created_at);
}

async fn retries_become_due_after_the_clock_stepped_back(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    harness.step_clock_back(HOUR).await;
    harness.settle(&lease, retry_after(10)).await;
    // The clock runs at half speed or faster, see `store::clock`.
    harness.advance(Duration::from_secs(20)).await;
    harness.claim_only(id).await;
}

async fn leases_expire_after_the_clock_stepped_back(harness: &mut Harness) {
    let id = harness.accept_one().await;
    harness.step_clock_back(HOUR).await;
    harness.claim_only(id).await;
    harness.advance(2 * LONGER_THAN_A_LEASE).await;
    assert_eq!(harness.give_back().await.pending, 1);
    assert_eq!(harness.order(id).await.status, OrderStatus::Pending);
}

async fn an_order_never_finishes_before_it_started(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    harness.step_clock_back(HOUR).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    let order = harness.order(id).await;
    assert!(order.finished_at >= order.processing_at);
    assert!(order.processing_at >= Some(order.created_at));
}
