//! Blame for a bad answer: the order's or the service's (issue 13, points 6 and 6c).

use std::time::Duration;

use orderly::event::EventKind;
use orderly::order::{OrderId, OrderStatus};

use super::super::world::{Setting, Step, World};
use super::{MINUTE, breaker_openings, until_all_completed, world_with_dead_service};

const FIVE: Setting = Setting {
    slots: 4,
    attempts_max: 5,
    attempt_timeout: Duration::from_mins(5),
    idle_sleep: false,
    rate_limit: None,
    retention: None,
};

/// Few orders, each of which is served at once.
async fn serve_others(world: &World, orders: usize, pause: Duration) -> Vec<OrderId> {
    let mut others = Vec::new();
    for _ in 0..orders {
        let id = world.harness.accept_one().await;
        world.pass(Duration::from_secs(1)).await;
        assert_eq!(
            world.harness.order(id).await.status,
            OrderStatus::Completed,
            "{id} waits"
        );
        others.push(id);
        world.pass(pause).await;
    }
    others
}

#[tokio::test(start_paused = true)]
async fn a_service_error_for_one_order_does_not_hold_up_others() {
    for step in [
        Step::Unavailable,
        Step::AskForTime(Duration::from_secs(45)),
        Step::Deny,
    ] {
        let world = World::new(FIVE).await;
        world.harness.accept_one().await;
        world.pass(Duration::from_secs(1)).await;
        let bad = OrderId(2);
        world.script.order(bad, &[step; 100]);
        assert_eq!(world.harness.accept_one().await, bad);
        serve_others(&world, 12, Duration::from_secs(20)).await;
        let order = world.harness.order(bad).await;
        assert_eq!(
            (order.status, order.attempts),
            (OrderStatus::Failed, 5),
            "{step:?}"
        );
        assert_eq!(breaker_openings(&world), 0, "{step:?}");
        world.end().await;
    }
}

/// Nothing shows that the service works, so a 503 is believed; but it does not hold up other orders.
#[tokio::test(start_paused = true)]
async fn a_lone_order_keeps_its_attempts_while_the_service_is_unavailable() {
    let world = World::new(FIVE).await;
    let bad = OrderId(1);
    world.script.order(bad, &vec![Step::Unavailable; 1_000]);
    assert_eq!(world.harness.accept_one().await, bad);
    world.pass_long(MINUTE * 30, async |_| {}).await;
    let order = world.harness.order(bad).await;
    assert_eq!((order.status, order.attempts), (OrderStatus::Pending, 0));
    let tries = world.script.attempts().len();
    assert!(
        (5..=200).contains(&tries),
        "{tries} attempts although the backoff grows"
    );
    serve_others(&world, 1, Duration::ZERO).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_service_never_counts_as_an_attempt() {
    let world = World::new(FIVE).await;
    world.script.otherwise(Step::Take(Duration::from_millis(50)));
    let other = OrderId(1);
    world.script.order(other, &[Step::Refuse; 20]);
    world.harness.accept_one().await;
    let others = world.harness.accept_some(200).await;
    until_all_completed(&world, &others).await;
    until_all_completed(&world, &[other]).await;
    assert_eq!(world.harness.order(other).await.attempts, 1);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_wrong_secret_costs_some_attempts_but_fails_no_order() {
    let (world, ids) = world_with_dead_service(FIVE, 100, Step::Deny).await;
    world.pass_long(MINUTE * 5, async |_| {}).await;
    let counters = world.harness.counters().await;
    assert_eq!(counters.failed, 0);
    assert!(
        world.script.attempts().len() <= 80,
        "{}",
        world.script.attempts().len()
    );
    world.script.otherwise(Step::Complete);
    until_all_completed(&world, &ids).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_order_denied_alone_fails_at_its_attempt_limit() {
    let world = World::new(FIVE).await;
    world.script.otherwise(Step::Deny);
    let id = world.harness.accept_one().await;
    world.until_status(id, OrderStatus::Failed).await;
    assert_eq!(world.harness.order(id).await.attempts, 5);
    assert_eq!(breaker_openings(&world), 0);
    world.end().await;
}

/// Stored text only: text of the service may contain customer data and is kept only for counted attempts.
#[tokio::test(start_paused = true)]
async fn a_given_back_order_states_a_reason_without_the_services_text() {
    let world = World::new(FIVE).await;
    world.script.otherwise(Step::Unavailable);
    let id = world.harness.accept_one().await;
    world
        .until("the order to be given back", async |world| {
            world.harness.events(id).await.contains(&EventKind::Released)
        })
        .await;
    let words = Some("the processor gave a reason of its own");
    let history = world.harness.history(id, 0).await;
    assert_eq!(history[2].error.as_deref(), words);
    assert_eq!(world.harness.order(id).await.last_error.as_deref(), words);
    world.script.otherwise(Step::Complete);
    world.until_status(id, OrderStatus::Completed).await;
    assert_eq!(world.harness.order(id).await.last_error, None);
    world.end().await;
}
