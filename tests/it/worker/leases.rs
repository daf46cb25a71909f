//! Leases under a running worker: renewed while the node lives, and trusted no longer than by the store.

use std::sync::Arc;
use std::time::Duration;

use orderly::event::EventKind::{Accepted, Completed, Started};
use orderly::lease::Outcome;
use orderly::order::OrderStatus;
use orderly::store::{Settled, Store};

use super::world::{LEASE, Setting, Step, World};
use crate::support::Harness;
use crate::support::layers::{NeverRenews, SwapsStaleFences, layered};
use crate::support::make::{LONGER_THAN_A_LEASE, NODE_A, NODE_B, claim_by};

#[tokio::test(start_paused = true)]
async fn a_long_attempt_keeps_its_lease() {
    let world = World::new(Setting::default()).await;
    world.script.otherwise(Step::Take(LEASE * 4));
    let id = world.harness.accept_one().await;
    world
        .until("a long time to pass", async |world| {
            world.harness.give_back().await;
            world.harness.order(id).await.status == OrderStatus::Completed
        })
        .await;
    assert_eq!(world.harness.events(id).await, [Accepted, Started, Completed]);
    world.end().await;
}

/// Issue 13, point 31: one lease per slot.
#[tokio::test(start_paused = true)]
async fn long_attempts_in_all_slots_keep_their_leases() {
    let world = World::new(Setting::default()).await;
    world.script.otherwise(Step::Take(LEASE * 4));
    let ids = world.harness.accept_some(4).await;
    world
        .pass_long(LEASE * 5, async |world| {
            world.harness.give_back().await;
        })
        .await;
    for id in ids {
        assert_eq!(world.harness.events(id).await, [Accepted, Started, Completed]);
    }
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_abandoned_when_its_lease_cannot_be_renewed() {
    let world = World::with_store(Setting::default(), |store| layered(store, NeverRenews)).await;
    world.script.otherwise(Step::Hang);
    world.harness.accept_one().await;
    world.until_begun().await;
    world.pass(LEASE + Duration::from_secs(2)).await;
    assert_eq!(
        world.script.now(),
        0,
        "the node did not give up the attempt in time"
    );
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn suspects_run_one_at_a_time() {
    let mut world = World::new(Setting::default()).await;
    world.drain(Duration::ZERO).await;
    let suspects = world.harness.accept_some(3).await;
    world.harness.crash_all(&suspects, 2).await;
    let harmless = world.harness.accept_some(3).await;
    world.script.otherwise(Step::Take(Duration::from_secs(1)));
    world.restart(Setting::default());
    let mut runs = Vec::new();
    for id in suspects.iter().chain(&harmless) {
        world.until_status(*id, OrderStatus::Completed).await;
    }
    for id in suspects {
        let order = world.harness.order(id).await;
        runs.push((order.processing_at.unwrap(), order.finished_at.unwrap()));
    }
    runs.sort_unstable();
    assert!(
        runs.windows(2).all(|pair| pair[0].1 <= pair[1].0),
        "suspects overlapped: {runs:?}"
    );
    assert!(
        world.script.most_at_once() > 1,
        "harmless orders run beside a suspect"
    );
    world.end().await;
}

/// Node A falls silent, node B takes over its order, then A's result arrives.
async fn a_late_result_is_refused(harness: &Harness, store: Arc<dyn Store>) -> Result<(), String> {
    let id = harness.accept_one().await;
    let stale = store.claim(claim_by(NODE_A, 1)).await.unwrap().leases.remove(0);
    harness.advance(LONGER_THAN_A_LEASE).await;
    harness.give_back().await;
    let current = store.claim(claim_by(NODE_B, 1)).await.unwrap().leases.remove(0);
    let late = store.settle(stale.key(), Outcome::COMPLETED).await.unwrap();
    let status = harness.order(id).await.status;
    if late != Settled::Stale || status != OrderStatus::Processing {
        return Err(format!("a stale result landed: order {id} is {status:?}"));
    }
    let result = store.settle(current.key(), Outcome::COMPLETED).await.unwrap();
    assert_eq!(result, Settled::Done(OrderStatus::Completed));
    Ok(())
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_cannot_change_the_order() {
    let harness = Harness::sqlite().await;
    a_late_result_is_refused(&harness, harness.store().clone())
        .await
        .unwrap();
    harness.assert_sound().await;
}

/// The control: without the fence check the same test must fail.
#[tokio::test]
async fn the_fencing_test_detects_a_store_that_does_not_check_fences() {
    let harness = Harness::sqlite().await;
    let store = layered(harness.store().clone(), SwapsStaleFences::default());
    a_late_result_is_refused(&harness, store).await.unwrap_err();
}
