//! `claim`: first attempts in order of acceptance, each granted once.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::future::join_all;
use orderly::event::EventKind;
use orderly::lease::Outcome;
use orderly::order::{METADATA_BYTES_MAX, NewOrder, OrderId, OrderStatus};
use orderly::store::{CLAIM_ORDERS_MAX, ClaimRequest};

use crate::support::Harness;
use crate::support::harness::ids_of;
use crate::support::make::{LEASE, NODE_A, NODE_B, claim_by, new_order, order_with_reference};

conformance! {
    first_attempts_start_in_order_of_acceptance,
    an_empty_queue_grants_nothing,
    a_claim_grants_at_most_the_requested_number,
    a_claim_of_zero_orders_grants_nothing,
    a_claim_is_capped_at_its_own_limit,
    a_claimed_order_is_processing,
    a_claimed_order_starts_at_the_time_of_the_claim,
    the_started_event_names_the_node_and_the_attempt,
    a_claimed_order_is_not_granted_again,
    concurrent_claims_never_share_an_order,
    a_later_order_never_starts_before_an_earlier_one,
    a_cancelled_order_never_starts,
    fences_rise_with_every_claim_of_an_order,
    a_lease_carries_the_whole_order,
    a_store_without_open_orders_is_idle,
    a_store_with_waiting_or_running_orders_is_not_idle,
    a_paused_store_with_a_pending_order_is_not_idle,
    a_claim_that_grants_is_not_idle,
}

async fn first_attempts_start_in_order_of_acceptance(harness: &mut Harness) {
    let mut accepted = harness.accept_some(3).await;
    accepted.push(harness.accept_one().await);
    accepted.extend(harness.accept_some(3).await);
    let mut started = ids_of(&harness.claim(2).await);
    started.extend(ids_of(&harness.claim(1).await));
    started.extend(ids_of(&harness.claim(10).await));
    assert_eq!(started, accepted);
}

async fn an_empty_queue_grants_nothing(harness: &mut Harness) {
    let claimed = harness.store().claim(claim_by(NODE_A, 10)).await.unwrap();
    assert!(claimed.leases.is_empty());
    assert_eq!(claimed.next_due_in, None);
}

async fn a_claim_grants_at_most_the_requested_number(harness: &mut Harness) {
    harness.accept_some(5).await;
    assert_eq!(harness.claim(3).await.len(), 3);
    assert_eq!(harness.claim(3).await.len(), 2);
}

async fn a_claim_of_zero_orders_grants_nothing(harness: &mut Harness) {
    harness.accept_one().await;
    assert!(harness.claim(0).await.is_empty());
}

async fn a_claim_is_capped_at_its_own_limit(harness: &mut Harness) {
    harness.accept_some(CLAIM_ORDERS_MAX + 1).await;
    assert_eq!(harness.claim(usize::MAX).await.len(), CLAIM_ORDERS_MAX);
}

async fn a_claimed_order_is_processing(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    assert_eq!(lease.order.status, OrderStatus::Processing);
    assert_eq!((lease.order.attempts, lease.order.version), (1, 2));
    assert!(!lease.suspect);
    assert_eq!(harness.order(id).await, lease.order);
}

async fn a_claimed_order_starts_at_the_time_of_the_claim(harness: &mut Harness) {
    let id = harness.accept_one().await;
    harness.advance(Duration::from_secs(7)).await;
    let before = harness.now().await;
    let lease = harness.claim_only(id).await;
    let started = lease.order.processing_at.unwrap();
    assert!(before <= started && started <= harness.now().await);
}

async fn the_started_event_names_the_node_and_the_attempt(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    let history = harness.history(id, 1).await;
    assert_eq!(history.len(), 1);
    assert_eq!(history[0].kind, EventKind::Started);
    assert_eq!(history[0].node, Some(NODE_A));
    assert_eq!(history[0].attempt, 1);
    assert_eq!(Some(history[0].at), lease.order.processing_at);
}

async fn a_claimed_order_is_not_granted_again(harness: &mut Harness) {
    harness.accept_one().await;
    harness.claim(1).await;
    harness.advance(LEASE / 2).await;
    let claimed = harness.store().claim(claim_by(NODE_B, 10)).await.unwrap();
    assert!(claimed.leases.is_empty());
}

async fn concurrent_claims_never_share_an_order(harness: &mut Harness) {
    harness.accept_some(100).await;
    let claims = (0..20).map(|turn| {
        let node = if turn % 2 == 0 { NODE_A } else { NODE_B };
        harness.store().claim(claim_by(node, 7))
    });
    let mut granted = HashSet::new();
    for claimed in join_all(claims).await {
        for lease in claimed.unwrap().leases {
            assert!(granted.insert(lease.order.order_id), "an order was granted twice");
        }
    }
    assert_eq!(granted.len(), 100);
}

/// An order is earlier if it was answered before the other was sent. With many writers, concurrent calls may start in
/// any order, but the orders of one call keep theirs.
async fn a_later_order_never_starts_before_an_earlier_one(harness: &mut Harness) {
    let mut started = Vec::new();
    let mut calls: HashMap<OrderId, (usize, usize)> = HashMap::new();
    for round in 0..10 {
        let accepts = (0..4).map(|_| harness.accept_some(3));
        let (accepted, leases) = tokio::join!(join_all(accepts), harness.claim(5));
        for (call, ids) in accepted.into_iter().enumerate() {
            calls.extend(ids.into_iter().map(|id| (id, (round, call))));
        }
        started.extend(ids_of(&leases));
    }
    let rounds = started.iter().map(|id| calls[id].0);
    assert!(rounds.is_sorted(), "{started:?} {calls:?}");
    for of_call in calls.values() {
        let of_one_call = started.iter().filter(|id| calls[*id] == *of_call);
        assert!(of_one_call.is_sorted(), "{started:?} {calls:?}");
    }
    if harness.is_embedded() {
        assert!(started.is_sorted(), "{started:?}");
    }
}

async fn a_cancelled_order_never_starts(harness: &mut Harness) {
    let ids = harness.accept_some(3).await;
    harness.cancel(ids[1]).await;
    assert_eq!(ids_of(&harness.claim(10).await), [ids[0], ids[2]]);
}

async fn fences_rise_with_every_claim_of_an_order(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let mut fences = Vec::new();
    for _ in 0..5 {
        let lease = harness.claim_only(id).await;
        fences.push(lease.fence);
        harness.settle(&lease, Outcome::Released).await;
    }
    assert!(fences.is_sorted_by(|one, next| one < next), "{fences:?}");
}

async fn a_lease_carries_the_whole_order(harness: &mut Harness) {
    let again = harness.order_in(OrderStatus::Failed).await;
    harness.order_due_in(1).await;
    harness.redrive(again).await;
    harness.advance(Duration::from_secs(2)).await;
    harness.accept_some(2).await;
    let long_order = NewOrder {
        metadata: Some(r#"{"note": "\u0001 \"a\" \\ NULL, {b}"}"#.into()),
        ..order_with_reference("NULL")
    };
    harness.accept(vec![long_order]).await;
    assert_whole(harness, 5).await;
    // Texts so long that a store may transfer them differently.
    let long = NewOrder {
        metadata: Some(format!("\"{}\"", "x".repeat(METADATA_BYTES_MAX - 2)).into()),
        ..new_order()
    };
    harness.accept(vec![long; 4]).await;
    assert_whole(harness, 4).await;
}

async fn assert_whole(harness: &Harness, orders: usize) {
    let request = ClaimRequest {
        suspect: false,
        ..claim_by(NODE_B, 10)
    };
    let leases = harness.store().claim(request).await.unwrap().leases;
    assert_eq!(leases.len(), orders);
    for lease in leases {
        assert_eq!(lease.order, harness.order(lease.order.order_id).await);
    }
}

async fn a_store_without_open_orders_is_idle(harness: &mut Harness) {
    assert!(is_idle(harness).await);
    for status in [
        OrderStatus::Completed,
        OrderStatus::Failed,
        OrderStatus::Cancelled,
    ] {
        harness.order_in(status).await;
    }
    assert!(is_idle(harness).await);
    harness.reopen().await;
    assert!(is_idle(harness).await);
}

async fn a_store_with_waiting_or_running_orders_is_not_idle(harness: &mut Harness) {
    let id = harness.order_due_in(60).await;
    assert!(!is_idle(harness).await, "the order waits for a retry");
    harness.advance(Duration::from_mins(1)).await;
    let lease = harness.claim_only(id).await;
    assert!(!is_idle(harness).await, "another node processes the order");
    harness.settle(&lease, Outcome::COMPLETED).await;
    assert!(is_idle(harness).await);
    harness.order_in(OrderStatus::Failed).await;
    let failed = harness.order_in(OrderStatus::Failed).await;
    harness.redrive(failed).await;
    harness.store().pause(None).await.unwrap();
    assert!(!is_idle(harness).await, "the order was redriven");
}

async fn a_paused_store_with_a_pending_order_is_not_idle(harness: &mut Harness) {
    harness.store().pause(None).await.unwrap();
    assert!(is_idle(harness).await);
    harness.accept_one().await;
    assert!(!is_idle(harness).await);
}

async fn a_claim_that_grants_is_not_idle(harness: &mut Harness) {
    harness.accept_one().await;
    let claimed = harness.store().claim(claim_by(NODE_A, 10)).await.unwrap();
    assert_eq!((claimed.leases.len(), claimed.idle), (1, false));
}

/// Reports whether a claim of zero orders finds the store idle.
async fn is_idle(harness: &Harness) -> bool {
    let claimed = harness.store().claim(claim_by(NODE_B, 10)).await.unwrap();
    assert!(claimed.leases.is_empty());
    claimed.idle
}
