//! One order that the database refuses to change, among many: a heartbeat costs little more for it, and the node says what is
//! wrong (issue 13, point 1).

use std::collections::BTreeSet;

use orderly::lease::Lease;
use orderly::order::OrderId;
use serde_json::Value;

use super::locked::accept;
use super::scene::{Scene, has_postgres, log_in, node, number};
use crate::support::client::http;
use crate::support::make::{NODE_A, claim_by, heartbeat};
use crate::support::postgres::Server;
use crate::support::process::Process;
use crate::support::until;

/// A rule that refuses each change of a table, such as `update on orderly.leases`, for which the condition holds.
fn rule(change: &str, condition: &str) -> String {
    format!(
        "create function refuse() returns trigger language plpgsql as $$
         begin raise exception 'not with us'; end $$;
         create trigger refused before {change} for each row when ({condition}) execute function refuse()"
    )
}

const NO_RULE: &str = "drop function refuse cascade";

const LEASES: usize = 64;
/// Enough for the halves of these leases, far fewer than one for each.
const QUERIES_MAX: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_finds_one_refused_lease_by_halves_and_stays_on_the_list() {
    let Some(scene) = Scene::new().await else { return };
    let store = &scene.store;
    accept(&**store, LEASES).await;
    let leases = store.claim(claim_by(NODE_A, LEASES)).await.unwrap().leases;
    let keys: Vec<_> = leases.iter().map(Lease::key).collect();
    let bad = keys[LEASES - 1].order_id;
    until("the node hears the others", async || {
        store.renew(heartbeat(NODE_A, &keys)).await.unwrap();
        store.wakeups().hears_all()
    })
    .await;
    let refused = rule("update on orderly.leases", &format!("new.order_id = {bad}"));
    scene.admin.batch_execute(&refused).await.unwrap();
    let before = scene.queries();
    let renewed = store.renew(heartbeat(NODE_A, &keys)).await.unwrap();
    let queries = scene.queries() - before;
    assert!(queries <= QUERIES_MAX, "{queries} queries");
    let refused: Vec<OrderId> = renewed.refused.iter().map(|order| order.order_id).collect();
    assert_eq!((refused, renewed.lost), (vec![bad], vec![]));
    // Long enough for the task that follows the list.
    for _ in 0..10 {
        store.queue().await.unwrap();
        assert!(store.wakeups().hears_all());
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_which_starts_are_refused_and_goes_on_without_them() {
    starts_around("insert on orderly.leases", "new.order_id in (3, 7)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_goes_on_without_orders_that_may_not_leave_their_line() {
    starts_around("delete on orderly.first_line", "old.order_id in (3, 7)").await;
}

async fn starts_around(change: &str, condition: &str) {
    if !has_postgres() {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let admin = database.admin().await;
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &database.url())).await;
    admin.batch_execute(&rule(change, condition)).await.unwrap();
    accept_ten(&node).await;
    let completed = "select count(*) from orderly.orders where status = 2";
    until("the others are completed", async || {
        number(&admin, completed).await == 8
    })
    .await;
    let explained = http().get(format!("{}/orders/3/explain", node.url)).send().await;
    let explained: Value = explained.unwrap().json().await.unwrap();
    assert_eq!(explained["reasons"][0]["reason"], "refused", "{explained}");
    admin.batch_execute(NO_RULE).await.unwrap();
    until("the refused ones are completed", async || {
        number(&admin, completed).await == 10
    })
    .await;
    node.terminate().await;
    let lines: Vec<Value> = log_in(folder.path())
        .into_iter()
        .filter(|line| line["message"].as_str().unwrap().contains("refuses to start"))
        .collect();
    // At once, or one after the other as they came.
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

/// The row of an order changes when its attempt has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_about_orders_refuses_results_and_no_start() {
    if !has_postgres() {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let admin = database.admin().await;
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &database.url())).await;
    let condition = "new.status = 2 and new.user_id in (3, 7)";
    admin
        .batch_execute(&rule("update on orderly.orders", condition))
        .await
        .unwrap();
    accept_ten(&node).await;
    let ended =
        "select count(*) from orderly.orders where status = case when user_id in (3, 7) then 3 else 2 end";
    until("all end, those two as failed", async || {
        number(&admin, ended).await == 10
    })
    .await;
    assert_eq!(node.terminate().await, Some(0));
}

/// Each order of the user of the same number.
async fn accept_ten(node: &Process) {
    let orders: Vec<Value> = (1..=10)
        .map(|user| serde_json::json!({"user_id": user, "item_ids": [7], "total_amount": 1}))
        .collect();
    let batch = http().post(format!("{}/orders/batch", node.url));
    let accepted = batch.json(&serde_json::json!({ "orders": orders })).send().await;
    assert_eq!(accepted.unwrap().status(), 201);
}
