//! A database that answers but cannot store orders, because of revoked rights, a locked table or a trigger. The node is not ready,
//! answers 503, and logs the recovery once.

use orderly::lease::Outcome;
use orderly::order::OrderStatus;
use orderly::store::{Settled, StoreError, StoreHealth};
use reqwest::StatusCode;
use serde_json::Value;
use tokio_postgres::Client;

use super::setup::{accept_keyed, has_postgres, log_in, node, status_of, store_at, until_ready};
use crate::support::client::{Request, http};
use crate::support::make::{NODE_A, claim_by, heartbeat};
use crate::support::postgres::{Server, TestDatabase};
use crate::support::process::Process;
use crate::support::until;

/// A node whose role has only the rights that it needs, so that a test can revoke them.
struct LimitedNode {
    database: TestDatabase,
    role: String,
    folder: tempfile::TempDir,
    node: Process,
}

/// Creates the schema and a role with the rights on it. Returns the role and its URL.
async fn role_on(database: &TestDatabase) -> (String, String) {
    let role = format!("node_{}", database.name());
    store_at(&database.url()).await.close().await;
    let grant = format!(
        "create role {role} login;
         grant usage on schema orderly to {role};
         grant all on all tables in schema orderly to {role};
         grant all on all sequences in schema orderly to {role}"
    );
    run(&database.admin().await, &grant).await;
    let url = database.url().replace("://postgres@", &format!("://{role}@"));
    (role, url)
}

async fn drop_role(admin: &Client, role: &str) {
    run(admin, &format!("drop owned by {role}; drop role {role}")).await;
}

impl LimitedNode {
    async fn open() -> LimitedNode {
        let database = Server::shared().await.create_database().await;
        let (role, url) = role_on(&database).await;
        let folder = tempfile::tempdir().unwrap();
        let node = Process::start(node(folder.path(), &url)).await;
        until_ready(&node).await;
        LimitedNode {
            database,
            role,
            folder,
            node,
        }
    }

    async fn post(&self, key: &str) -> (StatusCode, Value) {
        let request = Request {
            key: key.to_owned(),
            user_id: 1,
            cents: 1,
        };
        let posted = http()
            .post(format!("{}/orders", self.node.url))
            .header("Idempotency-Key", key)
            .json(&request.body());
        let answer = posted.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn is_refused(&self, key: &str) {
        let (status, problem) = self.post(key).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
        let kind = problem["type"].as_str().unwrap();
        assert!(kind.ends_with("/store-unavailable"), "{problem}");
        until("the node is not ready", async || {
            status_of(&self.node, "/readyz").await == StatusCode::SERVICE_UNAVAILABLE
        })
        .await;
    }

    async fn takes_orders(&self, key: &str) {
        until_ready(&self.node).await;
        let (status, order) = self.post(key).await;
        assert_eq!(status, StatusCode::CREATED, "{order}");
    }

    /// Ends the node, and asserts that it was unready and recovered this many times.
    async fn ends_having_recovered(self, times: usize) {
        assert_eq!(self.node.terminate().await, Some(0));
        let log = log_in(self.folder.path());
        let begins = |line: &serde_json::Value, text: &str| {
            line["message"]
                .as_str()
                .is_some_and(|message| message.starts_with(text))
        };
        let said = |text: &str| log.iter().filter(|line| begins(line, text)).count();
        assert_eq!(said("the store can be written again"), times);
        assert_eq!(said("the store cannot be written"), times);
        drop_role(&self.database.admin().await, &self.role).await;
    }
}

async fn run(admin: &Client, statement: &str) {
    admin.batch_execute(statement).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_rights_on_one_table_is_not_ready_until_it_has_them() {
    if !has_postgres() {
        return;
    }
    let node = LimitedNode::open().await;
    let admin = node.database.admin().await;
    let role = node.role.clone();
    let tables = ["orders", "first_line", "batches", "counters", "idempotency_keys"];
    for table in tables {
        node.takes_orders(&format!("before {table}")).await;
        run(&admin, &format!("revoke all on orderly.{table} from {role}")).await;
        for number in 0..3 {
            node.is_refused(&format!("{table} {number}")).await;
        }
        run(&admin, &format!("grant all on orderly.{table} to {role}")).await;
        node.takes_orders(&format!("{table} 0")).await;
    }
    node.ends_having_recovered(tables.len()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_not_ready_while_a_table_is_locked() {
    if !has_postgres() {
        return;
    }
    let node = LimitedNode::open().await;
    let admin = node.database.admin().await;
    // These tables are used only by orders, so heartbeats do not hang.
    let tables = ["orders", "first_line", "batches", "counters", "idempotency_keys"];
    for table in tables {
        // Takes the same lock as `create index`.
        run(
            &admin,
            &format!("begin; lock table orderly.{table} in share mode"),
        )
        .await;
        node.is_refused(table).await;
        run(&admin, "rollback").await;
        node.takes_orders(table).await;
    }
    node.ends_having_recovered(tables.len()).await;
}

/// Heartbeats are still stored, which does not prove that orders can be.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_makes_the_store_unready_only_if_it_refuses_every_order() {
    if !has_postgres() {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let store = store_at(&database.url()).await;
    let admin = database.admin().await;
    run(
        &admin,
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
         create trigger no_bad before insert on orderly.orders for each row when (new.reference = 'bad')
         execute function refuse()",
    )
    .await;
    for _ in 0..3 {
        let refused = accept_keyed(&*store, "bad").await;
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
        accept_keyed(&*store, "good").await.unwrap();
        assert_eq!(store.health(), StoreHealth::Ready);
    }
    run(
        &admin,
        "create trigger no_order before insert on orderly.orders for each row execute function refuse()",
    )
    .await;
    accept_keyed(&*store, "any").await.unwrap_err();
    until("the store is not ready", async || {
        store.health() != StoreHealth::Ready
    })
    .await;
    for _ in 0..20 {
        store.renew(heartbeat(NODE_A, &[])).await.unwrap();
        assert_ne!(store.health(), StoreHealth::Ready);
    }
    run(&admin, "drop trigger no_order on orderly.orders").await;
    until("the store is ready", async || {
        store.health() == StoreHealth::Ready
    })
    .await;
    accept_keyed(&*store, "any").await.unwrap();
    store.close().await;
}

/// Issue 13, point 2.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_claims_nothing_while_it_cannot_settle() {
    if !has_postgres() {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let (role, url) = role_on(&database).await;
    let admin = database.admin().await;
    let store = store_at(&url).await;
    accept_keyed(&*store, "first").await.unwrap();
    let lease = store.claim(claim_by(NODE_A, 1)).await.unwrap().leases.remove(0);
    let settle = database.named(":settle(").await;
    let settle = settle.trim_end_matches('(');
    run(
        &admin,
        &format!("revoke execute on function {settle} from public"),
    )
    .await;
    store.settle(lease.key(), Outcome::COMPLETED).await.unwrap_err();
    until("the store is not ready", async || {
        store.health() != StoreHealth::Ready
    })
    .await;
    // The rights on the tables of orders are still granted.
    accept_keyed(&*store, "second").await.unwrap();
    for _ in 0..3 {
        let claimed = store.claim(claim_by(NODE_A, 1)).await;
        assert!(
            matches!(claimed, Err(StoreError::Unavailable { .. })),
            "{claimed:?}"
        );
    }
    run(&admin, &format!("grant execute on function {settle} to public")).await;
    until("the store is ready", async || {
        store.health() == StoreHealth::Ready
    })
    .await;
    let second = store.claim(claim_by(NODE_A, 1)).await.unwrap().leases.remove(0);
    for key in [lease.key(), second.key()] {
        let settled = store.settle(key, Outcome::COMPLETED).await.unwrap();
        assert_eq!(settled, Settled::Done(OrderStatus::Completed));
    }
    store.close().await;
    drop_role(&admin, &role).await;
}
