//! A store from which old orders were removed.

use std::time::Duration;

use orderly::lease::Outcome;
use orderly::order::OrderStatus;
use orderly::store::{FeedPosition, Prune};

use super::{contents, events, feed, possible};
use crate::support::{Harness, check};

from_every_store! {
    a_feed_with_gaps_is_copied_without_them,
}

async fn a_feed_with_gaps_is_copied_without_them(harness: Harness) {
    let staying = harness.accept_one().await;
    let lease = harness.claim_only(staying).await;
    let old = harness.order_in(OrderStatus::Completed).await;
    harness.advance(Duration::from_hours(25)).await;
    harness.number_all_events().await;
    let day = Prune {
        older_than: Duration::from_hours(24),
        after: None,
    };
    assert_eq!(harness.store().prune(day).await.unwrap().orders, 1);
    harness.settle(&lease, Outcome::COMPLETED).await;
    let (before, counters) = (contents(&harness).await, harness.counters().await);
    let read = feed(&harness).await;
    assert_eq!(events(&read).len(), 3);
    let original = harness.store().events_after(None, 0).await.unwrap().bounds;
    assert!(original.complete_after > FeedPosition(0));
    check(harness.move_to_postgres().await, async |copy: &mut Harness| {
        assert_eq!(contents(copy).await, before);
        assert_eq!(copy.counters().await, counters);
        let copied = feed(copy).await;
        assert_eq!(events(&copied), events(&read));
        assert!(copied.iter().map(|(position, _)| position.0).eq(1..=3));
        let bounds = copy.store().events_after(None, 0).await.unwrap().bounds;
        assert_eq!(
            (bounds.complete_after, bounds.last),
            (FeedPosition(0), FeedPosition(3))
        );
        assert_ne!(
            bounds.epochs.newest().identity,
            original.epochs.newest().identity,
            "the positions differ"
        );
        assert!(copy.accept_one().await > old);
    })
    .await;
}
