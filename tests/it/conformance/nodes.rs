//! `join`, `leave` and the list of nodes: which are alive or dead, and the fate of their leases.

use std::time::Duration;

use orderly::lease::{Lease, NodeId, Outcome};
use orderly::order::OrderStatus;
use orderly::store::{GivenBack, Node};

use crate::support::Harness;
use crate::support::make::{
    CRASHES_MAX, LONGER_THAN_A_LEASE, NODE_A, NODE_B, SHORTER_THAN_A_LEASE, heartbeat,
};

conformance! {
    a_node_that_joined_is_listed,
    a_heartbeat_updates_the_listed_node,
    a_silent_node_is_listed_as_dead,
    a_node_that_left_is_not_listed,
    leaving_without_joining_is_allowed,
    joining_an_embedded_store_gives_back_leases_of_earlier_nodes,
    joining_an_embedded_store_poisons_orders_lost_too_often,
    joining_a_shared_store_keeps_the_leases_of_live_nodes,
    a_node_that_joins_an_empty_store_gives_back_nothing,
    a_node_that_joins_again_keeps_its_place_in_the_list,
}

async fn a_node_that_joined_is_listed(harness: &mut Harness) {
    let before = harness.now().await;
    harness.join(NODE_A).await;
    let node = only_node(harness).await;
    assert_eq!((node.node, node.slots, node.busy), (NODE_A, 10, 0));
    assert!(node.alive);
    assert!(before <= node.started_at && node.started_at <= harness.now().await);
    assert_eq!(node.heartbeat_at, node.started_at);
}

async fn a_heartbeat_updates_the_listed_node(harness: &mut Harness) {
    harness.join(NODE_A).await;
    let joined = only_node(harness).await;
    harness.accept_some(2).await;
    let keys: Vec<_> = harness.claim(2).await.iter().map(Lease::key).collect();
    harness.advance(Duration::from_secs(10)).await;
    harness.store().renew(heartbeat(NODE_A, &keys)).await.unwrap();
    let node = only_node(harness).await;
    assert_eq!(node.busy, 2);
    assert_eq!(node.started_at, joined.started_at);
    assert!(node.heartbeat_at >= joined.heartbeat_at.plus(Duration::from_secs(10)));
}

async fn a_silent_node_is_listed_as_dead(harness: &mut Harness) {
    harness.join(NODE_A).await;
    harness.advance(SHORTER_THAN_A_LEASE).await;
    assert!(only_node(harness).await.alive);
    harness.advance(Duration::from_secs(2)).await;
    assert!(!only_node(harness).await.alive);
    harness.store().renew(heartbeat(NODE_A, &[])).await.unwrap();
    assert!(only_node(harness).await.alive);
}

async fn a_node_that_left_is_not_listed(harness: &mut Harness) {
    harness.join(NODE_A).await;
    harness
        .store()
        .leave(NODE_A, orderly::store::Leaving::ToStop)
        .await
        .unwrap();
    assert_eq!(nodes(harness).await, []);
}

async fn leaving_without_joining_is_allowed(harness: &mut Harness) {
    harness.join(NODE_A).await;
    harness
        .store()
        .leave(NODE_B, orderly::store::Leaving::ToStop)
        .await
        .unwrap();
    assert_eq!(only_node(harness).await.node, NODE_A);
}

async fn joining_an_embedded_store_gives_back_leases_of_earlier_nodes(harness: &mut Harness) {
    if !harness.is_embedded() {
        return;
    }
    harness.join(NODE_A).await;
    let completed = harness.order_in(OrderStatus::Completed).await;
    let held = harness.accept_some(3).await;
    harness.claim(3).await;
    harness.reopen().await;
    let given = harness.join(NODE_B).await;
    let expected = GivenBack {
        pending: 3,
        ..GivenBack::default()
    };
    assert_eq!(given, expected);
    for id in held {
        let order = harness.order(id).await;
        assert_eq!((order.status, order.attempts), (OrderStatus::Pending, 0));
        assert_eq!(harness.crashes(id).await, 1);
    }
    assert_eq!(harness.order(completed).await.status, OrderStatus::Completed);
    assert_eq!(harness.claim_as(NODE_B, 10).await.len(), 3);
}

async fn joining_an_embedded_store_poisons_orders_lost_too_often(harness: &mut Harness) {
    if !harness.is_embedded() {
        return;
    }
    let id = harness.accept_one().await;
    for crashes in 1..=CRASHES_MAX {
        let node = NodeId(u64::from(crashes));
        harness.join(node).await;
        assert_eq!(harness.order(id).await.status, OrderStatus::Pending);
        assert_eq!(harness.claim_as(node, 1).await.len(), 1);
        harness.reopen().await;
    }
    let expected = GivenBack {
        poisoned: 1,
        ..GivenBack::default()
    };
    assert_eq!(harness.join(NODE_B).await, expected);
    assert_eq!(harness.order(id).await.status, OrderStatus::Failed);
}

async fn joining_a_shared_store_keeps_the_leases_of_live_nodes(harness: &mut Harness) {
    if harness.is_embedded() {
        return;
    }
    harness.join(NODE_A).await;
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    assert_eq!(harness.join(NODE_B).await, GivenBack::default());
    harness.settle(&lease, Outcome::COMPLETED).await;
    assert_eq!(nodes(harness).await.len(), 2);
}

async fn a_node_that_joins_an_empty_store_gives_back_nothing(harness: &mut Harness) {
    assert_eq!(harness.join(NODE_A).await, GivenBack::default());
    harness.accept_one().await;
    harness.reopen().await;
    assert_eq!(harness.join(NODE_B).await, GivenBack::default());
}

async fn a_node_that_joins_again_keeps_its_place_in_the_list(harness: &mut Harness) {
    harness.join(NODE_A).await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    harness.join(NODE_A).await;
    assert!(only_node(harness).await.alive);
}

async fn only_node(harness: &Harness) -> Node {
    let nodes = nodes(harness).await;
    assert_eq!(nodes.len(), 1);
    nodes[0].clone()
}

async fn nodes(harness: &Harness) -> Vec<Node> {
    harness.store().queue().await.unwrap().nodes
}
