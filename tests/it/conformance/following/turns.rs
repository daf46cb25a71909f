//! Concurrent reads of the log are limited: a reader that gives up while queued does not take a turn.

use futures_util::FutureExt;
use orderly::epoch::EpochIdentity;
use orderly::live::{Filter, Live, Next, Subscription};
use orderly::store::FeedCursor;
use tokio::time::timeout;

use super::{PATIENCE, end, end_of_feed, live_over};
use crate::support::Harness;
use crate::support::layers::{StandsStill, layered};

conformance![an_abandoned_log_read_frees_its_turn_for_others];

/// Number of concurrent reads.
const TURNS: usize = 2;

async fn subscribe(live: &Live, after: Option<FeedCursor>) -> Subscription {
    live.feed().subscribe(Filter::default(), after).await.unwrap()
}

async fn resyncs(mut subscription: Subscription) {
    let next = timeout(PATIENCE, subscription.next()).await;
    assert!(matches!(next.expect("the read gets its turn"), Next::Resync(_)));
}

async fn an_abandoned_log_read_frees_its_turn_for_others(harness: &mut Harness) {
    harness.accept_one().await;
    let now = end_of_feed(harness).await;
    let stands_still = StandsStill::new();
    let store = layered(harness.store().clone(), stands_still.clone());
    let (live, draining) = live_over(store, harness);
    let _follower = subscribe(&live, None).await;
    // Only a read of the log shows that the cursor is unusable.
    let foreign = FeedCursor {
        epoch: EpochIdentity(!now.epoch.0),
        ..now
    };
    StandsStill::hold(&stands_still);
    let mut reading = Vec::new();
    for _ in 0..TURNS {
        reading.push(tokio::spawn(resyncs(subscribe(&live, Some(foreign)).await)));
        stands_still.arrival().await;
    }
    // These wait for a turn and then do something else, like a client that does not read.
    let mut idle = Vec::new();
    for _ in 0..TURNS {
        let mut subscription = subscribe(&live, Some(foreign)).await;
        assert!(subscription.next().now_or_never().is_none());
        idle.push(subscription);
    }
    StandsStill::release(&stands_still);
    resyncs(subscribe(&live, Some(foreign)).await).await;
    for read in reading {
        read.await.unwrap();
    }
    for subscription in idle {
        resyncs(subscription).await;
    }
    end(live, draining).await;
}
