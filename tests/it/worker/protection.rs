//! A processor that is down, slow or rate limited: orders wait without harm, and the processor is spared.

use std::cell::Cell;
use std::time::Duration;

use orderly::event::EventKind::{Accepted, Completed, Released, Started};
use orderly::order::{OrderId, OrderStatus};
use orderly::store::Breaker;
use tokio::time::Instant;

use super::store_link::{Call, StoreLink, most_within};
use super::world::{Setting, Step, World};
use crate::support::layers::layered;

mod blame;
mod outage;
mod rate_limit;

const MINUTE: Duration = Duration::from_mins(1);

async fn until_breaker(world: &World, state: Breaker) {
    let what = format!("the breaker to be {state:?}");
    world
        .until(&what, async |world| {
            world.listed().await.is_some_and(|node| node.breaker == state)
        })
        .await;
}

fn breaker_openings(world: &World) -> u64 {
    world.metrics.breaker_openings.get()
}

/// A world whose service died after working, with this many orders waiting.
async fn world_with_dead_service(setting: Setting, orders: usize, step: Step) -> (World, Vec<OrderId>) {
    let world = World::new(setting).await;
    world.script.otherwise(Step::Take(Duration::from_millis(50)));
    let id = world.harness.accept_one().await;
    world.until_status(id, OrderStatus::Completed).await;
    world.script.otherwise(step);
    let ids = world.harness.accept_some(orders).await;
    until_breaker(&world, Breaker::Open).await;
    (world, ids)
}

async fn until_all_completed(world: &World, ids: &[OrderId]) {
    for id in ids {
        world.until_status(*id, OrderStatus::Completed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_service_is_detected_within_a_handful_of_attempts() {
    let (world, ids) = world_with_dead_service(Setting::default(), 100, Step::Refuse).await;
    let tried = world.script.attempts().len() - 1;
    assert!(tried <= 24, "{tried} attempts");
    world.pass_long(MINUTE * 10, async |_| {}).await;
    let mut attempts = 0;
    for id in &ids {
        let order = world.harness.order(*id).await;
        assert_eq!(order.status, OrderStatus::Pending);
        attempts += order.attempts;
    }
    assert!(attempts <= 2, "{attempts} attempts were counted");
    assert_eq!(breaker_openings(&world), 1);
    world.script.otherwise(Step::Complete);
    until_all_completed(&world, &ids).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_down_service_is_probed_with_one_order_every_few_seconds() {
    let (world, ids) = world_with_dead_service(Setting::default(), 3, Step::Refuse).await;
    let opened = Instant::now();
    world.pass(MINUTE * 2).await;
    let probes: Vec<Instant> = world.script.attempts().iter().map(|started| started.at).collect();
    let probes: Vec<Instant> = probes.into_iter().filter(|at| *at > opened).collect();
    assert!((12..=30).contains(&probes.len()), "{}", probes.len());
    assert!(
        most_within(Duration::from_millis(450), &probes) == 1,
        "{probes:?}"
    );
    let late: Vec<Instant> = probes.into_iter().filter(|at| *at > opened + MINUTE).collect();
    assert!(most_within(Duration::from_secs(4), &late) == 1, "{late:?}");
    for pair in late.windows(2) {
        assert!(pair[1] - pair[0] <= Duration::from_millis(10_500), "{late:?}");
    }
    let tried = world.harness.events(ids[2]).await;
    assert_eq!(tried[..3], [Accepted, Started, Released]);
    assert_eq!(world.harness.order(ids[2]).await.attempts, 0);
    world.script.otherwise(Step::Complete);
    until_all_completed(&world, &ids).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn probes_of_a_hanging_service_count_as_attempts() {
    let setting = Setting {
        slots: 16,
        attempt_timeout: Duration::from_secs(5),
        ..Setting::default()
    };
    let (world, ids) = world_with_dead_service(setting, 100, Step::Hang).await;
    let tried = world.script.attempts().len() - 1;
    assert!(tried <= 16 * 2, "{tried} attempts");
    world.pass_long(MINUTE, async |_| {}).await;
    let probes = world.script.attempts().len() - 1 - tried;
    assert!((3..=10).contains(&probes), "{probes} probes");
    // An order that kills the service must end. One that was just claimed has yet to be attempted.
    world
        .until("each try to count as one", async |world| {
            let mut attempts = 0;
            for id in &ids {
                attempts += world.harness.order(*id).await.attempts as usize;
            }
            attempts == world.script.attempts().len() - 1
        })
        .await;
    world.script.otherwise(Step::Complete);
    until_all_completed(&world, &ids).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn load_on_a_recovered_service_doubles_each_round() {
    let round = Duration::from_secs(1);
    let setting = Setting {
        slots: 16,
        ..Setting::default()
    };
    let (world, ids) = world_with_dead_service(setting, 200, Step::Refuse).await;
    world.pass(MINUTE).await;
    world.script.otherwise(Step::Take(round));
    world
        .until("the first order to be tried", async |world| {
            world.script.now() == 1
        })
        .await;
    let back = Instant::now();
    let most: [Cell<usize>; 6] = Default::default();
    world
        .until("all slots to be used", async |world| {
            // In each round an answer arrives, and is noticed, a few steps late.
            let rounds = back.elapsed().as_millis() / (round + Duration::from_millis(60)).as_millis();
            let now = world.script.now();
            let reached = &most[usize::try_from(rounds).unwrap()];
            reached.set(reached.get().max(now));
            now == 16
        })
        .await;
    for (rounds, most) in most.into_iter().enumerate() {
        let most = most.get();
        assert!(most <= 1 << rounds, "{most} after {rounds} rounds");
    }
    until_breaker(&world, Breaker::Closed).await;
    until_all_completed(&world, &ids).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn failing_orders_among_good_ones_do_not_open_the_breaker() {
    for bad in [Step::Refuse, Step::Hang] {
        let setting = Setting {
            slots: 8,
            attempt_timeout: Duration::from_millis(500),
            ..Setting::default()
        };
        let world = World::new(setting).await;
        world.script.otherwise(Step::Take(Duration::from_millis(50)));
        world.harness.store().pause(None).await.unwrap();
        let ids = world.harness.accept_some(300).await;
        let (failing, good): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| id.0 % 5 < 2);
        for id in &failing {
            world.script.order(*id, &[bad; 100]);
        }
        world.harness.store().resume().await.unwrap();
        until_all_completed(&world, &good).await;
        assert_eq!(breaker_openings(&world), 0, "{bad:?}");
        world.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_requested_pause_of_the_service_is_honoured() {
    let (world, ids) =
        world_with_dead_service(Setting::default(), 3, Step::AskForTime(Duration::from_secs(45))).await;
    // Just past the moment at which the orders were attempted.
    world.pass(Duration::from_millis(1)).await;
    let asked = Instant::now();
    world.script.otherwise(Step::Complete);
    world.pass(Duration::from_secs(43)).await;
    assert_eq!(world.script.attempts_since(asked), 0);
    world.pass(Duration::from_secs(3)).await;
    assert!(world.script.attempts_since(asked) > 0);
    until_all_completed(&world, &ids).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_node_list_and_metrics_show_an_open_breaker_at_once() {
    let link = StoreLink::new();
    let world = World::with_store(Setting::default(), |store| layered(store, link.clone())).await;
    world.script.otherwise(Step::Refuse);
    let id = world.harness.accept_one().await;
    world
        .until("three attempts", async |world| world.script.attempts().len() == 3)
        .await;
    let third = Instant::now();
    until_breaker(&world, Breaker::Open).await;
    // Detected after a quarter of a second without an answer.
    assert!(third.elapsed() <= Duration::from_millis(400));
    assert!(!link.times_since(third, Call::Renew).is_empty());
    assert_eq!(breaker_openings(&world), 1);
    world.script.otherwise(Step::Complete);
    world.until_status(id, OrderStatus::Completed).await;
    let completed = Instant::now();
    until_breaker(&world, Breaker::Closed).await;
    assert!(
        completed.elapsed() <= Duration::from_secs(3),
        "with no orders waiting"
    );
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_with_an_open_breaker_stops_at_once() {
    let (mut world, ids) = world_with_dead_service(Setting::default(), 3, Step::AskForTime(MINUTE)).await;
    let asked = Instant::now();
    world.drain(MINUTE).await;
    assert!(asked.elapsed() < Duration::from_secs(1));
    world.script.otherwise(Step::Complete);
    world.restart(Setting::default());
    until_all_completed(&world, &ids).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_stops_breaker_probes() {
    let (world, ids) = world_with_dead_service(Setting::default(), 3, Step::Refuse).await;
    world.harness.store().pause(None).await.unwrap();
    world.pass(Duration::from_millis(200)).await;
    let paused = Instant::now();
    world.script.otherwise(Step::Complete);
    world.pass_long(MINUTE, async |_| {}).await;
    assert_eq!(world.script.attempts_since(paused), 0);
    world.harness.store().resume().await.unwrap();
    until_all_completed(&world, &ids).await;
    assert_eq!(world.harness.events(ids[2]).await.last(), Some(&Completed));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_orders_an_open_breaker_causes_no_extra_calls() {
    let link = StoreLink::new();
    let world = World::with_store(Setting::default(), |store| layered(store, link.clone())).await;
    world.script.otherwise(Step::Refuse);
    let ids = world.harness.accept_some(2).await;
    until_breaker(&world, Breaker::Open).await;
    world.harness.cancel_all(&ids).await;
    world.pass_long(MINUTE * 4, async |_| {}).await;
    let quiet = Instant::now();
    world.pass_long(MINUTE * 20, async |_| {}).await;
    let calls: Vec<Instant> = link.calls_since(quiet).iter().map(|(at, _)| *at).collect();
    assert!(most_within(MINUTE, &calls) <= 4);
    let node = world.listed().await.expect("the node is in the list");
    assert!(node.alive && node.breaker == Breaker::Open);
    world.script.otherwise(Step::Complete);
    let accepted = Instant::now();
    let id = world.harness.accept_one().await;
    world.until_status(id, OrderStatus::Completed).await;
    assert!(
        accepted.elapsed() < Duration::from_secs(1),
        "the next order was not used as a probe"
    );
    world.end().await;
}

/// The order causes the failure itself: it must end, and hold up no other.
#[tokio::test(start_paused = true)]
async fn an_order_never_served_while_others_succeed_finally_fails() {
    let world = World::new(Setting::default()).await;
    world.script.otherwise(Step::Take(Duration::from_millis(50)));
    let alone = OrderId(1);
    world.script.order(alone, &[Step::Unavailable; 100]);
    assert_eq!(world.harness.accept_one().await, alone);
    // Alone, the order looks like an outage.
    world.pass(MINUTE).await;
    assert_eq!(world.harness.order(alone).await.status, OrderStatus::Pending);
    let mut others = Vec::new();
    while world.harness.order(alone).await.status != OrderStatus::Failed {
        assert!(others.len() < 1_000, "the order never fails");
        others.push(world.harness.accept_one().await);
        world.pass(Duration::from_secs(5)).await;
    }
    until_all_completed(&world, &others).await;
    world.end().await;
}
