//! `prune`: old final orders are removed completely, all others stay.

use std::time::Duration;

use orderly::event::Event;
use orderly::lease::Outcome;
use orderly::order::{OrderId, OrderStatus};
use orderly::store::snapshot::OrderRecord;
use orderly::store::{
    Acted, Counters, FEED_EVENTS_MAX, FeedBounds, FeedPosition, OrderQuery, Prune, Pruned, RedriveOptions,
};

use crate::support::Harness;
use crate::support::make::{failed, key, new_order, order_with_reference};

mod steps;

conformance! {
    pruning_an_empty_store_removes_nothing,
    old_final_orders_are_removed_with_their_events,
    retention_counts_from_the_end_of_an_order,
    open_orders_stay_however_old_they_are,
    a_redriven_order_is_not_removed,
    an_order_exactly_as_old_as_the_retention_stays,
    removed_orders_are_in_no_listing,
    the_average_covers_only_remaining_orders,
    the_low_water_mark_is_where_the_feed_becomes_complete,
    the_low_water_mark_never_falls,
    a_second_retention_run_finds_nothing,
    order_ids_are_not_reused_after_all_orders_are_removed,
    a_repeated_request_is_answered_after_its_order_was_removed,
}

const RETENTION: Duration = Duration::from_hours(24);
const LATER: Duration = Duration::from_hours(25);

async fn pruning_an_empty_store_removes_nothing(harness: &mut Harness) {
    assert_eq!(step(harness, None).await, Pruned::default());
    assert_round(harness, &[]).await;
}

async fn old_final_orders_are_removed_with_their_events(harness: &mut Harness) {
    let mut old = Vec::new();
    for _ in 0..3 {
        old.extend(ended_orders(harness).await);
    }
    harness.advance(LATER).await;
    ended_orders(harness).await;
    assert_round(harness, &old).await;
    harness.reopen().await;
    assert_round(harness, &[]).await;
    harness.advance(LATER).await;
    assert_eq!(round(harness).await, 3);
    assert_eq!(harness.counters().await, Counters::default());
}

async fn retention_counts_from_the_end_of_an_order(harness: &mut Harness) {
    let late = harness.accept_one().await;
    let lease = harness.claim_only(late).await;
    let old = harness.order_in(OrderStatus::Completed).await;
    harness.advance(LATER).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    assert_round(harness, &[old]).await;
    harness.advance(LATER).await;
    assert_round(harness, &[late]).await;
}

async fn open_orders_stay_however_old_they_are(harness: &mut Harness) {
    let processing = harness.order_in(OrderStatus::Processing).await;
    let retried = harness.order_due_in(1).await;
    let old = ended_orders(harness).await;
    let pending = harness.accept_one().await;
    harness.advance(LATER).await;
    assert_round(harness, &old).await;
    for id in [processing, retried, pending] {
        assert!(!harness.order(id).await.status.is_final());
    }
}

async fn a_redriven_order_is_not_removed(harness: &mut Harness) {
    let old = ended_orders(harness).await;
    let id = harness.order_in(OrderStatus::Failed).await;
    harness.advance(LATER).await;
    harness.redrive(id).await;
    assert_round(harness, &old).await;
    let lease = harness.claim_only(id).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    assert_round(harness, &[]).await;
}

async fn an_order_exactly_as_old_as_the_retention_stays(harness: &mut Harness) {
    let id = harness.order_in(OrderStatus::Cancelled).await;
    harness.advance(RETENTION).await;
    assert_round(harness, &[]).await;
    harness.advance(Duration::from_micros(1)).await;
    assert_round(harness, &[id]).await;
}

async fn removed_orders_are_in_no_listing(harness: &mut Harness) {
    let gone = harness.accept(vec![order_with_reference("a"); 3]).await;
    harness.cancel_all(&gone).await;
    harness.advance(LATER).await;
    let young = harness.accept(vec![order_with_reference("a"); 2]).await;
    harness.cancel(young[0]).await;
    assert_round(harness, &gone).await;
    for (status, reference) in [
        (None, None),
        (None, Some("a")),
        (Some(OrderStatus::Cancelled), None),
        (Some(OrderStatus::Cancelled), Some("a")),
    ] {
        let query = OrderQuery {
            statuses: status.into_iter().collect(),
            reference: reference.map(str::to_owned),
            limit: 10,
            ..OrderQuery::default()
        };
        let page = harness.store().orders(query).await.unwrap();
        let ids: Vec<OrderId> = page.orders.iter().map(|order| order.order_id).collect();
        let left = if status.is_some() { &young[..1] } else { &young[..] };
        assert!(ids.iter().rev().eq(left), "{status:?} {reference:?}: {ids:?}");
    }
    for id in gone {
        assert_eq!(harness.store().cancel(id, None).await.unwrap(), Acted::Unknown);
        assert_eq!(
            harness
                .store()
                .redrive(id, RedriveOptions::default())
                .await
                .unwrap(),
            Acted::Unknown
        );
    }
}

async fn the_average_covers_only_remaining_orders(harness: &mut Harness) {
    let old = completed_in(harness, Duration::from_secs(7)).await;
    harness.advance(LATER).await;
    completed_in(harness, Duration::from_micros(2_000_003)).await;
    assert_round(harness, &[old]).await;
    let counters = harness.counters().await;
    assert_eq!((counters.completed, counters.processing_micros), (1, 2_000_003));
}

/// A remaining order has events before and after the mark.
async fn the_low_water_mark_is_where_the_feed_becomes_complete(harness: &mut Harness) {
    let staying = harness.accept_some(2).await;
    let leases = harness.claim(2).await;
    let old = ended_orders(harness).await;
    harness.advance(LATER).await;
    for lease in &leases {
        harness.settle(lease, Outcome::COMPLETED).await;
    }
    harness.number_all_events().await;
    let before = bounds(harness).await;
    assert_eq!(
        (before.complete_after.0, before.last.0),
        (0, 2 + 2 + 2 + 3 + 3 + 2)
    );
    assert_round(harness, &old).await;
    let after = bounds(harness).await;
    assert_eq!(
        (after.complete_after.0, after.last),
        (2 + 2 + 2 + 3 + 3, before.last)
    );
    for (place, kept) in [(0, false), (11, false), (12, true), (14, true), (15, false)] {
        let cursor = after.cursor(FeedPosition(place));
        assert_eq!(after.contain(cursor), kept, "{place}");
    }
    for id in staying {
        assert_eq!(harness.history(id, 0).await.len(), 3);
    }
}

async fn the_low_water_mark_never_falls(harness: &mut Harness) {
    let late = harness.accept_one().await;
    let lease = harness.claim_only(late).await;
    harness.settle(&lease, failed()).await;
    harness.redrive(late).await;
    let early = harness.order_in(OrderStatus::Cancelled).await;
    harness.cancel(late).await;
    harness.number_all_events().await;
    harness.advance(LATER).await;
    assert_round(harness, &[late, early]).await;
    let bounds_then = bounds(harness).await;
    assert_eq!(bounds_then.complete_after, bounds_then.last);
    harness.accept_one().await;
    assert_round(harness, &[]).await;
    assert_eq!(bounds(harness).await.complete_after, bounds_then.complete_after);
}

async fn a_second_retention_run_finds_nothing(harness: &mut Harness) {
    let old = ended_orders(harness).await;
    harness.advance(LATER).await;
    assert_round(harness, &old).await;
    assert_round(harness, &[]).await;
}

async fn order_ids_are_not_reused_after_all_orders_are_removed(harness: &mut Harness) {
    let old = ended_orders(harness).await;
    harness.advance(LATER).await;
    assert_round(harness, &old).await;
    assert_eq!(harness.records().await, []);
    let last = bounds(harness).await.last;
    harness.reopen().await;
    let next = harness.accept_one().await;
    assert!(Some(&next) > old.iter().max());
    let page = feed(harness, None, FEED_EVENTS_MAX).await;
    assert_eq!(page.len(), 1);
    assert_eq!(page[0].0.0, last.0 + 1);
}

/// Never configured so, since keys are kept for a day. Still no order is created twice.
async fn a_repeated_request_is_answered_after_its_order_was_removed(harness: &mut Harness) {
    let accept = async || {
        let accepted = harness.store().accept([new_order()].into(), Some(key("k", 1)));
        accepted.await.unwrap()
    };
    let first = accept().await;
    harness.cancel(first.order_ids[0]).await;
    harness.advance(Duration::from_hours(2)).await;
    harness.number_all_events().await;
    let hour = Prune {
        older_than: Duration::from_hours(1),
        after: None,
    };
    assert_eq!(harness.store().prune(hour).await.unwrap().orders, 1);
    let again = accept().await;
    assert!(again.replayed);
    assert_eq!(
        (&again.order_ids, again.created_at),
        (&first.order_ids, first.created_at)
    );
    assert_eq!(harness.counters().await, Counters::default());
    harness.advance(LATER).await;
    harness.assert_sound().await;
    let fresh = accept().await;
    assert!(!fresh.replayed && fresh.order_ids > first.order_ids);
}

/// One order in each final status; no other may be ready to start.
async fn ended_orders(harness: &Harness) -> Vec<OrderId> {
    let mut ids = Vec::new();
    for status in [
        OrderStatus::Completed,
        OrderStatus::Failed,
        OrderStatus::Cancelled,
    ] {
        ids.push(harness.order_in(status).await);
    }
    ids
}

async fn completed_in(harness: &Harness, span: Duration) -> OrderId {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    harness.advance(span).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    id
}

async fn step(harness: &Harness, after: Option<OrderId>) -> Pruned {
    let older_than = RETENTION;
    harness.store().prune(Prune { older_than, after }).await.unwrap()
}

/// Returns the number of removed orders. A shared store keeps orders whose events have no positions yet.
async fn round(harness: &Harness) -> usize {
    harness.number_all_events().await;
    let mut pruned = step(harness, None).await;
    let mut orders = pruned.orders;
    while pruned.next.is_some() {
        pruned = step(harness, pruned.next).await;
        orders += pruned.orders;
    }
    orders
}

/// Asserts that a run removes exactly these orders and that all remaining data agrees.
async fn assert_round(harness: &Harness, ids: &[OrderId]) {
    harness.number_all_events().await;
    let (bounds_before, records) = (bounds(harness).await, harness.records().await);
    let (gone, kept): (Vec<OrderRecord>, Vec<OrderRecord>) = records
        .into_iter()
        .partition(|record| ids.contains(&record.order.order_id));
    assert_eq!((gone.len(), round(harness).await), (ids.len(), ids.len()));
    assert_eq!(harness.records().await, kept);
    assert_eq!(harness.counters().await, harness.recount().await);
    for id in ids {
        assert_eq!(harness.store().order_view(*id).await.unwrap(), None);
        assert_eq!(harness.store().history(*id, 0).await.unwrap(), None);
    }
    let highest = gone
        .iter()
        .flat_map(|record| &record.events)
        .map(|event| event.position);
    let complete_after = highest.max().unwrap_or(0).max(bounds_before.complete_after.0);
    let expected = FeedBounds {
        complete_after: FeedPosition(complete_after),
        ..bounds_before
    };
    assert_eq!(bounds(harness).await, expected);
    assert_feed(harness, &kept, expected).await;
    harness.assert_sound().await;
}

/// Asserts that the feed has every remaining event from any position, and no gaps after `complete_after`.
async fn assert_feed(harness: &Harness, kept: &[OrderRecord], bounds: FeedBounds) {
    let mut expected: Vec<(FeedPosition, Event)> = kept
        .iter()
        .flat_map(|record| &record.events)
        .map(|stored| (FeedPosition(stored.position), stored.event.clone()))
        .collect();
    expected.sort_by_key(|(position, _)| *position);
    for limit in [1, 3, FEED_EVENTS_MAX] {
        assert_eq!(feed(harness, None, limit).await, expected);
    }
    for place in 0..=bounds.last.0 {
        let behind = expected.iter().filter(|(position, _)| position.0 > place);
        let page = feed(harness, Some(FeedPosition(place)), FEED_EVENTS_MAX).await;
        assert!(page.iter().eq(behind), "after {place}: {page:?}");
        if place == bounds.complete_after.0 {
            let places = page.iter().map(|(position, _)| position.0);
            assert!(places.eq(place + 1..=bounds.last.0));
        }
    }
}

/// Reads to the end.
async fn feed(harness: &Harness, after: Option<FeedPosition>, limit: usize) -> Vec<(FeedPosition, Event)> {
    let mut feed: Vec<(FeedPosition, Event)> = Vec::new();
    loop {
        let last = feed.last().map(|(position, _)| *position).or(after);
        let page = harness.store().events_after(last, limit).await.unwrap();
        if page.events.is_empty() && !page.unplaced {
            return feed;
        }
        let events = page.events.into_iter();
        feed.extend(events.map(|event| (event.position, event.event)));
    }
}

async fn bounds(harness: &Harness) -> FeedBounds {
    harness.store().events_after(None, 0).await.unwrap().bounds
}
