//! Orders lost to dead nodes at least twice: they start one at a time, and only for a node that requests one.

use orderly::lease::Outcome;
use orderly::order::OrderId;
use orderly::store::ClaimRequest;

use crate::support::Harness;
use crate::support::harness::ids_of;
use crate::support::make::{NODE_A, claim_by, retry_after};

conformance! {
    an_order_is_suspect_after_two_crashes_and_not_after_one,
    a_suspect_starts_only_on_request,
    a_claim_grants_at_most_one_suspect,
    a_suspect_does_not_hold_up_others,
    a_suspect_that_failed_its_attempt_stays_suspect,
    a_redriven_suspect_is_no_longer_suspect,
    a_suspect_can_complete,
}

async fn an_order_is_suspect_after_two_crashes_and_not_after_one(harness: &mut Harness) {
    let id = harness.accept_one().await;
    for (crashes, suspect) in [(0, false), (1, false), (1, true), (1, true)] {
        harness.crash_all(&[id], crashes).await;
        let lease = harness.claim_only(id).await;
        assert_eq!(lease.suspect, suspect, "{} crashes", harness.crashes(id).await);
        harness.settle(&lease, Outcome::Released).await;
    }
}

async fn a_suspect_starts_only_on_request(harness: &mut Harness) {
    let id = suspect(harness).await;
    let request = ClaimRequest {
        suspect: false,
        ..claim_by(NODE_A, 10)
    };
    assert!(harness.store().claim(request).await.unwrap().leases.is_empty());
    assert!(harness.claim_only(id).await.suspect);
}

async fn a_claim_grants_at_most_one_suspect(harness: &mut Harness) {
    let suspects = three_suspects(harness).await;
    let mut granted = Vec::new();
    for _ in &suspects {
        let leases = harness.claim(10).await;
        assert_eq!(leases.len(), 1);
        granted.extend(ids_of(&leases));
    }
    granted.sort();
    assert_eq!(granted, suspects);
}

async fn a_suspect_does_not_hold_up_others(harness: &mut Harness) {
    let suspects = three_suspects(harness).await;
    let released = harness.accept_one().await;
    for lease in harness.claim(10).await {
        harness.settle(&lease, Outcome::Released).await;
    }
    let first_attempt = harness.accept_one().await;
    let request = ClaimRequest {
        suspect: false,
        ..claim_by(NODE_A, 10)
    };
    let started = ids_of(&harness.store().claim(request).await.unwrap().leases);
    assert_eq!(started, [first_attempt, released]);
    assert!(suspects.iter().all(|id| !started.contains(id)));
}

async fn a_suspect_that_failed_its_attempt_stays_suspect(harness: &mut Harness) {
    let id = suspect(harness).await;
    let lease = harness.claim_only(id).await;
    harness.settle(&lease, retry_after(0)).await;
    assert!(harness.claim_only(id).await.suspect);
}

async fn a_redriven_suspect_is_no_longer_suspect(harness: &mut Harness) {
    let id = suspect(harness).await;
    harness.cancel(id).await;
    harness.redrive(id).await;
    assert_eq!(harness.crashes(id).await, 0);
    assert!(!harness.claim_only(id).await.suspect);
}

async fn a_suspect_can_complete(harness: &mut Harness) {
    let id = suspect(harness).await;
    let lease = harness.claim_only(id).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    assert_eq!(harness.counters().await.completed, 1);
}

async fn suspect(harness: &Harness) -> OrderId {
    let id = harness.accept_one().await;
    harness.crash_all(&[id], 2).await;
    id
}

/// By rising id.
async fn three_suspects(harness: &Harness) -> Vec<OrderId> {
    let suspects = harness.accept_some(3).await;
    harness.crash_all(&suspects, 2).await;
    suspects
}
