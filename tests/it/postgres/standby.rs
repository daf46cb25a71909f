//! A primary whose synchronous standby is away, and what the standby has when the primary is gone: every answer of success,
//! every event that was told and every place in the feed (issue 15, points 1 and 4).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::scene::{node, number, status_of, until_ready};
use crate::support::client::http;
use crate::support::postgres::{Pair, Stop, TestDatabase, is_installed_with_standby};
use crate::support::process::Process;
use crate::support::{required, until};

/// The most statements of one node that wait for a standby: its connections, and one probe.
const WAITING_MAX: i64 = 15 + 1;
const WAITS: &str = "commits wait for the synchronous standby";

/// A node whose orders external workers process, on a primary with a synchronous standby.
struct Shop {
    pair: Pair,
    database: TestDatabase,
    node: Process,
    folder: TempDir,
}

/// An answer of success, and what it says of the order.
#[derive(Clone, Debug)]
struct Told {
    order_id: i64,
    status: String,
}

impl Shop {
    async fn open() -> Option<Shop> {
        if !required("a private PostgreSQL with a standby", is_installed_with_standby()) {
            return None;
        }
        let pair = Pair::start_synchronous().await;
        let database = pair.primary.create_database().await;
        let folder = tempfile::tempdir().unwrap();
        let mut command = node(folder.path(), &pair.url(&database));
        command
            .env("ORDERLY_PROCESSOR", "pull")
            // No lease of these tests runs out, and no heartbeat waits beside what a test sends.
            .env("ORDERLY_LEASE", "10m");
        let node = Process::start(command).await;
        until_ready(&node).await;
        Some(Shop {
            pair,
            database,
            node,
            folder,
        })
    }

    async fn send(&self, path: &str, key: Option<&str>, body: &Value) -> (StatusCode, Value) {
        sent(
            format!("{}{path}", self.node.url),
            key.map(str::to_owned),
            body.clone(),
        )
        .await
    }

    /// Sends it while others are sent.
    fn begin(&self, path: &str, key: Option<&str>, body: Value) -> AbortOnDropHandle<(StatusCode, Value)> {
        let url = format!("{}{path}", self.node.url);
        let sending: JoinHandle<_> = tokio::spawn(sent(url, key.map(str::to_owned), body));
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
    async fn until_told(&self, events: usize) -> Vec<Value> {
        until("the events have their places", async || {
            self.events(None).await.0.len() >= events
        })
        .await;
        self.events(None).await.0
    }

    async fn until_it_waits(&self) {
        until("the node says what it waits for", async || {
            let (status, problem) = self.get("/readyz?verbose").await;
            status == StatusCode::SERVICE_UNAVAILABLE && problem.to_string().contains(WAITS)
        })
        .await;
    }

    /// What the harness does by hand in place of a cluster manager.
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

async fn sent(url: String, key: Option<String>, body: Value) -> (StatusCode, Value) {
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

/// What an answer of success tells of its order.
fn told((status, order): &(StatusCode, Value)) -> Option<Told> {
    status.is_success().then(|| Told {
        order_id: order["order_id"].as_i64().unwrap(),
        status: order["status"].as_str().unwrap().to_owned(),
    })
}

/// The standby is away, orders are posted and leases completed, the primary dies, and the standby takes its place. Answers
/// with what a client was told that does not hold then.
async fn breaches_of_a_failover(with_cancels: bool) -> Option<Vec<String>> {
    let shop = Shop::open().await?;
    let mut answers = Vec::new();
    for key in ["one", "two"] {
        let answer = shop.accept(key).await;
        assert_eq!(answer.0, StatusCode::CREATED);
        answers.push(answer);
    }
    let (first, second) = (shop.lease().await, shop.lease().await);
    let (path, body) = completion(&first);
    answers.push(shop.send(&path, None, &body).await);
    // Accepted and started, each twice, and completed.
    let before = shop.until_told(5).await;
    let (_, cursor) = shop.events(None).await;

    shop.pair.standby.stop(Stop::Fast).await;
    let (path, body) = completion(&second);
    let completing = shop.begin(&path, None, body.clone());
    let accepting = shop.begin("/orders", Some("three"), order("three"));
    shop.pair.until_waiting(2).await;
    assert_eq!(
        shop.events(None).await.0,
        before,
        "nothing is told that no standby has"
    );
    if with_cancels {
        let admin = shop.database.admin().await;
        let cancel = "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'";
        until("both are answered", async || {
            admin.query(cancel, &[]).await.unwrap();
            completing.is_finished() && accepting.is_finished()
        })
        .await;
    } else {
        shop.until_it_waits().await;
    }
    answers.push(completing.await.unwrap());
    answers.push(accepting.await.unwrap());
    if !with_cancels {
        // What was sent again is no surer than what was sent first.
        for answer in [shop.send(&path, None, &body).await, shop.accept("three").await] {
            assert_eq!(answer.0, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        }
        // A read that works undoes nothing.
        assert_eq!(shop.get("/orders/1").await.0, StatusCode::OK);
        assert_eq!(
            status_of(&shop.node, "/readyz").await,
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
    let events = shop.events(None).await.0;
    shop.fail_over().await;

    let mut breaches = Vec::new();
    for told in answers.iter().filter_map(told) {
        let (_, now) = shop.get(&format!("/orders/{}", told.order_id)).await;
        // An order that was told as accepted may have gone on since.
        if told.status != "Pending" && now["status"] != *told.status || now["order_id"] != told.order_id {
            breaches.push(format!("{told:?} was answered, now it is {now}"));
        }
    }
    if breaches.is_empty() {
        // Sent again, what was unknown has an end, and no order is there twice.
        let (status, answer) = shop.send(&path, None, &body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let id = shop.accepted("three").await;
        let listed = shop.get("/orders?reference=three").await.1;
        assert_eq!(listed["orders"].as_array().unwrap().len(), 1, "{id}: {listed}");
        let after = shop.until_told(events.len() + 2).await;
        if !after.starts_with(&events) {
            breaches.push(format!("{events:#?} were told, now they are {after:#?}"));
        }
        let behind = shop.events(Some(&cursor)).await.0;
        if behind.len() != after.len() - before.len() {
            breaches.push(format!("the cursor leads to {behind:#?} of {after:#?}"));
        }
    }
    shop.close().await;
    Some(breaches)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_keeps_everything_told_while_the_standby_was_away() {
    let Some(breaches) = breaches_of_a_failover(false).await else {
        return;
    };
    assert_eq!(breaches, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oracle_notices_a_cancelled_wait_for_the_standby() {
    let Some(breaches) = breaches_of_a_failover(true).await else {
        return;
    };
    assert!(!breaches.is_empty());
}

/// A primary that starts again shows what it stored before, although no standby has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_confirmed_only_once_the_standby_has_it() {
    let Some(shop) = Shop::open().await else { return };
    for key in ["one", "two", "three"] {
        shop.accepted(key).await;
    }
    let lease = shop.lease().await;
    // Nothing is left to number, whose commit would wait too.
    shop.until_told(4).await;
    shop.pair.standby.stop(Stop::Fast).await;
    let (complete, body) = completion(&lease);
    let requests = [
        (complete.as_str(), None, body),
        ("/orders", Some("four"), order("four")),
        ("/orders/2/cancel", None, json!({})),
    ];
    let send = || {
        requests
            .clone()
            .map(|(path, key, body)| shop.begin(path, key, body))
    };
    let first = send();
    shop.pair.until_waiting(requests.len()).await;
    shop.pair.primary.stop(Stop::Killed).await;
    for request in first {
        assert_eq!(request.await.unwrap().0, StatusCode::INTERNAL_SERVER_ERROR);
    }
    shop.pair.primary.start_again().await;
    let admin = shop.database.admin().await;
    let completed = "select count(*) from orderly.orders where status in (2, 4)";
    assert_eq!(number(&admin, completed).await, 2, "the primary shows it");
    let again = send();
    shop.pair.until_waiting(requests.len()).await;
    assert!(again.iter().all(|request| !request.is_finished()));
    shop.pair.standby.start_again().await;
    for request in again {
        let (status, answer) = request.await.unwrap();
        assert!(status.is_success(), "{status} {answer}");
    }
    shop.close().await;
}

/// A client that goes away leaves its statement waiting; others that come are refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_the_standby_holds_a_bounded_number_of_connections() {
    const ORDERS: usize = 40;
    let Some(shop) = Shop::open().await else { return };
    for number in 0..ORDERS {
        shop.accepted(&format!("before {number}")).await;
    }
    shop.pair.standby.freeze().await;
    let cancel = |id: usize| shop.begin(&format!("/orders/{id}/cancel"), None, json!({}));
    let asked = AtomicUsize::new(0);
    let admin = shop.database.admin().await;
    let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    until("the node says what it waits for", async || {
        let patience = Duration::from_millis(100);
        let id = asked.fetch_add(1, Ordering::SeqCst) % ORDERS + 1;
        let _ = tokio::time::timeout(patience, cancel(id)).await;
        let count = number(&admin, waiting).await;
        assert!(count <= WAITING_MAX, "{count} statements wait");
        status_of(&shop.node, "/readyz").await == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    shop.until_it_waits().await;
    for _ in 0..ORDERS {
        let (status, answer) = cancel(1).await.unwrap();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    }
    let count = number(&admin, waiting).await;
    assert!(count <= WAITING_MAX, "{count} statements wait");
    shop.pair.standby.thaw().await;
    until_ready(&shop.node).await;
    shop.accepted("after").await;
    shop.close().await;
}
