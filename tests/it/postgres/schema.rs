//! Migrations: nodes that start together create the schema once, a migration delays no other work, and an unknown schema is left
//! unchanged.

use futures_util::future::join_all;
use orderly::metrics::Metrics;
use orderly::store::clock::system_clock;
use orderly::store::open::{self, OpenError, OpenOptions};
use tokio::sync::mpsc;
use tokio_postgres::Client;

use super::locked_claims::{accept, claim};
use super::setup::{assert_sound, database_at, has_postgres, number, store_at, through};
use crate::support::gate::Gate;
use crate::support::postgres::{Options, Server};
use crate::support::proxy::{Action, Proxy};
use crate::support::until;

/// Number of the schema's steps in this binary.
const STEPS: i64 = 1;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_start_together_create_the_schema_once() {
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

/// Creates a table for a step to change. Today's steps only create tables, so `altering` makes the first of them change this one.
async fn make_kept_table(admin: &Client) {
    let make = "create schema orderly; create table orderly.kept (id integer);
        insert into orderly.kept values (1)";
    admin.batch_execute(make).await.unwrap();
}

fn altering() -> Action {
    Action::Rewrite {
        from: "create table orderly.orders (".to_owned(),
        to: "alter table orderly.kept add column more integer; create table orderly.orders (".to_owned(),
    }
}

/// A migration waits for a table that it changes, without blocking other sessions that use the table.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_waits_for_a_reader_does_not_delay_claims() {
    if !has_postgres() {
        return;
    }
    // A server of its own, because a transaction that waits for a table delays the cleanup of other tests.
    let server = Server::start(Options::default()).await;
    let database = server.create_database().await;
    let admin = database.admin().await;
    make_kept_table(&admin).await;
    let proxy = Proxy::before(server.address()).await;
    proxy.on_flight(|_| altering());
    let reader = database.admin().await;
    let read = "begin; select id from orderly.kept";
    reader.batch_execute(read).await.unwrap();
    let claiming = database.admin().await;
    let url = through(&proxy, &database);
    let migration = tokio::spawn(async move { open::migrate(&database_at(&url), false).await });
    for _ in 0..2 {
        until("the migration waits for the table", async || {
            let waits = "select count(*) from pg_locks
                where relation = 'orderly.kept'::regclass and mode = 'AccessExclusiveLock' and not granted";
            number(&admin, waits).await == 1
        })
        .await;
        // A claim has its usual time limits.
        let claim = "begin; set local statement_timeout = 5000; set local lock_timeout = 5000;
            select 1 from orderly.kept; commit";
        let claimed = claiming.batch_execute(claim).await;
        assert!(claimed.is_ok(), "{claimed:?}");
        assert!(!migration.is_finished());
    }
    reader.batch_execute("commit").await.unwrap();
    let before = migration.await.unwrap().unwrap();
    assert!(before.iter().all(|step| !step.applied), "{before:?}");
    assert_eq!(number(&admin, "select count(more) from orderly.kept").await, 0);
    assert_eq!(
        number(&admin, "select count(*) from orderly.migrations").await,
        STEPS
    );
}

/// A node that freezes before any message of its migration, as by SIGSTOP, holds no lock: other nodes start orders, and a new
/// node applies the migration.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_frozen_during_a_migration_delays_no_other_node() {
    if !has_postgres() {
        return;
    }
    let server = Server::shared().await;
    let database = server.create_database().await;
    let admin = database.admin().await;
    make_kept_table(&admin).await;
    let proxy = Proxy::before(server.address()).await;
    let (freezes, mut frozen) = mpsc::unbounded_channel();
    proxy.on_flight(move |flight| {
        let gate = Gate::closed();
        // Fails only after the end of the test.
        let _ = freezes.send((flight.sql(), gate.clone()));
        Action::KeepBack {
            gate,
            then: Box::new(altering()),
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
            update orderly.kept set id = id; commit";
        let claimed = admin.batch_execute(claim).await;
        assert!(claimed.is_ok(), "{claimed:?} before {message}");
        messages.push(message);
        gate.open();
    };
    migrated.unwrap().unwrap();
    let changing = messages
        .iter()
        .filter(|sql| sql.contains("create table orderly.orders"));
    // Each step is one message.
    assert_eq!(changing.count(), 1, "{messages:?}");
    assert_eq!(number(&admin, "select count(more) from orderly.kept").await, 0);
    assert_eq!(
        number(&admin, "select count(*) from orderly.migrations").await,
        STEPS
    );
}

/// A frozen node that another one overtakes finds the steps applied.
#[tokio::test(flavor = "multi_thread")]
async fn an_overtaken_migration_finds_its_steps_applied() {
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
async fn a_newer_or_different_schema_is_refused() {
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
        matches!(changed, Err(OpenError::SchemaDiffers { number: 1, .. })),
        "{changed:?}"
    );
}

/// Renames the store's functions as if another build had created them.
pub async fn rename_functions(admin: &Client) {
    let rename = r"do $$ declare function record; begin
        for function in select oid::regprocedure as signature, regexp_replace(proname, '_[0-9a-f]{12}$', '_000000000000') as name
            from pg_proc where pronamespace = 'orderly'::regnamespace and proname ~ '_[0-9a-f]{12}$'
        loop execute format('alter function %s rename to %I', function.signature, function.name); end loop;
    end $$";
    admin.batch_execute(rename).await.unwrap();
}

const OF_ANOTHER_BUILD: &str = "select count(*) from pg_proc
    where pronamespace = 'orderly'::regnamespace and proname like '%\\_000000000000'";

#[tokio::test(flavor = "multi_thread")]
async fn the_functions_of_two_builds_coexist_in_a_store() {
    if !has_postgres() {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let url = database.url();
    store_at(&url).await.close().await;
    let admin = database.admin().await;
    rename_functions(&admin).await;
    let others = number(&admin, OF_ANOTHER_BUILD).await;
    assert!(others > 5, "{others}");

    let options = OpenOptions {
        peers: None,
        migrate: false,
        pending_max: None,
        metrics: Metrics::new(),
        clock: system_clock(),
        ordering: None,
    };
    let refused = open::open(&database_at(&url), options).await.map(drop);
    assert!(
        matches!(refused, Err(OpenError::FunctionsMissing { .. })),
        "{refused:?}"
    );

    let store = store_at(&url).await;
    let ids = accept(&*store, 2).await;
    assert_eq!(claim(&*store, 2).await, ids);
    assert_sound(&*store).await;
    store.close().await;
    assert_eq!(number(&admin, OF_ANOTHER_BUILD).await, others);
}
