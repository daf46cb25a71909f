//! `events_after`: every event of every order once, by positions in commit order. Pages may be short, so these tests
//! read on until they have all events.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use orderly::event::{Event, EventKind};
use orderly::lease::Outcome;
use orderly::order::{OrderId, OrderStatus};
use orderly::store::{FEED_EVENTS_MAX, FeedBounds, FeedCursor, FeedEvent, FeedPosition, OrderQuery};

use crate::support::Harness;
use crate::support::make::{LONGER_THAN_A_LEASE, NODE_B, failed, order_of, retry_after};

conformance! {
    the_feed_of_an_empty_store_is_empty,
    the_feed_holds_every_event_of_every_order_once,
    positions_rise,
    reading_page_by_page_skips_nothing,
    later_events_have_higher_positions,
    an_event_keeps_its_position,
    events_keep_their_positions_across_a_restart,
    a_snapshot_contains_the_feed_positions,
    a_page_holds_at_most_the_requested_number,
    a_page_is_capped_at_its_own_limit,
    a_page_of_zero_events_is_empty,
    reading_after_the_last_event_returns_nothing,
    a_reader_misses_nothing_while_others_write,
    the_bounds_of_a_new_feed_are_empty,
    the_bounds_contain_the_last_position,
    a_feed_keeps_its_identity_across_a_restart,
    every_store_has_its_own_feed_identity,
    an_event_names_the_user_of_its_order,
    events_missing_from_an_order_view_come_after_its_cursor,
    events_missing_from_an_order_page_come_after_its_cursor,
    an_order_view_is_never_older_than_its_cursor,
}

async fn the_feed_of_an_empty_store_is_empty(harness: &mut Harness) {
    assert_eq!(page(harness, None, 10).await, []);
}

async fn the_feed_holds_every_event_of_every_order_once(harness: &mut Harness) {
    let ids = eventful(harness).await;
    let feed = read(harness, None, FEED_EVENTS_MAX, EVENTFUL_EVENTS).await;
    for id in ids {
        let of_order: Vec<&Event> = feed
            .iter()
            .map(|(_, event)| event)
            .filter(|event| event.order_id == id)
            .collect();
        let history = harness.history(id, 0).await;
        assert_eq!(of_order, history.iter().collect::<Vec<_>>(), "order {id}");
    }
}

async fn positions_rise(harness: &mut Harness) {
    eventful(harness).await;
    let feed = read(harness, None, 3, EVENTFUL_EVENTS).await;
    assert!(feed.is_sorted_by(|(one, _), (next, _)| one < next), "{feed:?}");
}

async fn reading_page_by_page_skips_nothing(harness: &mut Harness) {
    eventful(harness).await;
    let feed = read(harness, None, FEED_EVENTS_MAX, EVENTFUL_EVENTS).await;
    for limit in 1..5 {
        assert_eq!(read(harness, None, limit, EVENTFUL_EVENTS).await, feed);
    }
    for (seen, (position, _)) in (1..).zip(&feed) {
        let rest = read(harness, Some(*position), FEED_EVENTS_MAX, EVENTFUL_EVENTS - seen).await;
        assert_eq!(rest, feed[seen..]);
    }
}

async fn later_events_have_higher_positions(harness: &mut Harness) {
    let mut last = None;
    let id = harness.accept_one().await;
    last = assert_next(harness, last, id, EventKind::Accepted).await;
    let lease = harness.claim_only(id).await;
    last = assert_next(harness, last, id, EventKind::Started).await;
    let other = harness.accept_one().await;
    last = assert_next(harness, last, other, EventKind::Accepted).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    last = assert_next(harness, last, id, EventKind::Completed).await;
    harness.step_clock_back(Duration::from_hours(1)).await;
    harness.cancel(other).await;
    assert_next(harness, last, other, EventKind::Cancelled).await;
}

async fn an_event_keeps_its_position(harness: &mut Harness) {
    eventful(harness).await;
    let feed = read(harness, None, 4, EVENTFUL_EVENTS).await;
    harness.order_in(OrderStatus::Completed).await;
    assert_eq!(
        read(harness, None, FEED_EVENTS_MAX, EVENTFUL_EVENTS + 3).await[..EVENTFUL_EVENTS],
        feed
    );
}

async fn events_keep_their_positions_across_a_restart(harness: &mut Harness) {
    eventful(harness).await;
    let before = read(harness, None, FEED_EVENTS_MAX, EVENTFUL_EVENTS).await;
    harness.reopen().await;
    let id = harness.accept_one().await;
    let after = read(harness, None, FEED_EVENTS_MAX, EVENTFUL_EVENTS + 1).await;
    assert_eq!(after[..EVENTFUL_EVENTS], before);
    assert_eq!(after[EVENTFUL_EVENTS].1.order_id, id);
}

async fn a_snapshot_contains_the_feed_positions(harness: &mut Harness) {
    eventful(harness).await;
    let feed = read(harness, None, FEED_EVENTS_MAX, EVENTFUL_EVENTS).await;
    let records = harness.records().await;
    let mut events: Vec<(FeedPosition, Event)> = records
        .into_iter()
        .flat_map(|record| record.events)
        .map(|record| (FeedPosition(record.position), record.event))
        .collect();
    events.sort_by_key(|(position, _)| *position);
    assert_eq!(events, feed);
}

async fn a_page_holds_at_most_the_requested_number(harness: &mut Harness) {
    harness.accept_some(5).await;
    read(harness, None, 3, 5).await;
    for limit in 1..6 {
        assert!(page(harness, None, limit).await.len() <= limit);
    }
}

async fn a_page_is_capped_at_its_own_limit(harness: &mut Harness) {
    harness.accept_some(FEED_EVENTS_MAX).await;
    harness.accept_one().await;
    read(harness, None, usize::MAX, FEED_EVENTS_MAX + 1).await;
    assert!(page(harness, None, usize::MAX).await.len() <= FEED_EVENTS_MAX);
}

async fn a_page_of_zero_events_is_empty(harness: &mut Harness) {
    harness.accept_one().await;
    assert_eq!(page(harness, None, 0).await, []);
}

async fn reading_after_the_last_event_returns_nothing(harness: &mut Harness) {
    harness.accept_one().await;
    let feed = read(harness, None, 10, 1).await;
    assert_eq!(page(harness, Some(feed[0].0), 10).await, []);
    assert_eq!(page(harness, Some(FeedPosition(i64::MAX)), 10).await, []);
}

async fn a_reader_misses_nothing_while_others_write(harness: &mut Harness) {
    const ORDERS: usize = 60;
    let harness = &*harness;
    let writers = join_all((0..ORDERS).map(async |_| {
        let id = harness.accept_one().await;
        for lease in harness.claim(2).await {
            harness.settle(&lease, Outcome::COMPLETED).await;
        }
        id
    }));
    let read_while_written = async {
        let mut seen = HashSet::new();
        let mut last = None;
        // A writer that claims too late leaves the order to another writer.
        while seen.len() < 3 * ORDERS {
            for (position, event) in page(harness, last, 7).await {
                assert!(last < Some(position), "positions rise");
                assert!(
                    seen.insert((event.order_id, event.version)),
                    "{event:?} was returned twice"
                );
                last = Some(position);
            }
        }
    };
    tokio::join!(writers, read_while_written);
}

async fn the_bounds_of_a_new_feed_are_empty(harness: &mut Harness) {
    let bounds = bounds(harness).await;
    assert_eq!(
        (bounds.complete_after, bounds.last),
        (FeedPosition(0), FeedPosition(0))
    );
    assert!(bounds.contain(bounds.cursor(FeedPosition(0))));
}

async fn the_bounds_contain_the_last_position(harness: &mut Harness) {
    eventful(harness).await;
    let feed = read(harness, None, FEED_EVENTS_MAX, EVENTFUL_EVENTS).await;
    let bounds = bounds(harness).await;
    assert_eq!(bounds.complete_after, FeedPosition(0));
    assert_eq!(Some(bounds.last), feed.last().map(|(position, _)| *position));
}

async fn a_feed_keeps_its_identity_across_a_restart(harness: &mut Harness) {
    eventful(harness).await;
    read(harness, None, FEED_EVENTS_MAX, EVENTFUL_EVENTS).await;
    let before = bounds(harness).await;
    harness.reopen().await;
    assert_eq!(bounds(harness).await, before);
}

async fn every_store_has_its_own_feed_identity(harness: &mut Harness) {
    let another = if harness.is_embedded() {
        Some(Harness::sqlite().await)
    } else {
        Harness::postgres().await
    };
    let another = another.expect("a second store of the same kind");
    let (one, other) = (bounds(harness).await, bounds(&another).await);
    assert_ne!(one.epochs.newest().identity, other.epochs.newest().identity);
    assert!(!one.contain(other.cursor(FeedPosition(0))));
    another.store().close().await;
}

async fn an_event_names_the_user_of_its_order(harness: &mut Harness) {
    let ids = harness.accept((1..=3).map(order_of).collect()).await;
    harness.cancel_all(&ids).await;
    read(harness, None, FEED_EVENTS_MAX, 6).await;
    let page = harness.store().events_after(None, FEED_EVENTS_MAX).await.unwrap();
    assert_eq!(page.events.len(), 6);
    for event in &page.events {
        let order = harness.order(event.event.order_id).await;
        assert_eq!(event.user_id, order.request.user_id);
    }
    for (id, user_id) in ids.iter().zip(1..) {
        let history = harness.store().history(*id, 0).await.unwrap().unwrap();
        assert_eq!(history.events.len(), 2);
        for event in &history.events {
            assert_eq!(event.user_id, user_id);
            assert!(page.events.contains(event));
        }
    }
}

async fn events_missing_from_an_order_view_come_after_its_cursor(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let mut views = vec![view(harness, id).await];
    let lease = harness.claim_only(id).await;
    views.push(view(harness, id).await);
    harness.settle(&lease, failed()).await;
    views.push(view(harness, id).await);
    for (version, at) in &views {
        let history = harness.store().history(id, *version).await.unwrap().unwrap();
        assert_eq!(history.events.len(), 3 - *version as usize);
        assert_behind(*at, &history.events);
        // The rest of a history is followed from its own cursor.
        assert!(bounds(harness).await.contain(history.at));
    }
    harness.redrive(id).await;
    let history = harness.store().history(id, 0).await.unwrap().unwrap();
    harness.cancel(id).await;
    let rest = harness.store().history(id, 4).await.unwrap().unwrap();
    assert_eq!(rest.events.len(), 1);
    assert_behind(history.at, &rest.events);
}

async fn events_missing_from_an_order_page_come_after_its_cursor(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let nothing_so_young = Some(harness.now().await.plus(Duration::from_hours(1)));
    for (created_after, orders) in [(None, 1), (nothing_so_young, 0)] {
        let query = OrderQuery {
            created_after,
            limit: 1,
            ..OrderQuery::default()
        };
        let seen = harness.order(id).await.version;
        let page = harness.store().orders(query).await.unwrap();
        assert_eq!(page.orders.len(), orders);
        harness.cancel(id).await;
        harness.redrive(id).await;
        let rest = harness.store().history(id, seen).await.unwrap().unwrap();
        assert_eq!(rest.events.len(), 2);
        assert_behind(page.at, &rest.events);
    }
}

async fn an_order_view_is_never_older_than_its_cursor(harness: &mut Harness) {
    const REDRIVES: u32 = 40;
    let harness = &*harness;
    let id = harness.accept_one().await;
    let writer = async {
        for _ in 0..REDRIVES {
            harness.cancel(id).await;
            harness.redrive(id).await;
        }
    };
    let reader = async {
        let mut views = Vec::new();
        while views.last().is_none_or(|(version, _)| *version <= 2 * REDRIVES) {
            views.push(view(harness, id).await);
            // The read assigns positions.
            page(harness, Some(FeedPosition(i64::MAX)), 1).await;
        }
        views
    };
    let ((), views) = tokio::join!(writer, reader);
    let history = harness.store().history(id, 0).await.unwrap().unwrap();
    for (version, at) in views {
        assert_behind(at, &history.events[version as usize..]);
    }
}

/// The order's version and the cursor to follow it from.
async fn view(harness: &Harness, id: OrderId) -> (u32, FeedCursor) {
    let view = harness.store().order_view(id).await.unwrap();
    let view = view.expect("the order was accepted");
    assert!(bounds(harness).await.contain(view.at));
    (view.order.version, view.at)
}

fn assert_behind(at: FeedCursor, unseen: &[FeedEvent]) {
    for event in unseen {
        assert!(event.position > at.position, "{event:?} is not after {at:?}");
    }
}

async fn bounds(harness: &Harness) -> FeedBounds {
    harness.store().events_after(None, 0).await.unwrap().bounds
}

/// Number of events that `eventful` creates.
const EVENTFUL_EVENTS: usize = 3 + 2 + 11;

/// Creates orders with every kind of event. None is ready to start afterwards.
async fn eventful(harness: &Harness) -> Vec<OrderId> {
    let pending = harness.accept_one().await;
    let cancelled = harness.accept_one().await;
    let lease = harness.claim(1).await.remove(0);
    harness.cancel(cancelled).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    harness.settle(&lease, retry_after(0)).await;
    let lease = harness.claim_only(id).await;
    harness.settle(&lease, Outcome::Released).await;
    harness.claim_as(NODE_B, 1).await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    harness.give_back().await;
    let lease = harness.claim_only(id).await;
    harness.settle(&lease, failed()).await;
    harness.redrive(id).await;
    harness.cancel(id).await;
    vec![pending, cancelled, id]
}

/// Reads this many events page by page and checks that no more follow.
async fn read(
    harness: &Harness,
    after: Option<FeedPosition>,
    limit: usize,
    events: usize,
) -> Vec<(FeedPosition, Event)> {
    let mut feed: Vec<(FeedPosition, Event)> = Vec::new();
    let last = |feed: &[(FeedPosition, Event)]| feed.last().map(|(position, _)| *position).or(after);
    while feed.len() < events {
        feed.extend(page(harness, last(&feed), limit).await);
    }
    feed.extend(page(harness, last(&feed), limit).await);
    assert_eq!(feed.len(), events);
    feed
}

/// Asserts that exactly this event follows `after`, and returns its position.
async fn assert_next(
    harness: &Harness,
    after: Option<FeedPosition>,
    id: OrderId,
    kind: EventKind,
) -> Option<FeedPosition> {
    let mut next = read(harness, after, FEED_EVENTS_MAX, 1).await;
    let (position, event) = next.remove(0);
    assert_eq!((event.order_id, event.kind), (id, kind));
    assert!(after < Some(position));
    Some(position)
}

async fn page(harness: &Harness, after: Option<FeedPosition>, limit: usize) -> Vec<(FeedPosition, Event)> {
    let page = harness.store().events_after(after, limit).await.unwrap();
    page.events
        .into_iter()
        .map(|event| (event.position, event.event))
        .collect()
}
