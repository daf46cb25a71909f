//! `history`: the events of an order, without gaps, in order, page by page.

use std::time::Duration;

use orderly::event::{Event, EventKind};
use orderly::lease::Outcome;
use orderly::order::{OrderId, OrderStatus};
use orderly::store::HISTORY_EVENTS_MAX;

use crate::support::Harness;
use crate::support::make::{LONGER_THAN_A_LEASE, failed, retry_after};

conformance! {
    every_change_writes_one_event,
    versions_count_from_one_without_gaps,
    events_follow_the_status_transitions,
    times_never_run_backwards,
    a_history_starts_after_the_given_version,
    a_long_history_comes_in_pages,
    orders_have_separate_histories,
}

async fn every_change_writes_one_event(harness: &mut Harness) {
    let id = eventful(harness).await;
    assert_eq!(
        harness.events(id).await,
        [
            EventKind::Accepted,
            EventKind::Started,
            EventKind::RetryScheduled,
            EventKind::Started,
            EventKind::Released,
            EventKind::Started,
            EventKind::LeaseLost,
            EventKind::Started,
            EventKind::Failed,
            EventKind::Redriven,
            EventKind::Cancelled,
            EventKind::Redriven,
            EventKind::Started,
            EventKind::Completed,
        ]
    );
}

async fn versions_count_from_one_without_gaps(harness: &mut Harness) {
    let id = eventful(harness).await;
    let versions: Vec<u32> = history(harness, id, 0)
        .await
        .iter()
        .map(|event| event.version)
        .collect();
    assert_eq!(versions, (1..=14).collect::<Vec<u32>>());
    assert_eq!(harness.order(id).await.version, 14);
}

async fn events_follow_the_status_transitions(harness: &mut Harness) {
    let id = eventful(harness).await;
    let mut status = None;
    for event in history(harness, id, 0).await {
        status = OrderStatus::after(status, event.kind);
        assert_eq!(status, Some(event.status), "version {}", event.version);
    }
    assert_eq!(status, Some(harness.order(id).await.status));
}

async fn times_never_run_backwards(harness: &mut Harness) {
    let id = eventful(harness).await;
    let events = history(harness, id, 0).await;
    assert!(events.is_sorted_by_key(|event| event.at));
    assert_eq!(events[0].at, harness.order(id).await.created_at);
    assert_eq!(Some(events[13].at), harness.order(id).await.finished_at);
}

async fn a_history_starts_after_the_given_version(harness: &mut Harness) {
    let id = eventful(harness).await;
    let all = history(harness, id, 0).await;
    for after in 0..14 {
        assert_eq!(history(harness, id, after).await, all[after as usize..]);
    }
    for after in [14, 15, u32::MAX] {
        assert_eq!(history(harness, id, after).await, []);
    }
}

async fn a_long_history_comes_in_pages(harness: &mut Harness) {
    let id = harness.accept_one().await;
    for _ in 0..HISTORY_EVENTS_MAX / 2 {
        let lease = harness.claim_only(id).await;
        harness.settle(&lease, Outcome::Released).await;
    }
    let first = history(harness, id, 0).await;
    assert_eq!(first.len(), HISTORY_EVENTS_MAX);
    let last = first.last().unwrap().version;
    assert_eq!(last as usize, HISTORY_EVENTS_MAX);
    let second = history(harness, id, last).await;
    assert_eq!(second.len(), 1);
    assert_eq!(second[0].version, last + 1);
}

async fn orders_have_separate_histories(harness: &mut Harness) {
    let one = harness.order_in(OrderStatus::Completed).await;
    let other = harness.order_in(OrderStatus::Cancelled).await;
    for id in [one, other] {
        let events = history(harness, id, 0).await;
        assert!(events.iter().all(|event| event.order_id == id));
    }
    assert_eq!(harness.events(one).await.len(), 3);
    assert_eq!(harness.events(other).await.len(), 2);
}

/// An order with every kind of event.
async fn eventful(harness: &Harness) -> OrderId {
    let id = harness.accept_one().await;
    let mut lease = harness.claim_only(id).await;
    harness.advance(Duration::from_secs(1)).await;
    harness.settle(&lease, retry_after(0)).await;
    lease = harness.claim_only(id).await;
    harness.settle(&lease, Outcome::Released).await;
    harness.claim_only(id).await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    harness.give_back().await;
    lease = harness.claim_only(id).await;
    harness.advance(Duration::from_secs(1)).await;
    harness.settle(&lease, failed()).await;
    harness.redrive(id).await;
    harness.cancel(id).await;
    harness.advance(Duration::from_secs(1)).await;
    harness.redrive(id).await;
    lease = harness.claim_only(id).await;
    harness.advance(Duration::from_secs(1)).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    id
}

async fn history(harness: &Harness, id: OrderId, after: u32) -> Vec<Event> {
    harness.history(id, after).await
}
