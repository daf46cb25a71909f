//! A node whose process was frozen for longer than its leases: its orders are no longer its own, and it must notice
//! before it continues.

use std::time::Duration;

use orderly::event::EventKind::{Accepted, Completed, LeaseLost, Started};
use orderly::lease::Outcome;
use orderly::order::OrderStatus;
use tokio::time::Instant;

use super::store_link::{Call, StoreLink};
use super::world::{LEASE, Setting, Step, World};
use crate::support::layers::layered;
use crate::support::make::{LONGER_THAN_A_LEASE, NODE_B, give_back_by};

/// The result is due at the moment the node resumes: the lost lease takes precedence.
#[tokio::test(start_paused = true)]
async fn a_node_frozen_past_its_lease_drops_the_order() {
    let full = Setting {
        slots: 1,
        ..Setting::default()
    };
    let world = World::new(full).await;
    world.script.otherwise(Step::Take(Duration::from_secs(20)));
    let id = world.harness.accept_one().await;
    world.until_begun().await;
    let mut current = None;
    world
        .freeze(LONGER_THAN_A_LEASE, async |harness| {
            let swept = harness.store().give_back_expired(give_back_by(NODE_B)).await;
            assert_eq!(swept.unwrap().pending, 1);
            current = harness.claim_as(NODE_B, 1).await.pop();
        })
        .await;
    assert_eq!(world.script.now(), 0, "the attempt still runs");
    world.pass(Duration::from_secs(5)).await;
    assert_eq!(
        world.metrics.stale_results_rejected.get(),
        0,
        "a late result was sent"
    );
    let current = current.expect("the other node claimed the order");
    let status = world.harness.settle(&current, Outcome::COMPLETED).await;
    assert_eq!(status, OrderStatus::Completed);
    assert_eq!(
        world.harness.events(id).await,
        [Accepted, Started, LeaseLost, Started, Completed]
    );
    world.end().await;
}

/// An expired lease is not renewed by the next heartbeat: nothing works on the order, which would be held up.
#[tokio::test(start_paused = true)]
async fn a_frozen_node_does_not_renew_leases_it_gave_up() {
    let world = World::new(Setting::default()).await;
    world.script.otherwise(Step::Hang);
    let id = world.harness.accept_one().await;
    world.until_begun().await;
    // The attempt after the hanging one may begin as soon as the node resumes.
    world.script.otherwise(Step::Complete);
    world.freeze(LONGER_THAN_A_LEASE, async |_| {}).await;
    world.pass(Duration::from_secs(3)).await;
    assert_eq!(
        world.harness.events(id).await,
        [Accepted, Started, LeaseLost, Started, Completed]
    );
    assert_eq!(world.harness.crashes(id).await, 0, "the node is alive");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_short_freeze_changes_nothing() {
    let world = World::new(Setting::default()).await;
    world.script.otherwise(Step::Take(Duration::from_secs(40)));
    let id = world.harness.accept_one().await;
    world.until_begun().await;
    for _ in 0..3 {
        world.freeze(LEASE / 2, async |_| {}).await;
        world.pass(Duration::from_millis(100)).await;
    }
    world.until_status(id, OrderStatus::Completed).await;
    assert_eq!(world.harness.events(id).await, [Accepted, Started, Completed]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_answered_after_its_leases_expired_starts_nothing() {
    let link = StoreLink::new();
    let world = World::with_store(Setting::default(), |store| layered(store, link.clone())).await;
    link.hold_claims();
    let id = world.harness.accept_one().await;
    world.until_status(id, OrderStatus::Processing).await;
    world.freeze(LONGER_THAN_A_LEASE, async |_| {}).await;
    let answered = Instant::now();
    link.release_claims();
    world.until_status(id, OrderStatus::Completed).await;
    assert_eq!(
        world.harness.events(id).await,
        [Accepted, Started, LeaseLost, Started, Completed]
    );
    assert_eq!(
        world.script.attempts_of(id).len(),
        1,
        "the late claim began an attempt"
    );
    assert!(!link.times_since(answered, Call::Claim).is_empty());
    world.end().await;
}
