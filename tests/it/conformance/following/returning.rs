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

use super::{end, end_of_feed, hear, live_over};
use crate::support::Harness;
use crate::support::twisted::{StandsStill, twisted};

conformance![
    a_short_absence_is_served_from_memory,
    subscribers_returning_together_share_one_read_of_the_store,
    subscribers_returning_together_share_one_store_error,
];

/// Changes of 19 s at 500 per second: a heartbeat of 15 s and the longest wait of 4 s.
const MISSED: usize = 9_500;
const OLDER: usize = 1_000;
const CROWD: usize = 100;

/// A layer that can stall or fail calls, and counts them.
struct Moody {
    stands_still: Arc<StandsStill>,
    asked: AtomicUsize,
    away: AtomicBool,
}

impl Moody {
    fn new() -> Arc<Moody> {
        Arc::new(Moody {
            stands_still: StandsStill::new(),
            asked: AtomicUsize::new(0),
            away: AtomicBool::new(false),
        })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Layer for Moody {
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
    let moody = Moody::new();
    let store = twisted(harness.store().clone(), moody.clone());
    let (live, draining) = live_over(store, harness);
    let first = live.feed().subscribe(Filter::default(), None).await.unwrap();
    moody.away.store(true, Ordering::SeqCst);
    let mut back = live
        .feed()
        .subscribe(Filter::default(), Some(left_at))
        .await
        .unwrap();
    let mut heard: Vec<(OrderId, FeedPosition)> = Vec::new();
    for _ in 0..MISSED {
        let (id, _, position) = hear(&mut back).await;
        heard.push((id, position));
    }
    assert!(heard.is_sorted_by_key(|(_, position)| *position));
    let heard: Vec<OrderId> = heard.into_iter().map(|(id, _)| id).collect();
    assert_eq!(heard, orders);
    drop((first, back));
    end(live, draining).await;
}

/// Subscribes many clients that wait for one stalled read, runs `then`, and returns each result.
async fn crowd(live: &Live, moody: &Moody, then: impl FnOnce()) -> Vec<Result<Subscription, SubscribeError>> {
    moody.stands_still.hold();
    let feed = live.feed();
    let mut all = pin!(join_all(
        (0..CROWD).map(|_| feed.subscribe(Filter::default(), None))
    ));
    assert!(all.as_mut().now_or_never().is_none());
    moody.stands_still.arrival().await;
    then();
    moody.stands_still.release();
    all.await
}

async fn subscribers_returning_together_share_one_read_of_the_store(harness: &mut Harness) {
    harness.accept_one().await;
    end_of_feed(harness).await;
    let moody = Moody::new();
    let (live, draining) = live_over(twisted(harness.store().clone(), moody.clone()), harness);
    let all = crowd(&live, &moody, || {}).await;
    // One read for the end of the feed and one for earlier events; the feed task may have read as well.
    assert!((2..10).contains(&moody.asked()), "{}", moody.asked());
    let accepted = harness.accept_one().await;
    for subscription in all {
        let (id, version, _) = hear(&mut subscription.unwrap()).await;
        assert_eq!((id, version), (accepted, 1));
    }
    end(live, draining).await;
}

async fn subscribers_returning_together_share_one_store_error(harness: &mut Harness) {
    let moody = Moody::new();
    let (live, draining) = live_over(twisted(harness.store().clone(), moody.clone()), harness);
    let all = crowd(&live, &moody, || moody.away.store(true, Ordering::SeqCst)).await;
    assert!(all.iter().all(Result::is_err));
    assert_eq!(moody.asked(), 1);
    // Later subscribers cause a new read.
    moody.away.store(false, Ordering::SeqCst);
    live.feed().subscribe(Filter::default(), None).await.unwrap();
    end(live, draining).await;
}
