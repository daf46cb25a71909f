//! A subscriber that cannot resume without a gap gets a resync and continues from now.

use orderly::epoch::EpochIdentity;
use orderly::live::{Filter, Live, Next, Subscription};
use orderly::store::{FeedCursor, FeedPosition};
use tokio::time::timeout;

use super::{BURST, PATIENCE, Received, end, end_of_feed, live, live_over, of_user, receive};
use crate::support::Harness;
use crate::support::layers::{StandsStill, layered};
use crate::support::make::order_of;

conformance![
    a_position_outside_the_feed_gets_a_resync_and_continues,
    a_position_before_pruned_orders_gets_a_resync,
    pruned_unread_events_resync_every_subscriber,
];

async fn subscribe_after(live: &Live, after: FeedCursor) -> Subscription {
    let subscribed = live.feed().subscribe(Filter::default(), Some(after)).await;
    subscribed.expect("the store is available")
}

/// Reads up to a resync, and returns the events before it and its cursor.
async fn receive_resync(subscription: &mut Subscription) -> (Received, FeedCursor) {
    let mut received = Received::new();
    loop {
        let next = timeout(PATIENCE, subscription.next()).await;
        match next.expect("an event arrives in time") {
            Next::Change(change) => {
                let event = &change.event;
                received.push((event.event.order_id, event.event.version, event.position));
            }
            Next::Resync(cursor) => return (received, cursor),
        }
    }
}

async fn a_position_outside_the_feed_gets_a_resync_and_continues(harness: &mut Harness) {
    let (live, draining) = live(harness);
    harness.accept_one().await;
    let now = end_of_feed(harness).await;
    let future = FeedCursor {
        position: FeedPosition(now.position.0 + 1),
        ..now
    };
    let foreign = FeedCursor {
        epoch: EpochIdentity(!now.epoch.0),
        ..now
    };
    for wrong in [future, foreign] {
        let mut subscription = live
            .feed()
            .subscribe(Filter::default(), Some(wrong))
            .await
            .unwrap();
        let next = timeout(PATIENCE, subscription.next()).await.unwrap();
        let Next::Resync(cursor) = next else {
            panic!("{wrong:?} was accepted as a position of this feed")
        };
        assert_eq!(cursor.epoch, now.epoch);
        let id = harness.accept_one().await;
        assert_eq!(receive(&mut subscription).await.0, id);
        // Moves the feed on, so that the next round's future position is later.
        harness.cancel(id).await;
        assert_eq!(receive(&mut subscription).await.0, id);
    }
    end(live, draining).await;
}

async fn a_position_before_pruned_orders_gets_a_resync(harness: &mut Harness) {
    harness.accept_one().await;
    let too_old = end_of_feed(harness).await;
    let gone = harness.accept_one().await;
    harness.cancel(gone).await;
    harness.prune_all().await;
    let oldest = end_of_feed(harness).await;
    let kept = harness.accept_one().await;
    let now = end_of_feed(harness).await;
    let (live, draining) = live(harness);
    let mut subscription = subscribe_after(&live, too_old).await;
    assert_eq!(subscription.cursor(), too_old, "a repeat gets the resync again");
    assert_eq!(receive_resync(&mut subscription).await, (vec![], now));
    let next = harness.accept_one().await;
    assert_eq!(receive(&mut subscription).await.0, next);
    // No event is missing after the last pruned one.
    let mut complete = subscribe_after(&live, oldest).await;
    assert_eq!(receive(&mut complete).await.0, kept);
    assert_eq!(receive(&mut complete).await.0, next);
    end(live, draining).await;
}

/// The pruned events were never read, so later events must not be delivered as if they came next.
async fn pruned_unread_events_resync_every_subscriber(harness: &mut Harness) {
    let still = StandsStill::new();
    let (live, draining) = live_over(layered(harness.store().clone(), still.clone()), harness);
    let mut followers = Vec::new();
    for filter in [Filter::default(), of_user(1), of_user(2), Filter::default()] {
        followers.push(live.feed().subscribe(filter, None).await.unwrap());
    }
    let ids = harness.accept(vec![order_of(1); BURST]).await;
    // The last subscriber reads nothing yet and its queue is full; the third has no matching event.
    for reader in &mut followers[..2] {
        for _ in &ids {
            receive(reader).await;
        }
    }
    still.hold();
    // Reads of the feed are held from here on.
    let seen_or_not = harness.accept(vec![order_of(3)]).await;
    still.arrival().await;
    harness.cancel_all(&seen_or_not).await;
    harness.cancel(ids[0]).await;
    harness.prune_all().await;
    harness.accept(vec![order_of(1), order_of(2)]).await;
    let now = end_of_feed(harness).await;
    still.release();

    for follower in &mut followers {
        let began = follower.cursor().position;
        let (received, cursor) = receive_resync(follower).await;
        assert_eq!(cursor, now);
        let places = received.iter().map(|(_, _, position)| position.0);
        assert!(
            places.eq((began.0 + 1..).take(received.len())),
            "gap in {received:?}"
        );
    }
    let next = harness.accept(vec![order_of(1)]).await;
    for reader in [0, 1, 3] {
        assert_eq!(receive(&mut followers[reader]).await.0, next[0]);
    }
    end(live, draining).await;
}
