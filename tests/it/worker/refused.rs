//! Results that the store refuses for good, or cannot store for a long time.

use std::time::Duration;

use orderly::event::EventKind::{Accepted, Failed, LeaseLost, RetryScheduled, Started};
use orderly::order::{OrderId, OrderStatus};

use super::world::{LEASE, Setting, Step, World};
use crate::support::layers::{FailsToSettle, layered};
use crate::support::make::order_of;

const ORDERS: u8 = 20;

/// Returns a world in which the database refuses changes of one order, that order, and the others.
async fn with_rule(condition: &str) -> (World, OrderId, Vec<OrderId>) {
    let world = World::new(Setting {
        slots: ORDERS.into(),
        ..Setting::default()
    })
    .await;
    world.script.otherwise(Step::Take(Duration::from_secs(1)));
    let mut ids = world.harness.accept_some(ORDERS.into()).await;
    let bad = ids.remove(usize::from(ORDERS) / 2);
    let condition = format!("new.order_id = {bad} and {condition}");
    world.harness.refuse_updates(&condition).await;
    (world, bad, ids)
}

async fn all_completed(world: &World, ids: &[OrderId]) {
    for id in ids {
        world.until_status(*id, OrderStatus::Completed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_result_fails_only_its_own_order() {
    let (world, bad, others) = with_rule("new.status = 2").await;
    world.until_status(bad, OrderStatus::Failed).await;
    all_completed(&world, &others).await;
    assert_eq!(world.harness.events(bad).await, [Accepted, Started, Failed]);
    let error = world.harness.order(bad).await.last_error.unwrap();
    assert!(
        error.starts_with("the store refused the result (SQLite error "),
        "{error}"
    );
    assert!(!error.contains("not with us"), "{error}");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_order_that_cannot_be_settled_waits_for_an_operator() {
    let (world, bad, others) = with_rule("new.status in (2, 3)").await;
    all_completed(&world, &others).await;
    world
        .until("the order to be put off", async |world| {
            world.harness.events(bad).await == [Accepted, Started, RetryScheduled]
        })
        .await;
    world.pass_long(Duration::from_mins(59), async |_| {}).await;
    assert_eq!(world.script.attempts_of(bad), [1]);
    let order = world.harness.order(bad).await;
    assert!(order.last_error.unwrap().contains("refused the result"));
    world.harness.allow_updates().await;
    world.until_status(bad, OrderStatus::Completed).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_order_that_cannot_be_settled_is_attempted_only_once() {
    let (world, bad, others) = with_rule("old.status = 1").await;
    all_completed(&world, &others).await;
    world.pass_long(Duration::from_mins(10), async |_| {}).await;
    assert_eq!(world.script.attempts_of(bad), [1]);
    let later = world.harness.accept_one().await;
    world.until_status(later, OrderStatus::Completed).await;
    world.harness.allow_updates().await;
    world.until_status(bad, OrderStatus::Completed).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_start_succeeds_once_the_cause_is_gone() {
    let world = World::new(Setting::default()).await;
    let rule = "new.user_id = 666 and new.status = 1";
    world.harness.refuse_updates(rule).await;
    let bad = world.harness.accept(vec![order_of(666)]).await[0];
    let later = world.harness.accept_one().await;
    world.until_status(later, OrderStatus::Completed).await;
    world.pass_long(Duration::from_mins(10), async |_| {}).await;
    assert_eq!(world.harness.events(bad).await, [Accepted]);
    world.harness.allow_updates().await;
    world.until_status(bad, OrderStatus::Completed).await;
    assert_eq!(world.script.attempts_of(bad), [1]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_result_on_which_a_trigger_fails_ends_its_attempt() {
    let world = World::new(Setting::default()).await;
    world.script.otherwise(Step::Take(Duration::from_secs(1)));
    let bad = world.harness.accept_one().await;
    let condition = format!("new.order_id = {bad} and new.status = 2");
    world.harness.fail_updates(&condition).await;
    world.until_status(bad, OrderStatus::Failed).await;
    assert_eq!(world.harness.events(bad).await, [Accepted, Started, Failed]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_at_most_one_lease_after_its_attempt_timeout() {
    let limit = Duration::from_mins(1);
    let setting = Setting {
        attempt_timeout: limit,
        ..Setting::default()
    };
    let fails = FailsToSettle {
        times: u32::MAX.into(),
    };
    let mut world = World::with_store(setting, |store| layered(store, fails)).await;
    world.script.otherwise(Step::Take(Duration::from_secs(1)));
    let id = world.harness.accept_one().await;
    world.until_begun().await;
    world.pass(limit.saturating_sub(Duration::from_secs(1))).await;
    assert_eq!(
        world.script.attempts_of(id).len(),
        1,
        "the node gave up the attempt too early"
    );
    assert_eq!(world.harness.order(id).await.status, OrderStatus::Processing);
    world.pass(LEASE + Duration::from_secs(10)).await;
    let events = world.harness.events(id).await;
    assert_eq!(events[..3], [Accepted, Started, LeaseLost]);
    world.drain(Duration::ZERO).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_result_in_the_last_second_of_the_attempt_counts() {
    let limit = Duration::from_mins(1);
    let setting = Setting {
        attempt_timeout: limit,
        ..Setting::default()
    };
    let world = World::new(setting).await;
    world
        .script
        .otherwise(Step::Take(limit.saturating_sub(Duration::from_millis(100))));
    let id = world.harness.accept_one().await;
    world.until_begun().await;
    world.until_status(id, OrderStatus::Completed).await;
    assert_eq!(world.script.attempts_of(id), [1]);
    world.end().await;
}
