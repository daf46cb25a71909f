//! How a node hears of work that another accepted: at once where notifications arrive, by polling where a pooler keeps
//! them back.

use std::time::{Duration, Instant};

use orderly::order::OrderId;
use serde_json::Value;
use tokio::sync::watch;

use super::nodes::{Cluster, Node, Settings};
use crate::support::postgres::{Server, is_installed_with_pgbouncer};
use crate::support::proxy::{Action, Proxy};
use crate::support::{required, until};

/// Parts of the statements that claim and that say that the node lives, and of no others.
const CLAIM: &str = "from orderly.claim_";
const HEARTBEAT: &str = "insert into orderly.nodes";
/// An idle node doubles the time between its polls, up to 34 s; the next one is then at least seven seconds away.
const LONG_GAP: Duration = Duration::from_millis(3_500);
/// Far less than that.
const WOKEN_WITHIN: Duration = Duration::from_secs(3);

/// One slot, which the first order fills for good.
const SETTINGS: Settings = &[("ORDERLY_CONCURRENCY", "1"), ("ORDERLY_SIMULATED_SPEED", "0.001")];

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_node_is_woken_for_what_another_cannot_take() {
    let Some(cluster) = Cluster::new(SETTINGS).await else {
        return;
    };
    let (_busy_proxy, busy, mut beats) = start_watched(&cluster, HEARTBEAT).await;
    // The one that announces it, and the one with which it becomes quiet: the next is half a minute away, so that it
    // does not know of the other when it gets its orders.
    beats
        .wait_for(|times| times.len() > 1)
        .await
        .expect("the proxy lives");
    let (_idle_proxy, idle, mut polls) = start_watched(&cluster, CLAIM).await;
    let is_long =
        |times: &Vec<Instant>| matches!(times[..], [.., earlier, last] if last - earlier > LONG_GAP);
    polls.wait_for(is_long).await.expect("the proxy lives");

    let orders = busy.accept(2).await;
    until("both orders are processed", async || {
        busy.get("/queue").await["processing"] == 2
    })
    .await;
    for id in orders {
        let waited = waited(&idle, id).await;
        assert!(waited < WOKEN_WITHIN, "order {id} started after {waited:?}");
    }
}

/// A node behind a proxy, and when it sent a certain statement.
async fn start_watched(
    cluster: &Cluster,
    text: &'static str,
) -> (Proxy, Node, watch::Receiver<Vec<Instant>>) {
    let proxy = Proxy::before(Server::shared().await.address()).await;
    let (sent, times) = watch::channel(Vec::new());
    proxy.on_flight(move |flight| {
        if flight.sql().contains(text) {
            sent.send_modify(|times| times.push(Instant::now()));
        }
        Action::Forward
    });
    let url = cluster.database.url_at("127.0.0.1", proxy.address().port());
    let node = cluster.start_at(&url).await;
    (proxy, node, times)
}

/// From acceptance to the start.
async fn waited(node: &Node, id: OrderId) -> Duration {
    let order = node.order(id).await;
    let micros = |field: &str| {
        let text = order[field].as_str().expect("a time");
        let time: jiff::Timestamp = text.parse().expect("a time as RFC 3339 writes it");
        time.as_microsecond()
    };
    Duration::from_micros((micros("processing_at") - micros("created_at")).unsigned_abs())
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_pooler_nodes_poll_and_say_so_once() {
    if !required("a private PgBouncer", is_installed_with_pgbouncer()) {
        return;
    }
    let Some(cluster) = Cluster::new(SETTINGS).await else {
        return;
    };
    let url = cluster.database.bouncer_url().await;
    let (first, second) = tokio::join!(cluster.start_at(&url), cluster.start_at(&url));
    let nodes = [&first, &second];
    for node in nodes {
        until("it says that it polls", async || {
            tokio::task::yield_now().await;
            node.process().said("notifications do not arrive over this way")
        })
        .await;
    }
    first.accept(2).await;
    until("both nodes found an order", async || {
        let queue = second.get("/queue").await;
        let nodes = queue["nodes"].as_array().expect("a list of nodes");
        nodes.iter().all(|node: &Value| node["busy"] == 1)
    })
    .await;
    for node in nodes {
        assert_eq!(
            node.process()
                .said_times("notifications do not arrive over this way"),
            1
        );
    }
}
