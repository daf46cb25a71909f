//! A node with external workers: it claims for waiting workers, is as idle as any other node, and takes back released
//! orders.

use std::sync::Arc;
use std::time::Duration;

use orderly::event::EventKind;
use orderly::order::{OrderId, OrderStatus};
use orderly::pull::{LeaseRequests, TakeError, Wanted};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::store_link::{Call, StoreLink, most_within};
use super::world::{LEASE, Setting, World};
use crate::support::layers::layered;

const MINUTE: Duration = Duration::from_mins(1);
const UNTIL_QUIET: Duration = Duration::from_mins(3);
const SLEEPY: Setting = Setting {
    slots: 0,
    attempts_max: 3,
    attempt_timeout: Duration::from_mins(5),
    rate_limit: None,
    idle_sleep: true,
    retention: None,
};
const AWAKE: Setting = Setting {
    idle_sleep: false,
    ..SLEEPY
};
const ID: OrderId = OrderId(1);

async fn world(setting: Setting) -> (World, Arc<LeaseRequests>, Arc<StoreLink>) {
    let link = StoreLink::new();
    let (world, requests) = World::with_lease_requests(setting, |store| layered(store, link.clone())).await;
    (world, requests, link)
}

type Asking = JoinHandle<Result<Vec<OrderId>, TakeError>>;

/// Sends a worker's request for one order; returns once the worker is waiting.
async fn ask(requests: &Arc<LeaseRequests>, wait: Duration) -> Asking {
    let wanted = Wanted {
        orders_max: 1,
        wait,
        lease: LEASE,
    };
    let requests = requests.clone();
    let asking = tokio::spawn(async move {
        let leases = requests.take(wanted).await?.into_leases();
        Ok(leases.iter().map(|lease| lease.order.order_id).collect())
    });
    tokio::task::yield_now().await;
    asking
}

async fn answer(world: &World, asking: Asking) -> Vec<OrderId> {
    world.until("an answer", async |_| asking.is_finished()).await;
    asking.await.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn without_orders_or_workers_a_node_makes_four_calls_a_minute() {
    let (world, requests, link) = world(AWAKE).await;
    let asking = ask(&requests, Duration::ZERO).await;
    assert_eq!(answer(&world, asking).await, []);
    world.pass_long(UNTIL_QUIET, async |_| {}).await;
    let quiet = Instant::now();
    world.pass_long(Duration::from_mins(30), async |_| {}).await;
    let calls = link.calls_since(quiet);
    let times: Vec<Instant> = calls.iter().map(|(at, _)| *at).collect();
    assert!(most_within(MINUTE, &times) <= 4, "{calls:?}");
    assert!(
        link.times_since(quiet, Call::Claim).len() >= 30,
        "the node stopped polling"
    );
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn many_waiting_workers_poll_the_store_as_often_as_one() {
    let (world, requests, link) = world(AWAKE).await;
    world.pass_long(UNTIL_QUIET, async |_| {}).await;
    let mut waiting = Vec::new();
    for _ in 0..200 {
        waiting.push(ask(&requests, MINUTE).await);
    }
    world.pass_long(UNTIL_QUIET, async |_| {}).await;
    for asking in waiting {
        assert_eq!(answer(&world, asking).await, []);
    }
    // Each worker asks again when its wait ends, at different moments.
    let mut waiting: Vec<Asking> = Vec::new();
    for _ in 0..120 {
        waiting.push(ask(&requests, MINUTE).await);
        world.pass(Duration::from_millis(500)).await;
    }
    let quiet = Instant::now();
    for _ in 0..240 {
        waiting.push(ask(&requests, MINUTE).await);
        world.pass(Duration::from_millis(500)).await;
    }
    let claims = link.times_since(quiet, Call::Claim);
    assert!(most_within(MINUTE, &claims) <= 2, "{claims:?}");
    world.harness.accept_one().await;
    world
        .until("the longest waiting worker to get the order", async |world| {
            world.harness.order(ID).await.status == OrderStatus::Processing
        })
        .await;
    drop(requests);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_accepted_order_goes_to_a_waiting_worker_at_once() {
    let (world, requests, _) = world(AWAKE).await;
    world.pass_long(Duration::from_mins(10), async |_| {}).await;
    let asking = ask(&requests, MINUTE).await;
    world.pass(Duration::from_secs(10)).await;
    let accepted = Instant::now();
    let id = world.harness.accept_one().await;
    assert_eq!(answer(&world, asking).await, [id]);
    assert!(
        accepted.elapsed() < Duration::from_millis(100),
        "{:?}",
        accepted.elapsed()
    );
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_due_retry_goes_to_a_waiting_worker_at_once() {
    let (world, requests, _) = world(AWAKE).await;
    let due = Instant::now() + Duration::from_secs(20);
    // No worker waits yet.
    world.harness.order_due_in(20).await;
    let asking = ask(&requests, MINUTE).await;
    assert_eq!(answer(&world, asking).await, [ID]);
    let late = Instant::now().saturating_duration_since(due);
    assert!(
        Instant::now() >= due && late < Duration::from_secs(1),
        "{late:?} late"
    );
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_waiting_workers_a_node_polls_once_a_second() {
    let (world, requests, link) = world(AWAKE).await;
    world.harness.accept_one().await;
    world.pass(Duration::from_secs(2)).await;
    let busy = Instant::now();
    for _ in 0..200 {
        world.harness.accept_one().await;
        world.pass(Duration::from_millis(100)).await;
    }
    let claims = link.times_since(busy, Call::Claim);
    assert!(most_within(Duration::from_secs(10), &claims) <= 12, "{claims:?}");
    let asking = ask(&requests, Duration::ZERO).await;
    let asked = Instant::now();
    assert_eq!(answer(&world, asking).await, [ID]);
    assert!(
        asked.elapsed() < Duration::from_millis(100),
        "the worker waited too long"
    );
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_workers_order_is_swept_soon_after_its_lease_expires() {
    let (world, requests, _) = world(AWAKE).await;
    world.harness.accept_one().await;
    let asking = ask(&requests, MINUTE).await;
    assert_eq!(answer(&world, asking).await, [ID]);
    let taken = Instant::now();
    world.until_status(ID, OrderStatus::Pending).await;
    let back = taken.elapsed();
    assert!(LEASE <= back && back < LEASE + Duration::from_secs(7), "{back:?}");
    assert_eq!(world.harness.crashes(ID).await, 1);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_sleeps_until_a_worker_asks() {
    let (world, requests, link) = world(SLEEPY).await;
    world.pass_long(UNTIL_QUIET, async |_| {}).await;
    let asleep = Instant::now();
    world.pass_long(Duration::from_hours(1), async |_| {}).await;
    assert_eq!(link.calls_since(asleep), []);
    let asking = ask(&requests, MINUTE).await;
    world.pass_long(Duration::from_secs(50), async |_| {}).await;
    assert!(
        world
            .listed()
            .await
            .is_some_and(|node| node.alive && node.slots == 0)
    );
    assert!(!asking.is_finished());
    let id = world.harness.accept_one().await;
    assert_eq!(answer(&world, asking).await, [id]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_does_not_sleep_while_a_worker_waits() {
    let (world, requests, link) = world(SLEEPY).await;
    let mut waiting = vec![ask(&requests, MINUTE).await];
    let began = Instant::now();
    for _ in 0..20 {
        world.pass_long(Duration::from_secs(30), async |_| {}).await;
        waiting.push(ask(&requests, MINUTE).await);
    }
    let claims = link.times_since(began, Call::Claim);
    let gaps = claims.windows(2).map(|two| two[1] - two[0]);
    assert!(gaps.max().is_some_and(|gap| gap < MINUTE), "{claims:?}");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn workers_keep_waiting_while_the_store_is_unavailable() {
    let (world, requests, link) = world(AWAKE).await;
    link.cut(&[Call::Claim]);
    let asking = ask(&requests, MINUTE).await;
    let asks_once = ask(&requests, Duration::ZERO).await;
    world.until("an answer", async |_| asks_once.is_finished()).await;
    assert!(matches!(asks_once.await.unwrap(), Err(TakeError::Store(_))));
    let id = world.harness.accept_one().await;
    world.pass(Duration::from_secs(20)).await;
    assert!(!asking.is_finished());
    link.restore();
    assert_eq!(answer(&world, asking).await, [id]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_order_of_a_disconnected_worker_is_released_despite_store_errors() {
    let (world, requests, link) = world(AWAKE).await;
    let asking = ask(&requests, MINUTE).await;
    // Starts between two polls, which are one and then two seconds apart: a poll in progress would be held and no other
    // made.
    world.pass(Duration::from_millis(1_500)).await;
    link.hold_claims();
    world.harness.accept_one().await;
    world.until_status(ID, OrderStatus::Processing).await;
    asking.abort();
    assert!(asking.await.is_err());
    link.cut(&[Call::Settle]);
    link.release_claims();
    world.pass(Duration::from_secs(5)).await;
    assert_eq!(world.harness.order(ID).await.status, OrderStatus::Processing);
    link.restore();
    world.until_status(ID, OrderStatus::Pending).await;
    let events = world.harness.events(ID).await;
    assert_eq!(
        events,
        [EventKind::Accepted, EventKind::Started, EventKind::Released]
    );
    assert_eq!(world.harness.order(ID).await.attempts, 0);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stopping_node_answers_waiting_workers() {
    let (mut world, requests, _) = world(AWAKE).await;
    let asking = ask(&requests, MINUTE).await;
    world.pass(Duration::from_secs(1)).await;
    world.drain(Duration::ZERO).await;
    assert_eq!(asking.await.unwrap().unwrap(), []);
    let refused = ask(&requests, MINUTE).await.await.unwrap();
    assert!(matches!(refused, Err(TakeError::Closed)));
    world.end().await;
}
