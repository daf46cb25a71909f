//! A restored backup reuses no ids, tokens or cursors that were given out and lost (issue 15, point 2). The control
//! restores without `--restored` and must show the reuse.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{command, run};
use crate::support::client::http;
use crate::support::postgres::{self, Server, TestDatabase};
use crate::support::process::{Process, orderly};
use crate::support::required;

/// A store that can be copied while no server uses it.
enum Store {
    File(PathBuf),
    Database(Box<TestDatabase>),
}

impl Store {
    fn url(&self) -> String {
        match self {
            Store::File(path) => format!("sqlite:{}", path.display()),
            Store::Database(database) => database.url(),
        }
    }

    async fn backup(&self) -> Store {
        match self {
            Store::File(path) => {
                let copy = path.with_extension("backup");
                std::fs::copy(path, &copy).unwrap();
                Store::File(copy)
            }
            Store::Database(database) => Store::Database(Box::new(database.copy().await)),
        }
    }
}

/// Values that a client and a worker of a store have received.
struct Seen {
    ids: HashSet<i64>,
    leases: Vec<Value>,
    cursor: String,
}

impl Seen {
    fn keys(&self) -> HashSet<&str> {
        let keys = self.leases.iter().map(|lease| lease["idempotency_key"].as_str());
        keys.map(|key| key.expect("a lease has an idempotency key"))
            .collect()
    }
}

/// A running server that leases its orders to external workers.
struct ServerRun {
    server: Process,
    http: reqwest::Client,
}

impl ServerRun {
    async fn begin(folder: &Path, store: &Store) -> ServerRun {
        let mut command = orderly(folder);
        command
            .env("DATABASE_URL", store.url())
            .env("ORDERLY_PROCESSOR", "pull");
        ServerRun {
            server: Process::start(command).await,
            http: http(),
        }
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        let sent = self.http.post(format!("{}{path}", self.server.url)).json(&body);
        let answer = sent.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let answer = self
            .http
            .get(format!("{}{path}", self.server.url))
            .send()
            .await
            .unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn accept(&self, orders: usize) -> HashSet<i64> {
        let mut ids = HashSet::new();
        for _ in 0..orders {
            let order = json!({"user_id": 104, "item_ids": "7", "total_amount": 1});
            let (status, order) = self.post("/orders", order).await;
            assert_eq!(status, StatusCode::CREATED, "{order}");
            ids.insert(order["order_id"].as_i64().unwrap());
        }
        ids
    }

    async fn take(&self, max: usize) -> Vec<Value> {
        let (status, mut taken) = self
            .post("/leases", json!({"max": max, "wait": 20, "lease": 600}))
            .await;
        assert_eq!(status, StatusCode::OK, "{taken}");
        taken["leases"].take().as_array().unwrap().clone()
    }

    async fn end_of_feed(&self) -> String {
        let (_, page) = self.get("/events?limit=1000").await;
        page["next_cursor"].as_str().unwrap().to_owned()
    }

    /// Accepts three orders; then a worker takes all pending ones.
    async fn works(&self, orders: usize) -> Seen {
        let ids = self.accept(3).await;
        let mut leases = Vec::new();
        while leases.len() < orders {
            leases.extend(self.take(10).await);
        }
        Seen {
            ids,
            leases,
            cursor: self.end_of_feed().await,
        }
    }

    async fn complete(&self, lease: &Value, id: &Value) -> StatusCode {
        let body = json!({"token": lease["token"], "result": "alice's"});
        self.post(&format!("/leases/{id}/complete"), body).await.0
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Findings {
    ids_twice: usize,
    keys_twice: usize,
    /// Results for lost leases that were accepted.
    lost_results_taken: usize,
    lost_cursor: StatusCode,
}

/// Runs two servers from the same backup. Values given out before the backup stay valid in the second run.
async fn run_twice_from_backup(store: Store, restored: bool) -> Findings {
    let folder = tempfile::tempdir().unwrap();
    let life = ServerRun::begin(folder.path(), &store).await;
    life.accept(3).await;
    let before = life.take(1).await;
    let cursor = life.end_of_feed().await;
    assert_eq!(life.server.terminate().await, Some(0));
    let backup = store.backup().await;

    let life = ServerRun::begin(folder.path(), &store).await;
    let alice = life.works(5).await;
    life.server.kill().await;

    if restored {
        let mut migrate = command(folder.path(), "migrate --restored");
        migrate.env("DATABASE_URL", backup.url());
        let output = run(migrate).await;
        assert_eq!(output.exit, Some(0), "{}{}", output.stdout, output.stderr);
    }
    let life = ServerRun::begin(folder.path(), &backup).await;
    let bob = life.works(5).await;
    let mut lost_results_taken = 0;
    for lease in &alice.leases {
        let status = life.complete(lease, &lease["order"]["order_id"]).await;
        lost_results_taken += usize::from(status == StatusCode::OK);
    }
    if restored {
        // Orders of the second run are tried too.
        let crossed = alice.leases.iter().zip(&bob.leases);
        for (lease, other) in crossed {
            let status = life.complete(lease, &other["order"]["order_id"]).await;
            assert_eq!(status, StatusCode::CONFLICT);
        }
    }
    let lost_cursor = life.get(&format!("/events?after={}", alice.cursor)).await.0;
    assert_eq!(
        life.complete(&before[0], &json!(1)).await,
        StatusCode::OK,
        "a lease from before the backup"
    );
    assert_eq!(
        life.get(&format!("/events?after={cursor}")).await.0,
        StatusCode::OK
    );
    assert_eq!(life.server.terminate().await, Some(0));
    let mut verify = command(folder.path(), "verify");
    verify.env("DATABASE_URL", backup.url());
    let output = run(verify).await;
    assert_eq!(output.exit, Some(0), "{}{}", output.stdout, output.stderr);
    let fences = |seen: &Seen| -> Vec<u64> {
        let fences = seen.leases.iter().map(|lease| lease["fence"].as_u64());
        fences.map(Option::unwrap).collect()
    };
    assert_eq!(fences(&bob).iter().min() > fences(&alice).iter().max(), restored);
    Findings {
        ids_twice: alice.ids.intersection(&bob.ids).count(),
        // Two of the orders are in the backup and keep their keys.
        keys_twice: alice.keys().intersection(&bob.keys()).count() - 2,
        lost_results_taken,
        lost_cursor,
    }
}

async fn assert_nothing_reused(store: Store) {
    let findings = run_twice_from_backup(store, true).await;
    let nothing = Findings {
        ids_twice: 0,
        keys_twice: 0,
        lost_results_taken: 0,
        lost_cursor: StatusCode::GONE,
    };
    assert_eq!(findings, nothing);
}

/// The control: restores without `--restored`.
async fn assert_everything_reused(store: Store) {
    let findings = run_twice_from_backup(store, false).await;
    let all = Findings {
        ids_twice: 3,
        keys_twice: 3,
        lost_results_taken: 5,
        lost_cursor: StatusCode::OK,
    };
    assert_eq!(findings, all);
}

fn file(folder: &tempfile::TempDir) -> Store {
    Store::File(folder.path().join("shop.db"))
}

async fn database() -> Option<Store> {
    if !required("a private PostgreSQL", postgres::is_installed()) {
        return None;
    }
    let database = Server::shared().await.create_database().await;
    Some(Store::Database(Box::new(database)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_file_reuses_no_id_token_or_cursor() {
    let folder = tempfile::tempdir().unwrap();
    assert_nothing_reused(file(&folder)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_file_without_a_new_epoch_reuses_everything() {
    let folder = tempfile::tempdir().unwrap();
    assert_everything_reused(file(&folder)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_reuses_no_id_token_or_cursor() {
    if let Some(store) = database().await {
        assert_nothing_reused(store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_without_a_new_epoch_reuses_everything() {
    if let Some(store) = database().await {
        assert_everything_reused(store).await;
    }
}
