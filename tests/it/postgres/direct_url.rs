//! The direct URL: notifications bypass the pooler, which does not deliver them.

use orderly::config::{Database, PostgresDatabase, PostgresUrl};
use orderly::metrics::Metrics;
use orderly::store::clock::system_clock;
use orderly::store::open::{OpenOptions, migrate, open};

use super::setup::{
    NOTIFIED_WITHIN, accept_keyed, database_at, has_pgbouncer, has_postgres, node, store_at, until_ready,
    warnings_with,
};
use crate::support::make::{NODE_A, NODE_B, heartbeat};
use crate::support::postgres::Server;
use crate::support::process::Process;
use crate::support::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_a_pooler_is_woken_through_the_direct_url() {
    if !has_pgbouncer() {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let speaking = store_at(&database.url()).await;
    let parse = |url: &str| PostgresUrl::parse(url).expect("a URL of the tests' own").0;
    let two_ways = PostgresDatabase {
        url: parse(&database.bouncer_url().await),
        direct: Some(parse(&database.url())),
        read: None,
    };
    let options = OpenOptions {
        peers: None,
        migrate: true,
        pending_max: None,
        metrics: Metrics::new(),
        clock: system_clock(),
        ordering: None,
    };
    let hearing = open(&Database::Postgres(Box::new(two_ways)), options)
        .await
        .unwrap();
    hearing.renew(heartbeat(NODE_A, &[])).await.unwrap();
    speaking.renew(heartbeat(NODE_B, &[])).await.unwrap();

    let woken = async {
        let wakeups = hearing.wakeups();
        for number in 0.. {
            let name = number.to_string();
            tokio::select! {
                biased;
                () = wakeups.work() => return,
                accepted = accept_keyed(&*speaking, &name) => drop(accepted.unwrap()),
            }
        }
    };
    tokio::time::timeout(NOTIFIED_WITHIN, woken)
        .await
        .expect("it is notified of an order in time");
    hearing.close().await;
    speaking.close().await;
}

/// Issue 15, finding F9: nothing was logged.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_direct_url_is_warned_about_once() {
    if !has_postgres() {
        return;
    }
    let database = Server::shared().await.create_database().await;
    migrate(&database_at(&database.url()), false).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut command = node(folder.path(), &database.url());
    command.env("DATABASE_DIRECT_URL", database.url_at("127.0.0.1", 1));
    command.env("RUST_LOG", "info,orderly::store::postgres::notify=debug");
    let node = Process::start(command).await;
    until_ready(&node).await;
    until("the node has tried more than once", async || {
        node.times_logged("cannot listen for other nodes' notifications") > 1
    })
    .await;
    assert_eq!(node.terminate().await, Some(0));
    let warnings = warnings_with(
        folder.path(),
        "DATABASE_DIRECT_URL leads to no server to listen on",
    );
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}
