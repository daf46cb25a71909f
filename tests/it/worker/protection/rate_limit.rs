//! Attempts within the rate limit, and retries within the budget.

use std::time::Duration;

use orderly::order::OrderStatus;
use tokio::time::Instant;

use super::super::store_link::{Call, StoreLink, most_within};
use super::super::world::{Setting, Step, World};
use super::{MINUTE, until_all_completed};
use crate::support::layers::layered;

#[tokio::test(start_paused = true)]
async fn the_rate_limit_holds_under_load_and_failures() {
    let link = StoreLink::new();
    let setting = Setting {
        slots: 50,
        rate_limit: Some(5.0),
        ..Setting::default()
    };
    let world = World::with_store(setting, |store| layered(store, link.clone())).await;
    world.harness.store().pause(None).await.unwrap();
    let ids = world.harness.accept_some(600).await;
    for id in ids.iter().step_by(3) {
        world.script.order(*id, &[Step::Fail]);
    }
    world.harness.store().resume().await.unwrap();
    let began = Instant::now();
    world.pass(MINUTE + Duration::from_secs(30)).await;
    let attempts: Vec<Instant> = world.script.attempts().iter().map(|started| started.at).collect();
    assert!(most_within(MINUTE, &attempts) <= 5 * 60 + 5);
    assert!(most_within(Duration::from_secs(10), &attempts) <= 5 * 10 + 5);
    assert!(attempts.len() >= 5 * 90 - 10, "{} attempts", attempts.len());
    assert!(
        world.harness.counters().await.processing <= 5,
        "more orders were claimed than may begin"
    );
    let claims = link.times_since(began, Call::Claim).len();
    assert!(claims <= attempts.len() + 10, "{claims} claims");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_below_one_per_second_still_starts_attempts() {
    let setting = Setting {
        rate_limit: Some(0.1),
        ..Setting::default()
    };
    let world = World::new(setting).await;
    let ids = world.harness.accept_some(4).await;
    world.pass_long(Duration::from_secs(25), async |_| {}).await;
    assert_eq!(world.script.attempts().len(), 3);
    until_all_completed(&world, &ids).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_waiting_for_the_rate_limit_stops_at_once() {
    let setting = Setting {
        rate_limit: Some(0.001),
        ..Setting::default()
    };
    let mut world = World::new(setting).await;
    let ids = world.harness.accept_some(2).await;
    world.until_status(ids[0], OrderStatus::Completed).await;
    let asked = Instant::now();
    world.drain(MINUTE).await;
    assert!(asked.elapsed() < Duration::from_secs(1));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn retries_after_a_burst_of_failures_are_spread_out() {
    let setting = Setting {
        slots: 200,
        ..Setting::default()
    };
    let world = World::new(setting).await;
    world.harness.store().pause(None).await.unwrap();
    let ids = world.harness.accept_some(600).await;
    for id in &ids {
        world.script.order(*id, &[Step::Fail]);
    }
    world.harness.store().resume().await.unwrap();
    until_all_completed(&world, &ids).await;
    let retries = world.script.attempts().into_iter();
    let retries: Vec<Instant> = retries
        .filter(|started| started.number > 1)
        .map(|started| started.at)
        .collect();
    assert_eq!(retries.len(), 600);
    let most = most_within(Duration::from_secs(1), &retries);
    // A tenth of 600 per second, and the few that are never spread out; with the backoff alone most would start in one
    // second.
    assert!(most <= 80, "{most} of 600 in a second");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_few_failures_wait_only_for_their_backoff() {
    let world = World::new(Setting::default()).await;
    world.script.otherwise(Step::Fail);
    let ids = world.harness.accept_some(3).await;
    let failed = Instant::now();
    for id in ids {
        world.until_status(id, OrderStatus::Failed).await;
    }
    // At most 1 s and 2 s.
    assert!(failed.elapsed() <= Duration::from_secs(4));
    world.end().await;
}
