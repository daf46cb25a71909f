//! `settle_outside`: results that name an order and a token, as external workers bring them (issue 14, point 7).

use futures_util::future::join_all;
use orderly::event::EventKind;
use orderly::lease::Outcome;
use orderly::order::{OrderId, OrderStatus};
use orderly::portable_json::JsonText;
use orderly::store::{LatestClaim, SettledOutside, StoreError};

use super::outside::{take, take_only};
use crate::support::Harness;
use crate::support::make::{LONGER_THAN_A_LEASE, NODE_A, failed, retry_after};

conformance! {
    a_result_by_token_ends_the_attempt_and_answers_with_the_order,
    a_result_by_a_token_that_does_not_count_changes_nothing,
    a_result_by_the_token_of_an_order_not_handed_out_changes_nothing,
    a_refused_result_by_token_is_refused_and_hurts_no_other,
}

async fn a_result_by_token_ends_the_attempt_and_answers_with_the_order(harness: &mut Harness) {
    for (outcome, status, kind) in [
        (with_result("7"), OrderStatus::Completed, EventKind::Completed),
        (failed(), OrderStatus::Failed, EventKind::Failed),
        (retry_after(60), OrderStatus::Pending, EventKind::RetryScheduled),
        (Outcome::Released, OrderStatus::Pending, EventKind::Released),
    ] {
        let id = harness.accept_one().await;
        let lease = take_only(harness, id).await;
        let SettledOutside::Done(order) = bring(harness, id, lease.token, outcome).await else {
            panic!("the token counts")
        };
        assert_eq!((order.status, &order), (status, &harness.order(id).await));
        let ended = harness.history(id, 2).await.remove(0);
        // The node that claimed, also where an external worker brought the result.
        assert_eq!((ended.kind, ended.node), (kind, Some(NODE_A)));
        assert_lost(harness, id, lease.token).await;
    }
    assert_eq!(harness.counters().await, harness.recount().await);
}

async fn a_result_by_a_token_that_does_not_count_changes_nothing(harness: &mut Harness) {
    let unknown = bring(harness, OrderId(1_000_000), 1, Outcome::COMPLETED).await;
    assert!(matches!(unknown, SettledOutside::UnknownOrder), "{unknown:?}");
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

async fn a_result_by_the_token_of_an_order_not_handed_out_changes_nothing(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    assert_lost(harness, id, lease.token).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    assert_lost(harness, id, lease.token).await;
}

async fn a_refused_result_by_token_is_refused_and_hurts_no_other(harness: &mut Harness) {
    let ids = harness.accept_some(20).await;
    let leases = take(harness, 20).await;
    harness
        .refuse_updates(&format!("new.order_id = {} and new.status = 2", ids[7]))
        .await;
    let results = leases.iter().map(|lease| {
        let (store, key) = (harness.store().clone(), lease.key());
        async move {
            store
                .settle_outside(key.order_id, key.token, Outcome::COMPLETED)
                .await
        }
    });
    for (id, settled) in ids.iter().zip(join_all(results).await) {
        match settled {
            Ok(SettledOutside::Done(order)) => assert_eq!(order.order_id, *id),
            Err(StoreError::Refused { .. }) => assert_eq!(*id, ids[7]),
            other => panic!("{other:?}"),
        }
    }
    let counters = harness.counters().await;
    assert_eq!((counters.completed, counters.processing), (19, 1));
}

async fn bring(harness: &Harness, id: OrderId, token: u64, outcome: Outcome) -> SettledOutside {
    let settled = harness.store().settle_outside(id, token, outcome).await;
    settled.unwrap()
}

async fn assert_lost(harness: &Harness, id: OrderId, token: u64) {
    let before = latest(harness, id).await;
    for outcome in [with_result("7"), failed(), Outcome::Released] {
        match bring(harness, id, token, outcome).await {
            SettledOutside::Lost(claim) => assert_eq!(claim, before),
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
        result: Some(JsonText::parse(text).expect("a result")),
    }
}
