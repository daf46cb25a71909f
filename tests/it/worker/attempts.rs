//! Outcomes of attempts and their effects on orders.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use orderly::event::EventKind::{Accepted, Cancelled, Completed, Failed, RetryScheduled, Started};
use orderly::order::OrderStatus;
use tokio::time::Instant;

use super::world::{Setting, Step, World};
use crate::support::layers::{FailsToSettle, layered};

#[tokio::test(start_paused = true)]
async fn an_order_is_processed_once_and_completed() {
    let world = World::new(Setting::default()).await;
    let id = world.harness.accept_one().await;
    world.until_status(id, OrderStatus::Completed).await;
    assert_eq!(world.harness.events(id).await, [Accepted, Started, Completed]);
    assert_eq!(world.script.attempts_of(id), [1]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_retried_until_attempts_are_used_up() {
    let world = World::new(Setting::default()).await;
    world.script.otherwise(Step::Fail);
    let id = world.harness.accept_one().await;
    world.until_status(id, OrderStatus::Failed).await;
    assert_eq!(
        world.harness.events(id).await,
        [
            Accepted,
            Started,
            RetryScheduled,
            Started,
            RetryScheduled,
            Started,
            Failed
        ]
    );
    let order = world.harness.order(id).await;
    assert_eq!(order.attempts, 3);
    assert_eq!(order.last_error.as_deref(), Some("no stock answer"));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_backoff_never_exceeds_its_ceiling() {
    let world = World::new(Setting {
        attempts_max: 6,
        ..Setting::default()
    })
    .await;
    world.script.otherwise(Step::Fail);
    let id = world.harness.accept_one().await;
    world.until_status(id, OrderStatus::Failed).await;
    let history = world.harness.history(id, 0).await;
    let retries = history.iter().filter(|event| event.kind == RetryScheduled);
    let starts = history.iter().filter(|event| event.kind == Started).skip(1);
    for (number, (retry, start)) in retries.zip(starts).enumerate() {
        let ceiling = Duration::from_secs(1 << number);
        let slack = Duration::from_millis(500);
        assert!(start.at.since(retry.at) <= ceiling + slack, "retry {number}");
    }
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_is_not_retried() {
    let world = World::new(Setting::default()).await;
    world.script.otherwise(Step::FailForGood);
    let id = world.harness.accept_one().await;
    world.until_status(id, OrderStatus::Failed).await;
    assert_eq!(world.harness.events(id).await, [Accepted, Started, Failed]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_counts_as_a_failed_attempt() {
    let world = World::new(Setting::default()).await;
    world.harness.store().pause(None).await.unwrap();
    let id = world.harness.accept_one().await;
    world.script.order(id, &[Step::Panic, Step::Complete]);
    world.harness.store().resume().await.unwrap();
    world.until_status(id, OrderStatus::Completed).await;
    assert_eq!(
        world.harness.events(id).await,
        [Accepted, Started, RetryScheduled, Started, Completed]
    );
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_hanging_attempt_times_out_and_frees_its_slot() {
    let world = World::new(Setting {
        slots: 1,
        attempts_max: 1,
        attempt_timeout: Duration::from_secs(10),
        ..Setting::default()
    })
    .await;
    world.script.otherwise(Step::Hang);
    let ids = world.harness.accept_some(3).await;
    for id in ids {
        world.until_status(id, OrderStatus::Failed).await;
        let order = world.harness.order(id).await;
        assert_eq!(
            order.last_error.as_deref(),
            Some("the attempt took longer than 10s")
        );
    }
    assert_eq!(world.script.now(), 0);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_order_frees_its_slot_at_once() {
    let world = World::new(Setting::default()).await;
    world.script.otherwise(Step::Hang);
    let id = world.harness.accept_one().await;
    world.until_begun().await;
    world.harness.cancel(id).await;
    let cancelled = Instant::now();
    world
        .until("the attempt to end", async |world| world.script.now() == 0)
        .await;
    assert!(cancelled.elapsed() < Duration::from_secs(1));
    assert_eq!(world.harness.events(id).await, [Accepted, Started, Cancelled]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_unstored_result_is_stored_later_without_another_attempt() {
    let fails = FailsToSettle {
        times: AtomicU32::new(5),
    };
    let world = World::with_store(Setting::default(), |store| layered(store, fails)).await;
    let id = world.harness.accept_one().await;
    world.until_status(id, OrderStatus::Completed).await;
    assert_eq!(world.harness.events(id).await, [Accepted, Started, Completed]);
    assert_eq!(world.script.attempts_of(id), [1]);
    world.end().await;
}
