//! Settings under which a 201 is worth less than promised are told, wherever they come from: by the store, by
//! `/readyz?verbose`, by `orderly doctor` and once in the log. A server that takes no writes is waited for.

use orderly::store::{Store, StoreError, StoreHealth};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::scene::{
    accept_keyed, has_pgbouncer, has_postgres, node, number, status_of, store_at, until_ready, warnings_with,
};
use crate::support::client::{Answer, Request, http, post};
use crate::support::make::{NODE_A, heartbeat};
use crate::support::postgres::{Options, PgBouncer, Server, TestDatabase};
use crate::support::process::Process;
use crate::support::until;

/// What the one warning says, whatever the setting.
const WARNING: &str = "orders may be lost in a crash of the database";

/// One that survives a crash of the machine, as far as its settings go.
async fn durable_server() -> Server {
    Server::start(Options::default().setting("fsync", "on")).await
}

/// The store, a node and `doctor` on the URL tell of exactly these settings.
async fn assert_told(url: &str, settings: &[&str]) {
    let store = store_at(url).await;
    assert_eq!(store.health(), StoreHealth::Ready);
    assert_names(&store.weaknesses(), settings);
    store.close().await;

    let folder = tempfile::tempdir().unwrap();
    let command = node(folder.path(), url);
    let node = Process::start(command).await;
    until_ready(&node).await;
    // More connections than one, so that more could warn than one.
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
    let told = check_named(&verbose.json().await.unwrap(), "durability");
    assert_eq!(told["ok"], settings.is_empty(), "{told}");
    assert_eq!(told["reason"].is_string(), !settings.is_empty(), "{told}");
    assert_eq!(node.terminate().await, Some(0));
    assert_names(&warnings_with(folder.path(), WARNING), settings);

    let mut doctor = super::scene::node(folder.path(), url);
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

/// One for each, and no more.
fn assert_names(told: &[String], settings: &[&str]) {
    assert_eq!(told.len(), settings.len(), "{told:?}");
    for setting in settings {
        let naming = told.iter().filter(|text| text.contains(setting)).count();
        assert_eq!(naming, 1, "{setting} in {told:?}");
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
async fn a_commit_that_does_not_wait_is_told_whoever_set_it() {
    if !has_postgres() {
        return;
    }
    let server = durable_server().await;
    let sound = server.create_database().await;
    assert_told(&sound.url(), &[]).await;

    let by_role = server.create_database().await;
    alter(
        &by_role,
        "create role hasty superuser login; alter role hasty set synchronous_commit = off",
    )
    .await;
    let url = by_role.url().replace("postgres://postgres@", "postgres://hasty@");
    assert_told(&url, &["synchronous_commit"]).await;

    let by_database = server.create_database().await;
    let name = by_database.name();
    alter(
        &by_database,
        &format!("alter database {name} set synchronous_commit = off"),
    )
    .await;
    assert_told(&by_database.url(), &["synchronous_commit"]).await;

    let by_url = server.create_database().await;
    let url = format!("{}?options=-c%20synchronous_commit%3Doff", by_url.url());
    assert_told(&url, &["synchronous_commit"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_does_not_wait_is_told_through_a_pooler() {
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
    assert_told(&url, &["synchronous_commit"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_sync_is_told() {
    if !has_postgres() {
        return;
    }
    let server = durable_server().await;
    let database = server.create_database().await;
    let admin = database.admin().await;
    for (settings, told) in [
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
        assert_told(&database.url(), told).await;
        admin.batch_execute("drop schema orderly cascade").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_is_waited_for_and_nothing_is_stored() {
    if !has_postgres() {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let name = database.name().to_owned();
    let read_only = async |on: bool| {
        let statement = format!("alter database {name} set default_transaction_read_only = {on}");
        // The session itself may be one of those that are read-only.
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

/// Sessions that were open before go on reading, which is no sign that the server writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_can_only_read_is_not_ready_until_an_order_can_be_stored() {
    if !has_postgres() {
        return;
    }
    // Its own: the setting is one of the whole server.
    let server = Server::start(Options::default()).await;
    let database = server.create_database().await;
    let admin = database.admin().await;
    // The test's own session goes on as it is.
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
    until("the sessions that write are told", async || {
        // Now and then, so that the session that reads is not looked at as one that was long without use.
        store.order_view(id).await.unwrap();
        let beaten = store.renew(heartbeat(NODE_A, &[])).await;
        let accepted = accept_keyed(&*store, "meanwhile").await;
        matches!(beaten, Err(StoreError::Unavailable { .. }))
            && matches!(accepted, Err(StoreError::Unavailable { .. }))
    })
    .await;
    assert!(store.order_view(id).await.unwrap().is_some(), "reading goes on");
    let ready = store.health() == StoreHealth::Ready;
    assert!(!ready, "what was read shows nothing");

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
