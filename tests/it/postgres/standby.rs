//! A primary whose synchronous standby is unreachable. After a failover the standby has everything that was confirmed: every
//! successful answer, every event shown and every position (issue 15, points 1 and 4).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::setup::{node, number, status_of, until_ready};
use crate::support::client::http;
use crate::support::postgres::{Pair, Stop, TestDatabase, is_installed_with_standby};
use crate::support::process::Process;
use crate::support::{required, until};

/// Upper bound of a node's statements that wait for a standby: one per connection, and one probe.
const WAITING_MAX: i64 = 15 + 1;
const WAITS: &str = "commits wait for the synchronous standby";

/// A node whose orders external workers process, on a primary with a synchronous standby.
struct StandbyFixture {
    pair: Pair,
    database: TestDatabase,
    node: Process,
    folder: TempDir,
}

/// A successful answer: the order and its state that were confirmed to a client.
#[derive(Clone, Debug)]
struct Confirmed {
    order_id: i64,
    status: String,
}

impl StandbyFixture {
    async fn open() -> Option<StandbyFixture> {
        if !required("a private PostgreSQL with a standby", is_installed_with_standby()) {
            return None;
        }
        let pair = Pair::start_synchronous().await;
        let database = pair.primary.create_database().await;
        let folder = tempfile::tempdir().unwrap();
        let mut command = node(folder.path(), &pair.url(&database));
        command
            .env("ORDERLY_PROCESSOR", "pull")
            // Long leases, so that none expires and no heartbeat waits for the standby.
            .env("ORDERLY_LEASE", "10m");
        let node = Process::start(command).await;
        until_ready(&node).await;
        Some(StandbyFixture {
            pair,
            database,
            node,
            folder,
        })
    }

    async fn send(&self, path: &str, key: Option<&str>, body: &Value) -> (StatusCode, Value) {
        send_to(
            format!("{}{path}", self.node.url),
            key.map(str::to_owned),
            body.clone(),
        )
        .await
    }

    /// Sends a request in a task of its own.
    fn begin(&self, path: &str, key: Option<&str>, body: Value) -> AbortOnDropHandle<(StatusCode, Value)> {
        let url = format!("{}{path}", self.node.url);
        let sending: JoinHandle<_> = tokio::spawn(send_to(url, key.map(str::to_owned), body));
        AbortOnDropHandle::new(sending)
    }

    async fn accept(&self, key: &str) -> (StatusCode, Value) {
        self.send("/orders", Some(key), &order(key)).await
    }

    async fn accepted(&self, key: &str) -> i64 {
        let (status, order) = self.accept(key).await;
        assert_eq!(status, StatusCode::CREATED, "{order}");
        order["order_id"].as_i64().unwrap()
    }

    async fn lease(&self) -> Value {
        let (status, mut answer) = self
            .send("/leases", None, &json!({"wait": 20, "lease": 60}))
            .await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["leases"][0].take()
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let answer = http()
            .get(format!("{}{path}", self.node.url))
            .send()
            .await
            .unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn events(&self, after: Option<&str>) -> (Vec<Value>, String) {
        let after = after.map(|after| format!("&after={after}")).unwrap_or_default();
        let (status, page) = self.get(&format!("/events?limit=500{after}")).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        let next = page["next_cursor"].as_str().unwrap().to_owned();
        (page["events"].as_array().unwrap().clone(), next)
    }

    /// Waits until the feed has this many events.
    async fn until_events(&self, events: usize) -> Vec<Value> {
        until("the events have positions", async || {
            self.events(None).await.0.len() >= events
        })
        .await;
        self.events(None).await.0
    }

    async fn until_it_waits_for_the_standby(&self) {
        until("the node reports what it waits for", async || {
            let (status, problem) = self.get("/readyz?verbose").await;
            status == StatusCode::SERVICE_UNAVAILABLE && problem.to_string().contains(WAITS)
        })
        .await;
    }

    /// Promotes the standby, as a cluster manager would.
    async fn fail_over(&self) {
        self.pair.primary.stop(Stop::Killed).await;
        self.pair.standby.start_again().await;
        self.pair.promote().await;
        until_ready(&self.node).await;
    }

    async fn close(self) {
        assert_eq!(self.node.terminate().await, Some(0));
        drop(self.folder);
    }
}

async fn send_to(url: String, key: Option<String>, body: Value) -> (StatusCode, Value) {
    let mut request = http().post(url).json(&body);
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    let answer = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

fn order(key: &str) -> Value {
    json!({"user_id": 1, "item_ids": [7], "total_amount": 1, "reference": key})
}

fn completion(lease: &Value) -> (String, Value) {
    let path = format!("/leases/{}/complete", lease["order"]["order_id"]);
    (path, json!({"token": lease["token"], "result": "done"}))
}

/// The confirmation in a successful answer; `None` for other answers.
fn confirmation((status, order): &(StatusCode, Value)) -> Option<Confirmed> {
    status.is_success().then(|| Confirmed {
        order_id: order["order_id"].as_i64().unwrap(),
        status: order["status"].as_str().unwrap().to_owned(),
    })
}

/// Posts orders and completes leases while the standby is unreachable, kills the primary and promotes the standby. Returns
/// everything that was confirmed to a client and is lost.
async fn breaches_of_a_failover(with_cancels: bool) -> Option<Vec<String>> {
    let fixture = StandbyFixture::open().await?;
    let mut answers = Vec::new();
    for key in ["one", "two"] {
        let answer = fixture.accept(key).await;
        assert_eq!(answer.0, StatusCode::CREATED);
        answers.push(answer);
    }
    let (first, second) = (fixture.lease().await, fixture.lease().await);
    let (path, body) = completion(&first);
    answers.push(fixture.send(&path, None, &body).await);
    // Two orders are accepted and started, and one is completed.
    let before = fixture.until_events(5).await;
    let (_, cursor) = fixture.events(None).await;

    fixture.pair.standby.stop(Stop::Fast).await;
    let (path, body) = completion(&second);
    let completing = fixture.begin(&path, None, body.clone());
    let accepting = fixture.begin("/orders", Some("three"), order("three"));
    fixture.pair.until_waiting(2).await;
    assert_eq!(
        fixture.events(None).await.0,
        before,
        "nothing is confirmed that no standby has"
    );
    if with_cancels {
        let admin = fixture.database.admin().await;
        let cancel = "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'";
        until("both are answered", async || {
            admin.query(cancel, &[]).await.unwrap();
            completing.is_finished() && accepting.is_finished()
        })
        .await;
    } else {
        fixture.until_it_waits_for_the_standby().await;
    }
    answers.push(completing.await.unwrap());
    answers.push(accepting.await.unwrap());
    if !with_cancels {
        // A repeated request is not confirmed either.
        for answer in [
            fixture.send(&path, None, &body).await,
            fixture.accept("three").await,
        ] {
            assert_eq!(answer.0, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        }
        // A successful read changes nothing about that.
        assert_eq!(fixture.get("/orders/1").await.0, StatusCode::OK);
        assert_eq!(
            status_of(&fixture.node, "/readyz").await,
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
    let events = fixture.events(None).await.0;
    fixture.fail_over().await;

    let mut breaches = Vec::new();
    for confirmed in answers.iter().filter_map(confirmation) {
        let (_, now) = fixture.get(&format!("/orders/{}", confirmed.order_id)).await;
        // A confirmed order may have changed since.
        if confirmed.status != "Pending" && now["status"] != *confirmed.status
            || now["order_id"] != confirmed.order_id
        {
            breaches.push(format!("{confirmed:?} was confirmed, now it is {now}"));
        }
    }
    if breaches.is_empty() {
        // Repeated requests resolve unknown outcomes, and no order is stored twice.
        let (status, answer) = fixture.send(&path, None, &body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let id = fixture.accepted("three").await;
        let listed = fixture.get("/orders?reference=three").await.1;
        assert_eq!(listed["orders"].as_array().unwrap().len(), 1, "{id}: {listed}");
        let after = fixture.until_events(events.len() + 2).await;
        if !after.starts_with(&events) {
            breaches.push(format!("{events:#?} were shown, now they are {after:#?}"));
        }
        let after_cursor = fixture.events(Some(&cursor)).await.0;
        if after_cursor.len() != after.len() - before.len() {
            breaches.push(format!("the cursor leads to {after_cursor:#?} of {after:#?}"));
        }
    }
    fixture.close().await;
    Some(breaches)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_keeps_everything_confirmed_while_the_standby_was_away() {
    let Some(breaches) = breaches_of_a_failover(false).await else {
        return;
    };
    assert_eq!(breaches, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oracle_detects_a_cancelled_wait_for_the_standby() {
    let Some(breaches) = breaches_of_a_failover(true).await else {
        return;
    };
    assert!(!breaches.is_empty());
}

/// A restarted primary shows commits that no standby has.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_confirmed_only_once_the_standby_has_it() {
    let Some(fixture) = StandbyFixture::open().await else {
        return;
    };
    for key in ["one", "two", "three"] {
        fixture.accepted(key).await;
    }
    let lease = fixture.lease().await;
    // All events are numbered, so no numbering waits for the standby.
    fixture.until_events(4).await;
    fixture.pair.standby.stop(Stop::Fast).await;
    let (complete, body) = completion(&lease);
    let requests = [
        (complete.as_str(), None, body),
        ("/orders", Some("four"), order("four")),
        ("/orders/2/cancel", None, json!({})),
    ];
    let send = || {
        requests
            .clone()
            .map(|(path, key, body)| fixture.begin(path, key, body))
    };
    let first = send();
    fixture.pair.until_waiting(requests.len()).await;
    fixture.pair.primary.stop(Stop::Killed).await;
    for request in first {
        assert_eq!(request.await.unwrap().0, StatusCode::INTERNAL_SERVER_ERROR);
    }
    fixture.pair.primary.start_again().await;
    let admin = fixture.database.admin().await;
    let completed = "select count(*) from orderly.orders where status in (2, 4)";
    assert_eq!(number(&admin, completed).await, 2, "the primary shows it");
    let mut again = send();
    fixture.pair.until_waiting(requests.len()).await;
    for (request, (path, ..)) in again.iter_mut().zip(&requests) {
        let answer = request.now_or_never();
        assert!(answer.is_none(), "{path}: {answer:?}");
    }
    fixture.pair.standby.start_again().await;
    for request in again {
        let (status, answer) = request.await.unwrap();
        assert!(status.is_success(), "{status} {answer}");
    }
    fixture.close().await;
}

/// The statement of a client that disconnects keeps waiting; further requests are refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_the_standby_holds_a_bounded_number_of_connections() {
    const ORDERS: usize = 40;
    let Some(fixture) = StandbyFixture::open().await else {
        return;
    };
    for number in 0..ORDERS {
        fixture.accepted(&format!("before {number}")).await;
    }
    fixture.pair.standby.freeze().await;
    let cancel = |id: usize| fixture.begin(&format!("/orders/{id}/cancel"), None, json!({}));
    let asked = AtomicUsize::new(0);
    let admin = fixture.database.admin().await;
    let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    until("the node reports what it waits for", async || {
        let patience = Duration::from_millis(100);
        let id = asked.fetch_add(1, Ordering::SeqCst) % ORDERS + 1;
        let _ = tokio::time::timeout(patience, cancel(id)).await;
        let count = number(&admin, waiting).await;
        assert!(count <= WAITING_MAX, "{count} statements wait");
        status_of(&fixture.node, "/readyz").await == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    fixture.until_it_waits_for_the_standby().await;
    for _ in 0..ORDERS {
        let (status, answer) = cancel(1).await.unwrap();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    }
    let count = number(&admin, waiting).await;
    assert!(count <= WAITING_MAX, "{count} statements wait");
    fixture.pair.standby.thaw().await;
    until_ready(&fixture.node).await;
    fixture.accepted("after").await;
    fixture.close().await;
}
