//! Those who come back together to a node that was restarted: they cost the store little.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use orderly::live::Filter;
use orderly::order::OrderId;
use orderly::store::{FeedPosition, StoreError};

use super::{end, end_of_feed, hear, live_over};
use crate::support::Harness;
use crate::support::twisted::{Twist, twisted};

conformance![who_missed_one_heartbeat_and_the_wait_after_it_needs_no_store];

/// Changes of 19 s, at 500 per second: a heartbeat of 15 s, and the longest wait of 4 s.
const MISSED: usize = 9_500;
const OLDER: usize = 1_000;

/// Cannot be asked while it is set.
struct Away(Arc<AtomicBool>);

#[async_trait]
impl Twist for Away {
    async fn before(&self) -> Result<(), StoreError> {
        if self.0.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable {
                attempted: "read the feed",
                source: anyhow::anyhow!("gone"),
            });
        }
        Ok(())
    }
}

async fn who_missed_one_heartbeat_and_the_wait_after_it_needs_no_store(harness: &mut Harness) {
    harness.accept_some(OLDER).await;
    let left_at = end_of_feed(harness).await;
    let mut orders = Vec::new();
    while orders.len() < MISSED {
        orders.extend(harness.accept_some(500).await);
    }
    // All of it has its place, so that the node has it from the beginning.
    end_of_feed(harness).await;
    let away = Arc::new(AtomicBool::new(false));
    let store = twisted(harness.store().clone(), Away(away.clone()));
    let (live, draining) = live_over(store, harness);
    let first = live.feed().subscribe(Filter::default(), None).await.unwrap();
    away.store(true, Ordering::SeqCst);
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
