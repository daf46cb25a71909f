//! Settings that weaken the promise of a 201 are reported by the store, by `/readyz?verbose`, by `orderly doctor` and once in the
//! log, wherever they are set. A node waits for a read-only server.

use orderly::store::{Store, StoreError, StoreHealth};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::setup::{
    accept_keyed, has_pgbouncer, has_postgres, node, number, status_of, store_at, until_ready, warnings_with,
};
use crate::support::client::{Answer, Request, http, post};
use crate::support::make::{NODE_A, heartbeat};
use crate::support::postgres::{Options, PgBouncer, Server, TestDatabase};
use crate::support::process::Process;
use crate::support::until;

/// Part of the warning, the same for every setting.
const WARNING: &str = "orders may be lost in a crash of the database";

/// A server whose settings survive a crash of the machine.
async fn durable_server() -> Server {
    Server::start(Options::default().setting("fsync", "on")).await
}

/// Asserts that the store, a node and `doctor` report exactly these settings.
async fn assert_reported(url: &str, settings: &[&str]) {
    let store = store_at(url).await;
    assert_eq!(store.health(), StoreHealth::Ready);
    assert_names(&store.weaknesses(), settings);
    store.close().await;

    let folder = tempfile::tempdir().unwrap();
    let command = node(folder.path(), url);
    let node = Process::start(command).await;
    until_ready(&node).await;
    // Several connections, each of which could log the warning.
    let request = Request {
        key: "durable".to_owned(),
        user_id: 1,
        cents: 1,
    };
    let posted = post(&http(), &node.url, &request).await;
    assert!(matches!(posted, Answer::Created(_)), "{posted:?}");
    let verbose = http().get(format!("{}/readyz?verbose", node.url)).send().await;
    let verbose = verbose.unwrap();
    assert_eq!(verbose.status(), StatusCode::OK);
    let check = check_named(&verbose.json().await.unwrap(), "durability");
    assert_eq!(check["ok"], settings.is_empty(), "{check}");
    assert_eq!(check["reason"].is_string(), !settings.is_empty(), "{check}");
    assert_eq!(node.terminate().await, Some(0));
    assert_names(&warnings_with(folder.path(), WARNING), settings);

    let mut doctor = super::setup::node(folder.path(), url);
    doctor.args(["doctor", "--json"]);
    let said = doctor.output().await.unwrap();
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    let judged = check_named(&said, "durability");
    let expected = if settings.is_empty() { "ok" } else { "fail" };
    assert_eq!(judged["state"], expected, "{judged}");
    for setting in settings {
        assert!(judged["finding"].as_str().unwrap().contains(setting), "{judged}");
    }
}

/// Asserts that each setting is named exactly once.
fn assert_names(reported: &[String], settings: &[&str]) {
    assert_eq!(reported.len(), settings.len(), "{reported:?}");
    for setting in settings {
        let naming = reported.iter().filter(|text| text.contains(setting)).count();
        assert_eq!(naming, 1, "{setting} in {reported:?}");
    }
}

fn check_named(answer: &Value, name: &str) -> Value {
    let checks = answer["checks"].as_array().expect("checks are listed");
    let check = checks.iter().find(|check| check["name"] == name);
    check.unwrap_or_else(|| panic!("no {name} in {answer}")).clone()
}

async fn alter(database: &TestDatabase, statement: &str) {
    database.admin().await.batch_execute(statement).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn asynchronous_commit_is_reported_wherever_it_is_set() {
    if !has_postgres() {
        return;
    }
    let server = durable_server().await;
    let sound = server.create_database().await;
    assert_reported(&sound.url(), &[]).await;

    let by_role = server.create_database().await;
    alter(
        &by_role,
        "create role hasty superuser login; alter role hasty set synchronous_commit = off",
    )
    .await;
    let url = by_role.url().replace("postgres://postgres@", "postgres://hasty@");
    assert_reported(&url, &["synchronous_commit"]).await;

    let by_database = server.create_database().await;
    let name = by_database.name();
    alter(
        &by_database,
        &format!("alter database {name} set synchronous_commit = off"),
    )
    .await;
    assert_reported(&by_database.url(), &["synchronous_commit"]).await;

    let by_url = server.create_database().await;
    let url = format!("{}?options=-c%20synchronous_commit%3Doff", by_url.url());
    assert_reported(&url, &["synchronous_commit"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asynchronous_commit_is_reported_through_a_pooler() {
    if !has_pgbouncer() {
        return;
    }
    let server = durable_server().await;
    let bouncer = PgBouncer::start(&server, 5).await;
    let database = server.create_database().await;
    let url = database.url_at("127.0.0.1", bouncer.address().port());
    let name = database.name();
    alter(
        &database,
        &format!("alter database {name} set synchronous_commit = off"),
    )
    .await;
    assert_reported(&url, &["synchronous_commit"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_fsync_is_reported() {
    if !has_postgres() {
        return;
    }
    let server = durable_server().await;
    let database = server.create_database().await;
    let admin = database.admin().await;
    for (settings, expected) in [
        (["fsync = off", "full_page_writes = on"], &["fsync"][..]),
        (["fsync = on", "full_page_writes = off"], &["full_page_writes"]),
        (
            ["fsync = off", "full_page_writes = off"],
            &["fsync", "full_page_writes"],
        ),
    ] {
        for setting in settings {
            admin
                .batch_execute(&format!("alter system set {setting}"))
                .await
                .unwrap();
        }
        admin.batch_execute("select pg_reload_conf()").await.unwrap();
        let pending = "select count(*) from pg_file_settings f join pg_settings s using (name)
            where name in ('fsync', 'full_page_writes') and f.applied and f.setting <> s.setting";
        until("the settings are in force", async || {
            number(&admin, pending).await == 0
        })
        .await;
        assert_reported(&database.url(), expected).await;
        admin.batch_execute("drop schema orderly cascade").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_waits_for_a_read_only_database_and_stores_nothing() {
    if !has_postgres() {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let name = database.name().to_owned();
    let read_only = async |on: bool| {
        let statement = format!("alter database {name} set default_transaction_read_only = {on}");
        // The session of this test may itself be read-only.
        alter(&database, &format!("set transaction read write; {statement}")).await;
    };
    read_only(true).await;
    let store = store_at(&database.url()).await;
    assert!(matches!(store.health(), StoreHealth::NotReady(_)));
    assert_refused(&*store).await;
    store.close().await;

    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &database.url())).await;
    assert_eq!(status_of(&node, "/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(status_of(&node, "/livez").await, StatusCode::OK);
    let request = Request {
        key: "later".to_owned(),
        user_id: 1,
        cents: 1,
    };
    let refused = post(&http(), &node.url, &request).await;
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    assert!(
        matches!(refused, Answer::Refused(status) if status == unavailable),
        "{refused:?}"
    );
    let admin = database.admin().await;
    let schemas = "select count(*) from pg_namespace where nspname = 'orderly'";
    assert_eq!(number(&admin, schemas).await, 0);

    read_only(false).await;
    until_ready(&node).await;
    let Answer::Created(order) = post(&http(), &node.url, &request).await else {
        panic!("a ready node takes orders")
    };
    assert_eq!(order["reference"], json!("later"));
    assert_eq!(number(&admin, "select count(*) from orderly.orders").await, 1);
    assert_eq!(node.terminate().await, Some(0));
}

/// Sessions opened before continue to read, which does not prove that the server takes writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_store_is_not_ready_until_an_order_can_be_stored() {
    if !has_postgres() {
        return;
    }
    // A server of its own, because the setting affects the whole server.
    let server = Server::start(Options::default()).await;
    let database = server.create_database().await;
    let admin = database.admin().await;
    // The session of this test keeps its setting.
    admin
        .batch_execute("set default_transaction_read_only = off")
        .await
        .unwrap();
    let store = store_at(&database.url()).await;
    let id = accept_keyed(&*store, "before").await.unwrap().order_ids[0];
    store.renew(heartbeat(NODE_A, &[])).await.unwrap();
    store.order_view(id).await.unwrap();
    assert_eq!(store.health(), StoreHealth::Ready);

    let set = async |value: &str| {
        let set = format!("alter system set default_transaction_read_only = {value}");
        admin.batch_execute(&set).await.unwrap();
        admin.batch_execute("select pg_reload_conf()").await.unwrap();
    };
    set("on").await;
    until("the writing sessions notice it", async || {
        // Reads from time to time, so that the session does not count as idle.
        store.order_view(id).await.unwrap();
        let renewed = store.renew(heartbeat(NODE_A, &[])).await;
        let accepted = accept_keyed(&*store, "meanwhile").await;
        matches!(renewed, Err(StoreError::Unavailable { .. }))
            && matches!(accepted, Err(StoreError::Unavailable { .. }))
    })
    .await;
    assert!(store.order_view(id).await.unwrap().is_some(), "reads still work");
    let ready = store.health() == StoreHealth::Ready;
    assert!(!ready, "a read does not prove that writes work");

    set("off").await;
    until("an order could be written", async || {
        store.health() == StoreHealth::Ready
    })
    .await;
    accept_keyed(&*store, "afterwards").await.unwrap();
    store.close().await;
}

async fn assert_refused(store: &dyn Store) {
    let refused = accept_keyed(store, "never").await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable { .. })),
        "{refused:?}"
    );
}
