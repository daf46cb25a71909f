//! Operator actions: cancel, retry one order or many, pause and resume.

use std::time::Duration;

use insta::assert_snapshot;
use orderly::order::{OrderId, OrderStatus};
use serde_json::json;

use super::in_process::{Api, ORDER};
use crate::support::make::{LONGER_THAN_A_LEASE, NODE_A, failed, order_of};

/// Applies the action to an order of each status. A refused action must leave the order unchanged.
async fn act_on_each(action: &str, expected: [Option<OrderStatus>; 5]) {
    let api = Api::open().await;
    for (from, to) in OrderStatus::ALL.into_iter().zip(expected) {
        let id = api.harness.order_in(from).await;
        let (order, events) = (format!("/orders/{id}"), format!("/orders/{id}/events"));
        let before = (api.get(&order).await, api.get(&events).await);
        let answer = api.act(&format!("{order}/{action}")).await;
        let after = (api.get(&order).await, api.get(&events).await);
        if let Some(to) = to {
            assert_eq!(answer.ok()["status"], to.name(), "{from:?}");
            assert_eq!(answer.bytes(), after.0.bytes());
        } else {
            answer.assert_refused(409, "action-refused");
            assert!(answer.text().contains(from.name()), "{}", answer.text());
            assert_eq!(
                (before.0.bytes(), before.1.bytes()),
                (after.0.bytes(), after.1.bytes())
            );
        }
        // The next order must be the only one that can start.
        if api.harness.order(id).await.status == OrderStatus::Pending {
            api.harness.cancel(id).await;
        }
    }
    api.close().await;
}

#[tokio::test]
async fn all_but_completed_orders_can_be_cancelled() {
    let cancelled = Some(OrderStatus::Cancelled);
    act_on_each("cancel", [cancelled, cancelled, None, cancelled, cancelled]).await;
}

#[tokio::test]
async fn an_operator_can_retry_orders_neither_processing_nor_completed() {
    let pending = Some(OrderStatus::Pending);
    act_on_each("retry", [pending, None, None, pending, pending]).await;
}

/// Issue 13: the action used to answer 409.
#[tokio::test]
async fn an_operator_retry_makes_an_order_in_backoff_due_now() {
    let api = Api::open().await;
    let id = api.harness.order_due_in(60).await;
    let before = api.get("/orders/1").await.ok();
    assert_eq!(before["next_attempt_at"], "2026-01-01T00:01:00.000000Z");
    let retried = api.act("/orders/1/retry").await.ok();
    assert_eq!(retried["next_attempt_at"], "2026-01-01T00:00:00.000000Z");
    for kept in ["status", "attempts", "last_error", "processing_at"] {
        assert_eq!(retried[kept], before[kept], "{kept}");
    }
    let events = api.get("/orders/1/events?after=3").await.ok();
    assert_eq!(events["events"].as_array().unwrap().len(), 1);
    assert_eq!(events["events"][0]["kind"], "redriven");
    assert_eq!(events["events"][0]["attempt"], 1);
    assert_eq!(api.act("/orders/1/retry").await.ok(), retried);
    assert_eq!(api.harness.claim_only(id).await.order.attempts, 2);
    api.close().await;
}

#[tokio::test]
async fn a_repeated_cancel_gets_the_same_answer() {
    let api = Api::open().await;
    api.harness.accept_one().await;
    let first = api.act("/orders/1/cancel").await;
    api.harness.advance(Duration::from_secs(1)).await;
    let second = api.act("/orders/1/cancel").await;
    assert_eq!((first.status, first.bytes()), (second.status, second.bytes()));
    assert_eq!(second.ok()["version"], 2);
    api.close().await;
}

#[tokio::test]
async fn the_result_of_a_cancelled_attempt_is_refused() {
    let api = Api::open().await;
    let id = api.harness.accept_one().await;
    let lease = api.harness.claim_only(id).await;
    assert_eq!(api.act("/orders/1/cancel").await.ok()["status"], "Cancelled");
    let settled = api.harness.store().settle(lease.key(), failed()).await.unwrap();
    assert_eq!(settled, orderly::store::Settled::Stale);
    assert_eq!(api.get("/orders/1").await.ok()["status"], "Cancelled");
    api.close().await;
}

#[tokio::test]
async fn a_redriven_order_has_its_attempts_counted_anew() {
    let api = Api::open().await;
    api.harness.attempt_once(failed()).await;
    let retried = api.act("/orders/1/retry").await.ok();
    assert_eq!(retried["attempts"], 0);
    assert_eq!(retried["status"], "Pending");
    assert_eq!(api.harness.claim_only(OrderId(1)).await.order.attempts, 1);
    api.close().await;
}

#[tokio::test]
async fn a_mass_retry_takes_the_oldest_first_and_supports_a_dry_run() {
    let api = Api::open().await;
    let ids = api.harness.accept_some(1001).await;
    api.harness.cancel_all(&ids).await;
    let all = r#"{"status":"Cancelled"}"#;
    let counted = api
        .post("/orders/retry", r#"{"status":"Cancelled","dry_run":true}"#)
        .await;
    assert_snapshot!(counted.text(), @r#"{"matched":1000,"retried":0,"more":true}"#);
    assert_eq!(api.harness.counters().await.cancelled, 1001);
    assert_snapshot!(api.post("/orders/retry", all).await.text(), @r#"{"matched":1000,"retried":1000,"more":true}"#);
    assert_eq!(
        api.get("/orders/1001").await.ok()["status"],
        "Cancelled",
        "the newest stays failed"
    );
    assert_snapshot!(api.post("/orders/retry", all).await.text(), @r#"{"matched":1,"retried":1,"more":false}"#);
    assert_snapshot!(api.post("/orders/retry", all).await.text(), @r#"{"matched":0,"retried":0,"more":false}"#);
    api.close().await;
}

#[tokio::test]
async fn a_mass_retry_takes_only_matching_orders() {
    let api = Api::open().await;
    let harness = &api.harness;
    harness.attempt_once(failed()).await;
    harness.order_in(OrderStatus::Cancelled).await;
    harness.advance(Duration::from_secs(10)).await;
    harness.accept(vec![order_of(7)]).await;
    let lease = harness.claim_only(OrderId(3)).await;
    harness.settle(&lease, failed()).await;
    for (body, matched) in [
        (json!({"status": "Failed", "dry_run": true}), 2),
        (json!({"status": "Cancelled", "dry_run": true}), 1),
        (json!({"status": "Failed", "user_id": 7, "dry_run": true}), 1),
        (json!({"status": "Failed", "user_id": 8}), 0),
        (
            json!({"status": "Failed", "created_before": "2026-01-01T00:00:10Z"}),
            1,
        ),
        (
            json!({"status": "Failed", "created_before": null, "user_id": null, "dry_run": false}),
            1,
        ),
        (json!({"status": "Failed"}), 0),
    ] {
        let redriven = api.post("/orders/retry", body.to_string()).await.ok();
        let retried = if body["dry_run"] == true { 0 } else { matched };
        assert_eq!(
            redriven,
            json!({"matched": matched, "retried": retried, "more": false}),
            "{body}"
        );
    }
    api.close().await;
}

#[tokio::test]
async fn an_invalid_mass_retry_is_refused_with_its_fields_named() {
    let api = Api::open().await;
    api.harness.attempt_once(failed()).await;
    for (body, pointers) in [
        ("{}", &["#/status"][..]),
        (r#"{"status":"failed"}"#, &["#/status"]),
        (r#"{"status":"Completed"}"#, &["#/status"]),
        (r#"{"status":null}"#, &["#/status"]),
        (r#"{"status":"Failed","status":"Failed"}"#, &["#/status"]),
        (
            r#"{"status":"Failed","user_id":0,"dry_run":1}"#,
            &["#/user_id", "#/dry_run"],
        ),
        (
            r#"{"status":"Failed","created_before":"now"}"#,
            &["#/created_before"],
        ),
        (r#"{"status":"Failed","limit":5}"#, &["#/limit"]),
        ("[]", &["#"]),
    ] {
        let answer = api.post("/orders/retry", body).await;
        answer.assert_refused_at(422, "invalid-fields", pointers);
    }
    api.post("/orders/retry", "")
        .await
        .assert_refused(400, "malformed-json");
    assert_eq!(api.get("/orders/1").await.ok()["status"], "Failed");
    api.close().await;
}

#[tokio::test]
async fn a_paused_queue_accepts_orders_but_starts_none() {
    let mut api = Api::open().await;
    assert_eq!(api.act("/queue/pause").await.ok()["paused"], true);
    api.post("/orders", ORDER).await.created();
    assert!(api.harness.claim(10).await.is_empty());
    assert_eq!(
        api.act("/queue/pause").await.ok()["pending"],
        1,
        "a second pause is not an error"
    );
    assert_eq!(api.act("/queue/resume").await.ok()["paused"], false);
    api.harness.claim_only(OrderId(1)).await;

    api.act("/queue/pause").await.ok();
    api.harness.reopen().await;
    assert!(api.harness.paused().await, "a pause survives a restart");
    api.close().await;
}

#[tokio::test]
async fn the_queue_shows_counts_oldest_age_and_nodes() {
    let api = Api::open().await;
    api.harness.join(NODE_A).await;
    api.harness.accept_some(3).await;
    api.harness.claim(1).await;
    api.harness.advance(Duration::from_millis(2500)).await;
    assert_snapshot!(api.get("/queue").await.shown(), @r#"
    200 OK
    content-type: application/json

    {
      "pending":2,
      "processing":1,
      "completed":0,
      "failed":0,
      "cancelled":0,
      "oldest_waiting_seconds":2.5,
      "blocked":0,
      "oldest_blocked_seconds":null,
      "held":0,
      "scheduled":0,
      "paused":false,
      "paused_at":null,
      "pause_reason":null,
      "nodes":[
        {
          "node":"000000000000000a",
          "name":"",
          "version":"0.1.0",
          "slots":10,
          "busy":0,
          "started_at":"2026-01-01T00:00:00.000000Z",
          "heartbeat_at":"2026-01-01T00:00:00.000000Z",
          "alive":true,
          "breaker":"closed",
          "processor":null,
          "starts_orders":true,
          "last_start_at":null,
          "clock_ahead_seconds":null
        }
      ],
      "redis":null,
      "service_trouble":null
    }
    "#);
    api.harness.advance(LONGER_THAN_A_LEASE).await;
    let queue = api.get("/queue").await.ok();
    assert_eq!(
        queue["nodes"][0]["alive"], false,
        "the heartbeat is older than the lease"
    );
    api.close().await;
}

#[tokio::test]
async fn a_pause_shows_its_reason_and_resuming_forgets_it() {
    let api = Api::open().await;
    let paused = api
        .post("/queue/pause", r#"{"reason":"the bank is down"}"#)
        .await
        .ok();
    assert_eq!(paused["pause_reason"], "the bank is down");
    assert!(paused["paused_at"].is_string(), "{paused}");
    api.harness.accept_one().await;
    let explained = api.get("/orders/1/explain").await.ok();
    let detail = explained["reasons"][0]["detail"].as_str().unwrap();
    assert!(
        detail.contains("the bank is down") && detail.contains("orderly resume"),
        "{detail}"
    );
    for reason in [r#""""#, "1", r#""a\nb""#, &format!("\"{}\"", "a".repeat(501))] {
        let answer = api
            .post("/queue/resume", format!(r#"{{"reason":{reason}}}"#))
            .await;
        answer.assert_refused_at(422, "invalid-fields", &["#/reason"]);
    }
    assert!(api.harness.paused().await);
    let resumed = api
        .post("/queue/resume", r#"{"reason":"it is up again"}"#)
        .await
        .ok();
    assert_eq!(
        (&resumed["paused_at"], &resumed["pause_reason"]),
        (&json!(null), &json!(null))
    );
    api.close().await;
}

/// Issue 13, point 16: extra members in the body must not be ignored silently.
#[tokio::test]
async fn an_action_takes_no_body_or_an_empty_object() {
    let api = Api::open().await;
    for path in [
        "/orders/1/cancel",
        "/orders/1/retry",
        "/queue/pause",
        "/queue/resume",
    ] {
        api.harness.accept_one().await;
        if path.ends_with("retry") {
            api.harness.cancel(OrderId(1)).await;
        }
        let before = (api.get("/orders/1").await, api.harness.paused().await);
        let answer = api.post(path, r#"{"status":"Failed","a/b":1}"#).await;
        answer.assert_refused_at(422, "invalid-fields", &["#/status", "#/a~1b"]);
        for body in ["[]", "null", "\"x\""] {
            let answer = api.post(path, body).await;
            answer.assert_refused_at(422, "invalid-fields", &["#"]);
        }
        for body in ["{", " ", "{}{}"] {
            api.post(path, body).await.assert_refused(400, "malformed-json");
        }
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let answer = api.ask("POST", path, &form, "reason=x").await;
        answer.assert_refused(415, "unsupported-media-type");
        let answer = api.post(path, " ".repeat(64 * 1024 + 1)).await;
        answer.assert_refused(413, "body-too-large");
        let after = (api.get("/orders/1").await, api.harness.paused().await);
        assert_eq!((before.0.bytes(), before.1), (after.0.bytes(), after.1), "{path}");
        api.post(path, "{}").await.ok();
        // The form that `curl -d ''` sends.
        let answer = api.ask("POST", path, &form, "").await;
        assert_ne!(answer.status, 415, "{path}");
    }
    api.close().await;
}
