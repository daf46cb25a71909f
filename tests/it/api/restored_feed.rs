//! A database restored to an earlier state under a running server: new events do not continue the old ones, and every
//! subscriber gets a resync.

use std::time::Duration;

use orderly::live::{Filter, Live, LiveSettings, Next, Subscription};
use orderly::store::FeedCursor;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::Harness;

/// No event takes this long.
const PATIENCE: Duration = Duration::from_mins(1);

async fn next(subscription: &mut Subscription) -> Next {
    let next = timeout(PATIENCE, subscription.next()).await;
    next.expect("an event arrives")
}

async fn receive_resync(subscription: &mut Subscription) -> FeedCursor {
    match next(subscription).await {
        Next::Resync(cursor) => cursor,
        Next::Change(change) => panic!("got event {:?}", change.event),
    }
}

/// Runs a statement past the server, as an operator's tool would.
fn put_back(harness: &Harness, statement: &str) {
    let file = rusqlite::Connection::open(harness.file()).unwrap();
    file.busy_timeout(Duration::from_secs(10)).unwrap();
    file.execute(statement, []).unwrap();
}

async fn assert_every_subscriber_resyncs(statement: &str) {
    let harness = Harness::sqlite().await;
    let draining = CancellationToken::new();
    let settings = LiveSettings { idle_sleep: false };
    let metrics = harness.metrics().clone();
    let live = Live::start(harness.store().clone(), metrics, settings, draining.clone());
    harness.accept_some(3).await;
    let mut follower = live.feed().subscribe(Filter::default(), None).await.unwrap();
    let mut behind = live.feed().subscribe(Filter::default(), None).await.unwrap();
    harness.accept_some(2).await;
    for _ in 0..2 {
        assert!(matches!(next(&mut follower).await, Next::Change(_)));
    }
    // One event is still in its queue.
    assert!(matches!(next(&mut behind).await, Next::Change(_)));
    put_back(&harness, statement);
    // The feed task reads on a wake-up.
    harness.store().wakeups().notify_changed();
    let cursor = receive_resync(&mut follower).await;
    assert!(
        matches!(next(&mut behind).await, Next::Change(_)),
        "the queued event"
    );
    assert_eq!(receive_resync(&mut behind).await, cursor);
    assert_eq!(follower.cursor(), cursor);
    draining.cancel();
    live.ended().await.unwrap();
    harness.store().close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_with_another_identity_resyncs_every_subscriber() {
    assert_every_subscriber_resyncs("update epochs set identity = identity + 1").await;
}

/// Like a provider's point-in-time restore without notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_ends_earlier_resyncs_every_subscriber() {
    assert_every_subscriber_resyncs("update counters set last_position = last_position - 2").await;
}

/// A node that did not read for longer than the retention.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_lost_the_next_events_resyncs_every_subscriber() {
    assert_every_subscriber_resyncs(
        "update counters set last_position = last_position + 9, complete_after = last_position + 5",
    )
    .await;
}

/// Issue 15, point 2: after a lost tail other events take delivered positions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_begun_before_delivered_events_resyncs_every_subscriber() {
    assert_every_subscriber_resyncs(
        "insert into epochs select max(epoch) + 1, 7, randomblob(16), 1, 3, 0 from epochs",
    )
    .await;
}
