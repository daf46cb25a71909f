//! The fixture for reads from a standby: a pair of servers, a node that reads from the standby, and a client of it.

use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_postgres::Client;

use crate::postgres::setup::{node, number, until_ready};
use crate::support::client::{http, http_within};
use crate::support::postgres::{Pair, TestDatabase};
use crate::support::process::Process;
use crate::support::until;

/// The longest time of a read that falls back to the primary: 3 s for the standby, plus time for a slow machine.
const ANSWERED_WITHIN: Duration = Duration::from_secs(8);

/// A primary and a standby with a database, and a node on the primary that reads from the standby.
pub struct ReplicaFixture {
    pub pair: Pair,
    pub database: TestDatabase,
    pub folder: TempDir,
    pub node: Process,
}

impl ReplicaFixture {
    async fn open() -> ReplicaFixture {
        let pair = Pair::start().await;
        let database = pair.primary.create_database().await;
        let folder = tempfile::tempdir().unwrap();
        let read_url = database.on(&pair.standby).url();
        let node = reading_node(folder.path(), &database, &read_url).await;
        ReplicaFixture {
            pair,
            database,
            folder,
            node,
        }
    }

    /// Opens a fixture with `count` completed orders on both servers.
    pub async fn with_orders(count: usize) -> ReplicaFixture {
        let fixture = ReplicaFixture::open().await;
        fixture.place(count).await;
        fixture.pair.caught_up().await;
        fixture.until_standby_serves().await;
        fixture
    }

    pub async fn standby(&self) -> Client {
        self.database.on(&self.pair.standby).admin().await
    }

    /// Pauses the replay, so that the standby shows nothing new.
    pub async fn pause_replay(&self) {
        self.pair.caught_up().await;
        let standby = self.standby().await;
        standby
            .batch_execute("select pg_wal_replay_pause()")
            .await
            .unwrap();
        until("replay is paused", async || {
            let paused = "select (pg_get_wal_replay_pause_state() = 'paused')::int::int8";
            number(&standby, paused).await == 1
        })
        .await;
    }

    /// Places orders and waits until they are completed and all their events are numbered.
    pub async fn place(&self, count: usize) {
        place_at(&self.node, count).await;
        let admin = self.database.admin().await;
        until("the orders are completed and numbered", async || {
            let left = "select (select count(*) from orderly.batches where first_position is null)
                + (select count(*) from orderly.order_state where finished_at is null)";
            number(&admin, left).await == 0
        })
        .await;
    }

    pub async fn served(&self, kind: &str, server: &str) -> u64 {
        served(&self.node, kind, server).await
    }

    pub async fn until_standby_serves(&self) {
        until_standby_serves(&self.node).await;
    }

    /// Starts a node that reads only from the primary, for comparison.
    pub async fn node_on_primary(&self, folder: &Path) -> Process {
        let url = self.database.url();
        reading_node(folder, &self.database, &url).await
    }

    pub async fn end(self) {
        assert_eq!(self.node.terminate().await, Some(0));
    }
}

async fn reading_node(folder: &Path, database: &TestDatabase, read_url: &str) -> Process {
    let mut command = node(folder, &database.url());
    command.env("DATABASE_READ_URL", read_url);
    let node = Process::start(command).await;
    until_ready(&node).await;
    node
}

async fn place_at(node: &Process, count: usize) {
    let order = json!({"user_id": 7, "item_ids": [1], "total_amount": 1});
    let answer = http()
        .post(format!("{}/orders/batch", node.url))
        .json(&json!({"orders": vec![order; count]}))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
}

async fn served(node: &Process, kind: &str, server: &str) -> u64 {
    let url = format!("{}/metrics/prometheus", node.url);
    let text = http().get(url).send().await.unwrap().text().await.unwrap();
    let name = format!("orderly_reads_total{{kind=\"{kind}\",server=\"{server}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
        .parse()
        .unwrap()
}

async fn until_standby_serves(node: &Process) {
    until("the standby serves", async || {
        let before = served(node, "list", "standby").await;
        list(node, "limit=1").await;
        served(node, "list", "standby").await > before
    })
    .await;
}

pub struct Page {
    pub body: Value,
    /// The header `Orderly-Cursor`; only lists have it.
    pub cursor: Option<String>,
}

impl Page {
    pub fn ids(&self) -> Vec<i64> {
        let orders = self.body["orders"].as_array().unwrap();
        orders
            .iter()
            .map(|order| order["order_id"].as_i64().unwrap())
            .collect()
    }

    pub fn next(&self) -> Option<&str> {
        self.body["next_cursor"].as_str()
    }
}

pub async fn get(node: &Process, path: &str) -> Page {
    let answer = http_within(ANSWERED_WITHIN)
        .get(format!("{}{path}", node.url))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{path}");
    let cursor = answer.headers().get("Orderly-Cursor");
    Page {
        cursor: cursor.map(|cursor| cursor.to_str().unwrap().to_owned()),
        body: answer.json().await.unwrap(),
    }
}

pub async fn list(node: &Process, query: &str) -> Page {
    get(node, &format!("/orders?{query}")).await
}

/// Events of the feed from a cursor, or from the beginning, to its end.
pub async fn feed(node: &Process, after: Option<&str>, limit: usize) -> Vec<Value> {
    let mut after = after.map(str::to_owned);
    let mut events = Vec::new();
    loop {
        let from = after
            .as_ref()
            .map_or(String::new(), |after| format!("&after={after}"));
        let page = get(node, &format!("/events?limit={limit}{from}")).await;
        let found = page.body["events"].as_array().unwrap();
        events.extend(found.iter().cloned());
        let next = page.next().unwrap().to_owned();
        if found.is_empty() && after.as_ref() == Some(&next) {
            return events;
        }
        after = Some(next);
    }
}
