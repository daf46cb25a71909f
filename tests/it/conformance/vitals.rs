//! `record_activity` and `vitals`: what tells whether orders flow.

use std::time::Duration;

use orderly::lease::{Outcome, ProcessorKind};
use orderly::order::{OnFailure, OrderId, OrderStatus, Ordering};
use orderly::store::vitals::{ACTIVITY_WINDOW, NAMED_MAX};
use orderly::store::{Activity, ClaimRequest, Vitals};

use crate::support::Harness;
use crate::support::make::{NODE_A, NODE_B, claim_by, failed, order_of, retry_after};

conformance! {
    the_counts_of_the_nodes_are_added_up_and_a_repeated_row_counts_once,
    counts_older_than_the_window_are_left_out,
    the_order_that_has_been_in_processing_longest_is_named,
    orders_at_external_workers_are_counted,
    failures_are_grouped_by_their_reason,
    failures_before_the_window_are_left_out,
    an_order_without_an_answer_is_named_from_its_second_attempt,
    an_order_that_blocks_its_user_is_named,
    an_order_that_backs_off_is_told_from_one_about_to_start,
    an_empty_store_has_no_vitals_to_speak_of,
}

async fn vitals(harness: &Harness) -> Vitals {
    harness.store().vitals().await.unwrap()
}

fn of(number: u64) -> Activity {
    Activity {
        accepted: number,
        started: 10 * number,
        completed: 100 * number,
        retried: 1_000 * number,
        failed: 10_000 * number,
        leases_lost: 100_000 * number,
        leases_refused: 1_000_000 * number,
    }
}

async fn the_counts_of_the_nodes_are_added_up_and_a_repeated_row_counts_once(harness: &mut Harness) {
    let store = harness.store().clone();
    for (node, number, counts) in [(NODE_A, 1, 1), (NODE_A, 2, 2), (NODE_B, 1, 3), (NODE_A, 2, 4)] {
        store.record_activity(node, number, of(counts)).await.unwrap();
    }
    assert_eq!(vitals(harness).await.activity, of(1 + 4 + 3));
    harness.reopen().await;
    assert_eq!(vitals(harness).await.activity, of(8));
}

async fn counts_older_than_the_window_are_left_out(harness: &mut Harness) {
    harness.store().record_activity(NODE_A, 1, of(1)).await.unwrap();
    harness.advance(ACTIVITY_WINDOW + Duration::from_secs(1)).await;
    assert_eq!(vitals(harness).await.activity, Activity::default());
    harness.store().record_activity(NODE_A, 2, of(2)).await.unwrap();
    assert_eq!(vitals(harness).await.activity, of(2));
}

async fn the_order_that_has_been_in_processing_longest_is_named(harness: &mut Harness) {
    harness.accept_some(2).await;
    harness.claim(1).await;
    harness.advance(Duration::from_secs(5)).await;
    let second = harness.claim_as(NODE_B, 1).await.remove(0);
    let running = vitals(harness).await.oldest_running.unwrap();
    assert_eq!((running.order_id, running.node), (OrderId(1), NODE_A));
    assert!(
        running.age >= Duration::from_secs(5) && !running.outside,
        "{running:?}"
    );
    harness.cancel(OrderId(1)).await;
    let running = vitals(harness).await.oldest_running.unwrap();
    assert_eq!((running.order_id, running.node), (second.order.order_id, NODE_B));
}

async fn orders_at_external_workers_are_counted(harness: &mut Harness) {
    harness.accept_some(3).await;
    let pull = ClaimRequest {
        processor: Some(ProcessorKind::Pull),
        ..claim_by(NODE_A, 2)
    };
    let claimed = harness.store().claim(pull).await.unwrap();
    let found = vitals(harness).await;
    assert_eq!(found.running_outside, claimed.leases.len() as u64);
    assert!(found.oldest_running.unwrap().outside);
}

async fn failures_are_grouped_by_their_reason(harness: &mut Harness) {
    harness.accept_some(3).await;
    for lease in harness.claim(3).await {
        harness.settle(&lease, failed()).await;
    }
    let failures = vitals(harness).await.failures;
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!((failures[0].orders, failures[0].order_id), (3, OrderId(3)));
}

async fn failures_before_the_window_are_left_out(harness: &mut Harness) {
    harness.accept_some(2).await;
    let leases = harness.claim(2).await;
    harness.settle(&leases[1], failed()).await;
    harness.advance(ACTIVITY_WINDOW + Duration::from_secs(1)).await;
    assert_eq!(vitals(harness).await.failures, []);
    harness.settle(&leases[0], failed()).await;
    let failures = vitals(harness).await.failures;
    let named: Vec<_> = failures
        .iter()
        .map(|group| (group.orders, group.order_id))
        .collect();
    assert_eq!(named, [(1, OrderId(1))]);
}

async fn an_order_without_an_answer_is_named_from_its_second_attempt(harness: &mut Harness) {
    let no_answer = || Outcome::Retry {
        error: "the service gave no answer: connection reset".to_owned(),
        after: Duration::from_secs(1),
    };
    harness.accept_one().await;
    for attempts in 1..=2 {
        let lease = harness.claim(1).await.remove(0);
        harness.settle(&lease, no_answer()).await;
        let named = vitals(harness).await.unanswered;
        let named: Vec<_> = named
            .iter()
            .map(|order| (order.order_id, order.attempts))
            .collect();
        let expected = if attempts == 1 {
            vec![]
        } else {
            vec![(OrderId(1), 2)]
        };
        assert_eq!(named, expected);
        harness.advance(Duration::from_secs(2)).await;
    }
    // Another error is another matter.
    let lease = harness.claim(1).await.remove(0);
    harness.settle(&lease, retry_after(1)).await;
    assert!(vitals(harness).await.unanswered.is_empty());
}

async fn an_order_that_blocks_its_user_is_named(harness: &mut Harness) {
    harness
        .reopen_with_ordering(Ordering::by_user(OnFailure::Block))
        .await;
    harness.accept(vec![order_of(1); 3]).await;
    let lease = harness.claim(1).await.remove(0);
    harness.settle(&lease, failed()).await;
    harness.claim(1).await;
    let blocking = vitals(harness).await.blocking;
    assert!(blocking.len() <= NAMED_MAX);
    let named: Vec<_> = blocking
        .iter()
        .map(|blocking| (blocking.order_id, blocking.status, blocking.orders))
        .collect();
    assert_eq!(named, [(OrderId(1), OrderStatus::Failed, 2)]);
}

async fn an_order_that_backs_off_is_told_from_one_about_to_start(harness: &mut Harness) {
    harness
        .reopen_with_ordering(Ordering::by_user(OnFailure::Skip))
        .await;
    harness.accept(vec![order_of(1); 3]).await;
    let lease = harness.claim(1).await.remove(0);
    let named = async |harness: &mut Harness| {
        let blocking = vitals(harness).await.blocking;
        let named = blocking
            .iter()
            .map(|blocking| (blocking.order_id, blocking.status, blocking.backing_off));
        named.collect::<Vec<_>>()
    };
    assert_eq!(
        named(harness).await,
        [(OrderId(1), OrderStatus::Processing, false)]
    );
    harness.settle(&lease, retry_after(10)).await;
    // A claim gives the turn back.
    assert!(harness.claim(1).await.is_empty());
    assert_eq!(named(harness).await, [(OrderId(1), OrderStatus::Pending, true)]);
    harness.advance(Duration::from_secs(11)).await;
    assert_eq!(named(harness).await, [(OrderId(1), OrderStatus::Pending, false)]);
}

async fn an_empty_store_has_no_vitals_to_speak_of(harness: &mut Harness) {
    let found = vitals(harness).await;
    assert_eq!(found.activity, Activity::default());
    assert!(found.oldest_running.is_none() && found.failures.is_empty() && found.blocking.is_empty());
    assert!(found.suspects.is_empty() && found.unanswered.is_empty() && found.full_slots.is_empty());
    assert!(found.last_start_at().is_none());
}
