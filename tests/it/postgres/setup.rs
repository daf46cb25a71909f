//! Helpers shared by these tests: stores on databases of their own, nodes that run the real program, and jumps in time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orderly::config::{Database, PostgresDatabase, PostgresUrl};
use orderly::metrics::Metrics;
use orderly::store::clock::system_clock;
use orderly::store::open::{OpenOptions, open};
use orderly::store::{Accepted, Store, StoreError};
use orderly::verify;
use reqwest::StatusCode;
use serde_json::Value;
use tokio::process::Command;
use tokio_postgres::Client;

use crate::support::client::http;
use crate::support::make::{key, order_with_reference};
use crate::support::postgres::{self, Server, TestDatabase};
use crate::support::process::{Process, orderly};
use crate::support::proxy::Proxy;
use crate::support::{required, until};

/// Time limit for a notification to arrive. It takes far less once a node has proved that it receives notifications.
pub const NOTIFIED_WITHIN: Duration = Duration::from_secs(30);

pub fn has_postgres() -> bool {
    required("a private PostgreSQL", postgres::is_installed())
}

pub fn has_pgbouncer() -> bool {
    required("a private PgBouncer", postgres::is_installed_with_pgbouncer())
}

/// A store on a database of its own, with a proxy between the store and the server.
pub struct Setup {
    pub store: Arc<dyn Store>,
    pub proxy: Proxy,
    pub database: TestDatabase,
    pub admin: Client,
}

impl Setup {
    /// Opens a store on the shared server; `None` if PostgreSQL is not installed.
    pub async fn new() -> Option<Setup> {
        if !has_postgres() {
            return None;
        }
        let server = Server::shared().await;
        let database = server.create_database().await;
        let proxy = Proxy::before(server.address()).await;
        Some(Setup {
            store: store_at(&through(&proxy, &database)).await,
            admin: database.admin().await,
            proxy,
            database,
        })
    }

    /// Runs a statement on the database that returns one number.
    pub async fn number(&self, statement: &str) -> i64 {
        number(&self.admin, statement).await
    }

    /// Number of statements sent so far. Checks of a connection, and messages that begin or end a transaction, do not count.
    pub fn queries(&self) -> usize {
        let is_around = |sql: &str| {
            let begins = sql.starts_with("begin isolation level read committed; set local statement_timeout");
            sql == "commit" || begins && !sql.contains("commit;") && !sql.ends_with("commit")
        };
        let flights = self.proxy.flights();
        let queries = flights.iter().filter(|sql| !sql.is_empty() && !is_around(sql));
        queries.count()
    }

    /// Ends the test: asserts that the store is sound, and closes it.
    pub async fn end(self) {
        assert_sound(&*self.store).await;
        self.store.close().await;
    }
}

pub fn through(proxy: &Proxy, database: &TestDatabase) -> String {
    database.url_at("127.0.0.1", proxy.address().port())
}

pub async fn number(client: &Client, statement: &str) -> i64 {
    client.query_one(statement, &[]).await.unwrap().get(0)
}

/// The configuration of a database with this URL only.
pub fn database_at(url: &str) -> Database {
    let (url, warnings) = PostgresUrl::parse(url).expect("a URL of the tests' own");
    assert!(warnings.is_empty(), "{warnings:?}");
    Database::Postgres(Box::new(PostgresDatabase::at(url)))
}

pub async fn store_at(url: &str) -> Arc<dyn Store> {
    store_that_counts(url, &Metrics::new()).await
}

pub async fn store_that_counts(url: &str, metrics: &Metrics) -> Arc<dyn Store> {
    let options = OpenOptions {
        peers: None,
        migrate: true,
        pending_max: None,
        metrics: metrics.clone(),
        clock: system_clock(),
        ordering: None,
    };
    open(&database_at(url), options).await.expect("the store opens")
}

pub async fn assert_sound(store: &dyn Store) {
    let mut snapshot = store.snapshot().await.unwrap();
    let report = verify::verify(&mut *snapshot).await.unwrap();
    assert!(report.is_sound(), "{report}");
}

/// Accepts one order with `name` as its key and reference.
pub async fn accept_keyed(store: &dyn Store, name: &str) -> Result<Accepted, StoreError> {
    store
        .accept([order_with_reference(name)].into(), Some(key(name, 1)))
        .await
}

/// Advances the virtual time of this test. Affects only timers; work in the database and on sockets takes real time.
///
/// Works only on a single-threaded runtime. Calls under way may run into their time limits.
pub async fn jump(span: Duration) {
    tokio::time::pause();
    tokio::time::advance(span).await;
    tokio::time::resume();
}

/// A command that runs `orderly` on a database, with fast orders and its files in `folder`.
pub fn node(folder: &Path, url: &str) -> Command {
    let mut command = orderly(folder);
    command.env("DATABASE_URL", url).envs([
        ("ORDERLY_SIMULATED_SPEED", "0"),
        ("ORDERLY_LEASE", "5s"),
        ("ORDERLY_RETRY_BASE", "20ms"),
    ]);
    command
}

pub async fn status_of(node: &Process, path: &str) -> StatusCode {
    let answer = http().get(format!("{}{path}", node.url)).send().await;
    answer.expect("the node answers").status()
}

pub async fn until_ready(node: &Process) {
    until("the node is ready", async || {
        status_of(node, "/readyz").await == StatusCode::OK
    })
    .await;
}

/// The log of a node that has ended, one value per line.
pub fn log_in(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("logs/app.log")).expect("a node has a log");
    let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
    text.lines().map(line).collect()
}

/// Messages of the log's warnings that contain the text.
pub fn warnings_with(folder: &Path, text: &str) -> Vec<String> {
    let is_warning = |line: &&Value| line["level"] == "WARN";
    let message = |line: &Value| line["message"].as_str().expect("a line has a message").to_owned();
    log_in(folder)
        .iter()
        .filter(is_warning)
        .map(message)
        .filter(|message| message.contains(text))
        .collect()
}
