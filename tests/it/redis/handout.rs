//! Orders come through the stream while Redis works.

use reqwest::StatusCode;
use serde_json::Value;

use crate::cluster::nodes::{Cluster, Node, Settings};
use crate::support::client::http;
use crate::support::postgres::is_installed_with_pgbouncer;
use crate::support::redis::{self, Redis};
use crate::support::{required, until};

pub const SETTINGS: Settings = &[("ORDERLY_CONCURRENCY", "20"), ("ORDERLY_SIMULATED_SPEED", "0")];
/// Metrics of a node with Redis only.
pub const METRICS: [&str; 4] = [
    "orderly_redis_mode",
    "orderly_redis_stream_abandoned",
    "orderly_redis_stream_lag",
    "orderly_redis_stream_orders",
];
/// One order at a time, which takes half an hour.
const ONE_SLOT: Settings = &[("ORDERLY_CONCURRENCY", "1"), ("ORDERLY_SIMULATED_SPEED", "0.001")];

/// Waits until orders come through the stream, as `node` sees it.
pub async fn until_used(node: &Node) {
    until("orders come through the stream", async || {
        node.get("/queue").await["redis"]["mode"] == "stream"
    })
    .await;
}

pub async fn until_done(node: &Node) {
    until("all orders have ended", async || node.open_orders().await == 0).await;
}

pub async fn assert_sound(cluster: &Cluster) {
    let (exit, report) = cluster.verify().await;
    assert_eq!(exit, Some(0), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_come_through_the_stream_and_leave_nothing_behind() {
    let Some(cluster) = Cluster::with_redis(SETTINGS).await else {
        return;
    };
    let (first, second) = tokio::join!(cluster.start(), cluster.start());
    first.accept(1).await;
    until_done(&first).await;
    until_used(&first).await;
    until_used(&second).await;
    for _ in 0..10 {
        tokio::join!(first.accept(100), second.accept(100));
    }
    until_done(&first).await;
    until("the stream is empty", async || {
        let redis = first.get("/queue").await["redis"].clone();
        redis["depth"] == 0 && redis["lag"] == 0
    })
    .await;
    let scraped = http()
        .get(format!("{}/metrics/prometheus", first.url()))
        .send()
        .await
        .unwrap();
    let scraped = scraped.text().await.unwrap();
    for metric in METRICS {
        assert!(scraped.contains(&format!("# TYPE {metric} gauge")), "{metric}");
    }
    assert_eq!(cluster.records().await.len(), 2_001);
    assert_sound(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_reached_by_a_socket_and_by_tls() {
    if !required("a private Redis", redis::is_installed()) {
        return;
    }
    for redis in [Redis::start_with_socket().await, Redis::start_with_tls().await] {
        let Some(cluster) = Cluster::with(SETTINGS, redis).await else {
            return;
        };
        let node = cluster.start().await;
        node.accept(1).await;
        until_done(&node).await;
        until_used(&node).await;
        node.accept(100).await;
        until_done(&node).await;
        let orders: u64 = cluster.redis().ask("XLEN {orderly}:orders").await;
        assert!(orders <= 100);
        assert_sound(&cluster).await;
    }
}

/// The first node has no free slot: the order reaches the other one without LISTEN, which the pooler swallows.
#[tokio::test(flavor = "multi_thread")]
async fn another_node_is_woken_behind_a_pooler() {
    let Some(cluster) = Cluster::with_redis(ONE_SLOT).await else {
        return;
    };
    if !required("PgBouncer", is_installed_with_pgbouncer()) {
        return;
    }
    let url = cluster.database.bouncer_url().await;
    let (first, second) = tokio::join!(cluster.start_at(&url), cluster.start_at(&url));
    until_used(&first).await;
    until_used(&second).await;
    first.accept(2).await;
    until("both nodes have an order", async || {
        let queue = second.get("/queue").await;
        let nodes = queue["nodes"].as_array().expect("a list of nodes");
        nodes.iter().all(|node: &Value| node["busy"] == 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_drops_no_order_from_the_stream() {
    let Some(cluster) = Cluster::with_redis(SETTINGS).await else {
        return;
    };
    let (first, second) = tokio::join!(cluster.start(), cluster.start());
    until_used(&first).await;
    for _ in 0..5 {
        assert_eq!(second.act("/queue/pause").await.0, StatusCode::OK);
        let started = first.get("/queue").await["completed"].clone();
        first.accept(50).await;
        second.accept(50).await;
        let queue = first.get("/queue").await;
        assert_eq!(
            (&queue["completed"], &queue["processing"]),
            (&started, &Value::from(0))
        );
        assert_eq!(first.act("/queue/resume").await.0, StatusCode::OK);
        until_done(&first).await;
    }
    assert_sound(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_on_one_node_ends_the_attempt_on_another_at_once() {
    let Some(cluster) = Cluster::with_redis(ONE_SLOT).await else {
        return;
    };
    let first = cluster.start().await;
    let order = first.accept(1).await[0];
    until("the order runs", async || {
        first.order(order).await["status"] == "Processing"
    })
    .await;
    let second = cluster.start().await;
    let (status, _) = second.act(&format!("/orders/{order}/cancel")).await;
    assert_eq!(status, StatusCode::OK);
    until("the slot is free", async || {
        first.number("orderly_slots_busy").await == 0
    })
    .await;
}

/// Turns are settled by claims, one at a time; Redis wakes the nodes.
#[tokio::test(flavor = "multi_thread")]
async fn with_order_per_user_claims_start_the_orders() {
    let settings: Settings = &[
        ("ORDERLY_CONCURRENCY", "20"),
        ("ORDERLY_SIMULATED_SPEED", "0"),
        ("ORDERLY_ORDERING", "user"),
    ];
    let Some(cluster) = Cluster::with_redis(settings).await else {
        return;
    };
    let (first, second) = tokio::join!(cluster.start(), cluster.start());
    // All of one user.
    tokio::join!(first.accept(50), second.accept(50));
    until_done(&first).await;
    let redis = second.get("/queue").await["redis"].clone();
    assert_eq!(
        (&redis["mode"], &redis["depth"]),
        (&Value::from("news"), &Value::Null)
    );
    assert_sound(&cluster).await;
}

/// One slot, which the stream alone would keep busy until it is empty.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_waits_for_no_end_of_the_stream() {
    let settings: Settings = &[
        ("ORDERLY_CONCURRENCY", "1"),
        ("ORDERLY_SIMULATED_SPEED", "20"),
        ("ORDERLY_SIMULATED_FAILURE_RATE", "1"),
        ("ORDERLY_RETRY_BASE", "10ms"),
        ("ORDERLY_RETRY_CAP", "10ms"),
        ("ORDERLY_MAX_ATTEMPTS", "2"),
    ];
    let Some(cluster) = Cluster::with_redis(settings).await else {
        return;
    };
    let node = cluster.start().await;
    node.accept(1).await;
    until_done(&node).await;
    until_used(&node).await;
    let first = node.accept(60).await[0];
    until("the first of them has had its second attempt", async || {
        node.order(first).await["status"] == "Failed"
    })
    .await;
    let waiting = node.get("/queue").await["pending"].as_u64().expect("a number");
    assert!(waiting > 30, "{waiting} orders waited behind the retry");
}
