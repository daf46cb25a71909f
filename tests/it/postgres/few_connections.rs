//! Few connections: a role limited to three to fifteen, two nodes that share them, and a pooler in session mode. All work
//! continues, more slowly, and work that other work waits for gets a connection (issue 13, points 2 and 28).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use orderly::lease::Outcome;
use orderly::store::{OrderQuery, StoreError, StoreHealth};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_postgres::Client;

use super::setup::{
    has_pgbouncer, has_postgres, node, number, status_of, store_at, until_ready, warnings_with,
};
use crate::support::client::{Answer, Request, http, post};
use crate::support::make::{NODE_A, claim_by, new_order};
use crate::support::postgres::{PgBouncer, Server, TestDatabase};
use crate::support::process::Process;
use crate::support::proxy::{Action, Proxy};
use crate::support::until;

/// A database whose owner has a connection limit.
pub struct LimitedDatabase {
    pub database: TestDatabase,
    pub admin: Client,
    pub role: String,
}

impl LimitedDatabase {
    pub async fn with_connections(connections: usize) -> LimitedDatabase {
        let database = Server::shared().await.create_database().await;
        let admin = database.admin().await;
        let name = database.name().to_owned();
        let role = format!("limited_{name}");
        let create = format!(
            "create role {role} login connection limit {connections}; alter database {name} owner to {role}"
        );
        admin.batch_execute(&create).await.unwrap();
        LimitedDatabase {
            database,
            admin,
            role,
        }
    }

    pub fn url(&self) -> String {
        self.url_for_role(&self.database.url())
    }

    pub fn url_for_role(&self, url: &str) -> String {
        url.replace("postgres://postgres@", &format!("postgres://{}@", self.role))
    }

    pub async fn orders_with_status(&self, status: &str) -> usize {
        let kept = match status {
            "Pending" => "status = 0",
            "Processing" => "status = 1",
            _ => "status = 2",
        };
        let counted = format!("select count(*) from orderly.order_state where {kept}");
        usize::try_from(number(&self.admin, &counted).await).unwrap()
    }
}

pub fn named(prefix: &str, orders: usize) -> Vec<Request> {
    (1..=orders)
        .map(|number| Request {
            key: format!("{prefix} {number}"),
            user_id: number as u64,
            cents: 100,
        })
        .collect()
}

/// Sends all requests at once, and repeats each until it is stored.
pub async fn place(node: &Process, requests: &[Request]) {
    let http = http();
    join_all(requests.iter().map(async |request| {
        until("an order is accepted", async || {
            matches!(post(&http, &node.url, request).await, Answer::Created(_))
        })
        .await;
    }))
    .await;
}

pub async fn stop(node: Process) {
    assert_eq!(node.terminate().await, Some(0));
}

/// No client sends a request after the orders, so none makes the node open another connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_completes_all_orders_with_three_to_fifteen_connections() {
    if !has_postgres() {
        return;
    }
    for connections in 3..=15 {
        let limited = LimitedDatabase::with_connections(connections).await;
        let folder = tempfile::tempdir().unwrap();
        let node = Process::start(node(folder.path(), &limited.url())).await;
        until_ready(&node).await;
        place(&node, &named("order", connections)).await;
        until("every order is completed", async || {
            limited.orders_with_status("Completed").await == connections
        })
        .await;
        until_ready(&node).await;
        stop(node).await;
        let warnings = warnings_with(folder.path(), "too few connections");
        assert_eq!(
            warnings.len(),
            usize::from(connections < 15),
            "{connections}: {warnings:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_node_gives_back_its_orders_with_few_connections() {
    if !has_postgres() {
        return;
    }
    for connections in [3, 5, 8, 12] {
        let limited = LimitedDatabase::with_connections(connections).await;
        let folder = tempfile::tempdir().unwrap();
        let mut slow = node(folder.path(), &limited.url());
        slow.env("ORDERLY_SIMULATED_SPEED", "0.001")
            .env("ORDERLY_SHUTDOWN_GRACE", "2s");
        let node = Process::start(slow).await;
        until_ready(&node).await;
        place(&node, &named("order", connections)).await;
        until("every order is started", async || {
            limited.orders_with_status("Processing").await == connections
        })
        .await;
        stop(node).await;
        assert_eq!(limited.orders_with_status("Pending").await, connections);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_share_a_few_connections() {
    if !has_postgres() {
        return;
    }
    for connections in [3, 5, 8, 16] {
        let limited = LimitedDatabase::with_connections(connections).await;
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let first = Process::start(node(folders[0].path(), &limited.url())).await;
        until_ready(&first).await;
        let second = Process::start(node(folders[1].path(), &limited.url())).await;
        let (ours, theirs) = (named("first", connections), named("second", connections));
        tokio::join!(place(&first, &ours), place(&second, &theirs));
        until("every order is completed", async || {
            limited.orders_with_status("Completed").await == 2 * connections
        })
        .await;
        until_ready(&first).await;
        until_ready(&second).await;
        stop(first).await;
        stop(second).await;
    }
}

/// Other sessions use all connections while orders run, and free them later.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_connections_continues_when_some_are_free() {
    const CONNECTIONS: usize = 5;
    if !has_postgres() {
        return;
    }
    let limited = LimitedDatabase::with_connections(CONNECTIONS).await;
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &limited.url())).await;
    until_ready(&node).await;
    place(&node, &named("before", CONNECTIONS)).await;
    // Now the node has no connection and cannot open one.
    let limit = format!("alter role {} connection limit 0", limited.role);
    limited.admin.batch_execute(&limit).await.unwrap();
    Server::shared().await.terminate_backends(&limited.database).await;
    until("the node is not ready", async || {
        status_of(&node, "/readyz").await == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    let limit = format!("alter role {} connection limit {CONNECTIONS}", limited.role);
    limited.admin.batch_execute(&limit).await.unwrap();
    until_ready(&node).await;
    place(&node, &named("after", CONNECTIONS)).await;
    until("every order is completed", async || {
        limited.orders_with_status("Completed").await == 2 * CONNECTIONS
    })
    .await;
    stop(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_pool_in_session_mode_is_sufficient() {
    const ORDERS: usize = 12;
    if !has_pgbouncer() {
        return;
    }
    let server = Server::shared().await;
    for (nodes, pool_size) in [(1, 3), (2, 6)] {
        let database = server.create_database().await;
        let bouncer = PgBouncer::start_in_session_mode(server, pool_size).await;
        let url = database.url_at("127.0.0.1", bouncer.address().port());
        let mut running = Vec::new();
        for _ in 0..nodes {
            let folder = tempfile::tempdir().unwrap();
            running.push((Process::start(node(folder.path(), &url)).await, folder));
        }
        let (first, _) = &running[0];
        until_ready(first).await;
        place(first, &named("order", ORDERS)).await;
        let admin = database.admin().await;
        until("every order is completed", async || {
            let completed = "select count(*) from orderly.orders where status = 2";
            usize::try_from(number(&admin, completed).await) == Ok(ORDERS)
        })
        .await;
        for (node, _) in running {
            until_ready(&node).await;
            stop(node).await;
        }
    }
}

/// Runs with enough connections and with few.
#[tokio::test(flavor = "multi_thread")]
async fn hanging_lists_do_not_delay_operators() {
    const LISTS: usize = 30;
    if !has_postgres() {
        return;
    }
    for connections in [5, 15] {
        let limited = LimitedDatabase::with_connections(connections).await;
        let proxy = Proxy::before(Server::shared().await.address()).await;
        let url = limited.database.url_at("127.0.0.1", proxy.address().port());
        let folder = tempfile::tempdir().unwrap();
        let node = Process::start(node(folder.path(), &limited.url_for_role(&url))).await;
        until_ready(&node).await;
        let hanging = Arc::new(AtomicUsize::new(0));
        let counted = hanging.clone();
        proxy.on_flight(move |flight| {
            if !flight.sql().contains("order by order_id desc") {
                return Action::Forward;
            }
            counted.fetch_add(1, Ordering::SeqCst);
            Action::Silence
        });
        let list = || tokio::spawn(http().get(format!("{}/orders", node.url)).send());
        let lists: Vec<_> = (0..LISTS).map(|_| list()).collect();
        until("lists hang", async || hanging.load(Ordering::SeqCst) > 0).await;
        for (method, path) in [
            (Method::POST, "/queue/pause"),
            (Method::GET, "/queue"),
            (Method::GET, "/metrics"),
            (Method::GET, "/events"),
            (Method::POST, "/queue/resume"),
        ] {
            let asked = http()
                .request(method, format!("{}{path}", node.url))
                .header("Content-Type", "application/json")
                .send();
            assert_eq!(asked.await.unwrap().status(), StatusCode::OK, "{path}");
        }
        assert!(lists.iter().any(|list| !list.is_finished()), "lists still hang");
        assert_eq!(status_of(&node, "/readyz").await, StatusCode::OK);
        proxy.on_flight(|_| Action::Forward);
        for list in lists {
            list.await.unwrap().unwrap();
        }
        stop(node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_compares_allowed_and_wanted_connections() {
    if !has_postgres() {
        return;
    }
    for (connections, state) in [(2, "fail"), (12, "warn"), (40, "ok")] {
        let limited = LimitedDatabase::with_connections(connections).await;
        let folder = tempfile::tempdir().unwrap();
        let migrated = node(folder.path(), &limited.url()).arg("migrate").output().await;
        assert!(migrated.unwrap().status.success());
        let mut doctor = node(folder.path(), &limited.url());
        let said = doctor.args(["doctor", "--json"]).output().await.unwrap();
        let said: Value = serde_json::from_slice(&said.stdout).unwrap();
        let judged = said["checks"].as_array().unwrap();
        let judged = judged
            .iter()
            .find(|check| check["name"] == "connections")
            .unwrap();
        assert_eq!(judged["state"], state, "{judged}");
        assert!(
            judged["finding"]
                .as_str()
                .unwrap()
                .contains(&connections.to_string()),
            "{judged}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_gives_advice_when_every_connection_is_in_use() {
    if !has_postgres() {
        return;
    }
    let limited = LimitedDatabase::with_connections(1).await;
    let _stranger = crate::support::postgres::connect(&limited.url()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut doctor = node(folder.path(), &limited.url());
    let said = doctor.args(["doctor", "--json"]).output().await.unwrap();
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    let judged = said["checks"].as_array().unwrap();
    let judged = judged.iter().find(|check| check["name"] == "store").unwrap();
    assert_eq!(judged["state"], "fail", "{judged}");
    assert!(
        judged["advice"]
            .as_str()
            .unwrap()
            .contains("no connection is free"),
        "{judged}"
    );
}

/// A hanging list occupies the only connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_store_results_is_unready_and_claims_nothing() {
    if !has_postgres() {
        return;
    }
    let limited = LimitedDatabase::with_connections(1).await;
    let proxy = Proxy::before(Server::shared().await.address()).await;
    let url = limited.database.url_at("127.0.0.1", proxy.address().port());
    let store = store_at(&limited.url_for_role(&url)).await;
    let orders = [new_order(), new_order()];
    store.accept(orders.into(), None).await.unwrap();
    let lease = store.claim(claim_by(NODE_A, 1)).await.unwrap().leases.remove(0);
    let settle = async || store.settle(lease.key(), Outcome::COMPLETED).await;
    let (hangs, mut hung) = mpsc::unbounded_channel();
    proxy.on_flight(move |flight| {
        if !flight.sql().contains("order by order_id desc") {
            return Action::Forward;
        }
        // Fails only after the end of the test.
        let _ = hangs.send(());
        Action::Silence
    });
    let lists = store.clone();
    let list = tokio::spawn(async move { lists.orders(OrderQuery::default()).await });
    hung.recv().await.unwrap();
    let refused = settle().await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable { .. })),
        "{refused:?}"
    );
    assert_ne!(store.health(), StoreHealth::Ready);
    let claimed = store.claim(claim_by(NODE_A, 1)).await.unwrap_err().to_string();
    assert!(claimed.contains("free for results"), "{claimed}");
    list.abort();
    until("the result is stored", async || settle().await.is_ok()).await;
    until("the node is ready again", async || {
        store.health() == StoreHealth::Ready
    })
    .await;
    until("orders are claimed again", async || {
        let claimed = store.claim(claim_by(NODE_A, 1)).await;
        claimed.is_ok_and(|claimed| claimed.leases.len() == 1)
    })
    .await;
    store.close().await;
}
