//! Real servers sharing a private database: started, queried, frozen, killed and stopped one by one. Every process ends
//! with its handle.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use orderly::config::{Database, PostgresDatabase, PostgresUrl};
use orderly::lease::NodeId;
use orderly::order::OrderId;
use orderly::store::open::open_snapshot;
use orderly::store::snapshot::OrderRecord;
use orderly::time::Timestamp;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::client::http;
use crate::support::postgres::{self, Server, TestDatabase};
use crate::support::process::{Process, configure, run};
use crate::support::redis::{self, Redis, Way};
use crate::support::required;

/// The shortest possible lease, so that many are lost in a short test.
const LEASE_MS: u64 = 1_000;
pub const LEASE: Duration = Duration::from_millis(LEASE_MS);
/// Interval of heartbeats and sweeps while orders are open; see `worker/heartbeat.rs`.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(LEASE_MS / 3);
/// Speed of the simulated processor: orders with few items take 286 ms, those with many take longer than a lease.
const SPEED: &str = "7";
/// Orders per page of a snapshot.
const SNAPSHOT_PAGE_ORDERS: usize = 500;

/// A database and the settings of its servers.
pub struct Cluster {
    pub database: TestDatabase,
    settings: Settings,
    redis: Option<Redis>,
    folder: TempDir,
    started: AtomicUsize,
}

/// Environment variables specific to the servers of a test.
pub type Settings = &'static [(&'static str, &'static str)];

/// One server.
pub struct Node {
    pub id: NodeId,
    process: Process,
    http: reqwest::Client,
    /// Its own way to the cluster's Redis, which can be cut.
    pub way_to_redis: Option<Way>,
}

impl Cluster {
    /// Returns `None` without PostgreSQL.
    pub async fn new(settings: Settings) -> Option<Cluster> {
        if !required("a private PostgreSQL", postgres::is_installed()) {
            return None;
        }
        Cluster::on(settings, None).await
    }

    /// Makes a cluster with a Redis of its own. Returns `None` without either.
    pub async fn with_redis(settings: Settings) -> Option<Cluster> {
        if !required("a private Redis", redis::is_installed()) {
            return None;
        }
        Cluster::with(settings, Redis::start().await).await
    }

    pub async fn with(settings: Settings, redis: Redis) -> Option<Cluster> {
        if !required("a private PostgreSQL", postgres::is_installed()) {
            return None;
        }
        Cluster::on(settings, Some(redis)).await
    }

    async fn on(settings: Settings, redis: Option<Redis>) -> Option<Cluster> {
        Some(Cluster {
            database: Server::shared().await.create_database().await,
            settings,
            redis,
            folder: tempfile::tempdir().expect("a temporary folder"),
            started: AtomicUsize::new(0),
        })
    }

    pub fn redis(&self) -> &Redis {
        self.redis.as_ref().expect("the cluster has a Redis")
    }

    /// The name of a key in its Redis.
    pub fn redis_key(name: &str) -> String {
        format!("{{orderly}}:{name}")
    }

    pub async fn start(&self) -> Node {
        self.start_at(&self.database.url()).await
    }

    /// Starts a node with its own route to the database.
    pub async fn start_at(&self, database_url: &str) -> Node {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.path().join(number.to_string());
        std::fs::create_dir(&folder).expect("every server has its own folder");
        // A frozen process would not notice that the test process was killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_orderly")]);
        configure(&mut command, &folder);
        command.envs([
            ("DATABASE_URL", database_url),
            ("ORDERLY_LEASE", &format!("{LEASE_MS}ms")),
            ("ORDERLY_SIMULATED_SPEED", SPEED),
            // Servers are killed often here, and orders must not be poisoned by that.
            ("ORDERLY_MAX_CRASHES", "1000"),
            ("RUST_LOG", "info,orderly::worker=error"),
        ]);
        command.envs(self.settings.iter().copied());
        let way_to_redis = match &self.redis {
            Some(redis) => redis.way().await,
            None => None,
        };
        if let Some(redis) = &self.redis {
            let url = way_to_redis.as_ref().map_or_else(|| redis.url(), Way::url);
            command.env("REDIS_URL", url);
        }
        let process = Process::start(command).await;
        Node {
            id: process.node(),
            process,
            http: http(),
            way_to_redis,
        }
    }

    /// Every order with its events.
    pub async fn records(&self) -> Vec<OrderRecord> {
        let (url, _) = PostgresUrl::parse(&self.database.url()).expect("a URL of the tests' own");
        let database = Database::Postgres(Box::new(PostgresDatabase::at(url)));
        let mut snapshot = open_snapshot(&database).await.unwrap();
        let mut records: Vec<OrderRecord> = Vec::new();
        loop {
            let last = records.last().map(|record| record.order.order_id);
            let page = snapshot.orders_after(last, SNAPSHOT_PAGE_ORDERS).await.unwrap();
            if page.is_empty() {
                return records;
            }
            records.extend(page);
        }
    }

    /// Exit code and output of `orderly verify`.
    pub async fn verify(&self) -> (Option<i32>, String) {
        let url = self.database.url();
        run(self.folder.path(), &["verify", "--database-url", &url]).await
    }
}

/// The clock of the database, which runs on this machine.
pub fn now() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let micros = since_1970.expect("tests live after 1970").as_micros();
    Timestamp::from_micros(i64::try_from(micros).expect("tests end before the year 9999"))
}

/// Lifecycle.
impl Node {
    /// Sends SIGSTOP: the process stops between two instructions, and its connections stay open.
    pub async fn freeze(&self) {
        self.process.signal("STOP").await;
    }

    pub async fn thaw(&self) {
        self.process.signal("CONT").await;
    }

    pub async fn kill(self) {
        self.process.kill().await;
    }

    /// Sends SIGTERM and returns the exit code.
    pub async fn terminate(self) -> Option<i32> {
        self.process.terminate().await
    }

    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// Requests.
impl Node {
    pub fn url(&self) -> &str {
        &self.process.url
    }

    pub async fn get(&self, path: &str) -> Value {
        let response = self.http.get(format!("{}{path}", self.url())).send().await;
        let response = response.expect("a live node answers");
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.expect("answers are JSON")
    }

    /// Sends an action and returns its status and body.
    pub async fn act(&self, path: &str) -> (StatusCode, Value) {
        let response = self.http.post(format!("{}{path}", self.url())).send().await;
        let response = response.expect("a live node answers");
        let status = response.status();
        (status, response.json().await.expect("answers are JSON"))
    }

    /// Accepts a batch of orders with one item each.
    pub async fn accept(&self, count: usize) -> Vec<OrderId> {
        let order = json!({"user_id": 1, "item_ids": [7], "total_amount": 1});
        let response = self
            .http
            .post(format!("{}/orders/batch", self.url()))
            .json(&json!({"orders": vec![order; count]}))
            .send()
            .await
            .expect("a live node answers");
        assert_eq!(response.status(), StatusCode::CREATED);
        let answer: Value = response.json().await.expect("answers are JSON");
        let orders = answer["orders"].as_array().expect("the orders");
        orders.iter().map(order_id).collect()
    }

    pub async fn order(&self, id: OrderId) -> Value {
        self.get(&format!("/orders/{id}")).await
    }

    /// The value of one of the node's metrics.
    pub async fn number(&self, name: &str) -> u64 {
        let response = self
            .http
            .get(format!("{}/metrics/prometheus", self.url()))
            .send()
            .await;
        let text = response.expect("a live node answers").text().await;
        let text = text.expect("metrics are text");
        let sample = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let sample = sample.unwrap_or_else(|| panic!("{name} is missing in\n{text}"));
        sample.parse().expect("a whole number")
    }

    /// Results the node sent after their leases were lost.
    pub async fn stale_results(&self) -> u64 {
        self.number("orderly_stale_results_rejected_total").await
    }

    /// Orders that have not ended, on any node.
    pub async fn open_orders(&self) -> u64 {
        let queue = self.get("/queue").await;
        let count = |status: &str| queue[status].as_u64().expect("a count");
        count("pending") + count("processing")
    }
}

pub fn order_id(order: &Value) -> OrderId {
    OrderId(order["order_id"].as_i64().expect("an order has an id"))
}
