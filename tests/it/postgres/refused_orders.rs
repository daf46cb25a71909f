//! One order among many that the database refuses to change: a heartbeat costs little more, and the node logs the refusal
//! (issue 13, point 1).

use std::collections::BTreeSet;

use orderly::lease::Lease;
use orderly::order::OrderId;
use serde_json::Value;

use super::locked_claims::accept;
use super::setup::{Setup, has_postgres, log_in, node, number};
use crate::support::client::http;
use crate::support::make::{NODE_A, claim_by, heartbeat};
use crate::support::postgres::Server;
use crate::support::process::Process;
use crate::support::until;

/// A trigger that refuses each `change`, such as `update on orderly.leases`, of a row that meets the condition.
fn refusing_trigger(change: &str, condition: &str) -> String {
    format!(
        "create function refuse() returns trigger language plpgsql as $$
         begin raise exception 'not with us'; end $$;
         create trigger refused before {change} for each row when ({condition}) execute function refuse()"
    )
}

const DROP_TRIGGER: &str = "drop function refuse cascade";

const LEASES: usize = 64;
/// Enough queries to bisect the leases, and far fewer than one per lease.
const QUERIES_MAX: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_isolates_a_refused_lease_and_keeps_its_node_listed() {
    let Some(setup) = Setup::new().await else { return };
    let store = &setup.store;
    accept(&**store, LEASES).await;
    let leases = store.claim(claim_by(NODE_A, LEASES)).await.unwrap().leases;
    let keys: Vec<_> = leases.iter().map(Lease::key).collect();
    let bad = keys[LEASES - 1].order_id;
    until("the node receives notifications", async || {
        store.renew(heartbeat(NODE_A, &keys)).await.unwrap();
        store.wakeups().hears_all()
    })
    .await;
    let refused = refusing_trigger("update on orderly.leases", &format!("new.order_id = {bad}"));
    setup.admin.batch_execute(&refused).await.unwrap();
    let before = setup.queries();
    let renewed = store.renew(heartbeat(NODE_A, &keys)).await.unwrap();
    let queries = setup.queries() - before;
    assert!(queries <= QUERIES_MAX, "{queries} queries");
    let refused: Vec<OrderId> = renewed.refused.iter().map(|order| order.order_id).collect();
    assert_eq!((refused, renewed.lost), (vec![bad], vec![]));
    // Long enough for the task that watches the list of nodes.
    for _ in 0..10 {
        store.queue().await.unwrap();
        assert!(store.wakeups().hears_all());
    }
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_logs_refused_starts_and_continues_without_them() {
    assert_other_orders_start("insert on orderly.leases", "new.order_id in (3, 7)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_continues_without_orders_that_cannot_leave_their_line() {
    assert_other_orders_start("delete on orderly.first_line", "old.order_id in (3, 7)").await;
}

async fn assert_other_orders_start(change: &str, condition: &str) {
    if !has_postgres() {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let admin = database.admin().await;
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &database.url())).await;
    admin
        .batch_execute(&refusing_trigger(change, condition))
        .await
        .unwrap();
    accept_ten(&node).await;
    let completed = "select count(*) from orderly.orders where status = 2";
    until("the others are completed", async || {
        number(&admin, completed).await == 8
    })
    .await;
    let explained = http().get(format!("{}/orders/3/explain", node.url)).send().await;
    let explained: Value = explained.unwrap().json().await.unwrap();
    assert_eq!(explained["reasons"][0]["reason"], "refused", "{explained}");
    admin.batch_execute(DROP_TRIGGER).await.unwrap();
    until("the refused ones are completed", async || {
        number(&admin, completed).await == 10
    })
    .await;
    node.terminate().await;
    let lines: Vec<Value> = log_in(folder.path())
        .into_iter()
        .filter(|line| line["message"].as_str().unwrap().contains("refuses to start"))
        .collect();
    // One log line for both orders, or one for each.
    assert!((1..=2).contains(&lines.len()), "{lines:?}");
    let named: BTreeSet<&str> = lines
        .iter()
        .flat_map(|line| {
            line["message"]
                .as_str()
                .unwrap()
                .split(['(', ')'])
                .nth(1)
                .unwrap()
                .split(", ")
        })
        .collect();
    assert_eq!(named, BTreeSet::from(["3", "7"]));
    assert!(
        lines.iter().all(|line| line["code"] == "SQLSTATE P0001"),
        "{lines:?}"
    );
}

/// Starting an attempt does not change the order's row; ending it does.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_on_orders_refuses_results_but_no_starts() {
    if !has_postgres() {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let admin = database.admin().await;
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &database.url())).await;
    let condition = "new.status = 2 and new.user_id in (3, 7)";
    admin
        .batch_execute(&refusing_trigger("update on orderly.orders", condition))
        .await
        .unwrap();
    accept_ten(&node).await;
    let ended =
        "select count(*) from orderly.orders where status = case when user_id in (3, 7) then 3 else 2 end";
    until("all orders end, two of them as failed", async || {
        number(&admin, ended).await == 10
    })
    .await;
    assert_eq!(node.terminate().await, Some(0));
}

/// Accepts ten orders; each has the user id of its own number.
async fn accept_ten(node: &Process) {
    let orders: Vec<Value> = (1..=10)
        .map(|user| serde_json::json!({"user_id": user, "item_ids": [7], "total_amount": 1}))
        .collect();
    let batch = http().post(format!("{}/orders/batch", node.url));
    let accepted = batch.json(&serde_json::json!({ "orders": orders })).send().await;
    assert_eq!(accepted.unwrap().status(), 201);
}
