//! The database is unreachable: at the start, during a restart, or while all sessions are terminated. A node refuses orders that
//! it cannot store, keeps those it acknowledged, and recovers by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use orderly::store::open::open_snapshot;
use orderly::verify;
use reqwest::StatusCode;
use tokio::task::JoinSet;

use super::setup::{
    Setup, accept_keyed, database_at, has_postgres, node, number, status_of, through, until_ready,
};
use crate::support::client::{Answer, Log, Request, http, post};
use crate::support::make::{NODE_A, claim_by};
use crate::support::postgres::{Options, Server, Stop, TestDatabase};
use crate::support::process::Process;
use crate::support::proxy::Proxy;
use crate::support::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_without_its_database_and_becomes_ready_with_it() {
    if !has_postgres() {
        return;
    }
    let server = Server::start(Options::default()).await;
    let database = server.create_database().await;
    server.stop(Stop::Fast).await;
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &database.url())).await;
    assert_eq!(status_of(&node, "/livez").await, StatusCode::OK);
    assert_eq!(status_of(&node, "/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
    let request = Request {
        key: "patience".to_owned(),
        user_id: 1,
        cents: 1,
    };
    let refused = http()
        .post(format!("{}/orders", node.url))
        .json(&request.body())
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let retry_after = refused.headers()["retry-after"].to_str().unwrap();
    assert!(retry_after.parse::<u32>().is_ok(), "{retry_after}");

    server.start_again().await;
    until_ready(&node).await;
    assert_eq!(orders_in(&database).await, 0, "no refused order was stored");
    let log = Log::default();
    match post(&http(), &node.url, &request).await {
        Answer::Created(order) => log.acknowledge(&request, &order),
        other => panic!("a ready node takes orders: {other:?}"),
    }
    assert_eq!(log.compare(&http(), &node.url).await, [""; 0]);
    assert_eq!(node.terminate().await, Some(0));
    assert_sound(&database).await;
}

/// `/livez` answers although the database's host sends no answer (issue 15, point 4).
#[tokio::test(flavor = "multi_thread")]
async fn a_node_listens_while_its_first_connection_hangs() {
    /// Time limit of an attempt to connect.
    const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
    if !has_postgres() {
        return;
    }
    let server = Server::shared().await;
    let database = server.create_database().await;
    let proxy = Proxy::before(server.address()).await;
    proxy.freeze(true);
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let node = Process::start(node(folder.path(), &through(&proxy, &database))).await;
    assert_eq!(status_of(&node, "/livez").await, StatusCode::OK);
    assert_eq!(status_of(&node, "/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
    assert!(began.elapsed() < CONNECT_TIME_MAX, "it waited for the database");
    proxy.freeze(false);
    until_ready(&node).await;
    assert_eq!(node.terminate().await, Some(0));
}

/// Clients that repeat each order until it is accepted, and log the accepted ones.
struct Load {
    log: Arc<Log>,
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

const CLIENTS: usize = 4;

impl Load {
    fn start(url: &str) -> Load {
        let mut load = Load {
            log: Arc::default(),
            stop: Arc::default(),
            refused: Arc::default(),
            clients: JoinSet::new(),
        };
        for client in 0..CLIENTS {
            let (log, stop, refused) = (load.log.clone(), load.stop.clone(), load.refused.clone());
            let url = url.to_owned();
            load.clients.spawn(async move {
                let http = http();
                let mut number = 0;
                while !stop.load(Ordering::SeqCst) {
                    let request = Request {
                        key: format!("order {number} of client {client}"),
                        user_id: client as u64 + 1,
                        cents: number,
                    };
                    number += 1;
                    // Repeats until the order is accepted, even when the load is to stop, so that every key has an order.
                    let order = loop {
                        match post(&http, &url, &request).await {
                            Answer::Created(order) => break order,
                            Answer::Refused(StatusCode::SERVICE_UNAVAILABLE) => {
                                refused.fetch_add(1, Ordering::SeqCst);
                            }
                            Answer::Unknown => {}
                            Answer::Refused(status) => panic!("a good order was refused: {status}"),
                        }
                    };
                    log.acknowledge(&request, &order);
                }
            });
        }
        load
    }

    /// Waits until more orders are acknowledged.
    async fn until_more_accepted(&self) {
        let before = self.log.len();
        until("more orders are accepted", async || {
            tokio::task::yield_now().await;
            self.log.len() >= before + 20
        })
        .await;
    }

    async fn until_refused(&self) {
        let before = self.refused.load(Ordering::SeqCst);
        until("orders are refused", async || {
            tokio::task::yield_now().await;
            self.refused.load(Ordering::SeqCst) > before
        })
        .await;
    }

    async fn stop(self) -> Arc<Log> {
        self.stop.store(true, Ordering::SeqCst);
        self.clients.join_all().await;
        self.log
    }
}

/// Asserts that every acknowledged order is stored once and has ended.
async fn assert_nothing_lost(load: Load, node: Process, database: &TestDatabase) {
    let log = load.stop().await;
    until_ready(&node).await;
    assert_eq!(log.compare(&http(), &node.url).await, [""; 0]);
    assert_eq!(
        usize::try_from(orders_in(database).await),
        Ok(log.len()),
        "one order for each key"
    );
    assert_eq!(node.terminate().await, Some(0));
    assert_sound(database).await;
}

async fn orders_in(database: &TestDatabase) -> i64 {
    let admin = database.admin().await;
    let schemas = "select count(*) from pg_namespace where nspname = 'orderly'";
    match number(&admin, schemas).await {
        0 => 0,
        _ => number(&admin, "select count(*) from orderly.orders").await,
    }
}

async fn assert_sound(database: &TestDatabase) {
    let mut snapshot = open_snapshot(&database_at(&database.url())).await.unwrap();
    let report = verify::verify(&mut *snapshot).await.unwrap();
    assert!(report.is_sound(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_restart_loses_no_acknowledged_order() {
    if !has_postgres() {
        return;
    }
    let server = Server::start(Options::default()).await;
    let database = server.create_database().await;
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &database.url())).await;
    let load = Load::start(&node.url);
    load.until_more_accepted().await;
    for how in [Stop::Fast, Stop::Killed, Stop::Fast, Stop::Killed] {
        server.stop(how).await;
        load.until_refused().await;
        until("the node is not ready", async || {
            status_of(&node, "/readyz").await == StatusCode::SERVICE_UNAVAILABLE
        })
        .await;
        server.start_again().await;
        until_ready(&node).await;
        load.until_more_accepted().await;
    }
    assert_nothing_lost(load, node, &database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn terminated_sessions_lose_no_acknowledged_order() {
    if !has_postgres() {
        return;
    }
    let server = Server::shared().await;
    let database = server.create_database().await;
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &database.url())).await;
    let load = Load::start(&node.url);
    let mut ended = 0;
    for _ in 0..8 {
        load.until_more_accepted().await;
        ended += server.terminate_backends(&database).await;
    }
    assert!(ended >= 8, "{ended} sessions were ended");
    load.until_more_accepted().await;
    assert_nothing_lost(load, node, &database).await;
}

/// A node does not flood an unreachable database with attempts to connect, however many clients it has.
#[tokio::test(flavor = "multi_thread")]
async fn connection_attempts_are_limited_while_the_database_is_away() {
    const AWAY: Duration = Duration::from_secs(8);
    /// Pauses double from 0.1 s to 5 s, so eight of them fit into the outage. After each pause, every class that wants a
    /// connection may try.
    const ATTEMPTS_MAX: u64 = 25;
    if !has_postgres() {
        return;
    }
    let server = Server::shared().await;
    let database = server.create_database().await;
    let proxy = Proxy::before(server.address()).await;
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &through(&proxy, &database))).await;
    let load = Load::start(&node.url);
    load.until_more_accepted().await;
    proxy.refuse(true);
    proxy.cut_all();
    let (cut, connected) = (Instant::now(), proxy.connection_count());
    until("the database was away for a while", async || {
        load.until_refused().await;
        cut.elapsed() >= AWAY
    })
    .await;
    let attempts = proxy.connection_count() - connected;
    assert!(
        (1..=ATTEMPTS_MAX).contains(&attempts),
        "{attempts} attempts in {AWAY:?}"
    );
    proxy.refuse(false);
    load.until_more_accepted().await;
    assert_nothing_lost(load, node, &database).await;
}

/// The lower bound in the last claim that was sent.
pub fn last_lower_bound(setup: &Setup) -> i64 {
    let flights = setup.proxy.flights();
    let claim = flights
        .iter()
        .rev()
        .find(|sql| sql.contains("from orderly.claim_"));
    let (_, after) = claim.unwrap().split_once("above => ").unwrap();
    let (floor, _) = after.split_once(',').unwrap();
    floor.parse().unwrap()
}

/// Otherwise every claim after a lost connection would read past all claimed orders, while it holds the lock of all claims.
#[tokio::test(flavor = "multi_thread")]
async fn claims_on_a_new_connection_keep_the_lower_bound() {
    let Some(setup) = Setup::new().await else { return };
    let store = &*setup.store;
    let accept_next = async || {
        let key = rand::random::<u64>().to_string();
        accept_keyed(store, &key).await.unwrap().order_ids[0]
    };
    let claim_next = async || {
        let claimed = store.claim(claim_by(NODE_A, 1)).await.unwrap().leases;
        claimed[0].order.order_id
    };
    // An open transaction of another test on the same server keeps the lower bound from rising.
    until("the lower bound rises", async || {
        let accepted = accept_next().await;
        assert_eq!(claim_next().await, accepted);
        last_lower_bound(&setup) > 0
    })
    .await;
    let floor = last_lower_bound(&setup);
    let waiting = [accept_next().await, accept_next().await];
    setup.proxy.cut_all();
    // A claim under way may have been carried out, although its answer was lost.
    assert!(waiting.contains(&claim_next().await));
    assert!(last_lower_bound(&setup) >= floor);
    setup.end().await;
}
