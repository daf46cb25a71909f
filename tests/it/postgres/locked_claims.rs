//! Rows locked by another session of the database: only the orders that need them wait.

use std::time::Duration;

use orderly::lease::{Lease, Outcome};
use orderly::order::OrderId;
use orderly::store::Store;
use orderly::time::Timestamp;
use orderly::verify::{self, Promise};
use tokio_postgres::Client;

use super::setup::{Setup, store_at};
use crate::support::make::{NODE_A, NODE_B, claim_by, new_order, order_of, retry_after};

/// Tables, one of which has a row of each open order.
pub const PLACES: [&str; 4] = ["first_line", "second_line", "blocked", "leases"];

fn id_list(ids: &[OrderId]) -> String {
    let ids: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
    format!("order_id in ({})", ids.join(","))
}

/// A session with an open transaction that holds locks. Dropping it ends the session.
pub struct Locker(pub Client);

impl Locker {
    pub async fn of(setup: &Setup, rows: &str) -> Locker {
        let client = setup.database.admin().await;
        client
            .batch_execute(&format!("begin; select from {rows} for update"))
            .await
            .unwrap();
        Locker(client)
    }

    /// Locks the rows of these orders in one table.
    pub async fn of_rows(setup: &Setup, table: &str, ids: &[OrderId]) -> Locker {
        Locker::of(setup, &format!("orderly.{table} where {}", id_list(ids))).await
    }

    /// Locks the rows of these orders in all tables.
    pub async fn of_orders(setup: &Setup, ids: &[OrderId]) -> Locker {
        let locker = Locker::of_rows(setup, "orders", ids).await;
        for place in PLACES {
            let lock = format!("select from orderly.{place} where {} for update", id_list(ids));
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

/// Accepts orders so much later that `verify` knows they were accepted after the others.
pub async fn accept_later(setup: &Setup, minutes: u64, orders: usize) -> Vec<OrderId> {
    let time = Timestamp::from_micros(1_800_000_000_000_000).plus(Duration::from_mins(minutes));
    setup.database.set_clock(Some(time)).await;
    accept(&*setup.store, orders).await
}

async fn breaches(setup: &Setup) -> Vec<Promise> {
    let mut snapshot = setup.store.snapshot().await.unwrap();
    let report = verify::verify(&mut *snapshot).await.unwrap();
    report.breaches.iter().map(|breach| breach.promise).collect()
}

/// Issue 13, point 3.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_order_of_the_first_line_delays_no_other() {
    let Some(setup) = Setup::new().await else { return };
    let first = accept_later(&setup, 0, 3).await;
    let second = accept_later(&setup, 1, 3).await;
    let other_node = store_at(&setup.database.url()).await;
    let locker = Locker::of_orders(&setup, &[first[1]]).await;
    assert_eq!(claim(&*setup.store, 3).await, [first[0], first[2], second[0]]);
    assert_eq!(claim(&*other_node, 1).await, second[1..2]);
    assert_eq!(claim(&*other_node, 1).await, second[2..]);
    for store in [&setup.store, &other_node] {
        let claimed = store.claim(claim_by(NODE_B, 10)).await.unwrap();
        assert!(claimed.leases.is_empty() && !claimed.idle && !claimed.paused);
        let next = claimed
            .next_due_in
            .expect("nothing signals that the order is unlocked");
        assert!(Duration::ZERO < next && next < Duration::from_secs(1), "{next:?}");
    }
    // The orders that still wait do not count as overtaken.
    assert_eq!(breaches(&setup).await, []);
    locker.release().await;
    let third = accept_later(&setup, 2, 1).await;
    assert_eq!(claim(&*setup.store, 10).await, [first[1], third[0]]);
    assert_eq!(breaches(&setup).await, []);
    // The control: without the recorded orders, or with fewer of them, `verify` finds the order overtaken.
    let late = format!(
        "update orderly.batches set passed_over = null where kind = 1 and {} = any (order_ids)",
        second[1]
    );
    setup.admin.batch_execute(&late).await.unwrap();
    assert_eq!(breaches(&setup).await, [Promise::FifoStart]);
    other_node.close().await;
    setup.store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_locked_orders_than_requested_are_passed_over() {
    let Some(setup) = Setup::new().await else { return };
    let ids = accept(&*setup.store, 60).await;
    let locker = Locker::of_orders(&setup, &ids[5..55]).await;
    let mut started = Vec::new();
    // After a claim that found too few orders, the next one looks further.
    for _ in 0..20 {
        started.extend(claim(&*setup.store, 3.min(10 - started.len())).await);
    }
    assert_eq!(started, [&ids[..5], &ids[55..]].concat());
    locker.release().await;
    assert_eq!(claim(&*setup.store, 100).await, ids[5..55]);
    setup.end().await;
}

/// The lower bound of claims must not rise past the order, because a claim without a lower bound is rare.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_claim_finds_an_order_that_was_passed_over() {
    let Some(setup) = Setup::new().await else { return };
    let ids = accept(&*setup.store, 30).await;
    // The lock is newer than the claims, so their lower bound may pass every earlier order.
    claim(&*setup.store, 2).await;
    claim(&*setup.store, 2).await;
    let locker = Locker::of_orders(&setup, &ids[6..8]).await;
    for places in [3, 4, 5, 6] {
        assert_eq!(claim(&*setup.store, places).await.len(), places);
    }
    locker.release().await;
    assert_eq!(claim(&*setup.store, 3).await, [ids[6], ids[7], ids[24]]);
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_order_of_the_second_line_delays_no_other() {
    let Some(setup) = Setup::new().await else { return };
    let ids = accept(&*setup.store, 3).await;
    for lease in setup.store.claim(claim_by(NODE_A, 3)).await.unwrap().leases {
        setup.store.settle(lease.key(), retry_after(0)).await.unwrap();
    }
    let locker = Locker::of_orders(&setup, &ids[..1]).await;
    assert_eq!(claim(&*setup.store, 10).await, ids[1..]);
    let claimed = setup.store.claim(claim_by(NODE_A, 10)).await.unwrap();
    let next = claimed.next_due_in.expect("it is due");
    assert!(Duration::ZERO < next && next < Duration::from_secs(1), "{next:?}");
    locker.release().await;
    assert_eq!(claim(&*setup.store, 10).await, ids[..1]);
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_order_delays_only_its_own_user() {
    let Some(setup) = Setup::new().await else { return };
    let by_user = "update orderly.queue set ordering = 1";
    setup.admin.batch_execute(by_user).await.unwrap();
    let store = &setup.store;
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
    // One order is locked when its turn comes, another when it already has the turn.
    let other = accept(2).await;
    let locker = Locker::of_orders(&setup, &[second, other]).await;
    store.settle(lease.key(), Outcome::COMPLETED).await.unwrap();
    let (third, free) = (accept(1).await, accept(3).await);
    assert_eq!(claim(&**store, 10).await, [free]);
    assert_eq!(claim(&**store, 10).await, []);
    locker.release().await;
    assert_eq!(claim(&**store, 10).await, [second, other]);
    assert_eq!(claim(&**store, 10).await, []);
    let leases = "select count(*) from orderly.leases";
    assert_eq!(setup.number(leases).await, 3);
    store.cancel(second, None).await.unwrap();
    assert_eq!(claim(&**store, 10).await, [third]);
    setup.end().await;
}
