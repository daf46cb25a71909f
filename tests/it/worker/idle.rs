//! A node without work makes few calls, or none where it may sleep, and wakes at the first order.

use std::time::Duration;

use orderly::order::{OrderId, OrderStatus};
use tokio::time::Instant;

use super::store_link::{Call, StoreLink, most_within};
use super::world::{LEASE, STEP, Setting, Step, World};
use crate::support::layers::layered;

const MINUTE: Duration = Duration::from_mins(1);
/// After this time a node without work makes as few calls as it will, or sleeps.
const UNTIL_QUIET: Duration = Duration::from_mins(3);
const SLEEPY: Setting = Setting {
    slots: 4,
    attempts_max: 3,
    attempt_timeout: Duration::from_mins(5),
    idle_sleep: true,
    rate_limit: None,
    retention: None,
};

#[tokio::test(start_paused = true)]
async fn without_open_orders_a_node_makes_at_most_four_calls_a_minute() {
    let link = StoreLink::new();
    let world = World::with_store(Setting::default(), |store| layered(store, link.clone())).await;
    let id = world.harness.accept_one().await;
    world.until_status(id, OrderStatus::Completed).await;
    world.pass_long(UNTIL_QUIET, async |_| {}).await;
    let quiet = Instant::now();
    world.pass_long(Duration::from_mins(30), async |_| {}).await;
    let calls = link.calls_since(quiet);
    let times: Vec<Instant> = calls.iter().map(|(at, _)| *at).collect();
    assert!(most_within(MINUTE, &times) <= 4, "{calls:?}");
    for of in [Call::Claim, Call::Renew] {
        let polls = link.times_since(quiet, of);
        assert!(polls.len() >= 30, "{of:?} stopped: {polls:?}");
    }
    assert_eq!(link.times_since(quiet, Call::Other), [], "the node swept");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_stays_listed_as_alive() {
    let world = World::new(Setting::default()).await;
    let look = async |world: &World| {
        let listed = world.listed().await.expect("the node is listed");
        assert!(listed.alive, "since {:?}", listed.heartbeat_at);
    };
    world.pass_long(Duration::from_mins(20), look).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_starts_a_new_order_at_once() {
    let world = World::new(Setting::default()).await;
    world.pass_long(Duration::from_mins(20), async |_| {}).await;
    assert_taken_up_at_once(&world).await;
    world.end().await;
}

/// The long heartbeat interval of an idle node must not make it count as alive beyond its leases.
#[tokio::test(start_paused = true)]
async fn a_lease_of_a_previously_idle_dead_node_counts_as_a_crash() {
    let world = World::new(Setting::default()).await;
    world.script.otherwise(Step::Hang);
    world.pass_long(Duration::from_mins(20), async |_| {}).await;
    let id = world.harness.accept_one().await;
    world.until_begun().await;
    world.pass(Duration::from_millis(100)).await;
    world
        .freeze(LEASE + Duration::from_secs(1), async |harness| {
            assert_eq!(harness.give_back().await.pending, 1);
            assert_eq!(harness.crashes(id).await, 1);
        })
        .await;
    world.script.otherwise(Step::Complete);
    world.until_status(id, OrderStatus::Completed).await;
    world.end().await;
}

/// Otherwise each order of a slow trickle would cost a heartbeat and a sweep.
#[tokio::test(start_paused = true)]
async fn a_trickle_of_orders_adds_no_heartbeats() {
    let link = StoreLink::new();
    let world = World::with_store(Setting::default(), |store| layered(store, link.clone())).await;
    world.pass_long(UNTIL_QUIET, async |_| {}).await;
    let trickling = Instant::now();
    for _ in 0..60 {
        let id = world.harness.accept_one().await;
        world.until_status(id, OrderStatus::Completed).await;
        // Long enough to count as idle in between.
        world.pass(Duration::from_millis(1500)).await;
    }
    let beats = link.times_since(trickling, Call::Renew);
    assert!(most_within(MINUTE, &beats) <= 30, "{beats:?}");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn after_two_idle_minutes_a_sleeping_node_makes_no_calls() {
    let link = StoreLink::new();
    let world = World::with_store(SLEEPY, |store| layered(store, link.clone())).await;
    let id = world.harness.accept_one().await;
    world.until_status(id, OrderStatus::Completed).await;
    world.pass_long(Duration::from_secs(125), async |_| {}).await;
    let asleep = Instant::now();
    assert_eq!(world.listed().await, None, "the sleeping node is listed");
    world.pass_long(Duration::from_hours(1), async |_| {}).await;
    assert_eq!(link.calls_since(asleep), []);
    assert_taken_up_at_once(&world).await;
    let listed = world.listed().await.expect("an awake node is listed");
    assert!(listed.alive);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_does_not_sleep_while_orders_are_open() {
    let world = World::new(SLEEPY).await;
    world.harness.store().pause(None).await.unwrap();
    world.harness.accept_one().await;
    let look = async |world: &World| assert!(world.listed().await.is_some());
    world.pass_long(Duration::from_mins(20), look).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_leave_the_node_list_still_sleeps() {
    let link = StoreLink::new();
    let world = World::with_store(SLEEPY, |store| layered(store, link.clone())).await;
    world.pass_long(MINUTE, async |_| {}).await;
    let cut = Instant::now();
    link.cut(&[Call::Other]);
    world.pass_long(UNTIL_QUIET, async |_| {}).await;
    assert_eq!(link.times_since(cut, Call::Other).len(), 1);
    let asleep = Instant::now();
    world.pass_long(Duration::from_hours(1), async |_| {}).await;
    assert_eq!(link.calls_since(asleep), []);
    world.end().await;
}

/// A request found the store unavailable, so the node is not ready; only it can find out that the store is back.
#[tokio::test(start_paused = true)]
async fn a_sleeping_node_checks_a_store_that_is_not_ready() {
    let link = StoreLink::new();
    let world = World::with_store(SLEEPY, |store| layered(store, link.clone())).await;
    world.pass_long(UNTIL_QUIET, async |_| {}).await;
    link.report_not_ready();
    let away = Instant::now();
    world.pass_long(MINUTE, async |_| {}).await;
    let beats = link.times_since(away, Call::Renew).len();
    assert!((5..=15).contains(&beats), "{beats}");
    link.restore();
    world.pass_long(MINUTE, async |_| {}).await;
    let asleep = Instant::now();
    world.pass_long(Duration::from_hours(1), async |_| {}).await;
    assert_eq!(link.calls_since(asleep), []);
    assert_eq!(world.listed().await, None);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_sleeping_node_stops_at_once_without_a_call() {
    let link = StoreLink::new();
    let mut world = World::with_store(SLEEPY, |store| layered(store, link.clone())).await;
    world.pass_long(UNTIL_QUIET, async |_| {}).await;
    let asked = Instant::now();
    world.drain(MINUTE).await;
    assert!(asked.elapsed() < Duration::from_secs(1));
    assert_eq!(link.calls_since(asked), []);
    world.end().await;
}

async fn assert_taken_up_at_once(world: &World) -> OrderId {
    let accepted = Instant::now();
    let id = world.harness.accept_one().await;
    world.until_status(id, OrderStatus::Completed).await;
    assert!(accepted.elapsed() < Duration::from_secs(1));
    id
}

/// Each claim would find nothing, and on a shared store take turns from other nodes.
#[tokio::test(start_paused = true)]
async fn orders_accepted_while_paused_cause_few_claims() {
    let link = StoreLink::new();
    let world = World::with_store(Setting::default(), |store| layered(store, link.clone())).await;
    world.harness.store().pause(None).await.unwrap();
    let paused = Instant::now();
    let look = async |world: &World| {
        world.harness.accept_one().await;
    };
    world.pass_by(STEP, Duration::from_secs(2), look).await;
    let claims = link.times_since(paused, Call::Claim);
    assert!(
        (10..=21).contains(&claims.len()),
        "of 100 orders: {}",
        claims.len()
    );
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_order_starts_as_soon_as_the_queue_resumes() {
    let world = World::new(Setting::default()).await;
    for _ in 0..5 {
        world.harness.store().pause(None).await.unwrap();
        let id = world.harness.accept_one().await;
        world.pass(STEP).await;
        world.harness.store().resume().await.unwrap();
        let resumed = Instant::now();
        world.until_status(id, OrderStatus::Completed).await;
        assert!(resumed.elapsed() <= 2 * STEP, "{:?}", resumed.elapsed());
    }
    world.end().await;
}
