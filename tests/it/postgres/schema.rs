//! The schema is made once, however many nodes start at the same time, and one that this binary does not know is left
//! alone.

use futures_util::future::join_all;
use orderly::store::open::{self, OpenError};
use tokio::sync::mpsc;
use tokio_postgres::Client;

use super::scene::{database_at, has_postgres, number, store_at, through};
use crate::support::gate::Gate;
use crate::support::postgres::{Options, Server};
use crate::support::proxy::{Action, Proxy};
use crate::support::until;

/// Of the schema, as the program knows it.
const STEPS: i64 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_start_together_make_the_schema_once() {
    if !has_postgres() {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let url = database.url();
    let stores = join_all((0..4).map(|_| store_at(&url))).await;
    for store in stores {
        store.counters().await.unwrap();
        store.close().await;
    }
    let steps = "select count(*) from orderly.migrations";
    let applied: i64 = database.admin().await.query_one(steps, &[]).await.unwrap().get(0);
    assert_eq!(applied, STEPS);
}

/// The first step alone, as a version before left it.
async fn make_first_step(admin: &Client) {
    let make = "create schema orderly; create table orderly.migrations (
        number integer primary key, name text not null, checksum text not null)";
    admin.batch_execute(make).await.unwrap();
    let first = include_str!("../../../migrations/postgres/0001_initial.sql");
    admin.batch_execute(first).await.unwrap();
    let remember = "insert into orderly.migrations
        values (1, 'initial', encode(sha256(convert_to($1, 'UTF8')), 'hex'))";
    admin.execute(remember, &[&first]).await.unwrap();
}

/// A table that is to be changed is waited for without keeping those who work waiting behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_waits_for_a_reader_keeps_no_claims_waiting() {
    if !has_postgres() {
        return;
    }
    // Its own: a transaction that waits to change a table keeps what others left behind from being cleaned up.
    let server = Server::start(Options::default()).await;
    let database = server.create_database().await;
    let admin = database.admin().await;
    make_first_step(&admin).await;
    let reader = database.admin().await;
    let read = "begin; select id from orderly.queue";
    reader.batch_execute(read).await.unwrap();
    let claiming = database.admin().await;
    let migration = tokio::spawn(async move { open::migrate(&database_at(&database.url()), false).await });
    for _ in 0..2 {
        until("the migration waits for the table", async || {
            let waits = "select count(*) from pg_locks
                where relation = 'orderly.queue'::regclass and mode = 'AccessExclusiveLock' and not granted";
            number(&admin, waits).await == 1
        })
        .await;
        // With the limits of a claim.
        let claim = "begin; set local statement_timeout = 5000; set local lock_timeout = 5000;
            select 1 from orderly.queue where not paused; commit";
        let claimed = claiming.batch_execute(claim).await;
        assert!(claimed.is_ok(), "{claimed:?}");
        assert!(!migration.is_finished());
    }
    reader.batch_execute("commit").await.unwrap();
    let before = migration.await.unwrap().unwrap();
    let applied: Vec<bool> = before.iter().map(|step| step.applied).collect();
    assert_eq!(applied, [true, false, false, false, false]);
    assert_eq!(
        number(&admin, "select count(*) from orderly.migrations").await,
        STEPS
    );
}

/// Frozen before any of its messages, as by a signal, a node that migrates holds nothing: the others start orders, and one
/// that comes to migrate does so in its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_freezes_while_it_migrates_holds_up_nobody() {
    if !has_postgres() {
        return;
    }
    let server = Server::shared().await;
    let database = server.create_database().await;
    let admin = database.admin().await;
    make_first_step(&admin).await;
    let proxy = Proxy::before(server.address()).await;
    let (freezes, mut frozen) = mpsc::unbounded_channel();
    proxy.on_flight(move |flight| {
        let gate = Gate::closed();
        // Nobody listens at the end of the test.
        let _ = freezes.send((flight.sql(), gate.clone()));
        Action::KeepBack {
            gate,
            then: Box::new(Action::Forward),
        }
    });
    let url = through(&proxy, &database);
    let mut migration = tokio::spawn(async move { open::migrate(&database_at(&url), false).await });
    let mut messages = Vec::new();
    let migrated = loop {
        let (message, gate) = tokio::select! {
            kept_back = frozen.recv() => kept_back.expect("the hook lives as long as the proxy"),
            migrated = &mut migration => break migrated,
        };
        let claim = "begin; set local lock_timeout = '2s'; select pg_advisory_xact_lock(7239846511032001);
            update orderly.queue set paused = paused; commit";
        let claimed = admin.batch_execute(claim).await;
        assert!(claimed.is_ok(), "{claimed:?} before {message}");
        messages.push(message);
        gate.open();
    };
    migrated.unwrap().unwrap();
    let altering = messages
        .iter()
        .filter(|sql| sql.contains("alter table orderly.queue"));
    // One message for each of the steps that do.
    assert_eq!(altering.count(), 2, "{messages:?}");
    assert_eq!(
        number(&admin, "select count(*) from orderly.migrations").await,
        STEPS
    );
}

/// The node that freezes is overtaken by one that does its work, and finds that done.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_another_node_overtakes_finds_its_steps_done() {
    if !has_postgres() {
        return;
    }
    let server = Server::shared().await;
    let database = server.create_database().await;
    let proxy = Proxy::before(server.address()).await;
    let gate = Gate::closed();
    let frozen = gate.clone();
    proxy.on_flight(move |flight| {
        if !flight.sql().contains("create table orderly.orders") {
            return Action::Forward;
        }
        Action::KeepBack {
            gate: frozen.clone(),
            then: Box::new(Action::Forward),
        }
    });
    let url = through(&proxy, &database);
    let slow = tokio::spawn(async move { open::migrate(&database_at(&url), false).await });
    gate.arrival().await;
    open::migrate(&database_at(&database.url()), false).await.unwrap();
    gate.open();
    slow.await.unwrap().unwrap();
    let admin = database.admin().await;
    assert_eq!(
        number(&admin, "select count(*) from orderly.migrations").await,
        STEPS
    );
}

#[tokio::test]
async fn a_newer_or_changed_schema_is_refused() {
    if !has_postgres() {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let url = database.url();
    store_at(&url).await.close().await;
    let admin = database.admin().await;

    admin
        .batch_execute("insert into orderly.migrations values (99, 'later', 'x')")
        .await
        .unwrap();
    let newer = open::migrate(&database_at(&url), false).await;
    assert!(
        matches!(newer, Err(OpenError::SchemaNewer { found: 99, .. })),
        "{newer:?}"
    );

    let changed =
        "delete from orderly.migrations where number = 99; update orderly.migrations set checksum = 'x'";
    admin.batch_execute(changed).await.unwrap();
    let changed = open::migrate(&database_at(&url), false).await;
    assert!(
        matches!(changed, Err(OpenError::MigrationChanged { number: 1, .. })),
        "{changed:?}"
    );
}
