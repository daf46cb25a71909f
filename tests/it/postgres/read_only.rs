//! A read-only database: nodes serve reads, refuse orders, and notice when writes work again.

use std::path::Path;

use reqwest::StatusCode;
use serde_json::Value;

use super::setup::{accept_keyed, has_postgres, node, number, status_of, store_at, until_ready};
use crate::support::client::{Answer, Request, http, post};
use crate::support::postgres::{Server, TestDatabase};
use crate::support::process::Process;
use crate::support::until;

/// Makes new sessions writable or read-only.
async fn take_writes(database: &TestDatabase, writes: bool) {
    let setting = if writes { "off" } else { "on" };
    let name = database.name();
    let set = format!("alter database {name} set default_transaction_read_only = {setting}");
    let admin = database.admin().await;
    let may_write = "set session characteristics as transaction read write";
    admin.batch_execute(may_write).await.unwrap();
    admin.batch_execute(&set).await.unwrap();
}

/// A database with one completed order.
async fn database_with_an_order() -> TestDatabase {
    let database = Server::shared().await.create_database().await;
    let store = store_at(&database.url()).await;
    accept_keyed(&*store, "before").await.unwrap();
    store.close().await;
    database
}

async fn assert_reads(node: &Process) {
    for path in [
        "/orders/1",
        "/orders",
        "/orders/1/events",
        "/orders/1/explain",
        "/events",
        "/queue",
        "/metrics",
    ] {
        assert_eq!(status_of(node, path).await, StatusCode::OK, "{path}");
    }
}

fn order() -> Request {
    Request {
        key: "later".to_owned(),
        user_id: 1,
        cents: 1,
    }
}

async fn assert_refuses_orders(node: &Process) {
    let posted = http().post(format!("{}/orders", node.url)).json(&order().body());
    let answer = posted.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let problem: Value = answer.json().await.unwrap();
    let kind = problem["type"].as_str().unwrap();
    assert!(kind.ends_with("/store-unavailable"), "{problem}");
    assert_eq!(status_of(node, "/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
}

/// A ready node whose orders are all completed and numbered.
async fn idle_node(folder: &Path, database: &TestDatabase) -> Process {
    let node = Process::start(node(folder, &database.url())).await;
    until_ready(&node).await;
    let admin = database.admin().await;
    until(
        "every order is completed, and every event has its position",
        async || {
            let open = "select (select count(*) from orderly.orders where status <> 2)
            + (select count(*) from orderly.batches where first_position is null)";
            number(&admin, open).await == 0
        },
    )
    .await;
    node
}

/// Sends a new order and ends the node once it has completed all `orders` of the database.
async fn ends_having_completed(node: Process, database: &TestDatabase, orders: i64) {
    until_ready(&node).await;
    let answer = post(&http(), &node.url, &order()).await;
    assert!(matches!(answer, Answer::Created(_)), "{answer:?}");
    let admin = database.admin().await;
    until("every order is completed", async || {
        number(&admin, "select count(*) from orderly.orders where status = 2").await == orders
    })
    .await;
    assert_eq!(node.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_started_on_a_read_only_server_serves_reads() {
    if !has_postgres() {
        return;
    }
    let database = database_with_an_order().await;
    take_writes(&database, false).await;
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &database.url())).await;
    for _ in 0..3 {
        assert_reads(&node).await;
        assert_refuses_orders(&node).await;
    }
    assert!(node.has_logged("the server is read-only"));
    take_writes(&database, true).await;
    ends_having_completed(node, &database, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reconnected_to_a_read_only_server_serves_reads() {
    if !has_postgres() {
        return;
    }
    let database = database_with_an_order().await;
    let folder = tempfile::tempdir().unwrap();
    let node = idle_node(folder.path(), &database).await;
    take_writes(&database, false).await;
    for _ in 0..3 {
        Server::shared().await.terminate_backends(&database).await;
        until("the node is not ready", async || {
            status_of(&node, "/readyz").await == StatusCode::SERVICE_UNAVAILABLE
        })
        .await;
        assert_reads(&node).await;
        assert_refuses_orders(&node).await;
    }
    take_writes(&database, true).await;
    ends_having_completed(node, &database, 2).await;
}

/// Open connections for reads must not keep a node from noticing that the server takes writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_only_reads_notices_when_writes_work_again() {
    if !has_postgres() {
        return;
    }
    let database = database_with_an_order().await;
    let folder = tempfile::tempdir().unwrap();
    let node = idle_node(folder.path(), &database).await;
    for _ in 0..3 {
        take_writes(&database, false).await;
        Server::shared().await.terminate_backends(&database).await;
        until("the node is not ready", async || {
            status_of(&node, "/readyz").await == StatusCode::SERVICE_UNAVAILABLE
        })
        .await;
        take_writes(&database, true).await;
        until("the node is ready while it is read", async || {
            assert_eq!(status_of(&node, "/orders").await, StatusCode::OK);
            status_of(&node, "/readyz").await == StatusCode::OK
        })
        .await;
    }
    ends_having_completed(node, &database, 2).await;
}

/// Issue 13, point 20.
#[tokio::test(flavor = "multi_thread")]
async fn verify_and_doctor_read_a_read_only_database() {
    if !has_postgres() {
        return;
    }
    let database = database_with_an_order().await;
    take_writes(&database, false).await;
    let folder = tempfile::tempdir().unwrap();
    let run = async |arguments: &[&str]| {
        let mut command = node(folder.path(), &database.url());
        let output = command.args(arguments).output().await.unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), said)
    };
    let (exit, said) = run(&["verify"]).await;
    assert_eq!(exit, Some(0), "{said}");
    assert!(said.contains("1 orders"), "{said}");
    let (exit, said) = run(&["migrate", "--dry-run"]).await;
    assert_eq!(exit, Some(0), "{said}");
    let (_, said) = run(&["doctor"]).await;
    assert!(said.contains(": 1 orders"), "{said}");
    assert!(said.contains("the server is read-only"), "{said}");
}
