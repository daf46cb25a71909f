//! `settle` with a valid lease: the effect of each outcome on order, attempts and history.

use std::time::Duration;

use orderly::event::EventKind;
use orderly::lease::Outcome;
use orderly::order::{OrderId, OrderStatus};

use crate::support::Harness;
use crate::support::make::{NODE_A, failed, retry_after};

conformance! {
    a_completed_order_is_final,
    a_completed_retry_shows_no_error,
    a_retry_keeps_its_error_and_due_time,
    a_retry_uses_up_an_attempt,
    a_failed_order_is_final_with_its_error,
    a_released_order_gets_its_attempt_back,
    a_released_retry_keeps_its_attempts_and_its_error,
    an_uncounted_attempt_is_given_back_with_a_reason,
    an_outcome_is_the_last_event,
    a_delay_beyond_the_last_timestamp_is_capped,
    outcomes_survive_a_restart,
}

async fn a_completed_order_is_final(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    harness.advance(Duration::from_secs(5)).await;
    let before = harness.now().await;
    assert_eq!(
        harness.settle(&lease, Outcome::COMPLETED).await,
        OrderStatus::Completed
    );
    let order = harness.order(id).await;
    assert_eq!(order.status, OrderStatus::Completed);
    assert_eq!((order.version, order.attempts), (3, 1));
    assert_eq!(order.processing_at, lease.order.processing_at);
    let finished = order.finished_at.unwrap();
    assert!(before <= finished && finished <= harness.now().await);
    assert_eq!((order.next_attempt_at, order.last_error), (None, None));
    assert!(harness.claim(10).await.is_empty());
}

async fn a_completed_retry_shows_no_error(harness: &mut Harness) {
    let id = harness.order_due_in(0).await;
    let lease = harness.claim_only(id).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    let order = harness.order(id).await;
    assert_eq!((order.last_error, order.attempts), (None, 2));
}

async fn a_retry_keeps_its_error_and_due_time(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    let before = harness.now().await;
    assert_eq!(
        harness.settle(&lease, retry_after(10)).await,
        OrderStatus::Pending
    );
    let order = harness.order(id).await;
    assert_eq!(order.status, OrderStatus::Pending);
    let due = order.next_attempt_at.unwrap();
    let delay = Duration::from_secs(10);
    assert!(before.plus(delay) <= due && due <= harness.now().await.plus(delay));
    assert_eq!(order.last_error.as_deref(), Some("the warehouse did not answer"));
    assert_eq!(order.processing_at, lease.order.processing_at);
    assert_eq!(order.finished_at, None);
}

async fn a_retry_uses_up_an_attempt(harness: &mut Harness) {
    let id = harness.order_due_in(0).await;
    for attempts in 1..=4 {
        assert_eq!(harness.order(id).await.attempts, attempts);
        let lease = harness.claim_only(id).await;
        assert_eq!(lease.order.attempts, attempts + 1);
        harness.settle(&lease, retry_after(0)).await;
    }
}

async fn a_failed_order_is_final_with_its_error(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    harness.advance(Duration::from_secs(5)).await;
    assert_eq!(harness.settle(&lease, failed()).await, OrderStatus::Failed);
    let order = harness.order(id).await;
    assert_eq!(order.status, OrderStatus::Failed);
    assert_eq!(order.attempts, 1);
    assert_eq!(order.last_error.as_deref(), Some("the card was declined"));
    assert!(order.finished_at > order.processing_at);
    assert_eq!(order.next_attempt_at, None);
    assert!(harness.claim(10).await.is_empty());
}

async fn a_released_order_gets_its_attempt_back(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    assert_eq!(
        harness.settle(&lease, Outcome::Released).await,
        OrderStatus::Pending
    );
    let order = harness.order(id).await;
    assert_eq!((order.status, order.attempts), (OrderStatus::Pending, 0));
    assert!(order.next_attempt_at.is_some());
    assert_eq!(harness.claim_only(id).await.order.attempts, 1);
}

async fn a_released_retry_keeps_its_attempts_and_its_error(harness: &mut Harness) {
    let id = harness.order_due_in(0).await;
    let lease = harness.claim_only(id).await;
    harness.settle(&lease, Outcome::Released).await;
    let order = harness.order(id).await;
    assert_eq!(order.attempts, 1);
    assert_eq!(order.last_error.as_deref(), Some("the warehouse did not answer"));
}

/// Issue 13, point 19: the error replaces that of the previous attempt.
async fn an_uncounted_attempt_is_given_back_with_a_reason(harness: &mut Harness) {
    let id = harness.order_due_in(0).await;
    let lease = harness.claim_only(id).await;
    let before = harness.now().await;
    let outcome = Outcome::GivenBack {
        after: Duration::from_secs(10),
        error: "no service was there".to_owned(),
    };
    assert_eq!(harness.settle(&lease, outcome).await, OrderStatus::Pending);
    let order = harness.order(id).await;
    assert_eq!((order.status, order.attempts), (OrderStatus::Pending, 1));
    assert_eq!(order.last_error.as_deref(), Some("no service was there"));
    assert!(order.next_attempt_at.unwrap() >= before.plus(Duration::from_secs(10)));
    let history = harness.history(id, 0).await;
    let last = history.last().unwrap();
    assert_eq!((last.kind, last.attempt), (EventKind::Released, 1));
    assert_eq!(last.error, order.last_error);
}

async fn an_outcome_is_the_last_event(harness: &mut Harness) {
    for (outcome, kind, attempt, error) in [
        (Outcome::COMPLETED, EventKind::Completed, 1, None),
        (failed(), EventKind::Failed, 1, Some("the card was declined")),
        (Outcome::Released, EventKind::Released, 0, None),
        (
            retry_after(60),
            EventKind::RetryScheduled,
            1,
            Some("the warehouse did not answer"),
        ),
    ] {
        let id = harness.attempt_once(outcome).await;
        let order = harness.order(id).await;
        let history = harness.history(id, 2).await;
        assert_eq!(history.len(), 1);
        let event = &history[0];
        assert_eq!((event.version, event.kind, event.attempt), (3, kind, attempt));
        assert_eq!(event.status, order.status);
        assert_eq!(event.node, Some(NODE_A));
        assert_eq!(event.error.as_deref(), error);
        finish(harness, id).await;
    }
}

async fn a_delay_beyond_the_last_timestamp_is_capped(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    let forever = Outcome::Retry {
        after: Duration::MAX,
        error: "the warehouse is closed".to_owned(),
    };
    assert_eq!(harness.settle(&lease, forever).await, OrderStatus::Pending);
    assert!(harness.claim(10).await.is_empty());
    assert!(harness.order(id).await.next_attempt_at.unwrap() > harness.now().await);
}

async fn outcomes_survive_a_restart(harness: &mut Harness) {
    let mut before = Vec::new();
    for outcome in [Outcome::COMPLETED, failed(), retry_after(60)] {
        let id = harness.attempt_once(outcome).await;
        before.push(harness.order(id).await);
    }
    harness.reopen().await;
    for order in before {
        assert_eq!(harness.order(order.order_id).await, order);
    }
}

/// Takes the order out of the way of the next one.
async fn finish(harness: &Harness, id: OrderId) {
    if !harness.order(id).await.status.is_final() {
        harness.cancel(id).await;
    }
}
