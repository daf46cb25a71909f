//! Everything that can hold up an order at once: results the database refuses permanently, a role with few connections,
//! and rows locked by another session, on two nodes with one PostgreSQL (issue 13, points 1 to 3).

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_postgres::Client;

use super::{in_full, until};
use crate::support::client::http;
use crate::support::postgres::{self, Server, TestDatabase};
use crate::support::process::{Process, orderly, run};
use crate::support::required;

const BATCH_ORDERS: usize = 100;
const LOCKED_ORDERS: usize = 10;
const READS_AT_ONCE: usize = 8;
/// Refuses the completion of one order in a hundred.
const REFUSED: &str = "new.status = 2 and new.user_id % 100 = 0";
const FEW_CONNECTIONS: std::ops::RangeInclusive<usize> = 3..=15;
const OPEN: &str = "select count(*) from orderly.orders where status = 0";

struct Scale {
    orders: usize,
    locked_for: Duration,
}

struct Fixture {
    database: TestDatabase,
    admin: Client,
    role: String,
    folders: [TempDir; 2],
    http: reqwest::Client,
}

impl Fixture {
    async fn open() -> Fixture {
        let database = Server::shared().await.create_database().await;
        let admin = database.admin().await;
        let name = database.name().to_owned();
        let role = format!("limited_{name}");
        let create = format!("create role {role} login; alter database {name} owner to {role}");
        admin.batch_execute(&create).await.unwrap();
        Fixture {
            database,
            admin,
            role,
            folders: [TempDir::new().unwrap(), TempDir::new().unwrap()],
            http: http(),
        }
    }

    async fn start(&self, folder: &Path) -> Process {
        let of_role = format!("postgres://{}@", self.role);
        let url = self.database.url().replace("postgres://postgres@", &of_role);
        let mut command = orderly(folder);
        command.envs([
            ("DATABASE_URL", url.as_str()),
            ("ORDERLY_LEASE", "3s"),
            ("ORDERLY_SIMULATED_SPEED", "20"),
        ]);
        Process::start(command).await
    }

    async fn accept(&self, node: &Process, first: usize, count: usize) {
        let order = |user: usize| json!({"user_id": user, "item_ids": [7], "total_amount": 1});
        let orders: Vec<Value> = (first..first + count).map(order).collect();
        let url = format!("{}/orders/batch", node.url);
        let sent = self
            .http
            .post(url)
            .json(&json!({ "orders": orders }))
            .send()
            .await;
        assert_eq!(sent.unwrap().status(), StatusCode::CREATED);
    }

    async fn act(&self, node: &Process, path: &str) {
        until(path, async || {
            let sent = self.http.post(format!("{}{path}", node.url)).send().await;
            sent.is_ok_and(|answer| answer.status() == StatusCode::OK)
        })
        .await;
    }

    async fn is_ready(&self, node: &Process) -> bool {
        let sent = self.http.get(format!("{}/readyz", node.url)).send().await;
        sent.unwrap().status() == StatusCode::OK
    }

    /// Needs more connections than the minimum.
    async fn read_much_at_once(&self, node: &Process) {
        let url = format!("{}/orders", node.url);
        let reads = (0..READS_AT_ONCE).map(|_| self.http.get(&url).send());
        // Without a connection a node answers 503.
        let _answers = join_all(reads).await;
    }

    async fn allow_connections(&self, connections: usize) {
        let alter = format!("alter role {} connection limit {connections}", self.role);
        self.admin.batch_execute(&alter).await.unwrap();
    }

    async fn count(&self, query: &str) -> usize {
        let found: i64 = self.admin.query_one(query, &[]).await.unwrap().get(0);
        usize::try_from(found).unwrap()
    }

    async fn all_but(&self, orders: usize) {
        until(&format!("all but {orders} orders have ended"), async || {
            self.count(OPEN).await <= orders
        })
        .await;
    }

    /// Searches the logs of both nodes.
    fn has_logged(&self, text: &str) -> bool {
        self.folders.iter().any(|folder| {
            let log = std::fs::read_to_string(folder.path().join("logs/app.log"));
            log.unwrap().contains(text)
        })
    }
}

/// Locks the rows until the session rolls back.
async fn lock_some(fixture: &Fixture) -> Client {
    let session = fixture.database.admin().await;
    let lock = format!(
        "begin; select from orderly.orders join orderly.first_line using (order_id) where user_id % 10 = 5
         order by order_id limit {LOCKED_ORDERS} for update"
    );
    session.batch_execute(&lock).await.unwrap();
    session
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_few_connections_and_locks_together_strand_no_order() {
    if !required("a private PostgreSQL", postgres::is_installed()) {
        return;
    }
    let scale = if in_full() {
        Scale {
            orders: 10_000,
            locked_for: Duration::from_mins(1),
        }
    } else {
        Scale {
            orders: 500,
            locked_for: Duration::ZERO,
        }
    };
    let fixture = Fixture::open().await;
    let [first, second] = &fixture.folders;
    let nodes = [
        fixture.start(first.path()).await,
        fixture.start(second.path()).await,
    ];
    fixture.act(&nodes[0], "/queue/pause").await;
    for (batch, node) in (0..scale.orders / BATCH_ORDERS).zip(nodes.iter().cycle()) {
        fixture.accept(node, 1 + batch * BATCH_ORDERS, BATCH_ORDERS).await;
    }
    begin_to_refuse(&fixture.admin).await;
    let locked_at = Instant::now();
    let session = lock_some(&fixture).await;

    // At first neither node gets a connection, and both report it. Then the limit rises step by step.
    fixture.allow_connections(0).await;
    let terminate = "select pg_terminate_backend(pid) from pg_stat_activity where usename = $1";
    fixture.admin.execute(terminate, &[&fixture.role]).await.unwrap();
    for node in &nodes {
        until("a node reports that it is not ready", async || {
            !fixture.is_ready(node).await
        })
        .await;
    }
    fixture.allow_connections(*FEW_CONNECTIONS.start()).await;
    until("a node logs that it needs more connections", async || {
        for node in &nodes {
            fixture.read_much_at_once(node).await;
        }
        fixture.has_logged("the database allows this node")
    })
    .await;
    fixture.act(&nodes[0], "/queue/resume").await;
    let steps = FEW_CONNECTIONS.count();
    for (step, connections) in FEW_CONNECTIONS.enumerate() {
        fixture.allow_connections(connections).await;
        fixture
            .all_but(LOCKED_ORDERS.max(scale.orders - scale.orders * (step + 1) / steps))
            .await;
    }
    until("the lock is old enough", async || {
        fixture.count(OPEN).await == LOCKED_ORDERS && locked_at.elapsed() >= scale.locked_for
    })
    .await;
    for text in ["refuses the result", "has locked"] {
        until(text, async || fixture.has_logged(text)).await;
    }

    session.batch_execute("rollback").await.unwrap();
    fixture.all_but(0).await;
    for node in &nodes {
        until("a node is ready again", async || fixture.is_ready(node).await).await;
    }
    let refused = "select count(*) from orderly.orders where status = 3 and user_id % 100 = 0";
    assert_eq!(fixture.count(refused).await, scale.orders / 100);
    let completed = "select count(*) from orderly.orders where status = 2 and user_id % 100 <> 0";
    assert_eq!(fixture.count(completed).await, scale.orders - scale.orders / 100);
    for node in nodes {
        assert_eq!(node.terminate().await, Some(0));
    }
    let url = fixture.database.url();
    let (exit, report) = run(first.path(), &["verify", "--database-url", &url]).await;
    assert_eq!(exit, Some(0), "{report}");
}

async fn begin_to_refuse(admin: &Client) {
    let rule = format!(
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'not with us'; end $$;
         create trigger refuses before update on orderly.orders for each row when ({REFUSED}) execute function refuse()"
    );
    admin.batch_execute(&rule).await.unwrap();
}
