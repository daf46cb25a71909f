//! `orderly::live` over every driver: the events that a subscriber gets, however slow it is and however often it
//! returns.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use orderly::lease::Outcome;
use orderly::live::{Feed, Filter, Live, LiveSettings, Next, Subscription};
use orderly::order::{OrderId, OrderStatus, UserId};
use orderly::store::{FeedCursor, FeedPosition, RedriveOptions, Store};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::Harness;
use crate::support::make::{failed, order_of, retry_after};

mod resync;
mod returning;
mod turns;

conformance![
    subscribers_get_every_matching_event_in_order,
    a_new_subscriber_gets_only_later_events,
    a_stuck_subscriber_does_not_affect_others,
    the_cursor_advances_past_events_that_do_not_match,
    a_returning_subscriber_resumes_without_a_gap,
];

/// No event takes this long.
const PATIENCE: Duration = Duration::from_mins(1);
const USERS: i64 = 4;
/// More than the queue of a subscriber holds; three bursts exceed a node's memory of the feed.
const BURST: usize = 3_500;

fn live(harness: &Harness) -> (Live, CancellationToken) {
    live_over(harness.store().clone(), harness)
}

fn live_over(store: Arc<dyn Store>, harness: &Harness) -> (Live, CancellationToken) {
    let draining = CancellationToken::new();
    let settings = LiveSettings { idle_sleep: false };
    let metrics = harness.metrics().clone();
    let live = Live::start(store, metrics, settings, draining.clone());
    (live, draining)
}

async fn end(live: Live, draining: CancellationToken) {
    draining.cancel();
    live.ended().await.expect("the tail does not panic");
}

fn of_user(user_id: i64) -> Filter {
    Filter {
        user_id: Some(UserId::Number(user_id)),
        ..Filter::default()
    }
}

/// Delivered events: order, version and position.
type Received = Vec<(OrderId, u32, FeedPosition)>;

async fn receive(subscription: &mut Subscription) -> (OrderId, u32, FeedPosition) {
    match timeout(PATIENCE, subscription.next()).await {
        Ok(Next::Change(change)) => {
            let event = &change.event;
            (event.event.order_id, event.event.version, event.position)
        }
        Ok(Next::Resync(cursor)) => panic!("unexpected resync to {cursor:?}"),
        Err(elapsed) => panic!("no event arrived: {elapsed}"),
    }
}

async fn end_of_feed(harness: &Harness) -> FeedCursor {
    let mut last = None;
    // A shared database assigns positions to committed events when they are read.
    loop {
        let page = harness.store().events_after(last, 1_000).await.unwrap();
        if page.events.is_empty() && !page.unplaced {
            return page.bounds.cursor(page.bounds.last);
        }
        last = page.events.last().map(|event| event.position).or(last);
    }
}

async fn subscribers_get_every_matching_event_in_order(harness: &mut Harness) {
    const FOLLOWERS: u64 = 12;
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let (live, draining) = live(harness);
    // The end of the feed, known once all operations are done.
    let (over, _) = watch::channel(None);
    let mut followers = JoinSet::new();
    for number in 0..FOLLOWERS {
        let rng = StdRng::seed_from_u64(seed.wrapping_add(number));
        followers.spawn(follow(live.feed(), rng, over.subscribe()));
    }
    run_random_operations(harness, StdRng::seed_from_u64(seed)).await;
    over.send_replace(Some(end_of_feed(harness).await));
    let mut events: Vec<_> = harness
        .records()
        .await
        .into_iter()
        .flat_map(|record| {
            let user_id = record.order.request.user_id.clone();
            record
                .events
                .into_iter()
                .map(move |stored| (stored, user_id.clone()))
        })
        .collect();
    events.sort_by_key(|(stored, _)| stored.position);
    while let Some(follower) = followers.join_next().await {
        let (filter, began, received) = follower.unwrap();
        let concerns = |user_id: &UserId, order_id: OrderId, status: OrderStatus| {
            filter.user_id.as_ref().is_none_or(|id| id == user_id)
                && filter.order_id.is_none_or(|id| id == order_id)
                && filter.status.is_none_or(|wanted| wanted == status)
        };
        let expected: Received = events
            .iter()
            .filter(|(stored, user_id)| {
                let event = &stored.event;
                stored.position > began.position.0 && concerns(user_id, event.order_id, event.status)
            })
            .map(|(stored, _)| {
                let place = FeedPosition(stored.position);
                (stored.event.order_id, stored.event.version, place)
            })
            .collect();
        assert_eq!(received.len(), expected.len(), "{filter:?} since {began:?}");
        assert_eq!(received, expected, "{filter:?} since {began:?}");
    }
    end(live, draining).await;
}

/// Reads until the end in a random manner: fast or slow, sometimes leaving and returning.
async fn follow(
    feed: Feed,
    mut rng: StdRng,
    mut over: watch::Receiver<Option<FeedCursor>>,
) -> (Filter, FeedCursor, Received) {
    let filter = match rng.random_range(0..5) {
        0 => of_user(rng.random_range(1..=USERS)),
        1 => Filter {
            order_id: Some(OrderId(rng.random_range(1..=20))),
            ..Filter::default()
        },
        2 => Filter {
            status: Some(OrderStatus::Processing),
            ..of_user(1)
        },
        _ => Filter::default(),
    };
    // Some subscribers pause.
    let lazy = rng.random_bool(0.5);
    let mut subscription = feed.subscribe(filter.clone(), None).await.unwrap();
    let began = subscription.cursor();
    let mut received = Received::new();
    loop {
        let at = subscription.cursor();
        if let Some(end) = *over.borrow()
            && at.position >= end.position
        {
            return (filter.clone(), began, received);
        }
        if rng.random_bool(0.01) {
            drop(subscription);
            subscription = feed.subscribe(filter.clone(), Some(at)).await.unwrap();
        }
        if lazy && over.borrow().is_none() && rng.random_bool(0.05) {
            // Until all operations are done: then every event is waiting.
            over.changed().await.unwrap();
        }
        // Without further matches the cursor still advances.
        if let Ok(next) = timeout(Duration::from_millis(20), subscription.next()).await {
            let Next::Change(change) = next else {
                panic!("nothing was pruned")
            };
            let event = &change.event;
            received.push((event.event.order_id, event.event.version, event.position));
        }
    }
}

async fn run_random_operations(harness: &Harness, mut rng: StdRng) {
    let mut ids = Vec::new();
    for step in 0..80 {
        match rng.random_range(0..6) {
            0 | 1 => {
                let count = if step % 20 == 19 {
                    BURST
                } else {
                    rng.random_range(1..4)
                };
                let orders = (0..count).map(|_| order_of(rng.random_range(1..=USERS)));
                ids.extend(harness.accept(orders.collect()).await);
            }
            2 | 3 => {
                for lease in harness.claim(rng.random_range(1..5)).await {
                    let outcome = match rng.random_range(0..3) {
                        0 => Outcome::COMPLETED,
                        1 => retry_after(0),
                        _ => failed(),
                    };
                    harness.settle(&lease, outcome).await;
                }
            }
            choice if !ids.is_empty() => {
                let id = ids[rng.random_range(0..ids.len())];
                let acted = if choice == 4 {
                    harness.store().cancel(id, None).await
                } else {
                    harness.store().redrive(id, RedriveOptions::default()).await
                };
                acted.unwrap();
            }
            _ => {}
        }
    }
    // More than a queue holds, whatever was random before.
    harness.accept_some(BURST).await;
}

async fn a_new_subscriber_gets_only_later_events(harness: &mut Harness) {
    let (live, draining) = live(harness);
    harness.accept(vec![order_of(1)]).await;
    end_of_feed(harness).await;
    let mut subscription = live.feed().subscribe(of_user(1), None).await.unwrap();
    let ids = harness.accept(vec![order_of(2), order_of(1)]).await;
    let (id, version, _) = receive(&mut subscription).await;
    assert_eq!((id, version), (ids[1], 1));
    harness.cancel(ids[0]).await;
    harness.cancel(ids[1]).await;
    let (id, version, position) = receive(&mut subscription).await;
    assert_eq!((id, version), (ids[1], 2));
    assert_eq!(subscription.cursor().position, position);
    end(live, draining).await;
}

async fn a_stuck_subscriber_does_not_affect_others(harness: &mut Harness) {
    let (live, draining) = live(harness);
    let feed = live.feed();
    let mut stuck = Vec::new();
    for _ in 0..50 {
        stuck.push(feed.subscribe(Filter::default(), None).await.unwrap());
    }
    let mut reader = feed.subscribe(Filter::default(), None).await.unwrap();
    for _ in 0..3 {
        let ids = harness.accept_some(BURST).await;
        let mut received = HashSet::new();
        for _ in 0..BURST {
            received.insert(receive(&mut reader).await.0);
        }
        assert_eq!(received, ids.into_iter().collect());
    }
    // Each stuck subscriber was detached once.
    assert!(harness.metrics().feed_subscribers_lagged.get() >= 50);
    // A stuck subscriber that reads again gets every event.
    let mut one = stuck.remove(0);
    let mut last = None;
    for _ in 0..3 * BURST {
        let (_, _, position) = receive(&mut one).await;
        assert!(last < Some(position));
        last = Some(position);
    }
    end(live, draining).await;
}

async fn the_cursor_advances_past_events_that_do_not_match(harness: &mut Harness) {
    let (live, draining) = live(harness);
    let mut nothing = live.feed().subscribe(of_user(1), None).await.unwrap();
    let mut everything = live.feed().subscribe(Filter::default(), None).await.unwrap();
    let began = nothing.cursor();
    harness.accept(vec![order_of(2), order_of(2)]).await;
    let then = end_of_feed(harness).await;
    // A later event shows that all subscribers have passed the others.
    harness.accept(vec![order_of(2)]).await;
    for _ in 0..3 {
        receive(&mut everything).await;
    }
    let moved = nothing.cursor();
    assert!(began.position < then.position && then.position <= moved.position);
    end(live, draining).await;
}

async fn a_returning_subscriber_resumes_without_a_gap(harness: &mut Harness) {
    let (live, draining) = live(harness);
    for _ in 0..3 {
        let mut subscription = live.feed().subscribe(Filter::default(), None).await.unwrap();
        let id = harness.accept_one().await;
        assert_eq!(receive(&mut subscription).await.0, id);
        let at = subscription.cursor();
        drop(subscription);
        let missed = harness.accept_one().await;
        let mut again = live.feed().subscribe(Filter::default(), Some(at)).await.unwrap();
        assert_eq!(receive(&mut again).await.0, missed);
    }
    assert_eq!(harness.metrics().feed_subscribers.get(), 0);
    end(live, draining).await;
}
