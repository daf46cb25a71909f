//! `settle_external`: results of external workers, identified by order and token (issue 14, point 7).

use futures_util::future::join_all;
use orderly::epoch::{FENCE_BITS, Token, TokenSecret};
use orderly::event::EventKind;
use orderly::lease::Outcome;
use orderly::order::{OrderId, OrderStatus};
use orderly::portable_json::JsonText;
use orderly::store::{LatestClaim, SettledExternal, StoreError};

use super::external_leases::{take, take_only};
use crate::support::Harness;
use crate::support::make::{LONGER_THAN_A_LEASE, NODE_A, failed, retry_after};

conformance! {
    a_result_with_the_current_token_settles_and_returns_the_order,
    a_result_with_a_stale_token_changes_nothing,
    a_result_with_a_foreign_token_changes_nothing,
    a_result_for_an_order_not_handed_out_changes_nothing,
    a_refused_external_result_does_not_affect_other_results,
}

async fn a_result_with_the_current_token_settles_and_returns_the_order(harness: &mut Harness) {
    for (outcome, status, kind) in [
        (with_result("7"), OrderStatus::Completed, EventKind::Completed),
        (failed(), OrderStatus::Failed, EventKind::Failed),
        (retry_after(60), OrderStatus::Pending, EventKind::RetryScheduled),
        (Outcome::Released, OrderStatus::Pending, EventKind::Released),
    ] {
        let id = harness.accept_one().await;
        let lease = take_only(harness, id).await;
        let SettledExternal::Done(order) = bring(harness, id, lease.token, outcome).await else {
            panic!("the token is valid")
        };
        assert_eq!((order.status, &order), (status, &harness.order(id).await));
        let ended = harness.history(id, 2).await.remove(0);
        // The claiming node, also when an external worker posted the result.
        assert_eq!((ended.kind, ended.node), (kind, Some(NODE_A)));
        assert_lost(harness, id, 1).await;
    }
    assert_eq!(harness.counters().await, harness.recount().await);
}

async fn a_result_with_a_stale_token_changes_nothing(harness: &mut Harness) {
    let unknown = bring(
        harness,
        OrderId(1_000_000),
        harness.token(OrderId(1_000_000), 1).await,
        Outcome::COMPLETED,
    )
    .await;
    assert!(matches!(unknown, SettledExternal::UnknownOrder), "{unknown:?}");
    let id = harness.accept_one().await;
    assert_lost(harness, id, 0).await;
    assert_lost(harness, id, 1).await;
    take_only(harness, id).await;
    assert_lost(harness, id, 2).await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    harness.give_back().await;
    assert_lost(harness, id, 1).await;
    take_only(harness, id).await;
    assert_lost(harness, id, 1).await;
    harness.cancel(id).await;
    assert_lost(harness, id, 2).await;
}

/// Issue 15, point 2: a fence alone can be guessed, and another run of the store may have used it.
async fn a_result_with_a_foreign_token_changes_nothing(harness: &mut Harness) {
    let (id, other) = (harness.accept_one().await, harness.accept_one().await);
    let leases = take(harness, 2).await;
    let fence = leases[0].fence;
    let foreign = TokenSecret::of([7; 16]).token(id, fence);
    let of_another_epoch = TokenSecret::of([7; 16]).token(id, fence + (1 << FENCE_BITS));
    for token in [foreign, of_another_epoch, harness.token(other, 1).await] {
        match bring(harness, id, token, Outcome::COMPLETED).await {
            SettledExternal::Lost(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(harness.counters().await.processing, 2);
    let settled = bring(harness, id, leases[0].token, Outcome::COMPLETED).await;
    assert!(matches!(settled, SettledExternal::Done(_)), "{settled:?}");
}

async fn a_result_for_an_order_not_handed_out_changes_nothing(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    assert_lost(harness, id, 1).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    assert_lost(harness, id, 1).await;
}

async fn a_refused_external_result_does_not_affect_other_results(harness: &mut Harness) {
    let ids = harness.accept_some(20).await;
    let leases = take(harness, 20).await;
    harness
        .refuse_updates(&format!("new.order_id = {} and new.status = 2", ids[7]))
        .await;
    let results = leases.iter().map(|lease| {
        let (store, id, token) = (harness.store().clone(), lease.order.order_id, lease.token);
        async move { store.settle_external(id, token, Outcome::COMPLETED).await }
    });
    for (id, settled) in ids.iter().zip(join_all(results).await) {
        match settled {
            Ok(SettledExternal::Done(order)) => assert_eq!(order.order_id, *id),
            Err(StoreError::Refused { .. }) => assert_eq!(*id, ids[7]),
            other => panic!("{other:?}"),
        }
    }
    let counters = harness.counters().await;
    assert_eq!((counters.completed, counters.processing), (19, 1));
}

async fn bring(harness: &Harness, id: OrderId, token: Token, outcome: Outcome) -> SettledExternal {
    let settled = harness.store().settle_external(id, token, outcome).await;
    settled.unwrap()
}

/// Asserts that results with the token of this claim of the order change nothing.
async fn assert_lost(harness: &Harness, id: OrderId, claim: u64) {
    let token = harness.token(id, claim).await;
    let before = latest(harness, id).await;
    for outcome in [with_result("7"), failed(), Outcome::Released] {
        match bring(harness, id, token, outcome).await {
            SettledExternal::Lost(claim) => assert_eq!(claim, before),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(latest(harness, id).await, before);
}

async fn latest(harness: &Harness, id: OrderId) -> LatestClaim {
    let latest = harness.store().claimed(id).await.unwrap();
    latest.expect("the order was accepted")
}

fn with_result(text: &str) -> Outcome {
    Outcome::Completed {
        result: Some(JsonText::parse(text).expect("a valid result")),
    }
}
