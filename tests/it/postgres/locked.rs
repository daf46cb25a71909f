//! Rows that another session of the database holds for as long as it likes: what needs them waits, and nothing else does.

use std::time::Duration;

use orderly::lease::{Lease, Outcome};
use orderly::order::OrderId;
use orderly::store::Store;
use orderly::time::Timestamp;
use orderly::verify::{self, Promise};
use tokio_postgres::Client;

use super::scene::{Scene, store_at};
use crate::support::make::{NODE_A, NODE_B, claim_by, new_order, order_of, retry_after};

/// The tables of which one has a row of an open order.
pub const PLACES: [&str; 4] = ["first_line", "second_line", "blocked", "leases"];

fn among(ids: &[OrderId]) -> String {
    let ids: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
    format!("order_id in ({})", ids.join(","))
}

/// A session with an open transaction; dropped, it ends.
pub struct Locker(pub Client);

impl Locker {
    pub async fn of(scene: &Scene, rows: &str) -> Locker {
        let client = scene.database.admin().await;
        client
            .batch_execute(&format!("begin; select from {rows} for update"))
            .await
            .unwrap();
        Locker(client)
    }

    /// Locks the rows of these orders in one table.
    pub async fn of_rows(scene: &Scene, table: &str, ids: &[OrderId]) -> Locker {
        Locker::of(scene, &format!("orderly.{table} where {}", among(ids))).await
    }

    /// Locks the rows of these orders wherever they have one.
    pub async fn of_orders(scene: &Scene, ids: &[OrderId]) -> Locker {
        let locker = Locker::of_rows(scene, "orders", ids).await;
        for place in PLACES {
            let lock = format!("select from orderly.{place} where {} for update", among(ids));
            locker.0.batch_execute(&lock).await.unwrap();
        }
        locker
    }

    pub async fn release(self) {
        self.0.batch_execute("rollback").await.unwrap();
    }
}

fn ids_of(leases: &[Lease]) -> Vec<OrderId> {
    leases.iter().map(|lease| lease.order.order_id).collect()
}

pub async fn accept(store: &dyn Store, orders: usize) -> Vec<OrderId> {
    let orders: Vec<_> = (0..orders).map(|_| new_order()).collect();
    store.accept(orders.into(), None).await.unwrap().order_ids
}

pub async fn claim(store: &dyn Store, orders_max: usize) -> Vec<OrderId> {
    ids_of(&store.claim(claim_by(NODE_A, orders_max)).await.unwrap().leases)
}

/// Orders so far apart that the later ones were accepted later for certain.
pub async fn accept_later(scene: &Scene, minutes: u64, orders: usize) -> Vec<OrderId> {
    let time = Timestamp::from_micros(1_800_000_000_000_000).plus(Duration::from_mins(minutes));
    scene.database.set_clock(Some(time)).await;
    accept(&*scene.store, orders).await
}

async fn breaches(scene: &Scene) -> Vec<Promise> {
    let mut snapshot = scene.store.snapshot().await.unwrap();
    let report = verify::verify(&mut *snapshot).await.unwrap();
    report.breaches.iter().map(|breach| breach.promise).collect()
}

/// Issue 13, point 3.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_order_that_another_session_locks_keeps_no_other_waiting() {
    let Some(scene) = Scene::new().await else { return };
    let first = accept_later(&scene, 0, 3).await;
    let second = accept_later(&scene, 1, 3).await;
    let other_node = store_at(&scene.database.url()).await;
    let locker = Locker::of_orders(&scene, &[first[1]]).await;
    assert_eq!(claim(&*scene.store, 3).await, [first[0], first[2], second[0]]);
    assert_eq!(claim(&*other_node, 1).await, second[1..2]);
    assert_eq!(claim(&*other_node, 1).await, second[2..]);
    for store in [&scene.store, &other_node] {
        let claimed = store.claim(claim_by(NODE_B, 10)).await.unwrap();
        assert!(claimed.leases.is_empty() && !claimed.idle && !claimed.paused);
        let next = claimed.next_due_in.expect("no notice tells when it is free");
        assert!(Duration::ZERO < next && next < Duration::from_secs(1), "{next:?}");
    }
    // What still waits may, as well.
    assert_eq!(breaches(&scene).await, []);
    locker.release().await;
    let third = accept_later(&scene, 2, 1).await;
    assert_eq!(claim(&*scene.store, 10).await, [first[1], third[0]]);
    assert_eq!(breaches(&scene).await, []);
    // The positive control: without what its claims recorded, and with less than that, it was overtaken.
    let late = format!(
        "update orderly.batches set passed_over = null where kind = 1 and {} = any (order_ids)",
        second[1]
    );
    scene.admin.batch_execute(&late).await.unwrap();
    assert_eq!(breaches(&scene).await, [Promise::FifoStart]);
    other_node.close().await;
    scene.store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_orders_beyond_those_wanted_are_passed_over_too() {
    let Some(scene) = Scene::new().await else { return };
    let ids = accept(&*scene.store, 60).await;
    let locker = Locker::of_orders(&scene, &ids[5..55]).await;
    let mut started = Vec::new();
    // Each claim that finds too few looks further the next time.
    for _ in 0..20 {
        started.extend(claim(&*scene.store, 3.min(10 - started.len())).await);
    }
    assert_eq!(started, [&ids[..5], &ids[55..]].concat());
    locker.release().await;
    assert_eq!(claim(&*scene.store, 100).await, ids[5..55]);
    scene.end().await;
}

/// The floor of the claims must not rise past it: a look without a floor comes only from time to time.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_was_passed_over_is_found_by_the_next_claim() {
    let Some(scene) = Scene::new().await else { return };
    let ids = accept(&*scene.store, 30).await;
    // What holds it now began after the claims: they may pass over all that came before.
    claim(&*scene.store, 2).await;
    claim(&*scene.store, 2).await;
    let locker = Locker::of_orders(&scene, &ids[6..8]).await;
    for places in [3, 4, 5, 6] {
        assert_eq!(claim(&*scene.store, places).await.len(), places);
    }
    locker.release().await;
    assert_eq!(claim(&*scene.store, 3).await, [ids[6], ids[7], ids[24]]);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_order_of_the_second_line_keeps_no_other_waiting() {
    let Some(scene) = Scene::new().await else { return };
    let ids = accept(&*scene.store, 3).await;
    for lease in scene.store.claim(claim_by(NODE_A, 3)).await.unwrap().leases {
        scene.store.settle(lease.key(), retry_after(0)).await.unwrap();
    }
    let locker = Locker::of_orders(&scene, &ids[..1]).await;
    assert_eq!(claim(&*scene.store, 10).await, ids[1..]);
    let claimed = scene.store.claim(claim_by(NODE_A, 10)).await.unwrap();
    let next = claimed.next_due_in.expect("it is due");
    assert!(Duration::ZERO < next && next < Duration::from_secs(1), "{next:?}");
    locker.release().await;
    assert_eq!(claim(&*scene.store, 10).await, ids[..1]);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_order_keeps_only_its_own_user_waiting() {
    let Some(scene) = Scene::new().await else { return };
    let by_user = "update orderly.queue set ordering = 1";
    scene.admin.batch_execute(by_user).await.unwrap();
    let store = &scene.store;
    let accept = async |user| {
        store
            .accept([order_of(user)].into(), None)
            .await
            .unwrap()
            .order_ids[0]
    };
    let (first, second) = (accept(1).await, accept(1).await);
    let lease = store.claim(claim_by(NODE_A, 10)).await.unwrap().leases.remove(0);
    assert_eq!(lease.order.order_id, first);
    // It is locked when its turn comes, and so is one that has its turn already.
    let other = accept(2).await;
    let locker = Locker::of_orders(&scene, &[second, other]).await;
    store.settle(lease.key(), Outcome::COMPLETED).await.unwrap();
    let (third, free) = (accept(1).await, accept(3).await);
    assert_eq!(claim(&**store, 10).await, [free]);
    assert_eq!(claim(&**store, 10).await, []);
    locker.release().await;
    assert_eq!(claim(&**store, 10).await, [second, other]);
    assert_eq!(claim(&**store, 10).await, []);
    let leases = "select count(*) from orderly.leases";
    assert_eq!(scene.number(leases).await, 3);
    store.cancel(second).await.unwrap();
    assert_eq!(claim(&**store, 10).await, [third]);
    scene.end().await;
}
