//! Outcomes that workers report.

use std::time::Duration;

use orderly::lease::ProcessorKind;
use orderly::order::OrderId;
use orderly::store::ClaimRequest;
use serde_json::{Value, json};

use super::ids;
use crate::api::in_process::Api;
use crate::support::make::{FIRST_FENCE, NODE_A, claim_by};

#[tokio::test]
async fn a_failed_attempt_is_retried_until_attempts_are_used_up() {
    let api = Api::for_workers().await;
    api.harness.accept_one().await;
    let fail = async |lease: &Value| {
        let body = json!({"token": lease["token"], "error": "the \"warehouse\" is closed"});
        api.post("/leases/1/fail", body.to_string()).await.ok()
    };
    let answer = fail(&api.take_one().await).await;
    assert_eq!(
        (&answer["status"], &answer["attempts"]),
        (&json!("Pending"), &json!(1))
    );
    assert_eq!(answer["last_error"], "the \"warehouse\" is closed");
    let answer = fail(&api.take_one().await).await;
    assert_eq!(
        (&answer["status"], &answer["attempts"]),
        (&json!("Failed"), &json!(2))
    );
    api.close().await;
}

#[tokio::test]
async fn a_permanent_failure_reported_by_a_worker_is_not_retried() {
    let api = Api::for_workers().await;
    api.harness.accept_one().await;
    let lease = api.take_one().await;
    let body = json!({"token": lease["token"], "error": "no such item", "permanent": true, "retry_after": 5});
    let answer = api.post("/leases/1/fail", body.to_string()).await.ok();
    assert_eq!(
        (&answer["status"], &answer["attempts"]),
        (&json!("Failed"), &json!(1))
    );
    assert_eq!(answer["last_error"], "no such item");
    api.close().await;
}

#[tokio::test]
async fn a_worker_may_request_a_longer_backoff() {
    let api = Api::for_workers().await;
    api.harness.accept_one().await;
    api.take_one().await;
    let body = api
        .harness
        .call_body(1, 1, r#","error":"try in a minute","retry_after":60"#)
        .await;
    api.post("/leases/1/fail", body).await.ok();
    let due = api.harness.now().await.plus(Duration::from_mins(1));
    assert_eq!(api.harness.order(OrderId(1)).await.next_attempt_at, Some(due));
    assert_eq!(ids(&api.act("/leases").await.ok()), [0; 0]);
    api.harness.advance(Duration::from_mins(1)).await;
    assert_eq!(api.take_one().await["fence"], FIRST_FENCE + 1);
    api.close().await;
}

#[tokio::test]
async fn a_released_order_is_due_again_without_counting_an_attempt() {
    let api = Api::for_workers().await;
    api.harness.accept_one().await;
    api.take_one().await;
    let body = api.harness.call_body(1, 1, "").await;
    let answer = api.post("/leases/1/release", body).await.ok();
    assert_eq!(
        (&answer["status"], &answer["attempts"]),
        (&json!("Pending"), &json!(0))
    );
    let lease = api.take_one().await;
    assert_eq!(
        (&lease["fence"], &lease["attempt"]),
        (&json!(FIRST_FENCE + 1), &json!(1))
    );
    api.close().await;
}

#[tokio::test]
async fn a_service_can_settle_an_order_handed_over_to_it() {
    let api = Api::open().await;
    api.harness.accept_some(3).await;
    let delivering = ClaimRequest {
        processor: Some(ProcessorKind::Http),
        ..claim_by(NODE_A, 3)
    };
    let leases = api.harness.store().claim(delivering).await.unwrap().leases;
    let path = |index: usize, action: &str| format!("/leases/{}/{action}", leases[index].order.order_id);
    let token = |index: usize| json!({"token": leases[index].token.to_string()}).to_string();
    api.post(&path(0, "renew"), token(0)).await.ok();
    assert_eq!(
        api.post(&path(0, "complete"), token(0)).await.ok()["status"],
        "Completed"
    );
    let body = json!({"token": leases[1].token.to_string(), "error": "no", "permanent": true});
    assert_eq!(
        api.post(&path(1, "fail"), body.to_string()).await.ok()["status"],
        "Failed"
    );
    assert_eq!(
        api.post(&path(2, "release"), token(2)).await.ok()["status"],
        "Pending"
    );
    api.close().await;
}

#[tokio::test]
async fn results_are_counted_by_outcome() {
    let api = Api::for_workers().await;
    for (action, body) in [
        ("complete", json!({})),
        ("complete", json!({"result": null})),
        ("fail", json!({"error": "no"})),
        ("release", json!({})),
    ] {
        // Orders that failed before are attempted again.
        if action != "release" {
            api.harness.accept_one().await;
        }
        let lease = api.take_one().await;
        let mut body = body;
        body["token"] = lease["token"].clone();
        let path = format!("/leases/{}/{action}", lease["order"]["order_id"]);
        api.post(&path, body.to_string()).await.ok();
        if action == "release" {
            api.post(&path, body.to_string())
                .await
                .assert_refused(409, "lease-lost");
        }
    }
    let text = api.get("/metrics/prometheus").await;
    for line in [
        "orderly_leases_granted_total 4",
        "orderly_lease_requests_waiting 0",
        "orderly_outside_results_total{result=\"completed\"} 2",
        "orderly_outside_results_total{result=\"retry\"} 1",
        "orderly_outside_results_total{result=\"released\"} 1",
        "orderly_outside_results_total{result=\"lost\"} 1",
        // Issue 13, point 22: attempts count, whether a node or a worker makes them.
        "orderly_attempts_total{result=\"completed\"} 2",
        "orderly_attempts_total{result=\"retry\"} 1",
        "orderly_attempts_total{result=\"released\"} 1",
        "orderly_stale_results_rejected_total 1",
        "orderly_order_processing_seconds_count 2",
        "orderly_order_wait_seconds_count 3",
    ] {
        assert!(
            text.text().lines().any(|found| found == line),
            "{line} in {}",
            text.text()
        );
    }
    api.close().await;
}

#[tokio::test]
async fn all_attempts_share_a_key_until_the_order_is_redriven() {
    let api = Api::for_workers().await;
    api.harness.accept_one().await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let lease = api.take_one().await;
        seen.push((
            lease["idempotency_key"].clone(),
            lease["attempt"].clone(),
            lease["fence"].clone(),
        ));
        api.post(
            "/leases/1/fail",
            json!({"token": lease["token"], "error": "no"}).to_string(),
        )
        .await
        .ok();
    }
    api.act("/orders/1/retry").await.ok();
    let lease = api.take_one().await;
    seen.push((
        lease["idempotency_key"].clone(),
        lease["attempt"].clone(),
        lease["fence"].clone(),
    ));
    let [first, second] = [0, 1].map(async |redrives| json!(api.harness.attempt_key(1, redrives).await));
    let (first, second) = (first.await, second.await);
    assert_eq!(
        seen,
        [
            (first.clone(), 1.into(), FIRST_FENCE.into()),
            (first, 2.into(), (FIRST_FENCE + 1).into()),
            (second, 1.into(), (FIRST_FENCE + 2).into())
        ]
    );
    api.close().await;
}
