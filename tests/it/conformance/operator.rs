//! `cancel` and `redrive`: operator actions on one order, from every status.

use std::time::Duration;

use orderly::event::EventKind;
use orderly::lease::Outcome;
use orderly::order::{Order, OrderId, OrderStatus, Reason};
use orderly::store::{Acted, RedriveOptions};

use crate::support::Harness;
use crate::support::make::failed;

conformance! {
    a_pending_order_can_be_cancelled,
    an_order_in_backoff_can_be_cancelled,
    an_order_in_processing_can_be_cancelled,
    a_repeated_cancel_returns_the_same_order,
    a_failed_order_can_be_cancelled,
    a_completed_order_cannot_be_cancelled,
    a_redriven_order_has_its_attempts_and_error_cleared,
    a_redriven_order_runs_again,
    every_redrive_starts_a_new_generation,
    a_redrive_makes_an_order_in_backoff_due_at_once,
    a_redrive_of_a_due_order_changes_nothing,
    a_processing_or_completed_order_cannot_be_redriven,
    a_redrive_resets_the_crash_count,
    acting_on_an_unknown_order_reports_it_as_unknown,
    a_redrive_may_keep_the_idempotency_key,
    the_reasons_of_actions_are_in_the_history,
    a_concurrent_cancel_and_claim_agree,
}

async fn a_pending_order_can_be_cancelled(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let order = harness.cancel(id).await;
    assert_eq!(order.status, OrderStatus::Cancelled);
    assert_eq!((order.version, order.attempts), (2, 0));
    assert!(order.finished_at.is_some());
    assert_eq!(harness.order(id).await, order);
    assert_eq!(
        harness.events(id).await,
        [EventKind::Accepted, EventKind::Cancelled]
    );
}

async fn an_order_in_backoff_can_be_cancelled(harness: &mut Harness) {
    let id = harness.order_due_in(10).await;
    let order = harness.cancel(id).await;
    assert_eq!(order.status, OrderStatus::Cancelled);
    assert_eq!((order.next_attempt_at, order.attempts), (None, 1));
}

async fn an_order_in_processing_can_be_cancelled(harness: &mut Harness) {
    let id = harness.accept_one().await;
    harness.claim_only(id).await;
    let order = harness.cancel(id).await;
    assert_eq!(order.status, OrderStatus::Cancelled);
    assert_eq!((order.version, order.attempts), (3, 1));
    assert_eq!(harness.counters().await.processing, 0);
}

async fn a_repeated_cancel_returns_the_same_order(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let first = harness.cancel(id).await;
    harness.advance(std::time::Duration::from_secs(1)).await;
    assert_eq!(harness.cancel(id).await, first);
    assert_eq!(harness.order(id).await, first);
}

async fn a_failed_order_can_be_cancelled(harness: &mut Harness) {
    let id = harness.order_in(OrderStatus::Failed).await;
    let failed = harness.order(id).await;
    harness.advance(Duration::from_secs(1)).await;
    let order = harness.cancel(id).await;
    assert_eq!(order.status, OrderStatus::Cancelled);
    assert_eq!(
        (order.attempts, &order.last_error),
        (failed.attempts, &failed.last_error)
    );
    assert!(order.finished_at > failed.finished_at);
    assert_eq!(harness.events(id).await.last(), Some(&EventKind::Cancelled));
    let counters = harness.counters().await;
    assert_eq!((counters.failed, counters.cancelled), (0, 1));
    assert_eq!(harness.cancel(id).await, order);
    harness.redrive(id).await;
    harness.claim_only(id).await;
}

async fn a_completed_order_cannot_be_cancelled(harness: &mut Harness) {
    let id = harness.order_in(OrderStatus::Completed).await;
    let order = harness.order(id).await;
    let acted = harness.store().cancel(id, None).await.unwrap();
    assert_eq!(acted, Acted::Refused(order.clone()));
    assert_eq!(harness.order(id).await, order);
}

async fn a_redriven_order_has_its_attempts_and_error_cleared(harness: &mut Harness) {
    for outcome in [Some(failed()), None] {
        let id = harness.order_due_in(0).await;
        let lease = harness.claim_only(id).await;
        match outcome {
            Some(outcome) => {
                harness.settle(&lease, outcome).await;
            }
            None => {
                harness.cancel(id).await;
            }
        }
        let before = harness.order(id).await;
        assert_eq!(before.attempts, 2);
        let order = harness.redrive(id).await;
        assert_eq!(order.status, OrderStatus::Pending);
        assert_eq!((order.attempts, order.generation), (0, 1));
        assert_eq!(order.version, before.version + 1);
        assert_eq!((&order.last_error, order.finished_at), (&None, None));
        assert!(order.next_attempt_at.unwrap() <= harness.now().await);
        assert_eq!(order.created_at, before.created_at);
        assert_eq!(harness.order(id).await, order);
        assert_eq!(harness.events(id).await.last(), Some(&EventKind::Redriven));
        harness.cancel(id).await;
    }
}

async fn a_redriven_order_runs_again(harness: &mut Harness) {
    let id = harness.order_in(OrderStatus::Failed).await;
    harness.redrive(id).await;
    let lease = harness.claim_only(id).await;
    assert_eq!((lease.order.attempts, lease.order.generation), (1, 1));
    harness.settle(&lease, Outcome::COMPLETED).await;
    let counters = harness.counters().await;
    assert_eq!((counters.completed, counters.failed), (1, 0));
}

async fn every_redrive_starts_a_new_generation(harness: &mut Harness) {
    let id = harness.accept_one().await;
    for generation in 1..=3 {
        harness.cancel(id).await;
        assert_eq!(harness.redrive(id).await.generation, generation);
    }
}

/// Issue 13: the action used to answer 409.
async fn a_redrive_makes_an_order_in_backoff_due_at_once(harness: &mut Harness) {
    let id = harness.order_due_in(60).await;
    harness.advance(Duration::from_secs(1)).await;
    let before = harness.order(id).await;
    let order = harness.redrive(id).await;
    assert_eq!(order.next_attempt_at, Some(harness.now().await));
    let expected = Order {
        version: before.version + 1,
        next_attempt_at: order.next_attempt_at,
        ..before
    };
    assert_eq!(order, expected, "attempts, generation or last error changed");
    assert_eq!(harness.order(id).await, order);
    let last = harness.history(id, before.version).await.remove(0);
    assert_eq!(
        (last.kind, last.status),
        (EventKind::Redriven, OrderStatus::Pending)
    );
    assert_eq!((last.attempt, last.error), (1, None));
    assert_eq!(harness.redrive(id).await, order, "the order was already due");
    assert_eq!(harness.counters().await.pending, 1);
    let lease = harness.claim_only(id).await;
    assert_eq!((lease.order.attempts, lease.order.generation), (2, 0));
}

async fn a_redrive_of_a_due_order_changes_nothing(harness: &mut Harness) {
    for id in [harness.order_due_in(0).await, harness.accept_one().await] {
        let order = harness.order(id).await;
        assert_eq!(harness.redrive(id).await, order);
        assert_eq!(harness.order(id).await, order);
        assert_eq!(harness.history(id, order.version).await, []);
    }
}

async fn a_processing_or_completed_order_cannot_be_redriven(harness: &mut Harness) {
    for status in [OrderStatus::Completed, OrderStatus::Processing] {
        let id = harness.order_in(status).await;
        let order = harness.order(id).await;
        let acted = harness
            .store()
            .redrive(id, RedriveOptions::default())
            .await
            .unwrap();
        assert_eq!(acted, Acted::Refused(order.clone()));
        assert_eq!(harness.order(id).await, order);
    }
}

async fn a_redrive_resets_the_crash_count(harness: &mut Harness) {
    let id = harness.accept_one().await;
    harness.crash_all(&[id], 2).await;
    harness.cancel(id).await;
    assert_eq!(harness.crashes(id).await, 2);
    harness.redrive(id).await;
    assert_eq!(harness.crashes(id).await, 0);
}

async fn a_redrive_may_keep_the_idempotency_key(harness: &mut Harness) {
    let id = harness.order_in(OrderStatus::Failed).await;
    let first = harness.attempt_key(id.0, 0).await;
    let same = RedriveOptions {
        same_key: true,
        ..RedriveOptions::default()
    };
    let acted = harness.store().redrive(id, same).await.unwrap();
    let Acted::Done(order) = acted else {
        panic!("a Failed order is redriven: {acted:?}");
    };
    assert_eq!(
        (order.status, order.generation, order.attempts),
        (OrderStatus::Pending, 0, 0)
    );
    let lease = harness.claim_only(id).await;
    assert_eq!(
        harness.epochs().await.attempt_key(&lease.order).to_string(),
        first
    );
    harness.settle(&lease, failed()).await;
    assert_eq!(harness.redrive(id).await.generation, 1);
    let lease = harness.claim_only(id).await;
    assert_ne!(
        harness.epochs().await.attempt_key(&lease.order).to_string(),
        first
    );
    let records = harness.records().await;
    let redrives = records[0]
        .events
        .iter()
        .filter(|stored| stored.event.kind == EventKind::Redriven);
    let same_key: Vec<bool> = redrives.map(|stored| stored.event.detail.same_key).collect();
    assert_eq!(same_key, [true, false]);
}

async fn the_reasons_of_actions_are_in_the_history(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let reason = |text: &str| Some(Reason::parse(text).unwrap());
    harness
        .store()
        .cancel(id, reason("the customer \"called\""))
        .await
        .unwrap();
    let options = RedriveOptions {
        reason: reason("a mistake"),
        ..RedriveOptions::default()
    };
    harness.store().redrive(id, options).await.unwrap();
    let history = harness.store().history(id, 1).await.unwrap().unwrap();
    let reasons: Vec<_> = history
        .events
        .iter()
        .map(|placed| placed.event.detail.reason.clone())
        .collect();
    assert_eq!(reasons, [reason("the customer \"called\""), reason("a mistake")]);
    let page = harness.store().events_after(None, 10).await.unwrap();
    let of_feed: Vec<_> = page.events[1..]
        .iter()
        .map(|placed| placed.event.detail.reason.clone())
        .collect();
    assert_eq!(of_feed, reasons);
}

async fn acting_on_an_unknown_order_reports_it_as_unknown(harness: &mut Harness) {
    harness.accept_one().await;
    for id in [OrderId(1_000_000), OrderId(i64::MAX), OrderId(0), OrderId(-1)] {
        assert_eq!(harness.store().cancel(id, None).await.unwrap(), Acted::Unknown);
        assert_eq!(
            harness
                .store()
                .redrive(id, RedriveOptions::default())
                .await
                .unwrap(),
            Acted::Unknown
        );
        assert_eq!(harness.store().order_view(id).await.unwrap(), None);
        assert_eq!(harness.store().history(id, 0).await.unwrap(), None);
    }
}

async fn a_concurrent_cancel_and_claim_agree(harness: &mut Harness) {
    for _ in 0..10 {
        let id = harness.accept_one().await;
        let (cancelled, leases) = tokio::join!(harness.cancel(id), harness.claim(1));
        assert_eq!(harness.order(id).await, cancelled);
        // A shared store may omit a lease that was cancelled before the claim was answered.
        let granted = cancelled.attempts as usize;
        assert!(leases.len() == granted || (!harness.is_embedded() && leases.is_empty()));
    }
}
