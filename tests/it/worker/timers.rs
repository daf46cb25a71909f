//! Scheduled orders start and deadlines fire by themselves at their time, also on a sleeping node and after failures of the store.

use std::time::Duration;

use orderly::event::EventKind;
use orderly::order::{NewOrder, OrderStatus};
use tokio::time::Instant;

use super::store_link::{Call, StoreLink};
use super::world::{Setting, World};
use crate::support::harness::held;
use crate::support::layers::layered;

const MINUTE: Duration = Duration::from_mins(1);

fn sleepy() -> Setting {
    Setting {
        idle_sleep: true,
        ..Setting::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_scheduled_order_starts_at_its_time() {
    let world = World::new(Setting::default()).await;
    let id = world.harness.accept_scheduled(10 * MINUTE).await;
    world.pass_long(9 * MINUTE, async |_| {}).await;
    assert_eq!(world.harness.order(id).await.status, OrderStatus::Pending);
    world.until_status(id, OrderStatus::Completed).await;
    let order = world.harness.order(id).await;
    let late = order
        .processing_at
        .unwrap()
        .since(order.request.start_after.unwrap());
    assert!(late < Duration::from_secs(5), "{late:?}");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_sleeping_node_wakes_for_a_scheduled_order_and_only_for_it() {
    let link = StoreLink::new();
    let world = World::with_store(sleepy(), |store| layered(store, link.clone())).await;
    let id = world.harness.accept_scheduled(70 * MINUTE).await;
    world.harness.accept_held().await;
    world.pass_long(10 * MINUTE, async |_| {}).await;
    let asleep = Instant::now();
    world.pass_long(55 * MINUTE, async |_| {}).await;
    assert_eq!(link.calls_since(asleep), [], "a sleeping node makes no calls");
    world.until_status(id, OrderStatus::Completed).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_scheduled_order_starts_once_the_store_is_back() {
    let link = StoreLink::new();
    let world = World::with_store(Setting::default(), |store| layered(store, link.clone())).await;
    let id = world.harness.accept_scheduled(MINUTE).await;
    link.cut(&[Call::Timers]);
    world.pass_long(5 * MINUTE, async |_| {}).await;
    assert_eq!(world.harness.order(id).await.status, OrderStatus::Pending);
    link.restore();
    world.until_status(id, OrderStatus::Completed).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_order_becomes_overdue_at_its_deadline_while_the_queue_is_paused() {
    let world = World::new(Setting::default()).await;
    world.harness.store().pause(None).await.unwrap();
    let id = world.harness.accept_due(10 * MINUTE).await;
    world.pass_long(9 * MINUTE, async |_| {}).await;
    assert!(!world.harness.order(id).await.overdue);
    world.pass_long(2 * MINUTE, async |_| {}).await;
    let history = world.harness.history(id, 1).await;
    let deadline = world.harness.order(id).await.request.deadline.unwrap();
    assert_eq!((history.len(), history[0].kind), (1, EventKind::Overdue));
    let late = history[0].at.since(deadline);
    assert!(late < Duration::from_secs(5), "{late:?}");
    world.harness.store().resume().await.unwrap();
    world.until_status(id, OrderStatus::Completed).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_sleeping_node_wakes_for_a_deadline() {
    let link = StoreLink::new();
    let world = World::with_store(sleepy(), |store| layered(store, link.clone())).await;
    let held = NewOrder {
        deadline: Some(world.harness.now().await.plus(70 * MINUTE)),
        ..held()
    };
    let id = world.harness.accept(vec![held]).await[0];
    world.pass_long(10 * MINUTE, async |_| {}).await;
    let asleep = Instant::now();
    world.pass_long(55 * MINUTE, async |_| {}).await;
    assert_eq!(link.calls_since(asleep), [], "a sleeping node makes no calls");
    world.pass_long(6 * MINUTE, async |_| {}).await;
    assert!(world.harness.order(id).await.overdue);
    world.end().await;
}
