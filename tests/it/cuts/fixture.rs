//! A working server, stopped and restarted on the same store, and the table of its events to compare with.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::client::http;
use crate::support::cutter::Cutter;
use crate::support::postgres::TestDatabase;
use crate::support::process::{Process, orderly};
use crate::support::until;

/// Orders accepted at once. One of them is cancelled unless it has already ended.
const BATCH_ORDERS: u64 = 3;
const READS_AT_ONCE: usize = 16;

pub struct Fixture {
    folder: TempDir,
    server: Option<Process>,
    http: reqwest::Client,
    database: Option<TestDatabase>,
    orders: Vec<u64>,
}

/// An event as a client received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub cursor: String,
    pub order_id: u64,
    pub version: u64,
}

impl Seen {
    /// Reads the event object, which is the same on every transport.
    pub fn of(event: &Value) -> Seen {
        let number = |name: &str| event[name].as_u64().expect("an event's number");
        Seen {
            cursor: event["cursor"].as_str().expect("an event's cursor").to_owned(),
            order_id: number("order_id"),
            version: number("version"),
        }
    }
}

/// All events: order id and version, with the position.
pub type Table = BTreeMap<(u64, u64), Vec<u8>>;

impl Fixture {
    /// Uses SQLite.
    pub async fn open() -> Fixture {
        Fixture::on(None).await
    }

    /// Uses the PostgreSQL database, or SQLite without one.
    pub async fn on(database: Option<TestDatabase>) -> Fixture {
        let mut fixture = Fixture {
            folder: tempfile::tempdir().unwrap(),
            server: None,
            http: http(),
            database,
            orders: Vec::new(),
        };
        fixture.start(&[]).await;
        fixture
    }

    pub fn url(&self) -> &str {
        &self.server.as_ref().expect("the server runs").url
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self.http.get(format!("{}{path}", self.url())).send().await;
        answer.expect("the server answers").json().await.expect("JSON")
    }

    /// The cursor before all events.
    pub async fn beginning(&self) -> String {
        let page = self.get("/events?limit=1&status=Cancelled").await;
        page["next_cursor"].as_str().unwrap().to_owned()
    }

    /// Places some orders and cancels one.
    pub async fn place_orders(&mut self) {
        let orders: Vec<Value> = (1..=BATCH_ORDERS)
            .map(|user_id| json!({"user_id": user_id, "item_ids": 7, "total_amount": 1}))
            .collect();
        let url = format!("{}/orders/batch", self.url());
        let sent = self.http.post(url).json(&json!({"orders": orders})).send().await;
        let answer = sent.expect("the server answers");
        assert_eq!(answer.status(), 201);
        let answer: Value = answer.json().await.expect("JSON");
        let accepted = answer["orders"].as_array().expect("the orders");
        let ids = accepted
            .iter()
            .map(|order| order["order_id"].as_u64().expect("a number"));
        self.orders.extend(ids);
        let last = self.orders.last().expect("some were accepted");
        let cancel = format!("{}/orders/{last}/cancel", self.url());
        self.http.post(cancel).send().await.expect("the server answers");
    }

    /// Stops the server with SIGTERM, starts another on the same store and points the cutters to it.
    pub async fn restart(&mut self, cutters: &[&Cutter]) {
        let server = self.server.take().expect("the server runs");
        assert_eq!(server.terminate().await, Some(0));
        self.start(cutters).await;
    }

    /// Does the same with SIGKILL.
    pub async fn crash(&mut self, cutters: &[&Cutter]) {
        self.server.take().expect("the server runs").kill().await;
        self.start(cutters).await;
    }

    async fn start(&mut self, cutters: &[&Cutter]) {
        let server = Process::start(self.program()).await;
        for cutter in cutters {
            cutter.set_server(&server.url);
        }
        self.server = Some(server);
    }

    /// Waits until every order is final, and reads all histories.
    pub async fn table(&self) -> Table {
        until("every order is final", async || {
            let numbers = self.get("/metrics").await;
            numbers["pending_orders"] == 0 && numbers["processing_orders"] == 0
        })
        .await;
        let histories = stream::iter(&self.orders)
            .map(|id| async move { self.get(&format!("/orders/{id}/events")).await })
            .buffer_unordered(READS_AT_ONCE);
        let histories: Vec<Value> = histories.collect().await;
        let events = histories
            .iter()
            .flat_map(|history| history["events"].as_array().unwrap());
        let seen = events.map(Seen::of);
        let table: Table = seen
            .map(|seen| ((seen.order_id, seen.version), position(&seen.cursor)))
            .collect();
        println!("{} orders, {} events", self.orders.len(), table.len());
        table
    }

    /// Stops the server cleanly and verifies its store.
    pub async fn close(mut self) {
        let server = self.server.take().expect("the server runs");
        assert_eq!(server.terminate().await, Some(0));
        let verified = self.program().arg("verify").output().await;
        let verified = verified.expect("the program can be run");
        let report = String::from_utf8_lossy(&verified.stdout);
        assert!(verified.status.success(), "{report}");
    }

    /// Quick orders, some of which are retried or fail permanently.
    fn program(&self) -> Command {
        let mut command = orderly(self.folder.path());
        command.envs([
            ("ORDERLY_SIMULATED_SPEED", "500"),
            ("ORDERLY_SIMULATED_FAILURE_RATE", "0.3"),
            ("ORDERLY_MAX_ATTEMPTS", "3"),
            ("ORDERLY_RETRY_BASE", "10ms"),
            ("ORDERLY_MAX_CRASHES", "1000"),
            // Orders of a killed node come back soon.
            ("ORDERLY_LEASE", "2s"),
            ("RUST_LOG", "info,orderly::worker=error"),
        ]);
        if let Some(database) = &self.database {
            command.env("DATABASE_URL", database.url());
        }
        command
    }
}

/// Cursors are opaque to clients; these tests read them as bytes that rise with the feed.
fn position(cursor: &str) -> Vec<u8> {
    BASE64_URL_SAFE_NO_PAD
        .decode(cursor)
        .expect("a cursor of this server")
}

/// Differences between the received events and the table.
pub fn differences(seen: &[Seen], table: &Table) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut received = BTreeSet::new();
    let mut versions = BTreeMap::new();
    let mut last = Vec::new();
    for event in seen {
        let key = (event.order_id, event.version);
        let position = position(&event.cursor);
        if !received.insert(key) {
            wrong.push(format!("repeated: {event:?}"));
        }
        if position <= last {
            wrong.push(format!("back in the feed: {event:?}"));
        }
        let version = versions.entry(event.order_id).or_insert(0);
        *version += 1;
        if *version != event.version {
            wrong.push(format!("not the next version of its order: {event:?}"));
        }
        if table.get(&key) != Some(&position) {
            wrong.push(format!("not in the table, or elsewhere: {event:?}"));
        }
        last = position;
    }
    let missing = table.keys().filter(|key| !received.contains(key));
    wrong.extend(missing.map(|key| format!("missing: {key:?}")));
    wrong
}

/// Number of skipped events before later received ones.
pub fn gaps(seen: &[Seen], table: &Table) -> usize {
    let received: BTreeSet<_> = seen.iter().map(|event| (event.order_id, event.version)).collect();
    let last = seen
        .iter()
        .map(|event| position(&event.cursor))
        .max()
        .unwrap_or_default();
    let passed = table.iter().filter(|(_, position)| **position < last);
    passed.filter(|(key, _)| !received.contains(key)).count()
}
