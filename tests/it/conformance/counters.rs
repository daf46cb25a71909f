//! `counters` and `queue`: equal to a recount of the table at every moment.

use std::time::Duration;

use orderly::lease::Outcome;
use orderly::order::{OnFailure, OrderStatus, Ordering};
use orderly::store::{Blocked, Counters, RedriveOptions, RedriveQuery};

use crate::support::Harness;
use crate::support::make::{LONGER_THAN_A_LEASE, failed, order_of, retry_after};

conformance! {
    an_empty_store_counts_nothing,
    every_status_is_counted,
    counters_equal_a_recount_after_every_step,
    a_redrive_counts_its_order_as_pending,
    a_mass_redrive_counts_its_orders_as_pending,
    counters_survive_a_restart,
    processing_time_covers_only_the_completing_attempt,
    processing_time_excludes_orders_that_did_not_complete,
    the_queue_shows_the_same_counters,
    the_snapshot_shows_the_same_counters,
    an_empty_queue_has_no_oldest_waiting_order,
    the_oldest_first_attempt_waits_since_its_acceptance,
    the_oldest_retry_waits_since_its_due_time,
    an_order_in_backoff_is_not_counted_as_waiting,
    an_order_in_processing_is_not_counted_as_waiting,
    a_blocked_order_is_not_counted_as_waiting,
    orders_not_yet_seen_by_a_claim_count_as_waiting_or_blocked,
    an_order_blocked_by_a_failed_one_counts_with_its_age,
    a_retried_order_counts_as_blocked_from_its_return,
    orders_that_are_set_aside_are_counted_and_do_not_wait,
}

async fn an_empty_store_counts_nothing(harness: &mut Harness) {
    assert_eq!(harness.counters().await, Counters::default());
}

async fn every_status_is_counted(harness: &mut Harness) {
    // Pending last: orders that are ready to start would be claimed by the other helpers.
    for (status, count) in [
        (OrderStatus::Processing, 1),
        (OrderStatus::Completed, 2),
        (OrderStatus::Failed, 3),
        (OrderStatus::Cancelled, 4),
        (OrderStatus::Pending, 5),
    ] {
        for _ in 0..count {
            harness.order_in(status).await;
        }
    }
    let expected = Counters {
        processing: 1,
        completed: 2,
        failed: 3,
        cancelled: 4,
        pending: 5,
        ..Counters::default()
    };
    assert_eq!(harness.counters().await, expected);
}

async fn counters_equal_a_recount_after_every_step(harness: &mut Harness) {
    harness.accept_some(20).await;
    let leases = harness.claim(15).await;
    let outcomes = [Outcome::COMPLETED, failed(), Outcome::Released, retry_after(1)];
    for (lease, outcome) in leases.iter().take(8).zip(outcomes.iter().cycle()) {
        harness.advance(Duration::from_millis(700)).await;
        harness.settle(lease, outcome.clone()).await;
        assert_eq!(harness.counters().await, harness.recount().await);
    }
    for lease in &leases[8..10] {
        harness.cancel(lease.order.order_id).await;
        assert_eq!(harness.counters().await, harness.recount().await);
    }
    harness.advance(LONGER_THAN_A_LEASE).await;
    harness.give_back().await;
    assert_eq!(harness.counters().await, harness.recount().await);
    harness.redrive(leases[1].order.order_id).await;
    assert_eq!(harness.counters().await, harness.recount().await);
    for lease in harness.claim(100).await {
        harness.advance(Duration::from_millis(300)).await;
        harness.settle(&lease, Outcome::COMPLETED).await;
    }
    assert_eq!(harness.counters().await, harness.recount().await);
    assert_eq!(harness.counters().await.total(), 20);
}

/// Issue 13, point 37.
async fn a_redrive_counts_its_order_as_pending(harness: &mut Harness) {
    let failed = harness.order_in(OrderStatus::Failed).await;
    let cancelled = harness.order_in(OrderStatus::Cancelled).await;
    for (id, expected) in [(failed, (1, 0, 1)), (cancelled, (2, 0, 0))] {
        harness.redrive(id).await;
        // The second redrive finds the order Pending and changes nothing.
        let _ = harness
            .store()
            .redrive(id, RedriveOptions::default())
            .await
            .unwrap();
        assert_eq!(pending_failed_cancelled(harness).await, expected);
        assert_eq!(harness.counters().await, harness.recount().await);
    }
    harness.reopen().await;
    assert_eq!(pending_failed_cancelled(harness).await, (2, 0, 0));
}

async fn a_mass_redrive_counts_its_orders_as_pending(harness: &mut Harness) {
    for _ in 0..3 {
        harness.order_in(OrderStatus::Failed).await;
        harness.order_in(OrderStatus::Cancelled).await;
    }
    for (status, dry_run, expected) in [
        (OrderStatus::Failed, true, (0, 3, 3)),
        (OrderStatus::Failed, false, (3, 0, 3)),
        (OrderStatus::Cancelled, false, (6, 0, 0)),
        (OrderStatus::Failed, false, (6, 0, 0)),
    ] {
        let query = RedriveQuery {
            status,
            user_id: None,
            user_name: None,
            created_before: None,
            options: RedriveOptions::default(),
            dry_run,
        };
        harness.store().redrive_matching(query).await.unwrap();
        assert_eq!(pending_failed_cancelled(harness).await, expected);
        assert_eq!(harness.counters().await, harness.recount().await);
    }
    harness.reopen().await;
    assert_eq!(pending_failed_cancelled(harness).await, (6, 0, 0));
}

async fn pending_failed_cancelled(harness: &Harness) -> (u64, u64, u64) {
    let counters = harness.counters().await;
    (counters.pending, counters.failed, counters.cancelled)
}

async fn counters_survive_a_restart(harness: &mut Harness) {
    harness.accept_some(3).await;
    let leases = harness.claim(2).await;
    harness.advance(Duration::from_secs(2)).await;
    harness.settle(&leases[0], Outcome::COMPLETED).await;
    let before = harness.counters().await;
    harness.reopen().await;
    assert_eq!(harness.counters().await, before);
}

async fn processing_time_covers_only_the_completing_attempt(harness: &mut Harness) {
    let id = harness.accept_one().await;
    harness.advance(Duration::from_secs(100)).await;
    let first = harness.claim_only(id).await;
    harness.advance(Duration::from_secs(10)).await;
    harness.settle(&first, retry_after(0)).await;
    let second = harness.claim_only(id).await;
    harness.advance(Duration::from_millis(2_500)).await;
    harness.settle(&second, Outcome::COMPLETED).await;

    let order = harness.order(id).await;
    let took = order.finished_at.unwrap().since(order.processing_at.unwrap());
    assert!((2_500..5_000).contains(&took.as_millis()), "{took:?}");
    let counted = harness.counters().await.processing_micros;
    assert_eq!(u128::from(counted), took.as_micros());
}

async fn processing_time_excludes_orders_that_did_not_complete(harness: &mut Harness) {
    for outcome in [failed(), retry_after(60), Outcome::Released] {
        let id = harness.accept_one().await;
        let lease = harness.claim_only(id).await;
        harness.advance(Duration::from_secs(5)).await;
        harness.settle(&lease, outcome).await;
        if !harness.order(id).await.status.is_final() {
            harness.cancel(id).await;
        }
    }
    assert_eq!(harness.counters().await.processing_micros, 0);
}

async fn the_queue_shows_the_same_counters(harness: &mut Harness) {
    // Pending last: orders that are ready to start would be claimed by the other helpers.
    for status in OrderStatus::ALL.into_iter().rev() {
        harness.order_in(status).await;
    }
    let queue = harness.store().queue().await.unwrap();
    assert_eq!(queue.counters, harness.counters().await);
    assert_eq!(queue.counters.total(), 5);
}

async fn the_snapshot_shows_the_same_counters(harness: &mut Harness) {
    harness.accept_some(3).await;
    harness.claim(1).await;
    harness.store().pause(None).await.unwrap();
    let mut snapshot = harness.store().snapshot().await.unwrap();
    assert_eq!(snapshot.counters().await.unwrap(), harness.counters().await);
    let queue = snapshot.queue().await.unwrap();
    assert!(queue.pause.is_some());
    assert_eq!(queue.counters.pending, 2);
    assert_eq!(snapshot.damage().await.unwrap(), Vec::<String>::new());
}

async fn an_empty_queue_has_no_oldest_waiting_order(harness: &mut Harness) {
    assert_eq!(oldest_waiting(harness).await, None);
    harness.order_in(OrderStatus::Completed).await;
    harness.advance(Duration::from_mins(1)).await;
    assert_eq!(oldest_waiting(harness).await, None);
}

async fn the_oldest_first_attempt_waits_since_its_acceptance(harness: &mut Harness) {
    harness.accept_one().await;
    harness.advance(Duration::from_secs(20)).await;
    harness.accept_one().await;
    harness.advance(Duration::from_secs(10)).await;
    assert_age(oldest_waiting(harness).await, 30);
    harness.claim(1).await;
    assert_age(oldest_waiting(harness).await, 10);
}

async fn the_oldest_retry_waits_since_its_due_time(harness: &mut Harness) {
    harness.order_due_in(10).await;
    harness.advance(Duration::from_secs(15)).await;
    assert_age(oldest_waiting(harness).await, 5);
    harness.accept_one().await;
    harness.advance(Duration::from_secs(1)).await;
    assert_age(oldest_waiting(harness).await, 6);
}

async fn an_order_in_backoff_is_not_counted_as_waiting(harness: &mut Harness) {
    harness.order_due_in(10).await;
    harness.advance(Duration::from_secs(9)).await;
    assert_eq!(oldest_waiting(harness).await, None);
}

async fn an_order_in_processing_is_not_counted_as_waiting(harness: &mut Harness) {
    harness.order_in(OrderStatus::Processing).await;
    harness.advance(Duration::from_secs(9)).await;
    assert_eq!(oldest_waiting(harness).await, None);
}

/// Issue 13, point 17: `oldest_waiting` covers only orders that could start; blocked ones are counted separately.
async fn a_blocked_order_is_not_counted_as_waiting(harness: &mut Harness) {
    let rule = Ordering::by_user(OnFailure::Skip);
    harness.reopen_with_ordering(rule).await;
    let ids = harness.accept(vec![order_of(1); 3]).await;
    let lease = harness.claim_only(ids[0]).await;
    harness.advance(Duration::from_secs(20)).await;
    assert_eq!(oldest_waiting(harness).await, None);
    assert_blocked(harness, 2, 20).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    harness.claim_only(ids[1]).await;
    assert_blocked(harness, 1, 20).await;
    harness.accept(vec![order_of(2)]).await;
    harness.advance(Duration::from_secs(5)).await;
    harness.store().pause(None).await.unwrap();
    harness.claim(1).await;
    assert_blocked(harness, 1, 25).await;
}

/// Issue 14: every store decides turns by the same rule, even where a claim would decide and none has run.
async fn orders_not_yet_seen_by_a_claim_count_as_waiting_or_blocked(harness: &mut Harness) {
    harness
        .reopen_with_ordering(Ordering::by_user(OnFailure::Skip))
        .await;
    // Reads the ordering setting of the store.
    harness.claim(1).await;
    harness.accept(vec![order_of(1), order_of(1), order_of(2)]).await;
    harness.advance(Duration::from_secs(20)).await;
    assert_age(oldest_waiting(harness).await, 20);
    assert_blocked(harness, 1, 20).await;
}

async fn an_order_blocked_by_a_failed_one_counts_with_its_age(harness: &mut Harness) {
    harness
        .reopen_with_ordering(Ordering::by_user(OnFailure::Block))
        .await;
    let ids = harness.accept(vec![order_of(1); 2]).await;
    let lease = harness.claim_only(ids[0]).await;
    harness.settle(&lease, failed()).await;
    harness.claim(10).await;
    harness.advance(Duration::from_hours(2)).await;
    assert_eq!(oldest_waiting(harness).await, None);
    assert_blocked(harness, 1, 7_200).await;
    harness.cancel(ids[0]).await;
    harness.claim_only(ids[1]).await;
    assert_eq!(blocked(harness).await, Blocked::default());
}

async fn a_retried_order_counts_as_blocked_from_its_return(harness: &mut Harness) {
    harness
        .reopen_with_ordering(Ordering::by_user(OnFailure::Skip))
        .await;
    let ids = harness.accept(vec![order_of(1); 2]).await;
    let lease = harness.claim_only(ids[0]).await;
    harness.settle(&lease, failed()).await;
    harness.claim_only(ids[1]).await;
    harness.advance(Duration::from_mins(5)).await;
    harness.redrive(ids[0]).await;
    harness.claim(10).await;
    harness.advance(Duration::from_secs(7)).await;
    assert_blocked(harness, 1, 7).await;
}

async fn orders_that_are_set_aside_are_counted_and_do_not_wait(harness: &mut Harness) {
    let minute = Duration::from_mins(1);
    harness.accept_held().await;
    let scheduled = harness.accept_scheduled(minute).await;
    let second = harness.accept_scheduled(2 * minute).await;
    let count = async || {
        let counters = harness.counters().await;
        (counters.pending, counters.held, counters.scheduled)
    };
    assert_eq!(count().await, (3, 1, 2));
    harness.hold(second).await;
    assert_eq!(count().await, (3, 2, 1));
    harness.release(second).await;
    assert_eq!(count().await, (3, 1, 2));
    harness.advance(minute).await;
    assert_eq!(harness.store().queue().await.unwrap().oldest_waiting, None);
    harness.fire_timers().await;
    assert_eq!(count().await, (3, 1, 1));
    let waiting = harness.store().queue().await.unwrap().oldest_waiting;
    assert_eq!(waiting, Some(minute), "since its acceptance");
    harness.claim_only(scheduled).await;
    harness.cancel(second).await;
    assert_eq!(count().await, (1, 1, 0));
    assert_eq!(harness.counters().await, harness.recount().await);
}

async fn blocked(harness: &Harness) -> Blocked {
    harness.store().queue().await.unwrap().blocked
}

async fn assert_blocked(harness: &Harness, orders: u64, seconds: u64) {
    let blocked = blocked(harness).await;
    assert_eq!(blocked.orders, orders);
    assert_age(blocked.oldest_age, seconds);
}

async fn oldest_waiting(harness: &Harness) -> Option<Duration> {
    harness.store().queue().await.unwrap().oldest_waiting
}

/// Allows a second for stores whose clock cannot be stopped.
fn assert_age(age: Option<Duration>, seconds: u64) {
    let age = age.expect("an order waits");
    assert_eq!(age.as_secs(), seconds, "{age:?}");
}
