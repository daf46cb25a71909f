//! An unavailable store is polled at a bounded rate, and used again as soon as it returns.

use std::time::Duration;

use orderly::event::EventKind::{Accepted, Completed, Started};
use orderly::order::OrderStatus;
use tokio::time::Instant;

use super::store_link::{Call, StoreLink, most_within};
use super::world::{Setting, Step, World};
use crate::support::layers::layered;

const MINUTE: Duration = Duration::from_mins(1);
/// The longest pause between two failing claims.
const FOUND_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn an_unavailable_store_is_polled_every_few_seconds_until_it_returns() {
    let link = StoreLink::new();
    let world = World::with_store(Setting::default(), |store| layered(store, link.clone())).await;
    world.script.otherwise(Step::Hang);
    world.harness.accept_some(2).await;
    world
        .until("two attempts to begin", async |world| world.script.now() == 2)
        .await;
    link.cut_all();
    world.pass_long(MINUTE, async |_| {}).await;
    assert_eq!(world.script.now(), 0, "the leases have expired");
    let away = Instant::now();
    world.pass_long(Duration::from_mins(10), async |_| {}).await;
    for of in [Call::Claim, Call::Renew] {
        let tries = link.times_since(away, of);
        assert!((120..=240).contains(&tries.len()), "{of:?}: {}", tries.len());
        assert!(
            most_within(Duration::from_secs(2), &tries) <= 1,
            "{of:?}: {tries:?}"
        );
    }
    assert_eq!(link.times_since(away, Call::Settle), []);
    assert_eq!(
        link.times_since(away, Call::Other),
        [],
        "no sweep without a heartbeat"
    );
    world.script.otherwise(Step::Complete);
    link.restore();
    let back = Instant::now();
    for order in world.harness.records().await {
        world
            .until_status(order.order.order_id, OrderStatus::Completed)
            .await;
    }
    assert!(back.elapsed() <= FOUND_WITHIN * 2, "{:?}", back.elapsed());
    world.end().await;
}

/// Every accepted order wakes the dispatcher while claims fail.
#[tokio::test(start_paused = true)]
async fn wake_ups_do_not_cause_a_storm_of_failing_claims() {
    let link = StoreLink::new();
    let world = World::with_store(Setting::default(), |store| layered(store, link.clone())).await;
    link.cut(&[Call::Claim]);
    world.pass_long(MINUTE, async |_| {}).await;
    let noisy = Instant::now();
    world
        .pass_long(MINUTE, async |world| {
            world.harness.accept_one().await;
        })
        .await;
    let claims = link.times_since(noisy, Call::Claim);
    assert!(claims.len() <= 2 * 60, "{}", claims.len());
    link.restore();
    let back = Instant::now();
    world
        .until("the first order to start", async |world| {
            !world.script.started().is_empty()
        })
        .await;
    assert!(back.elapsed() <= FOUND_WITHIN);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_result_is_stored_if_the_store_recovers_within_the_lease() {
    let link = StoreLink::new();
    let world = World::with_store(Setting::default(), |store| layered(store, link.clone())).await;
    world.script.otherwise(Step::Take(Duration::from_secs(1)));
    let id = world.harness.accept_one().await;
    world.until_begun().await;
    link.cut_all();
    let cut = Instant::now();
    world.pass(Duration::from_secs(20)).await;
    let tries = link.times_since(cut, Call::Settle);
    assert!((10..=40).contains(&tries.len()), "{}", tries.len());
    link.restore();
    world.until_status(id, OrderStatus::Completed).await;
    assert_eq!(world.harness.events(id).await, [Accepted, Started, Completed]);
    world.end().await;
}
