//! Single faults of Redis: orders go on from the store, it is said once, and Redis is used again by itself.

use reqwest::StatusCode;

use super::handout::{SETTINGS, assert_sound, until_done, until_used};
use crate::cluster::nodes::{Cluster, Node};
use crate::cluster::zombie::assert_detects_missing_fences;
use crate::support::until;

const AWAY: &str = "cannot be used";
const BACK: &str = "hands out the work again";

async fn two_nodes(cluster: &Cluster) -> [Node; 2] {
    let (first, second) = tokio::join!(cluster.start(), cluster.start());
    first.accept(1).await;
    until_done(&first).await;
    until_used(&first).await;
    until_used(&second).await;
    [first, second]
}

async fn orders_flow(nodes: &[Node; 2]) {
    tokio::join!(nodes[0].accept(100), nodes[1].accept(100));
    until_done(&nodes[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_go_on_while_redis_is_away_and_it_is_said_once() {
    let Some(cluster) = Cluster::with_redis(SETTINGS).await else {
        return;
    };
    let nodes = two_nodes(&cluster).await;
    let redis = cluster.redis();
    redis.kill().await;
    for _ in 0..3 {
        orders_flow(&nodes).await;
    }
    let queue = nodes[0].get("/queue").await;
    assert_eq!(queue["redis"]["mode"], "store", "{queue}");
    assert_eq!(nodes[0].get("/readyz").await["status"], "ready");
    redis.start_again().await;
    for node in &nodes {
        until("the node says that Redis is back", async || {
            // The node asks Redis again when it has work.
            node.accept(1).await;
            node.process().has_logged(BACK)
        })
        .await;
        assert_eq!(node.process().times_logged(AWAY), 1);
    }
    until_done(&nodes[0]).await;
    until_used(&nodes[0]).await;
    orders_flow(&nodes).await;
    assert_sound(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_without_its_redis() {
    let Some(cluster) = Cluster::with_redis(SETTINGS).await else {
        return;
    };
    cluster.redis().kill().await;
    let node = cluster.start().await;
    node.accept(10).await;
    until_done(&node).await;
    assert_sound(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_redis_loses_no_order() {
    let Some(cluster) = Cluster::with_redis(SETTINGS).await else {
        return;
    };
    let nodes = two_nodes(&cluster).await;
    for _ in 0..5 {
        assert_eq!(nodes[0].act("/queue/pause").await.0, StatusCode::OK);
        tokio::join!(nodes[0].accept(50), nodes[1].accept(50));
        let _: () = cluster.redis().ask("FLUSHALL").await;
        assert_eq!(nodes[0].act("/queue/resume").await.0, StatusCode::OK);
        until_done(&nodes[0]).await;
    }
    until_used(&nodes[0]).await;
    assert_never_away(&nodes);
    assert_sound(&cluster).await;
}

/// A missing group is made, and is no failure of Redis.
fn assert_never_away(nodes: &[Node; 2]) {
    for node in nodes {
        assert_eq!(node.process().times_logged(AWAY), 0);
    }
}

/// The copy lacks orders that nodes have added since.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_restored_from_an_old_copy_loses_no_order() {
    let Some(cluster) = Cluster::with_redis(SETTINGS).await else {
        return;
    };
    let nodes = two_nodes(&cluster).await;
    let key = Cluster::redis_key("orders");
    let copy: Vec<u8> = cluster.redis().ask(&format!("DUMP {key}")).await;
    assert_eq!(nodes[0].act("/queue/pause").await.0, StatusCode::OK);
    tokio::join!(nodes[0].accept(50), nodes[1].accept(50));
    cluster.redis().restore(&key, copy).await;
    assert_eq!(nodes[0].act("/queue/resume").await.0, StatusCode::OK);
    until_done(&nodes[0]).await;
    orders_flow(&nodes).await;
    until_empty(&nodes[0]).await;
    assert_sound(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_group_is_made_again() {
    let Some(cluster) = Cluster::with_redis(SETTINGS).await else {
        return;
    };
    let nodes = two_nodes(&cluster).await;
    let key = Cluster::redis_key("orders");
    let _: i64 = cluster.redis().ask(&format!("XGROUP DESTROY {key} nodes")).await;
    orders_flow(&nodes).await;
    until_used(&nodes[0]).await;
    assert_never_away(&nodes);
    assert_sound(&cluster).await;
}

/// Duplicates, unknown ids, ended orders, and entries of another program.
#[tokio::test(flavor = "multi_thread")]
async fn entries_of_others_start_nothing_twice_and_go() {
    let Some(cluster) = Cluster::with_redis(SETTINGS).await else {
        return;
    };
    let nodes = two_nodes(&cluster).await;
    let key = Cluster::redis_key("orders");
    for id in ["1", "1", "1", "999999", "-5"] {
        let _: String = cluster.redis().ask(&format!("XADD {key} * o {id}")).await;
    }
    let _: String = cluster.redis().ask(&format!("XADD {key} * other text")).await;
    let ids = nodes[0].accept(20).await;
    for id in &ids {
        let _: String = cluster.redis().ask(&format!("XADD {key} * o {id}")).await;
    }
    until_done(&nodes[0]).await;
    let records = cluster.records().await;
    assert_eq!(records.len(), 21);
    assert!(
        records.iter().all(|record| record.order.attempts == 1),
        "{records:?}"
    );
    until_empty(&nodes[0]).await;
    assert_sound(&cluster).await;
}

async fn until_empty(node: &Node) {
    until("the stream is empty", async || {
        node.get("/queue").await["redis"]["depth"] == 0
    })
    .await;
}

/// The nodes hold entries of orders that a pause keeps back.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_during_a_pause_leaves_no_entry_behind() {
    let Some(cluster) = Cluster::with_redis(SETTINGS).await else {
        return;
    };
    let [first, second] = two_nodes(&cluster).await;
    assert_eq!(first.act("/queue/pause").await.0, StatusCode::OK);
    first.accept(50).await;
    assert_eq!(first.terminate().await, Some(0));
    assert_eq!(second.act("/queue/resume").await.0, StatusCode::OK);
    until_done(&second).await;
    until_empty(&second).await;
    assert_sound(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_a_killed_node_are_taken_over() {
    let Some(cluster) = Cluster::with_redis(SETTINGS).await else {
        return;
    };
    let [first, second] = two_nodes(&cluster).await;
    let key = Cluster::redis_key("orders");
    assert_eq!(first.act("/queue/pause").await.0, StatusCode::OK);
    // Taken by a node that never was, like one that died after it took them.
    let ids = first.accept(5).await;
    for id in &ids {
        let _: String = cluster.redis().ask(&format!("XADD {key} * o {id}")).await;
    }
    let taken: redis::streams::StreamReadReply = cluster
        .redis()
        .ask(&format!(
            "XREADGROUP GROUP nodes vanished COUNT 100 STREAMS {key} >"
        ))
        .await;
    assert!(!taken.keys.is_empty());
    assert_eq!(second.act("/queue/resume").await.0, StatusCode::OK);
    until_done(&first).await;
    until("nothing is abandoned", async || {
        let redis = first.get("/queue").await["redis"].clone();
        redis["abandoned"] == 0 && redis["depth"] == 0
    })
    .await;
    assert_sound(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_delays_orders_by_little() {
    let Some(cluster) = Cluster::with_redis(SETTINGS).await else {
        return;
    };
    let nodes = two_nodes(&cluster).await;
    cluster.redis().freeze().await;
    for _ in 0..3 {
        orders_flow(&nodes).await;
    }
    cluster.redis().thaw().await;
    orders_flow(&nodes).await;
    until_used(&nodes[0]).await;
    assert_sound(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_without_memory_or_rights_is_left_alone() {
    for change in [
        "CONFIG SET maxmemory 1",
        "ACL SETUSER default -@stream",
        "CONFIG SET requirepass another",
    ] {
        let Some(cluster) = Cluster::with_redis(SETTINGS).await else {
            return;
        };
        let nodes = two_nodes(&cluster).await;
        let _: () = cluster.redis().ask(change).await;
        for _ in 0..5 {
            orders_flow(&nodes).await;
        }
        for node in &nodes {
            let (away, back) = (
                node.process().times_logged(AWAY),
                node.process().times_logged(BACK),
            );
            assert!(away <= 1 && back == 0, "{change}: {away} lines, {back} back");
        }
        assert_sound(&cluster).await;
    }
}

/// The control of `soak::redis`.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_check_of_tokens_the_oracle_finds_orders_ended_twice() {
    let Some(cluster) = Cluster::with_redis(&[]).await else {
        return;
    };
    assert_detects_missing_fences(&cluster).await;
}
