//! The order in which attempts start.

use std::time::Duration;

use orderly::order::{OrderId, OrderStatus};

use super::store_link::{Call, StoreLink};
use super::world::{LEASE, Setting, Step, World};
use crate::support::layers::layered;

#[tokio::test(start_paused = true)]
async fn with_one_slot_orders_run_one_by_one_in_acceptance_order() {
    let world = World::new(Setting {
        slots: 1,
        ..Setting::default()
    })
    .await;
    world.script.otherwise(Step::Take(Duration::from_millis(100)));
    let ids = world.harness.accept_some(30).await;
    world.until_status(ids[29], OrderStatus::Completed).await;
    assert_eq!(world.script.started(), ids);
    assert_eq!(world.script.most_at_once(), 1);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn all_slots_run_attempts_in_parallel() {
    let world = World::new(Setting {
        slots: 7,
        ..Setting::default()
    })
    .await;
    world.script.otherwise(Step::Take(Duration::from_secs(1)));
    let ids = world.harness.accept_some(50).await;
    world.until_status(ids[49], OrderStatus::Completed).await;
    assert_eq!(world.script.most_at_once(), 7);
    world.end().await;
}

/// Number of attempts that begin while the store takes no results.
async fn begun_without_stored_results(slots: u32) -> usize {
    let link = StoreLink::new();
    let setting = Setting {
        slots,
        ..Setting::default()
    };
    let world = World::with_store(setting, |store| layered(store, link.clone())).await;
    link.cut(&[Call::Settle]);
    let ids = world.harness.accept_some(20).await;
    world.pass(LEASE / 4).await;
    let begun = world.script.started();
    assert_eq!(begun, ids[..begun.len()]);
    link.restore();
    world.until_status(ids[19], OrderStatus::Completed).await;
    assert_eq!(world.script.started(), ids, "an order began twice");
    world.end().await;
    begun.len()
}

/// The next order's claim may then share a commit with the result. Still, the number of waiting results is limited.
#[tokio::test(start_paused = true)]
async fn unstored_results_do_not_occupy_slots_up_to_a_limit() {
    assert_eq!(begun_without_stored_results(3).await, 6);
}

#[tokio::test(start_paused = true)]
async fn with_one_slot_the_next_order_waits_for_the_stored_result() {
    assert_eq!(begun_without_stored_results(1).await, 1);
}

#[tokio::test(start_paused = true)]
async fn an_order_in_backoff_does_not_hold_up_others() {
    let world = World::new(Setting {
        slots: 1,
        ..Setting::default()
    })
    .await;
    world.script.otherwise(Step::Take(Duration::from_millis(50)));
    world.harness.store().pause(None).await.unwrap();
    let ids = world.harness.accept_some(5).await;
    world.script.order(ids[0], &[Step::Fail, Step::Complete]);
    world.harness.store().resume().await.unwrap();
    for id in &ids {
        world.until_status(*id, OrderStatus::Completed).await;
    }
    assert_eq!(first_starts(&world), ids);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn new_orders_do_not_starve_a_retry() {
    let world = World::new(Setting {
        slots: 1,
        attempts_max: 10,
        ..Setting::default()
    })
    .await;
    world.script.otherwise(Step::Take(Duration::from_millis(500)));
    world.harness.store().pause(None).await.unwrap();
    let ids = world.harness.accept_some(200).await;
    world.script.order(ids[0], &[Step::Fail]);
    world.harness.store().resume().await.unwrap();
    world.until_status(ids[0], OrderStatus::Completed).await;
    let last = world.harness.order(ids[199]).await.status;
    assert_eq!(last, OrderStatus::Pending, "the retry waited for the whole line");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_starts_while_the_queue_is_paused() {
    let world = World::new(Setting::default()).await;
    world.harness.store().pause(None).await.unwrap();
    let ids = world.harness.accept_some(3).await;
    world.pass(Duration::from_secs(30)).await;
    assert!(world.script.started().is_empty());
    world.harness.store().resume().await.unwrap();
    for id in ids {
        world.until_status(id, OrderStatus::Completed).await;
    }
    world.end().await;
}

/// Orders by their first attempts.
fn first_starts(world: &World) -> Vec<OrderId> {
    let mut first = Vec::new();
    for id in world.script.started() {
        if !first.contains(&id) {
            first.push(id);
        }
    }
    first
}
