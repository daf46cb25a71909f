//! Held and scheduled orders over HTTP.

use insta::assert_snapshot;
use orderly::lease::Outcome;
use orderly::order::OrderId;
use serde_json::json;

use super::in_process::{Api, order_with};

#[tokio::test]
async fn an_order_shows_its_time_and_its_hold() {
    let api = Api::open().await;
    let fields = r#""start_after":"2026-01-01T02:00:00+01:00","hold":{"reason":"waits for its payment"}"#;
    assert_snapshot!(api.post("/orders", order_with(fields)).await.shown(), @r#"
    201 Created
    content-type: application/json
    location: /orders/1

    {
      "order_id":1,
      "user_id":104,
      "item_ids":"101,102,103",
      "total_amount":250.75,
      "status":"Pending",
      "reference":null,
      "metadata":null,
      "version":1,
      "item_count":3,
      "attempts":0,
      "created_at":"2026-01-01T00:00:00.000000Z",
      "processing_at":null,
      "completed_at":null,
      "next_attempt_at":null,
      "last_error":null,
      "time_taken_seconds":null,
      "result":null,
      "start_after":"2026-01-01T01:00:00.000000Z",
      "held":{
        "at":"2026-01-01T00:00:00.000000Z",
        "reason":"waits for its payment"
      }
    }
    "#);
    let created = api.post("/orders", order_with(r#""hold":true"#)).await.created();
    assert_eq!(
        created["held"],
        json!({"at": "2026-01-01T00:00:00.000000Z", "reason": null})
    );
    for (id, order) in [(1, "held"), (2, "held")] {
        let read = api.get(&format!("/orders/{id}")).await.json();
        assert!(!read[order].is_null(), "{read}");
    }
    api.close().await;
}

#[tokio::test]
async fn bad_times_and_holds_are_named() {
    let api = Api::open().await;
    for (field, pointer) in [
        (r#""start_after":"tomorrow""#, "#/start_after"),
        (r#""start_after":5"#, "#/start_after"),
        (r#""start_after":"2026-02-30T00:00:00Z""#, "#/start_after"),
        (r#""start_after":"2099-01-01T00:00:00Z""#, "#/start_after"),
        (r#""hold":false"#, "#/hold"),
        (r#""hold":"yes""#, "#/hold"),
        (r#""hold":[]"#, "#/hold"),
        (r#""hold":{"reason":""}"#, "#/hold/reason"),
        (r#""hold":{"reason":5}"#, "#/hold/reason"),
        (r#""hold":{"until":5}"#, "#/hold/until"),
    ] {
        let answer = api.post("/orders", order_with(field)).await;
        answer.assert_refused_at(422, "invalid-fields", &[pointer]);
    }
    api.close_empty().await;
}

#[tokio::test]
async fn an_order_is_held_and_released() {
    let api = Api::open().await;
    api.post("/orders", order_with(r#""reference":"a""#))
        .await
        .created();
    let held = api
        .post("/orders/1/hold", r#"{"reason":"fraud check"}"#)
        .await
        .json();
    assert_eq!(
        (&held["status"], &held["version"]),
        (&json!("Pending"), &json!(2))
    );
    assert_eq!(held["held"]["reason"], "fraud check");
    assert_eq!(api.post("/orders/1/hold", "").await.json(), held, "again");
    let explained = api.get("/orders/1/explain").await.json();
    assert_eq!(explained["reasons"][0]["reason"], "held");
    assert_eq!(explained["position"], json!(null));
    let queue = api.get("/queue").await.json();
    assert_eq!((&queue["pending"], &queue["held"]), (&json!(1), &json!(1)));
    let metrics = api.get("/metrics").await.json();
    assert_eq!(
        (&metrics["pending_orders"], &metrics["held_orders"]),
        (&json!(1), &json!(1))
    );
    let released = api.post("/orders/1/release", "").await.json();
    assert!(released["held"].is_null(), "{released}");
    let events = api.get("/orders/1/events").await.json();
    let kinds: Vec<_> = [0, 1, 2]
        .map(|place| events["events"][place]["kind"].clone())
        .into();
    assert_eq!(kinds, ["accepted", "held", "unheld"]);
    assert_eq!(events["events"][1]["reason"], "fraud check");
    let lease = api.harness.claim_only(OrderId(1)).await;
    for action in ["hold", "release"] {
        let answer = api.post(&format!("/orders/1/{action}"), "").await;
        answer.assert_refused(409, "action-refused");
    }
    api.harness.settle(&lease, Outcome::COMPLETED).await;
    api.post("/orders/1/hold", "")
        .await
        .assert_refused(409, "action-refused");
    api.post("/orders/1/hold", r#"{"until":"tomorrow"}"#)
        .await
        .assert_refused_at(422, "invalid-fields", &["#/until"]);
    api.post("/orders/9/hold", "")
        .await
        .assert_refused(404, "order-not-found");
    api.close().await;
}

#[tokio::test]
async fn a_scheduled_order_is_explained_and_made_due_by_a_retry() {
    let api = Api::open().await;
    let scheduled = order_with(r#""start_after":"2026-01-01T01:00:00Z""#);
    api.post("/orders", scheduled).await.created();
    let explained = api.get("/orders/1/explain").await.json();
    let reason = &explained["reasons"][0];
    assert_eq!(reason["reason"], "scheduled");
    assert_eq!(reason["until"], "2026-01-01T01:00:00.000000Z");
    let metrics = api.get("/metrics/prometheus").await;
    assert!(metrics.text().contains("orderly_scheduled_orders 1\n"));
    let retried = api.post("/orders/1/retry", "").await.json();
    assert!(retried["start_after"].is_null(), "{retried}");
    api.harness.claim_only(OrderId(1)).await;
    api.close().await;
}
