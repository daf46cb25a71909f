//! `events_after`: every event of every order once, by positions that follow the commits. A page may be short, so these
//! claims read on until they have what is there.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use orderly::event::{Event, EventKind};
use orderly::lease::Outcome;
use orderly::order::{OrderId, OrderStatus};
use orderly::store::{FEED_EVENTS_MAX, FeedPosition};

use crate::support::Harness;
use crate::support::make::{LONGER_THAN_A_LEASE, NODE_B, failed, retry_after};

conformance! {
    the_feed_of_an_empty_store_is_empty,
    the_feed_holds_every_event_of_every_order_once,
    positions_rise,
    reading_on_skips_nothing,
    what_happens_later_has_a_higher_position,
    an_event_keeps_its_position,
    events_keep_their_positions_across_a_restart,
    the_snapshot_knows_the_positions_of_the_feed,
    a_page_holds_no_more_than_was_asked_for,
    a_page_has_a_limit_of_its_own,
    a_page_of_nothing_is_empty,
    there_is_nothing_behind_the_end,
    a_reader_among_writers_misses_nothing,
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
        let history = harness.store().history(id, 0).await.unwrap().unwrap();
        assert_eq!(of_order, history.iter().collect::<Vec<_>>(), "order {id}");
    }
}

async fn positions_rise(harness: &mut Harness) {
    eventful(harness).await;
    let feed = read(harness, None, 3, EVENTFUL_EVENTS).await;
    assert!(feed.is_sorted_by(|(one, _), (next, _)| one < next), "{feed:?}");
}

async fn reading_on_skips_nothing(harness: &mut Harness) {
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

async fn what_happens_later_has_a_higher_position(harness: &mut Harness) {
    let mut last = None;
    let id = harness.accept_one().await;
    last = assert_next(harness, last, id, EventKind::Accepted).await;
    let lease = harness.claim_only(id).await;
    last = assert_next(harness, last, id, EventKind::Started).await;
    let other = harness.accept_one().await;
    last = assert_next(harness, last, other, EventKind::Accepted).await;
    harness.settle(&lease, Outcome::Completed).await;
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

async fn the_snapshot_knows_the_positions_of_the_feed(harness: &mut Harness) {
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

async fn a_page_holds_no_more_than_was_asked_for(harness: &mut Harness) {
    harness.accept_some(5).await;
    read(harness, None, 3, 5).await;
    for limit in 1..6 {
        assert!(page(harness, None, limit).await.len() <= limit);
    }
}

async fn a_page_has_a_limit_of_its_own(harness: &mut Harness) {
    harness.accept_some(FEED_EVENTS_MAX).await;
    harness.accept_one().await;
    read(harness, None, usize::MAX, FEED_EVENTS_MAX + 1).await;
    assert!(page(harness, None, usize::MAX).await.len() <= FEED_EVENTS_MAX);
}

async fn a_page_of_nothing_is_empty(harness: &mut Harness) {
    harness.accept_one().await;
    assert_eq!(page(harness, None, 0).await, []);
}

async fn there_is_nothing_behind_the_end(harness: &mut Harness) {
    harness.accept_one().await;
    let feed = read(harness, None, 10, 1).await;
    assert_eq!(page(harness, Some(feed[0].0), 10).await, []);
    assert_eq!(page(harness, Some(FeedPosition(i64::MAX)), 10).await, []);
}

async fn a_reader_among_writers_misses_nothing(harness: &mut Harness) {
    const ORDERS: usize = 60;
    let harness = &*harness;
    let writers = join_all((0..ORDERS).map(async |_| {
        let id = harness.accept_one().await;
        for lease in harness.claim(2).await {
            harness.settle(&lease, Outcome::Completed).await;
        }
        id
    }));
    let read_while_written = async {
        let mut seen = HashSet::new();
        let mut last = None;
        // Every order is accepted, started and completed: whoever comes too late to claim leaves it to another.
        while seen.len() < 3 * ORDERS {
            for (position, event) in page(harness, last, 7).await {
                assert!(last < Some(position), "positions rise");
                assert!(
                    seen.insert((event.order_id, event.version)),
                    "{event:?} came twice"
                );
                last = Some(position);
            }
        }
    };
    tokio::join!(writers, read_while_written);
}

/// What `eventful` leaves behind.
const EVENTFUL_EVENTS: usize = 3 + 2 + 11;

/// Orders to which everything happened, among others; none is ready to start afterwards.
async fn eventful(harness: &Harness) -> Vec<OrderId> {
    let pending = harness.accept_one().await;
    let cancelled = harness.accept_one().await;
    let lease = harness.claim(1).await.remove(0);
    harness.cancel(cancelled).await;
    harness.settle(&lease, Outcome::Completed).await;
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

/// Reads on page by page until so many events were read, and sees that there are no more.
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

/// Exactly this is behind `after`; answers its position.
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
    harness.store().events_after(after, limit).await.unwrap().events
}
