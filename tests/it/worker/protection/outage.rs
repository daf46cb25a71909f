//! Two minutes without the processing service, under load, and its recovery.

use std::time::Duration;

use orderly::order::OrderStatus;
use orderly::store::Breaker;
use tokio::time::Instant;

use super::super::world::{Setting, Step, World};
use super::until_breaker;

const SLOTS: u32 = 32;
/// Time the service takes for an order.
const WORK: Duration = Duration::from_millis(200);
const OUTAGE: Duration = Duration::from_mins(2);
/// Number of new orders in every half second.
const ORDERS_PER_LOOK: usize = 10;

#[tokio::test(start_paused = true)]
async fn an_outage_of_an_unreachable_service_only_delays_orders() {
    dead_for_two_minutes(Step::Refuse).await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_a_service_that_requests_pauses_only_delays_orders() {
    dead_for_two_minutes(Step::AskForTime(Duration::from_secs(5))).await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_a_hanging_service_only_delays_orders() {
    dead_for_two_minutes(Step::Hang).await;
}

async fn dead_for_two_minutes(dead: Step) {
    let setting = Setting {
        slots: SLOTS,
        attempts_max: 5,
        attempt_timeout: Duration::from_secs(10),
        ..Setting::default()
    };
    let world = World::new(setting).await;
    world.script.otherwise(Step::Take(WORK));
    load(&world, Duration::from_secs(20)).await;
    world.script.otherwise(dead);
    load(&world, OUTAGE).await;
    let waiting = world.harness.counters().await.pending;
    assert!(waiting > 2_000, "{waiting}");
    world.script.otherwise(Step::Take(WORK));
    let back = Instant::now();
    world
        .until("the service to be found", async |world| {
            world
                .listed()
                .await
                .is_some_and(|node| node.breaker == Breaker::HalfOpen)
        })
        .await;
    // A hanging probe ends first.
    let found = back.elapsed();
    assert!(found <= Duration::from_secs(21), "{found:?}");
    let began = Instant::now();
    let mut most = Vec::new();
    for _ in 0..5 {
        world.pass(WORK).await;
        most.push(world.script.attempts_since(began));
    }
    for (rounds, begun) in most.into_iter().enumerate() {
        // The orders of one round, and of the next, which begins where it ends.
        assert!(begun < 4 << rounds, "{dead:?}: {begun} began in {rounds} rounds");
    }
    until_breaker(&world, Breaker::Closed).await;
    let closed = Instant::now();
    world
        .until("the queue to be empty", async |world| {
            let counters = world.harness.counters().await;
            counters.pending + counters.processing == 0
        })
        .await;
    // At 160 per second.
    assert!(
        closed.elapsed() <= Duration::from_mins(1),
        "{:?}",
        closed.elapsed()
    );
    assert!(world.script.most_at_once() <= SLOTS as usize);
    let orders = world.harness.records().await;
    for record in &orders {
        assert_eq!(record.order.status, OrderStatus::Completed);
    }
    let (calls, orders) = (world.script.attempts().len(), orders.len());
    println!("{dead:?}: {calls} calls for {orders} orders, found after {found:?}");
    assert!(
        calls * 10 <= orders * 11,
        "{dead:?}: {calls} calls for {orders} orders"
    );
    world.end().await;
}

async fn load(world: &World, span: Duration) {
    let look = async |world: &World| {
        world.harness.accept_some(ORDERS_PER_LOOK).await;
    };
    world.pass_long(span, look).await;
}
