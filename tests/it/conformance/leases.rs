//! `renew` and `give_back_expired`: which leases a node keeps or loses, and when a loss counts as a crash.

use std::time::Duration;

use orderly::event::EventKind;
use orderly::lease::{Lease, LeaseKey, Outcome};
use orderly::order::{OrderId, OrderStatus};
use orderly::store::{CLAIM_ORDERS_MAX, GiveBack, GivenBack, SWEEP_ORDERS_MAX};

use crate::support::Harness;
use crate::support::harness::ids_of;
use crate::support::make::{
    CRASHES_MAX, FIRST_FENCE, LEASE, LONGER_THAN_A_LEASE, NODE_A, NODE_B, SHORTER_THAN_A_LEASE, failed,
    give_back_by, heartbeat,
};

conformance! {
    a_lease_lasts_for_its_granted_time,
    a_renewed_lease_lasts_longer,
    a_renewal_extends_only_the_named_leases,
    a_heartbeat_renews_every_named_lease,
    an_expired_lease_can_be_renewed_until_it_is_given_back,
    a_renewal_reports_leases_the_node_has_lost,
    a_stale_heartbeat_does_not_extend_the_lease_of_another_node,
    a_given_back_order_is_due_again_without_counting_an_attempt,
    an_order_without_a_lease_is_not_given_back,
    a_lease_lost_by_a_dead_node_counts_as_a_crash,
    a_lease_lost_by_a_live_node_is_no_crash,
    a_lease_lost_by_the_sweeping_node_is_no_crash,
    a_failed_attempt_is_no_crash,
    an_order_lost_too_often_fails_as_poisoned,
    a_poisoned_order_can_be_redriven,
    leases_lost_by_live_nodes_never_poison_an_order,
    one_sweep_gives_back_at_most_its_limit,
}

async fn a_lease_lasts_for_its_granted_time(harness: &mut Harness) {
    let id = harness.accept_one().await;
    harness.claim_only(id).await;
    harness.advance(SHORTER_THAN_A_LEASE).await;
    assert_eq!(harness.give_back().await, GivenBack::default());
    harness.advance(Duration::from_secs(2)).await;
    assert_eq!(harness.give_back().await, gave_back(1));
}

async fn a_renewed_lease_lasts_longer(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    for _ in 0..3 {
        harness.advance(SHORTER_THAN_A_LEASE).await;
        assert_eq!(renew(harness, &[lease.key()]).await, []);
        assert_eq!(harness.give_back().await, GivenBack::default());
    }
    assert_eq!(harness.order(id).await.version, 2);
    harness.advance(LONGER_THAN_A_LEASE).await;
    assert_eq!(harness.give_back().await, gave_back(1));
}

async fn a_renewal_extends_only_the_named_leases(harness: &mut Harness) {
    let ids = harness.accept_some(3).await;
    let leases = harness.claim(3).await;
    harness.advance(LEASE / 2).await;
    renew(harness, &[leases[1].key()]).await;
    harness.advance(LEASE / 2 + Duration::from_secs(1)).await;
    assert_eq!(harness.give_back().await, gave_back(2));
    assert_eq!(harness.order(ids[1]).await.status, OrderStatus::Processing);
}

/// Issue 13, point 31.
async fn a_heartbeat_renews_every_named_lease(harness: &mut Harness) {
    harness.accept_some(3).await;
    let leases = harness.claim(3).await;
    let keys: Vec<LeaseKey> = leases.iter().map(Lease::key).collect();
    for _ in 0..3 {
        harness.advance(SHORTER_THAN_A_LEASE).await;
        assert_eq!(renew(harness, &keys).await, []);
        assert_eq!(harness.give_back().await, GivenBack::default());
    }
    for lease in &leases {
        harness.settle(lease, Outcome::COMPLETED).await;
    }
}

async fn an_expired_lease_can_be_renewed_until_it_is_given_back(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    assert_eq!(renew(harness, &[lease.key()]).await, []);
    assert_eq!(harness.give_back().await, GivenBack::default());
    harness.settle(&lease, Outcome::COMPLETED).await;
}

async fn a_renewal_reports_leases_the_node_has_lost(harness: &mut Harness) {
    harness.accept_some(5).await;
    let leases = harness.claim(5).await;
    let keys: Vec<LeaseKey> = leases.iter().map(Lease::key).collect();
    harness.settle(&leases[0], Outcome::COMPLETED).await;
    harness.cancel(keys[1].order_id).await;
    harness.advance(LEASE / 2).await;
    renew(harness, &[keys[4]]).await;
    harness.advance(LEASE / 2 + Duration::from_secs(1)).await;
    assert_eq!(harness.give_back().await, gave_back(2));
    // Other nodes hold the third and fourth order under new fences.
    let taken = harness.claim_as(NODE_B, 5).await;
    assert_eq!(taken.len(), 2);

    let never_granted = LeaseKey {
        order_id: OrderId(1_000_000),
        fence: FIRST_FENCE,
        node: NODE_A,
    };
    let asked: Vec<LeaseKey> = keys.iter().copied().chain([never_granted]).collect();
    let lost = renew(harness, &asked).await;
    assert_eq!(lost, [keys[0], keys[1], keys[2], keys[3], never_granted]);
}

async fn a_given_back_order_is_due_again_without_counting_an_attempt(harness: &mut Harness) {
    let id = harness.order_due_in(0).await;
    let lease = harness.claim_only(id).await;
    assert_eq!(lease.order.attempts, 2);
    harness.advance(LONGER_THAN_A_LEASE).await;
    harness.give_back().await;
    let order = harness.order(id).await;
    assert_eq!((order.status, order.attempts), (OrderStatus::Pending, 1));
    assert!(order.next_attempt_at.unwrap() <= harness.now().await);
    let history = harness.history(id, 4).await;
    assert_eq!(history.len(), 1);
    assert_eq!(history[0].kind, EventKind::LeaseLost);
    assert_eq!((history[0].attempt, history[0].node), (1, Some(NODE_A)));
    assert_eq!(harness.claim_only(id).await.order.attempts, 2);
}

async fn an_order_without_a_lease_is_not_given_back(harness: &mut Harness) {
    harness.order_in(OrderStatus::Completed).await;
    harness.order_in(OrderStatus::Failed).await;
    harness.order_in(OrderStatus::Cancelled).await;
    harness.order_due_in(1).await;
    harness.accept_one().await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    assert_eq!(harness.give_back().await, GivenBack::default());
}

async fn a_lease_lost_by_a_dead_node_counts_as_a_crash(harness: &mut Harness) {
    let id = harness.accept_one().await;
    for crashes in 1..=3 {
        harness.crash_all(&[id], 1).await;
        assert_eq!(harness.crashes(id).await, crashes);
        assert_eq!(harness.order(id).await.attempts, 0);
    }
}

async fn a_lease_lost_by_a_live_node_is_no_crash(harness: &mut Harness) {
    let id = harness.accept_one().await;
    harness.claim_only(id).await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    renew(harness, &[]).await;
    harness.advance(Duration::from_secs(1)).await;
    let given = harness.store().give_back_expired(give_back_by(NODE_B)).await;
    assert_eq!(given.unwrap(), gave_back(1));
    assert_eq!(harness.crashes(id).await, 0);
    assert_eq!(harness.order(id).await.attempts, 0);
}

async fn a_lease_lost_by_the_sweeping_node_is_no_crash(harness: &mut Harness) {
    let id = harness.accept_one().await;
    renew(harness, &[]).await;
    harness.claim_only(id).await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    assert_eq!(harness.give_back().await, gave_back(1));
    assert_eq!(harness.crashes(id).await, 0);
}

async fn a_failed_attempt_is_no_crash(harness: &mut Harness) {
    let id = harness.order_due_in(0).await;
    let lease = harness.claim_only(id).await;
    harness.settle(&lease, Outcome::Released).await;
    let lease = harness.claim_only(id).await;
    harness.settle(&lease, failed()).await;
    assert_eq!(harness.crashes(id).await, 0);
}

async fn an_order_lost_too_often_fails_as_poisoned(harness: &mut Harness) {
    let id = harness.accept_one().await;
    harness.crash_all(&[id], CRASHES_MAX - 1).await;
    assert_eq!(harness.order(id).await.status, OrderStatus::Pending);

    harness.claim_as(NODE_B, 1).await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    let expected = GivenBack {
        poisoned: 1,
        ..GivenBack::default()
    };
    assert_eq!(harness.give_back().await, expected);
    let order = harness.order(id).await;
    assert_eq!(order.status, OrderStatus::Failed);
    assert!(order.finished_at.is_some());
    let error = order.last_error.expect("a poisoned order has an error");
    assert!(error.contains(&CRASHES_MAX.to_string()), "{error}");
    let event = harness.history(id, order.version - 1).await.remove(0);
    assert_eq!((event.kind, event.error), (EventKind::Failed, Some(error)));
    assert_eq!(harness.counters().await.failed, 1);
    assert!(harness.claim(10).await.is_empty());
}

async fn a_poisoned_order_can_be_redriven(harness: &mut Harness) {
    let id = harness.accept_one().await;
    harness.crash_all(&[id], CRASHES_MAX).await;
    let order = harness.redrive(id).await;
    assert_eq!((order.status, order.last_error), (OrderStatus::Pending, None));
    assert_eq!(harness.crashes(id).await, 0);
    harness.crash_all(&[id], CRASHES_MAX - 1).await;
    assert_eq!(harness.order(id).await.status, OrderStatus::Pending);
}

async fn leases_lost_by_live_nodes_never_poison_an_order(harness: &mut Harness) {
    let id = harness.accept_one().await;
    for _ in 0..2 * CRASHES_MAX {
        harness.claim_only(id).await;
        harness.advance(LONGER_THAN_A_LEASE).await;
        assert_eq!(harness.give_back().await, gave_back(1));
    }
    assert_eq!(harness.order(id).await.status, OrderStatus::Pending);
}

async fn one_sweep_gives_back_at_most_its_limit(harness: &mut Harness) {
    harness.accept_some(SWEEP_ORDERS_MAX).await;
    harness.accept_one().await;
    let mut held = 0;
    while held <= SWEEP_ORDERS_MAX {
        held += harness.claim(CLAIM_ORDERS_MAX).await.len();
    }
    harness.advance(LONGER_THAN_A_LEASE).await;
    let first = harness.give_back().await;
    assert_eq!(first.pending, SWEEP_ORDERS_MAX);
    let rest = GiveBack {
        after: first.next,
        ..give_back_by(NODE_A)
    };
    assert!(rest.after.is_some());
    let given_back = harness.store().give_back_expired(rest).await;
    assert_eq!(given_back.unwrap(), gave_back(1));
    assert_eq!(harness.counters().await.pending, held as u64);
}

fn gave_back(pending: usize) -> GivenBack {
    GivenBack {
        pending,
        ..GivenBack::default()
    }
}

/// Sends node A's heartbeat and returns the lost leases in the requested order.
async fn renew(harness: &Harness, leases: &[LeaseKey]) -> Vec<LeaseKey> {
    let renewed = harness.store().renew(heartbeat(NODE_A, leases)).await.unwrap();
    let lost = |key: &&LeaseKey| renewed.lost.contains(key);
    let in_order: Vec<LeaseKey> = leases.iter().filter(lost).copied().collect();
    assert_eq!(
        in_order.len(),
        renewed.lost.len(),
        "a lease that was not asked about"
    );
    in_order
}

async fn a_stale_heartbeat_does_not_extend_the_lease_of_another_node(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let stale = harness.claim_only(id).await.key();
    harness.advance(LONGER_THAN_A_LEASE).await;
    assert_eq!(harness.give_back().await, gave_back(1));
    assert_eq!(ids_of(&harness.claim_as(NODE_B, 1).await), [id]);
    harness.advance(SHORTER_THAN_A_LEASE).await;
    assert_eq!(renew(harness, &[stale]).await, [stale]);
    harness.advance(Duration::from_secs(2)).await;
    let taken_back = harness.store().give_back_expired(give_back_by(NODE_A)).await;
    assert_eq!(taken_back.unwrap(), gave_back(1));
}
