//! Tokens that are no longer valid, and calls repeated because their answer was lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use orderly::epoch::Token;
use orderly::event::EventKind;
use orderly::lease::{LeaseKey, Outcome, ProcessorKind};
use orderly::order::{OrderId, OrderStatus};
use orderly::store::layer::Layer;
use orderly::store::{ClaimRequest, Claimed, Settled, SettledExternal, Store, StoreError};
use serde_json::json;

use super::ids;
use crate::api::in_process::Api;
use crate::support::gate::Gate;
use crate::support::layers::{FailsToSettle, layered};
use crate::support::make::{FIRST_FENCE, LONGER_THAN_A_LEASE, NODE_A, claim_by};
use crate::support::until;

const ID: OrderId = OrderId(1);
/// Each call with the least members it needs besides the token.
const CALLS: [(&str, &str); 5] = [
    ("renew", ""),
    ("complete", ""),
    ("complete", r#","result":7"#),
    ("fail", r#","error":"no""#),
    ("release", ""),
];

/// Asserts that every call with the token of this claim of the first order is refused and changes nothing.
async fn assert_lost(api: &Api, claim: u64) {
    let shown = async || {
        let (order, events) = (api.get("/orders/1").await, api.get("/orders/1/events").await);
        (
            order.bytes().clone(),
            events.bytes().clone(),
            api.harness.counters().await,
        )
    };
    let before = shown().await;
    for (action, rest) in CALLS {
        let body = api.harness.call_body(1, claim, rest).await;
        let answer = api.post(&format!("/leases/1/{action}"), body).await;
        answer.assert_refused(409, "lease-lost");
        assert_eq!(shown().await, before, "{action}");
    }
}

/// Issue 13, point 5: only the order's own node knows how the attempt ends.
#[tokio::test]
async fn an_order_processed_by_its_own_node_accepts_no_external_result() {
    for processor in [ProcessorKind::Simulated, ProcessorKind::Own] {
        let api = Api::open().await;
        api.harness.accept_one().await;
        let request = ClaimRequest {
            processor: Some(processor),
            ..claim_by(NODE_A, 1)
        };
        let lease = api.harness.store().claim(request).await.unwrap().leases.remove(0);
        assert_lost(&api, 1).await;
        api.harness.settle(&lease, Outcome::COMPLETED).await;
        assert_lost(&api, 1).await;
        api.close().await;
    }
}

#[tokio::test]
async fn a_token_is_valid_only_while_its_lease_is_current() {
    let api = Api::for_workers().await;
    api.harness.accept_one().await;
    assert_lost(&api, 1).await;
    api.take_one().await;
    assert_lost(&api, 2).await;
    api.harness.advance(LONGER_THAN_A_LEASE).await;
    api.harness.give_back().await;
    assert_lost(&api, 1).await;
    api.take_one().await;
    assert_lost(&api, 1).await;
    let body = api.harness.call_body(1, 2, "").await;
    api.post("/leases/1/release", body).await.ok();
    assert_lost(&api, 2).await;
    api.take_one().await;
    api.act("/orders/1/cancel").await.ok();
    assert_lost(&api, 3).await;
    api.act("/orders/1/retry").await.ok();
    assert_lost(&api, 3).await;
    api.take_one().await;
    let body = api
        .harness
        .call_body(1, 4, r#","error":"no","permanent":true"#)
        .await;
    api.post("/leases/1/fail", body).await.ok();
    assert_lost(&api, 4).await;
    api.close().await;
}

#[tokio::test]
async fn only_a_repeated_identical_completion_gets_the_same_answer() {
    for (result, other) in [
        (json!({"a": [1.10]}), json!({"a": [1.1]})),
        (json!(null), json!(7)),
    ] {
        let api = Api::for_workers().await;
        api.harness.accept_one().await;
        api.take_one().await;
        let with = async |result: serde_json::Value| {
            let rest = format!(",\"result\":{result}");
            api.harness.call_body(1, 1, &rest).await
        };
        let body = with(result).await.replace("1.1", "1.10");
        let complete = async |body: String| api.post("/leases/1/complete", body).await;
        let first = complete(body.clone()).await;
        first.ok();
        let again = complete(body).await;
        assert_eq!((again.status, again.bytes()), (first.status, first.bytes()));
        complete(with(other).await)
            .await
            .assert_refused(409, "lease-lost");
        for (action, rest) in [("renew", ""), ("fail", r#","error":"no""#), ("release", "")] {
            let path = format!("/leases/1/{action}");
            let answer = api.post(&path, api.harness.call_body(1, 1, rest).await).await;
            answer.assert_refused(409, "lease-lost");
        }
        let events = api.harness.events(ID).await;
        assert_eq!(
            events,
            [EventKind::Accepted, EventKind::Started, EventKind::Completed]
        );
        api.close().await;
    }
}

#[tokio::test]
async fn two_identical_concurrent_completions_both_succeed() {
    let api = Api::for_workers().await;
    for id in 1..=10 {
        api.harness.accept_one().await;
        api.take_one().await;
        let path = format!("/leases/{id}/complete");
        let body = api.harness.call_body(id, 1, r#","result":[7]"#).await;
        let (one, other) = tokio::join!(api.post(&path, body.clone()), api.post(&path, body));
        assert_eq!(one.ok(), other.ok());
        assert_eq!(api.harness.order(OrderId(id)).await.version, 3);
    }
    api.close().await;
}

#[tokio::test]
async fn only_the_worker_with_the_current_token_completes_the_order() {
    let api = Api::for_workers().await;
    api.harness.accept_one().await;
    api.take_one().await;
    api.harness.advance(LONGER_THAN_A_LEASE).await;
    api.harness.give_back().await;
    api.take_one().await;
    let late = api.harness.call_body(1, 1, r#","result":"late""#).await;
    let in_time = api.harness.call_body(1, 2, r#","result":"in time""#).await;
    let (late, in_time) = tokio::join!(
        api.post("/leases/1/complete", late),
        api.post("/leases/1/complete", in_time)
    );
    late.assert_refused(409, "lease-lost");
    assert_eq!(in_time.ok()["result"], "in time");
    api.close().await;
}

#[tokio::test]
async fn a_result_that_could_not_be_stored_may_be_resent() {
    let fails = FailsToSettle { times: 2.into() };
    let api = Api::layered_for_workers(|store| layered(store, fails)).await;
    api.harness.accept_one().await;
    api.take_one().await;
    let body = api.harness.call_body(1, 1, "").await;
    for _ in 0..2 {
        let answer = api.post("/leases/1/complete", body.clone()).await;
        answer.assert_refused(503, "disk-full");
        assert_eq!(api.harness.order(ID).await.status, OrderStatus::Processing);
    }
    api.post("/leases/1/complete", body).await.ok();
    api.close().await;
}

/// Stores results, but fails to read the order while set.
struct CannotRead(AtomicBool);

impl Layer for CannotRead {
    async fn settle_external(
        &self,
        inner: &dyn Store,
        id: OrderId,
        token: Token,
        outcome: Outcome,
    ) -> Result<SettledExternal, StoreError> {
        let settled = inner.settle_external(id, token, outcome).await?;
        Ok(match settled {
            SettledExternal::Done(_) if self.0.load(Ordering::SeqCst) => {
                SettledExternal::Unread(StoreError::Busy)
            }
            settled => settled,
        })
    }
}

#[tokio::test]
async fn a_stored_result_is_never_answered_as_not_stored() {
    let layer = Arc::new(CannotRead(AtomicBool::new(true)));
    let api = Api::layered_for_workers(|store| layered(store, layer.clone())).await;
    api.harness.accept_one().await;
    api.take_one().await;
    let body = api.harness.call_body(1, 1, "").await;
    let complete = async || api.post("/leases/1/complete", body.clone()).await;
    complete().await.assert_refused(500, "unexpected");
    assert_eq!(api.harness.order(ID).await.status, OrderStatus::Completed);
    assert_eq!(
        complete().await.ok()["status"],
        "Completed",
        "a repeat gets the answer"
    );
    layer.0.store(false, Ordering::SeqCst);
    api.close().await;
}

/// Claims as the test decides.
struct Claims {
    fails: Option<fn() -> StoreError>,
    /// Holds answers of completed claims while closed.
    answers: Arc<Gate>,
}

impl Layer for Claims {
    async fn claim(&self, inner: &dyn Store, request: ClaimRequest) -> Result<Claimed, StoreError> {
        if let Some(fails) = self.fails {
            return Err(fails());
        }
        let claimed = inner.claim(request).await;
        if request.orders_max > 0 {
            self.answers.pass().await;
        }
        claimed
    }
}

/// A claim error, and its expected status and problem.
type Failure = (fn() -> StoreError, u16, &'static str);

#[tokio::test]
async fn a_failed_claim_is_answered_with_its_own_problem() {
    let away = || StoreError::Unavailable {
        attempted: "claim orders",
        source: anyhow::anyhow!("gone"),
    };
    let unknown = || StoreError::Unexpected {
        attempted: "claim orders",
        source: anyhow::anyhow!("no answer"),
    };
    let failures: [Failure; 3] = [
        (away, 503, "store-unavailable"),
        (|| StoreError::DiskFull, 503, "disk-full"),
        (unknown, 500, "unexpected"),
    ];
    for (fails, status, kind) in failures {
        let claims = Claims {
            fails: Some(fails),
            answers: Gate::closed(),
        };
        let api = Api::layered_for_workers(|store| layered(store, claims)).await;
        api.harness.accept_one().await;
        api.act("/leases").await.assert_refused(status, kind);
        api.post("/leases", r#"{"wait":1}"#)
            .await
            .assert_refused(status, kind);
        assert_eq!(api.harness.events(ID).await, [EventKind::Accepted]);
        api.close().await;
    }
}

#[tokio::test]
async fn an_order_claimed_for_a_disconnected_client_is_released() {
    let answers = Gate::closed();
    let claims = Claims {
        fails: None,
        answers: answers.clone(),
    };
    let api = Api::layered_for_workers(|store| layered(store, claims)).await;
    api.harness.accept_one().await;
    {
        let hangs_up = api.post("/leases", r#"{"wait":60}"#);
        tokio::select! {
            _ = hangs_up => panic!("the claim is still unanswered"),
            () = answers.arrival() => {}
        }
    }
    answers.open();
    until("the order is given back", async || {
        api.harness.order(ID).await.status == OrderStatus::Pending
    })
    .await;
    let lease = api.take_one().await;
    assert_eq!(
        (&lease["fence"], &lease["attempt"]),
        (&json!(FIRST_FENCE + 1), &json!(1))
    );
    let kinds = api.harness.events(ID).await;
    assert_eq!(kinds[1..3], [EventKind::Started, EventKind::Released]);
    assert_eq!(api.harness.crashes(ID).await, 0);
    api.close().await;
}

/// The embedded store has one dispatcher, but its answers must not depend on that.
#[tokio::test]
async fn a_result_racing_a_cancel_counts_or_is_refused() {
    let api = Api::for_workers().await;
    for id in 1..=10 {
        api.harness.accept_one().await;
        api.take_one().await;
        let (complete, cancel) = (format!("/leases/{id}/complete"), format!("/orders/{id}/cancel"));
        let body = api.harness.call_body(id, 1, "").await;
        let (completed, cancelled) = tokio::join!(api.post(&complete, body), api.act(&cancel));
        assert_ne!(completed.status.is_success(), cancelled.status.is_success());
        assert_eq!(api.harness.order(OrderId(id)).await.version, 3);
    }
    assert_eq!(ids(&api.act("/leases").await.ok()), [0; 0]);
    let key = LeaseKey {
        order_id: ID,
        fence: FIRST_FENCE,
        node: crate::support::make::NODE_A,
    };
    let settled = api.harness.store().settle(key, Outcome::COMPLETED).await.unwrap();
    assert_eq!(settled, Settled::Stale);
    api.close().await;
}
