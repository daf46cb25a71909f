//! Retention runs on a working node without displacing other work and without waking a sleeping database.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use orderly::config::Config;
use orderly::metrics::Metrics;
use orderly::order::{OrderId, OrderStatus};
use orderly::processor::simulated::Simulated;
use orderly::serve::Server;
use orderly::store::layer::Layer;
use orderly::store::{PRUNE_ORDERS_MAX, Prune, Pruned, Store, StoreError};
use reqwest::StatusCode;
use tokio::time::Instant;

use super::store_link::{Call, StoreLink, away, most_within};
use super::world::{Setting, World};
use crate::support::client::http;
use crate::support::config::config;
use crate::support::layers::layered;
use crate::support::{Harness, until};

const DAY: Duration = Duration::from_hours(24);
const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);

fn keeping_a_day() -> Setting {
    Setting {
        retention: Some(DAY),
        ..Setting::default()
    }
}

/// Creates this many orders that ended more than a day ago, without a retention run since.
async fn old_orders(world: &World, count: usize) -> Vec<OrderId> {
    let ids = world.harness.accept_some(count).await;
    world.harness.cancel_all(&ids).await;
    world.harness.advance(2 * DAY).await;
    ids
}

async fn orders_left(world: &World) -> u64 {
    world.harness.counters().await.total()
}

#[tokio::test(start_paused = true)]
async fn retention_removes_old_orders_and_keeps_young_ones() {
    let world = World::new(keeping_a_day()).await;
    let old = world.harness.accept_one().await;
    world.until_status(old, OrderStatus::Completed).await;
    // The first run is over and found nothing.
    world.pass(MINUTE).await;
    world.harness.advance(2 * DAY).await;
    let young = world.harness.accept_one().await;
    world.until_status(young, OrderStatus::Completed).await;
    assert_eq!(orders_left(&world).await, 2);
    world.pass_long(HOUR + MINUTE, async |_| {}).await;
    assert_eq!(orders_left(&world).await, 1);
    assert_eq!(world.harness.order(young).await.status, OrderStatus::Completed);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_retention_run_pauses_between_steps_and_between_runs() {
    let link = StoreLink::new();
    let world = World::with_store(keeping_a_day(), |store| layered(store, link.clone())).await;
    old_orders(&world, 2 * PRUNE_ORDERS_MAX).await;
    let began = Instant::now();
    world
        .until("the old orders to go", async |world| {
            orders_left(world).await == 0
        })
        .await;
    world.pass(MINUTE).await;
    let steps = link.times_since(began, Call::Prune);
    // The last step finds no orders after the second.
    assert_eq!(steps.len(), 3, "{steps:?}");
    assert!(
        steps.is_sorted_by(|one, next| one < next),
        "no pause between steps: {steps:?}"
    );
    world.pass_long(20 * MINUTE, async |_| {}).await;
    let rounds = link.times_since(began + MINUTE, Call::Prune);
    assert_eq!(rounds.len(), 1, "{rounds:?}");
    assert!(rounds[0] - steps[0] >= 10 * MINUTE, "{rounds:?} after {steps:?}");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_old_orders_retention_runs_once_an_hour() {
    let link = StoreLink::new();
    let world = World::with_store(keeping_a_day(), |store| layered(store, link.clone())).await;
    let began = Instant::now();
    world.pass_long(3 * HOUR, async |_| {}).await;
    let rounds = link.times_since(began, Call::Prune);
    assert!((2..=3).contains(&rounds.len()), "{rounds:?}");
    assert_eq!(most_within(HOUR, &rounds), 1, "{rounds:?}");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_sleeping_node_removes_nothing_until_it_wakes() {
    let sleepy = Setting {
        idle_sleep: true,
        ..keeping_a_day()
    };
    let link = StoreLink::new();
    let world = World::with_store(sleepy, |store| layered(store, link.clone())).await;
    world.pass_long(5 * MINUTE, async |_| {}).await;
    let asleep = Instant::now();
    world.pass_long(3 * HOUR, async |_| {}).await;
    assert_eq!(link.calls_since(asleep), []);
    // Waking the node may begin a run at once, before the orders are old. The next is an hour away, and by then the
    // node sleeps again.
    old_orders(&world, 3).await;
    world.pass_long(HOUR + MINUTE, async |_| {}).await;
    world.harness.accept_one().await;
    world
        .until("the old orders to go", async |world| {
            orders_left(world).await == 1
        })
        .await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_retention_run_is_retried_and_completed() {
    let link = StoreLink::new();
    let world = World::with_store(keeping_a_day(), |store| layered(store, link.clone())).await;
    link.cut(&[Call::Prune]);
    let cut = Instant::now();
    old_orders(&world, 3).await;
    world.pass_long(10 * MINUTE, async |_| {}).await;
    let tries = link.times_since(cut, Call::Prune);
    assert!((5..=10).contains(&tries.len()), "{tries:?}");
    assert_eq!(orders_left(&world).await, 3);
    link.restore();
    world
        .until("the old orders to go", async |world| {
            orders_left(world).await == 0
        })
        .await;
    world.end().await;
}

/// Fails the first try of every step but the first, and records where each begins.
#[derive(Default)]
struct StepsFailOnce {
    begun: Mutex<Vec<Option<OrderId>>>,
}

impl Layer for StepsFailOnce {
    async fn prune(&self, inner: &dyn Store, request: Prune) -> Result<Pruned, StoreError> {
        let comes_again = {
            let mut begun = self.begun.lock().unwrap();
            let comes_again = begun.contains(&request.after);
            begun.push(request.after);
            comes_again
        };
        if request.after.is_some() && !comes_again {
            return Err(away());
        }
        inner.prune(request).await
    }
}

/// Otherwise a run whose steps time out would never get beyond the first orders.
#[tokio::test(start_paused = true)]
async fn a_retention_run_resumes_at_the_failed_step() {
    let steps = Arc::new(StepsFailOnce::default());
    let world = World::with_store(keeping_a_day(), |store| layered(store, steps.clone())).await;
    steps.begun.lock().unwrap().clear();
    old_orders(&world, 2 * PRUNE_ORDERS_MAX).await;
    let begun = || steps.begun.lock().unwrap().clone();
    world
        .until("the round to end", async |_| begun().len() >= 5)
        .await;
    let begun = begun();
    assert_eq!(begun[0], None, "{begun:?}");
    assert!(begun[1].is_some() && begun[1] == begun[2], "{begun:?}");
    assert!(begun[3] > begun[2] && begun[3] == begun[4], "{begun:?}");
    assert_eq!(orders_left(&world).await, 0);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_retention_run() {
    let began = Instant::now();
    let link = StoreLink::new();
    let mut world = World::with_store(keeping_a_day(), |store| layered(store, link.clone())).await;
    old_orders(&world, 3 * PRUNE_ORDERS_MAX).await;
    world
        .until("a round to begin", async |world| {
            orders_left(world).await < 3 * PRUNE_ORDERS_MAX as u64
        })
        .await;
    world.drain(MINUTE).await;
    let steps = || link.times_since(began, Call::Prune).len();
    let at_stop = steps();
    world.pass(MINUTE).await;
    assert_eq!(steps(), at_stop);
    assert!(orders_left(&world).await > 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_removes_orders_after_its_configured_retention() {
    let harness = Harness::sqlite().await;
    let old = harness.order_in(OrderStatus::Completed).await;
    harness.advance(2 * DAY).await;
    let young = harness.order_in(OrderStatus::Completed).await;
    let config = Config {
        retention: Some(DAY),
        lease: Duration::from_secs(1),
        ..config()
    };
    let processor = Arc::new(Simulated {
        speed: 0.0,
        failure_rate: 0.0,
    });
    let server = Server::start(&config, harness.store().clone(), processor, Metrics::new())
        .await
        .unwrap();
    let status = async |id: OrderId| {
        let url = format!("http://{}/orders/{id}", server.addresses()[0]);
        http().get(url).send().await.unwrap().status()
    };
    until("the old order is removed", async || {
        status(old).await == StatusCode::NOT_FOUND
    })
    .await;
    assert_eq!(status(young).await, StatusCode::OK);
    harness.assert_sound().await;
    server
        .stop(Duration::from_secs(10), std::future::pending::<()>())
        .await;
}
