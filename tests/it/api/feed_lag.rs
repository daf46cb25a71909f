//! The lag of the feed as an operator sees it while the store cannot be read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use orderly::live::{Filter, Live, LiveSettings, Next};
use orderly::store::layer::{InnerCall, Layer, Verb};
use orderly::store::{StoreError, Wakeups};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::layers::layered;
use crate::support::{Harness, PATIENCE, until};

/// Fails every call while set.
struct Unavailable(Arc<AtomicBool>);

impl Layer for Unavailable {
    async fn around<T: Send>(&self, _verb: Verb, call: InnerCall<'_, T>) -> Result<T, StoreError> {
        if self.0.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable {
                attempted: "read the feed",
                source: anyhow::anyhow!("gone"),
            });
        }
        call.await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_feed_is_reported_as_lagging_until_it_recovers() {
    let harness = Harness::sqlite().await;
    let unavailable = Arc::new(AtomicBool::new(false));
    let store = layered(harness.store().clone(), Unavailable(unavailable.clone()));
    let draining = CancellationToken::new();
    let settings = LiveSettings { idle_sleep: false };
    let live = Live::start(store, harness.metrics().clone(), settings, draining.clone());
    let mut follower = live.feed().subscribe(Filter::default(), None).await.unwrap();
    let begun_later = {
        unavailable.store(true, Ordering::SeqCst);
        let id = harness.accept_one().await;
        let at = follower.cursor();
        until("the feed lags behind", async || {
            harness.metrics().feed_lag.get() > 0.0
        })
        .await;
        // A subscriber with a cursor may wait for the store; without one it cannot be given a position.
        assert!(live.feed().subscribe(Filter::default(), Some(at)).await.is_ok());
        unavailable.store(false, Ordering::SeqCst);
        id
    };
    let next = timeout(PATIENCE, follower.next())
        .await
        .expect("an event arrives");
    let Next::Change(change) = next else {
        panic!("nothing was pruned")
    };
    assert_eq!(change.event.event.order_id, begun_later);
    until("the feed has caught up", async || {
        harness.store().wakeups().notify_changed();
        harness.metrics().feed_lag.get() == 0.0
    })
    .await;
    draining.cancel();
    live.ended().await.unwrap();
    harness.store().close().await;
}

/// Signals a change after every failed call, and records the times of the failures.
struct SignalsAfterFailure {
    unavailable: AtomicBool,
    wakeups: OnceLock<Arc<Wakeups>>,
    failed_at: Mutex<Vec<Instant>>,
}

impl Layer for SignalsAfterFailure {
    async fn around<T: Send>(&self, _verb: Verb, call: InnerCall<'_, T>) -> Result<T, StoreError> {
        if !self.unavailable.load(Ordering::SeqCst) {
            return call.await;
        }
        self.failed_at.lock().unwrap().push(Instant::now());
        self.wakeups
            .get()
            .expect("set before the first call")
            .notify_changed();
        Err(StoreError::Busy)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_feed_read_is_retried_only_after_its_pause() {
    const PAUSE: Duration = Duration::from_secs(1);
    let harness = Harness::sqlite().await;
    let restless = Arc::new(SignalsAfterFailure {
        unavailable: AtomicBool::new(false),
        wakeups: OnceLock::from(harness.store().wakeups()),
        failed_at: Mutex::default(),
    });
    let store = layered(harness.store().clone(), restless.clone());
    let draining = CancellationToken::new();
    let settings = LiveSettings { idle_sleep: false };
    let live = Live::start(store, harness.metrics().clone(), settings, draining.clone());
    let mut follower = live.feed().subscribe(Filter::default(), None).await.unwrap();
    restless.unavailable.store(true, Ordering::SeqCst);
    harness.accept_one().await;
    until("three reads have failed", async || {
        harness.store().wakeups().notify_changed();
        restless.failed_at.lock().unwrap().len() >= 3
    })
    .await;
    restless.unavailable.store(false, Ordering::SeqCst);
    let failed_at = restless.failed_at.lock().unwrap().clone();
    for pair in failed_at.windows(2) {
        assert!(pair[1] - pair[0] >= PAUSE, "{failed_at:?}");
    }
    let next = timeout(PATIENCE, follower.next())
        .await
        .expect("an event arrives");
    assert!(matches!(next, Next::Change(_)));
    draining.cancel();
    live.ended().await.unwrap();
    harness.store().close().await;
}

#[tokio::test]
async fn a_stream_with_a_cursor_opens_while_the_store_is_unavailable() {
    let harness = Harness::sqlite().await;
    harness.accept_one().await;
    let place = harness.store().events_after(None, 0).await.unwrap().bounds;
    let unavailable = Arc::new(AtomicBool::new(true));
    let store = layered(harness.store().clone(), Unavailable(unavailable.clone()));
    let draining = CancellationToken::new();
    let settings = LiveSettings { idle_sleep: false };
    let live = Live::start(store, harness.metrics().clone(), settings, draining.clone());
    assert!(live.feed().subscribe(Filter::default(), None).await.is_err());
    let after = Some(place.cursor(place.complete_after));
    let mut follower = live.feed().subscribe(Filter::default(), after).await.unwrap();
    unavailable.store(false, Ordering::SeqCst);
    let next = timeout(PATIENCE, follower.next())
        .await
        .expect("an event arrives");
    assert!(matches!(next, Next::Change(_)));
    draining.cancel();
    live.ended().await.unwrap();
    harness.store().close().await;
}
