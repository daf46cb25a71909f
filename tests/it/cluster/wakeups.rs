//! Ways in which a node learns of orders accepted by another: at once through notifications, by polling where a pooler suppresses
//! them.

use std::time::{Duration, Instant};

use orderly::order::OrderId;
use serde_json::Value;
use tokio::sync::watch;

use super::nodes::{Cluster, Node, Settings};
use crate::support::postgres::{Server, is_installed_with_pgbouncer};
use crate::support::proxy::{Action, Proxy};
use crate::support::{required, until};

/// Parts of the claim and heartbeat statements that occur in no other statement.
const CLAIM: &str = "from orderly.claim_";
const HEARTBEAT: &str = "insert into orderly.nodes";
/// An idle node doubles its polling interval up to 34 s. After a gap of this length the next poll is at least seven
/// seconds away.
const LONG_GAP: Duration = Duration::from_millis(3_500);
/// Much less than the polling interval.
const WOKEN_WITHIN: Duration = Duration::from_secs(3);

/// One slot, which the first order fills for good.
const SETTINGS: Settings = &[("ORDERLY_CONCURRENCY", "1"), ("ORDERLY_SIMULATED_SPEED", "0.001")];

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_node_is_woken_for_orders_another_has_no_slot_for() {
    let Some(cluster) = Cluster::new(SETTINGS).await else {
        return;
    };
    let (_busy_proxy, busy, mut beats) = start_watched(&cluster, HEARTBEAT).await;
    // The heartbeat that announces the node, and the one with which it becomes idle. The next comes half a minute
    // later, so the node does not know of the other when it gets its orders.
    beats
        .wait_for(|times| times.len() > 1)
        .await
        .expect("the proxy is running");
    let (_idle_proxy, idle, mut polls) = start_watched(&cluster, CLAIM).await;
    let is_long =
        |times: &Vec<Instant>| matches!(times[..], [.., earlier, last] if last - earlier > LONG_GAP);
    polls.wait_for(is_long).await.expect("the proxy is running");

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

/// Starts a node behind a proxy and reports the times of one of its statements.
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

/// Time from acceptance to start.
async fn waited(node: &Node, id: OrderId) -> Duration {
    let order = node.order(id).await;
    let micros = |field: &str| {
        let text = order[field].as_str().expect("a time");
        let time: jiff::Timestamp = text.parse().expect("an RFC 3339 time");
        time.as_microsecond()
    };
    Duration::from_micros((micros("processing_at") - micros("created_at")).unsigned_abs())
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_pooler_nodes_poll_and_log_it_once() {
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
        until("the node logs that it polls", async || {
            tokio::task::yield_now().await;
            node.process()
                .has_logged("notifications do not arrive over this way")
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
                .times_logged("notifications do not arrive over this way"),
            1
        );
    }
}
