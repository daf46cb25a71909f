//! Subscribers that return together to a restarted node cause few reads of the store.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::join_all;
use orderly::live::{Filter, Live, SubscribeError, Subscription};
use orderly::order::OrderId;
use orderly::store::layer::{InnerCall, Layer, Verb};
use orderly::store::{FeedPosition, StoreError};

use super::{end, end_of_feed, live_over, receive};
use crate::support::Harness;
use crate::support::layers::{StandsStill, layered};

conformance![
    a_short_absence_is_served_from_memory,
    subscribers_returning_together_share_one_read_of_the_store,
    subscribers_returning_together_share_one_store_error,
];

/// Changes of 19 s at 500 per second: a heartbeat of 15 s and the longest wait of 4 s.
const MISSED: usize = 9_500;
const OLDER: usize = 1_000;
const SUBSCRIBERS: usize = 100;

/// A layer that can stall or fail calls, and counts them.
struct ControlledStore {
    stands_still: Arc<StandsStill>,
    asked: AtomicUsize,
    away: AtomicBool,
}

impl ControlledStore {
    fn new() -> Arc<ControlledStore> {
        Arc::new(ControlledStore {
            stands_still: StandsStill::new(),
            asked: AtomicUsize::new(0),
            away: AtomicBool::new(false),
        })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Layer for ControlledStore {
    async fn around<T: Send>(&self, _verb: Verb, call: InnerCall<'_, T>) -> Result<T, StoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.stands_still.passed().await;
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable {
                attempted: "read the feed",
                source: anyhow::anyhow!("gone"),
            });
        }
        call.await
    }
}

async fn a_short_absence_is_served_from_memory(harness: &mut Harness) {
    harness.accept_some(OLDER).await;
    let left_at = end_of_feed(harness).await;
    let mut orders = Vec::new();
    while orders.len() < MISSED {
        orders.extend(harness.accept_some(500).await);
    }
    // All events have positions, so the node has them in memory from the start.
    end_of_feed(harness).await;
    let controlled = ControlledStore::new();
    let store = layered(harness.store().clone(), controlled.clone());
    let (live, draining) = live_over(store, harness);
    let first = live.feed().subscribe(Filter::default(), None).await.unwrap();
    controlled.away.store(true, Ordering::SeqCst);
    let mut back = live
        .feed()
        .subscribe(Filter::default(), Some(left_at))
        .await
        .unwrap();
    let mut received: Vec<(OrderId, FeedPosition)> = Vec::new();
    for _ in 0..MISSED {
        let (id, _, position) = receive(&mut back).await;
        received.push((id, position));
    }
    assert!(received.is_sorted_by_key(|(_, position)| *position));
    let received: Vec<OrderId> = received.into_iter().map(|(id, _)| id).collect();
    assert_eq!(received, orders);
    drop((first, back));
    end(live, draining).await;
}

/// Subscribes many clients that wait for one stalled read, runs `then`, and returns each result.
async fn subscribe_together(
    live: &Live,
    controlled: &ControlledStore,
    then: impl FnOnce(),
) -> Vec<Result<Subscription, SubscribeError>> {
    StandsStill::hold(&controlled.stands_still);
    let feed = live.feed();
    let mut all = pin!(join_all(
        (0..SUBSCRIBERS).map(|_| feed.subscribe(Filter::default(), None))
    ));
    assert!(all.as_mut().now_or_never().is_none());
    controlled.stands_still.arrival().await;
    then();
    StandsStill::release(&controlled.stands_still);
    all.await
}

async fn subscribers_returning_together_share_one_read_of_the_store(harness: &mut Harness) {
    harness.accept_one().await;
    end_of_feed(harness).await;
    let controlled = ControlledStore::new();
    let (live, draining) = live_over(layered(harness.store().clone(), controlled.clone()), harness);
    let all = subscribe_together(&live, &controlled, || {}).await;
    // One read for the end of the feed and one for earlier events; the feed task may have read as well.
    assert!((2..10).contains(&controlled.asked()), "{}", controlled.asked());
    let accepted = harness.accept_one().await;
    for subscription in all {
        let (id, version, _) = receive(&mut subscription.unwrap()).await;
        assert_eq!((id, version), (accepted, 1));
    }
    end(live, draining).await;
}

async fn subscribers_returning_together_share_one_store_error(harness: &mut Harness) {
    let controlled = ControlledStore::new();
    let (live, draining) = live_over(layered(harness.store().clone(), controlled.clone()), harness);
    let all = subscribe_together(&live, &controlled, || {
        controlled.away.store(true, Ordering::SeqCst);
    })
    .await;
    assert!(all.iter().all(Result::is_err));
    assert_eq!(controlled.asked(), 1);
    // Later subscribers cause a new read.
    controlled.away.store(false, Ordering::SeqCst);
    live.feed().subscribe(Filter::default(), None).await.unwrap();
    end(live, draining).await;
}
