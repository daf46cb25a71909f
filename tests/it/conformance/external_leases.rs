//! Leases of external workers: neither heartbeats nor nodes affect them; they end by their own time, their attempt's
//! time or a result with their token.

use std::time::Duration;

use orderly::event::EventKind;
use orderly::lease::{Lease, LeaseKey, Outcome, ProcessorKind};
use orderly::order::{OrderId, OrderStatus};
use orderly::portable_json::JsonText;
use orderly::store::{ClaimRequest, ExternalHold, ExternalLease, GivenBack, LatestClaim, Settled};

use crate::support::Harness;
use crate::support::harness::ids_of;
use crate::support::make::{
    CRASHES_MAX, LEASE, LONGER_THAN_A_LEASE, NODE_A, NODE_B, SHORTER_THAN_A_LEASE, claim_by, failed,
    heartbeat, retry_after,
};

/// Longest attempt, from its start.
const RUN_MAX: Duration = Duration::from_secs(100);
const SHORTER_THAN_A_RUN: Duration = Duration::from_secs(90);

conformance! {
    an_external_lease_survives_nodes_leaving_and_joining,
    an_external_lease_lasts_for_its_granted_time,
    heartbeats_neither_renew_nor_report_external_leases,
    a_handed_over_lease_becomes_an_external_lease,
    a_hold_counts_from_now_and_may_shorten_the_lease,
    a_hold_ends_no_later_than_its_attempt,
    a_hold_requires_the_current_token_of_a_processing_order,
    an_expired_external_lease_can_be_extended_until_given_back,
    a_silent_external_worker_counts_as_dead,
    an_order_that_kills_every_external_worker_fails_as_poisoned,
    a_claim_for_external_workers_grants_at_most_one_suspect,
    a_claim_of_zero_orders_reports_whether_orders_are_open,
    the_latest_claim_holds_the_current_token,
    the_latest_claim_names_the_claiming_node,
    a_result_is_stored_byte_for_byte,
    a_redriven_order_has_no_result_until_it_completes_again,
    the_result_of_a_cancelled_order_is_refused,
    a_result_is_refused_after_its_order_was_given_back,
    an_order_from_an_external_worker_may_later_run_on_a_node,
}

async fn an_external_lease_survives_nodes_leaving_and_joining(harness: &mut Harness) {
    harness.join(NODE_A).await;
    let outside = harness.accept_one().await;
    let lease = take_only(harness, outside).await;
    let inside = harness.accept_one().await;
    harness.claim_only(inside).await;
    harness
        .store()
        .leave(NODE_A, orderly::store::Leaving::ToStop)
        .await
        .unwrap();
    harness.reopen().await;
    let given_back = harness.join(NODE_B).await;
    assert_eq!(given_back.pending, usize::from(harness.is_embedded()));
    assert_eq!(harness.order(outside).await.status, OrderStatus::Processing);
    harness.advance(SHORTER_THAN_A_LEASE).await;
    assert_eq!(harness.give_back().await, GivenBack::default());
    harness.settle(&lease, Outcome::COMPLETED).await;
}

async fn an_external_lease_lasts_for_its_granted_time(harness: &mut Harness) {
    let id = harness.accept_one().await;
    take_only(harness, id).await;
    harness.advance(SHORTER_THAN_A_LEASE).await;
    assert_eq!(harness.give_back().await, GivenBack::default());
    harness.advance(Duration::from_secs(2)).await;
    assert_eq!(harness.give_back().await.pending, 1);
}

async fn heartbeats_neither_renew_nor_report_external_leases(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = take_only(harness, id).await;
    hold(harness, &lease, 3 * LEASE).await;
    harness.advance(LEASE).await;
    // The heartbeat of the node that handed the order over, possibly sent before.
    let beat = heartbeat(NODE_A, &[lease.key()]);
    assert_eq!(harness.store().renew(beat).await.unwrap().lost, []);
    harness.advance(LONGER_THAN_A_LEASE).await;
    assert_eq!(
        harness.give_back().await,
        GivenBack::default(),
        "the heartbeat changed the expiry"
    );
    harness.advance(LEASE).await;
    assert_eq!(harness.give_back().await.pending, 1);
}

async fn a_handed_over_lease_becomes_an_external_lease(harness: &mut Harness) {
    harness.join(NODE_A).await;
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    hold(harness, &lease, LEASE).await;
    harness.reopen().await;
    assert_eq!(harness.join(NODE_B).await, GivenBack::default());
    harness.advance(LONGER_THAN_A_LEASE).await;
    assert_eq!(harness.give_back().await.pending, 1);
    assert_eq!(harness.crashes(id).await, 1);
}

async fn a_hold_counts_from_now_and_may_shorten_the_lease(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = take_only(harness, id).await;
    for _ in 0..3 {
        harness.advance(LEASE / 2).await;
        let expires = harness.now().await.plus(LEASE);
        assert_eq!(hold(harness, &lease, LEASE).await, ExternalLease::Until(expires));
    }
    assert_eq!(harness.order(id).await.version, 2, "holding wrote an event");
    hold(harness, &lease, Duration::from_secs(1)).await;
    harness.advance(Duration::from_secs(2)).await;
    assert_eq!(harness.give_back().await.pending, 1);
}

async fn a_hold_ends_no_later_than_its_attempt(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = take_only(harness, id).await;
    let end = harness.now().await.plus(RUN_MAX);
    harness.advance(SHORTER_THAN_A_RUN).await;
    assert_eq!(hold(harness, &lease, LEASE).await, ExternalLease::Until(end));
    harness.advance(Duration::from_secs(10)).await;
    assert_eq!(hold(harness, &lease, LEASE).await, ExternalLease::Stale);
    harness.advance(Duration::from_secs(1)).await;
    assert_eq!(harness.give_back().await.pending, 1);
}

async fn a_hold_requires_the_current_token_of_a_processing_order(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let old = take_only(harness, id).await;
    let guessed = LeaseKey {
        fence: old.fence + 1,
        ..old.key()
    };
    assert_stale(harness, guessed).await;
    harness.settle(&old, Outcome::Released).await;
    assert_stale(harness, old.key()).await;
    let new = take_only(harness, id).await;
    assert_stale(harness, old.key()).await;
    harness.settle(&new, Outcome::COMPLETED).await;
    assert_stale(harness, new.key()).await;
    let cancelled = harness.accept_one().await;
    let lease = take_only(harness, cancelled).await;
    harness.cancel(cancelled).await;
    assert_stale(harness, lease.key()).await;
    let unknown = LeaseKey {
        order_id: OrderId(1_000_000),
        ..lease.key()
    };
    let held = harness
        .store()
        .hold_external(unknown, for_a_lease())
        .await
        .unwrap();
    assert_eq!(held, ExternalLease::Stale);
}

async fn an_expired_external_lease_can_be_extended_until_given_back(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = take_only(harness, id).await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    hold(harness, &lease, LEASE).await;
    assert_eq!(harness.give_back().await, GivenBack::default());
    harness.settle(&lease, Outcome::COMPLETED).await;
}

async fn a_silent_external_worker_counts_as_dead(harness: &mut Harness) {
    harness.join(NODE_A).await;
    let id = harness.accept_one().await;
    for crashes in 1..=2 {
        assert!(!take_only(harness, id).await.suspect);
        harness.advance(LONGER_THAN_A_LEASE).await;
        // The node that claimed for the worker is alive and sweeps itself.
        assert_eq!(harness.give_back().await.pending, 1);
        assert_eq!(harness.crashes(id).await, crashes);
        assert_eq!(harness.order(id).await.attempts, 0, "an attempt was counted");
    }
    let lost = harness.history(id, 0).await.remove(2);
    assert_eq!(lost.kind, EventKind::LeaseLost);
    assert!(lost.error.unwrap().contains("external worker"));
    assert!(take_only(harness, id).await.suspect);
}

async fn an_order_that_kills_every_external_worker_fails_as_poisoned(harness: &mut Harness) {
    let id = harness.accept_one().await;
    for _ in 0..CRASHES_MAX {
        take_only(harness, id).await;
        harness.advance(LONGER_THAN_A_LEASE).await;
        harness.give_back().await;
    }
    let order = harness.order(id).await;
    assert_eq!(order.status, OrderStatus::Failed);
    assert!(order.last_error.unwrap().starts_with("poison"));
    assert_eq!(harness.redrive(id).await.status, OrderStatus::Pending);
    assert!(!take_only(harness, id).await.suspect);
}

async fn a_claim_for_external_workers_grants_at_most_one_suspect(harness: &mut Harness) {
    let mut suspects = harness.accept_some(3).await;
    harness.crash_all(&suspects, 2).await;
    let innocent = harness.accept_one().await;
    let first = take(harness, 10).await;
    assert_eq!(first.iter().filter(|lease| lease.suspect).count(), 1);
    assert!(ids_of(&first).contains(&innocent));
    for _ in 0..2 {
        let leases = take(harness, 10).await;
        assert_eq!(leases.len(), 1);
        suspects.retain(|id| *id != leases[0].order.order_id);
    }
    assert_eq!(suspects.len(), 1, "more than one suspect");
}

async fn a_claim_of_zero_orders_reports_whether_orders_are_open(harness: &mut Harness) {
    let look = ClaimRequest {
        processor: Some(ProcessorKind::Pull),
        ..claim_by(NODE_A, 0)
    };
    assert!(harness.store().claim(look).await.unwrap().idle);
    let retried = harness.order_due_in(0).await;
    let id = harness.accept_one().await;
    let claimed = harness.store().claim(look).await.unwrap();
    assert!(claimed.leases.is_empty() && !claimed.idle);
    assert_eq!(ids_of(&take(harness, 10).await), [id, retried]);
    assert!(!harness.store().claim(look).await.unwrap().idle);
}

async fn the_latest_claim_holds_the_current_token(harness: &mut Harness) {
    let unknown = harness.store().claimed(OrderId(1_000_000)).await.unwrap();
    assert_eq!(unknown, None);
    let id = harness.accept_one().await;
    assert_eq!(latest(harness, id).await.key, None, "the order was never claimed");
    let first = take_only(harness, id).await;
    assert_eq!(latest(harness, id).await.key, Some(first.key()));
    assert_eq!(latest(harness, id).await.order, first.order);
    harness.settle(&first, retry_after(0)).await;
    assert_eq!(
        latest(harness, id).await.key,
        Some(first.key()),
        "between attempts too"
    );
    let second = take_only(harness, id).await;
    assert!(second.fence > first.fence);
    assert_eq!(latest(harness, id).await.key, Some(second.key()));
    assert_eq!(latest(harness, id).await.token, Some(second.token));
    harness.settle(&second, Outcome::COMPLETED).await;
    let latest = latest(harness, id).await;
    assert_eq!(latest.key, Some(second.key()));
    assert_eq!(latest.order, harness.order(id).await);
}

async fn the_latest_claim_names_the_claiming_node(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = take_only(harness, id).await;
    harness.settle(&lease, Outcome::Released).await;
    let claimed = harness.claim_as(NODE_B, 1).await.remove(0);
    let key = latest(harness, id).await.key.unwrap();
    assert_eq!((key, key.node), (claimed.key(), NODE_B));
    assert_eq!(
        harness.store().settle(key, Outcome::COMPLETED).await.unwrap(),
        Settled::Done(OrderStatus::Completed)
    );
}

async fn a_result_is_stored_byte_for_byte(harness: &mut Harness) {
    let text = r#"{ "charge" : 1.10,"é":[null, "\u00e9"] }"#;
    let id = harness.accept_one().await;
    let lease = take_only(harness, id).await;
    harness.settle(&lease, with_result(text)).await;
    let kept = harness.order(id).await.result.unwrap();
    assert_eq!(kept.as_str(), text);
    harness.reopen().await;
    assert_eq!(harness.order(id).await.result.unwrap().as_str(), text);
    assert_eq!(harness.records().await[0].order.result.as_ref(), Some(&kept));
}

async fn a_redriven_order_has_no_result_until_it_completes_again(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = take_only(harness, id).await;
    harness.settle(&lease, failed()).await;
    assert_eq!(harness.order(id).await.result, None);
    harness.redrive(id).await;
    let lease = take_only(harness, id).await;
    assert_eq!(lease.order.generation, 1);
    harness.settle(&lease, with_result("7")).await;
    assert_eq!(harness.order(id).await.result.unwrap().as_str(), "7");
}

async fn the_result_of_a_cancelled_order_is_refused(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = take_only(harness, id).await;
    let cancelled = harness.cancel(id).await;
    let settled = harness
        .store()
        .settle(lease.key(), with_result("7"))
        .await
        .unwrap();
    assert_eq!(settled, Settled::Stale);
    assert_eq!(harness.order(id).await, cancelled);
}

async fn a_result_is_refused_after_its_order_was_given_back(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let slow = take_only(harness, id).await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    harness.give_back().await;
    for _ in 0..2 {
        let settled = harness
            .store()
            .settle(slow.key(), with_result("1"))
            .await
            .unwrap();
        assert_eq!(settled, Settled::Stale);
        if harness.order(id).await.status == OrderStatus::Pending {
            let quick = take_only(harness, id).await;
            harness.settle(&quick, with_result("2")).await;
        }
    }
    assert_eq!(harness.order(id).await.result.unwrap().as_str(), "2");
}

async fn an_order_from_an_external_worker_may_later_run_on_a_node(harness: &mut Harness) {
    harness.join(NODE_A).await;
    let id = harness.accept_one().await;
    let lease = take_only(harness, id).await;
    harness.settle(&lease, Outcome::Released).await;
    let lease = harness.claim_only(id).await;
    harness.advance(SHORTER_THAN_A_LEASE).await;
    let beat = heartbeat(NODE_A, &[lease.key()]);
    harness.store().renew(beat).await.unwrap();
    harness.advance(SHORTER_THAN_A_LEASE).await;
    assert_eq!(
        harness.give_back().await,
        GivenBack::default(),
        "the heartbeat did not renew the lease"
    );
    harness.advance(LONGER_THAN_A_LEASE).await;
    assert_eq!(harness.give_back().await.pending, 1);
    assert_eq!(harness.crashes(id).await, 0, "the sweeping node is alive");
}

pub(super) async fn take(harness: &Harness, orders_max: usize) -> Vec<Lease> {
    let request = ClaimRequest {
        processor: Some(ProcessorKind::Pull),
        ..claim_by(NODE_A, orders_max)
    };
    harness.store().claim(request).await.unwrap().leases
}

/// Takes the only order that can start.
pub(super) async fn take_only(harness: &Harness, id: OrderId) -> Lease {
    let mut leases = take(harness, 2).await;
    assert_eq!(ids_of(&leases), [id]);
    leases.remove(0)
}

fn for_a_lease() -> ExternalHold {
    ExternalHold {
        lease: LEASE,
        run_max: RUN_MAX,
    }
}

async fn hold(harness: &Harness, lease: &Lease, time: Duration) -> ExternalLease {
    let hold = ExternalHold {
        lease: time,
        run_max: RUN_MAX,
    };
    harness.store().hold_external(lease.key(), hold).await.unwrap()
}

async fn latest(harness: &Harness, id: OrderId) -> LatestClaim {
    let latest = harness.store().claimed(id).await.unwrap();
    latest.expect("the order was accepted")
}

async fn assert_stale(harness: &Harness, key: LeaseKey) {
    let before = latest(harness, key.order_id).await;
    let held = harness.store().hold_external(key, for_a_lease()).await.unwrap();
    assert_eq!(held, ExternalLease::Stale);
    assert_eq!(latest(harness, key.order_id).await, before);
}

fn with_result(text: &str) -> Outcome {
    Outcome::Completed {
        result: Some(JsonText::parse(text).expect("a valid result")),
    }
}
