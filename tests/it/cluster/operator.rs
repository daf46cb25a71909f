//! Operator actions at one node and their effects at others.

use orderly::event::EventKind;
use orderly::order::OrderId;
use orderly::time::Timestamp;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::nodes::{Cluster, Node, Settings, now};
use crate::support::until;

/// One slot, and so slow that an order fills it for the whole test.
const NEVER_DONE: Settings = &[
    ("ORDERLY_SIMULATED_SPEED", "0.001"),
    ("ORDERLY_CONCURRENCY", "1"),
    ("ORDERLY_SHUTDOWN_GRACE", "1s"),
];
/// Microseconds in which every node polls the queue at least once while orders are open; see `worker/dispatcher.rs`.
const TWO_POLLS_MICROS: i64 = 2_000_000;

/// The entry of `node` in the list of `other`.
async fn listed(node: &Node, other: &Node) -> Option<Value> {
    let queue = node.get("/queue").await;
    let nodes = queue["nodes"].as_array().expect("a list of nodes").clone();
    nodes
        .into_iter()
        .find(|listed| listed["node"] == other.id.to_string())
}

async fn is_alive(node: &Node, other: &Node) -> Option<bool> {
    listed(node, other)
        .await
        .and_then(|listed| listed["alive"].as_bool())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_lists_all_nodes_and_marks_dead_ones() {
    let Some(cluster) = Cluster::new(NEVER_DONE).await else {
        return;
    };
    let first = cluster.start().await;
    let second = cluster.start().await;
    let third = cluster.start().await;
    let nodes = [&first, &second, &third];
    first.accept(4).await;
    for node in nodes {
        for other in nodes {
            until("a node is listed with its slots and its order", async || {
                listed(node, other).await.is_some_and(|listed| {
                    listed["alive"] == true && listed["slots"] == 1 && listed["busy"] == 1
                })
            })
            .await;
        }
    }

    let stopped = second.id;
    assert_eq!(second.terminate().await, Some(0));
    let queue = first.get("/queue").await;
    assert!(!queue.to_string().contains(&stopped.to_string()), "{queue}");

    // A killed node stays listed until it has been dead for long.
    third.process().signal("KILL").await;
    until("a node that was killed counts as dead", async || {
        is_alive(&first, &third).await == Some(false)
    })
    .await;
    assert_eq!(is_alive(&first, &first).await, Some(true));
    let (exit, report) = cluster.verify().await;
    assert_eq!(exit, Some(0), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_at_every_node_equal_a_recount_of_the_table() {
    let Some(cluster) = Cluster::new(NEVER_DONE).await else {
        return;
    };
    let nodes = [cluster.start().await, cluster.start().await];
    let orders = nodes[0].accept(10).await;
    until("both nodes have an order", async || {
        nodes[1].get("/queue").await["processing"] == 2
    })
    .await;
    // The last order in line is the least likely to have started.
    let (status, cancelled) = nodes[1].act(&format!("/orders/{}/cancel", orders[9])).await;
    assert_eq!(
        (status, &cancelled["status"]),
        (StatusCode::OK, &json!("Cancelled"))
    );
    for node in &nodes {
        let metrics = node.get("/metrics").await;
        let counts = [
            "total_orders",
            "pending_orders",
            "processing_orders",
            "cancelled_orders",
        ]
        .map(|name| metrics[name].as_u64().expect("a count"));
        assert_eq!(counts, [10, 7, 2, 1], "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_at_one_node_stops_starts_on_all() {
    let Some(cluster) = Cluster::new(&[("ORDERLY_CONCURRENCY", "4")]).await else {
        return;
    };
    let nodes = [
        cluster.start().await,
        cluster.start().await,
        cluster.start().await,
    ];
    nodes[0].accept(200).await;
    for (pausing, resuming) in [(1, 2), (2, 0)] {
        let before = starts(&cluster).await;
        until("orders start", async || starts(&cluster).await > before + 8).await;
        let (status, queue) = nodes[pausing].act("/queue/pause").await;
        assert_eq!((status, &queue["paused"]), (StatusCode::OK, &json!(true)));
        let paused_at = now();
        let at_the_pause = starts(&cluster).await;
        nodes[resuming].accept(1).await;
        until("every node has polled the queue since", async || {
            let queue = nodes[resuming].get("/queue").await;
            heartbeats(&queue).all(|at| at.micros() > paused_at.micros() + TWO_POLLS_MICROS)
        })
        .await;
        assert!(nodes[0].open_orders().await > 0, "no order is left to start");
        assert_eq!(
            starts(&cluster).await,
            at_the_pause,
            "an order started after the pause"
        );
        let (status, queue) = nodes[resuming].act("/queue/resume").await;
        assert_eq!((status, &queue["paused"]), (StatusCode::OK, &json!(false)));
    }
    until("all orders end", async || nodes[1].open_orders().await == 0).await;
    let (exit, report) = cluster.verify().await;
    assert_eq!(exit, Some(0), "{report}");
}

async fn starts(cluster: &Cluster) -> usize {
    let records = cluster.records().await;
    let events = records.iter().flat_map(|record| &record.events);
    events
        .filter(|stored| stored.event.kind == EventKind::Started)
        .count()
}

fn heartbeats(queue: &Value) -> impl Iterator<Item = Timestamp> {
    let nodes = queue["nodes"].as_array().expect("a list of nodes").iter();
    nodes.map(|node| {
        let text = node["heartbeat_at"].as_str().expect("a time");
        let time: jiff::Timestamp = text.parse().expect("an RFC 3339 time");
        Timestamp::from_micros(time.as_microsecond())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_at_one_node_frees_the_slot_on_another() {
    let Some(cluster) = Cluster::new(NEVER_DONE).await else {
        return;
    };
    let processing = cluster.start().await;
    let [order, next] = processing.accept(2).await[..] else {
        panic!("two orders were accepted");
    };
    until("it is processed", async || {
        holder(&processing, order).await == Some(processing.id.to_string())
    })
    .await;
    let (status, paused) = processing.act("/queue/pause").await;
    assert_eq!(status, StatusCode::OK, "{paused}");
    // The pause keeps this node from starting the waiting order.
    let other = cluster.start().await;
    let (status, cancelled) = other.act(&format!("/orders/{order}/cancel")).await;
    assert_eq!(
        (status, &cancelled["status"]),
        (StatusCode::OK, &json!("Cancelled"))
    );
    until("its slot is free", async || {
        processing.number("orderly_slots_busy").await == 0
    })
    .await;

    assert_eq!(other.terminate().await, Some(0));
    let (status, _) = processing.act("/queue/resume").await;
    assert_eq!(status, StatusCode::OK);
    until("the next is processed", async || {
        holder(&processing, next).await.is_some()
    })
    .await;
    assert_eq!(
        kinds(&processing, order).await,
        ["accepted", "started", "cancelled"]
    );
    assert_eq!(processing.terminate().await, Some(0));
    let (exit, report) = cluster.verify().await;
    assert_eq!(exit, Some(0), "{report}");
}

/// The node that last started an order.
async fn holder(node: &Node, id: OrderId) -> Option<String> {
    let events = events(node, id).await;
    let mut starts = events.iter().rev().filter(|event| event["kind"] == "started");
    Some(starts.next()?["node"].as_str()?.to_owned())
}

async fn kinds(node: &Node, id: OrderId) -> Vec<String> {
    let events = events(node, id).await;
    let kinds = events.iter().map(|event| event["kind"].as_str());
    kinds.map(|kind| kind.expect("a kind").to_owned()).collect()
}

async fn events(node: &Node, id: OrderId) -> Vec<Value> {
    let history = node.get(&format!("/orders/{id}/events")).await;
    history["events"].as_array().expect("events").clone()
}
