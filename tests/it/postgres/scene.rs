//! What these tests share: stores on URLs of their own, nodes that run the real program, and time that jumps.

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

/// What a node does is heard by the others long before, once it has proved that it hears.
pub const HEARS_WITHIN: Duration = Duration::from_secs(30);

pub fn has_postgres() -> bool {
    required("a private PostgreSQL", postgres::is_installed())
}

pub fn has_pgbouncer() -> bool {
    required("a private PgBouncer", postgres::is_installed_with_pgbouncer())
}

/// A database of its own with the proxy before its server, and a store behind the proxy.
pub struct Scene {
    pub store: Arc<dyn Store>,
    pub proxy: Proxy,
    pub database: TestDatabase,
    pub admin: Client,
}

impl Scene {
    /// On the shared server; `None` where there is no PostgreSQL.
    pub async fn new() -> Option<Scene> {
        if !has_postgres() {
            return None;
        }
        let server = Server::shared().await;
        let database = server.create_database().await;
        let proxy = Proxy::before(server.address()).await;
        Some(Scene {
            store: store_at(&through(&proxy, &database)).await,
            admin: database.admin().await,
            proxy,
            database,
        })
    }

    /// The number that a statement on the database answers.
    pub async fn number(&self, statement: &str) -> i64 {
        number(&self.admin, statement).await
    }

    /// Statements that were sent so far; a message that only asks whether the connection lives is none, nor is one that
    /// begins or ends the transaction around a statement.
    pub fn queries(&self) -> usize {
        let is_around = |sql: &str| {
            let begins = sql.starts_with("begin isolation level read committed; set local statement_timeout");
            sql == "commit" || begins && !sql.contains("commit;") && !sql.ends_with("commit")
        };
        let flights = self.proxy.flights();
        let queries = flights.iter().filter(|sql| !sql.is_empty() && !is_around(sql));
        queries.count()
    }

    /// Ends the test: the store keeps its promises.
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

/// A configuration's database, its URL the only one.
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

/// One order under a key of that name, which it also carries as its reference.
pub async fn accept_keyed(store: &dyn Store, name: &str) -> Result<Accepted, StoreError> {
    store
        .accept([order_with_reference(name)].into(), Some(key(name, 1)))
        .await
}

/// Lets so much time pass for everything in this test at once. Only timers notice: what is under way in the database
/// or on a socket takes the time it takes.
///
/// On the runtime of one thread alone, and while nothing is under way that may not run into its time limit.
pub async fn jump(span: Duration) {
    tokio::time::pause();
    tokio::time::advance(span).await;
    tokio::time::resume();
}

/// `orderly` on a database, with quick orders and its files in `folder`.
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

/// What a node wrote to its log, once it has ended: one value a line.
pub fn log_in(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("logs/app.log")).expect("a node has a log");
    let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
    text.lines().map(line).collect()
}

/// The messages of a log's warnings that hold the text.
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
