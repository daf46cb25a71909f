//! Amendments, milestones and deadlines over HTTP.

use std::time::Duration;

use serde_json::{Value, json};

use super::in_process::{Answer, Api, order_with};

const PATCH: &str = "application/merge-patch+json";

async fn patch(api: &Api, path: &str, version: &str, body: &str) -> Answer {
    let headers = [("content-type", PATCH), ("if-match", version)];
    api.ask("PATCH", path, &headers, body.to_owned()).await
}

/// A time so many hours from now, by the real clock, which judges how far ahead a time is.
fn in_hours(hours: i64) -> String {
    let time = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(hours);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The time until the order's deadline, by the clock of the store.
async fn deadline_in(api: &Api, order: &Value) -> Duration {
    let deadline: jiff::Timestamp = order["deadline"].as_str().unwrap().parse().unwrap();
    let wait = deadline.as_microsecond() - api.harness.now().await.micros();
    Duration::from_micros(wait.unsigned_abs())
}

async fn kinds(api: &Api, id: u64) -> Vec<Value> {
    let history = api.get(&format!("/orders/{id}/events")).await.json();
    let events = history["events"].as_array().unwrap();
    events.iter().map(|event| event["kind"].clone()).collect()
}

#[tokio::test]
async fn an_amendment_changes_what_it_names() {
    let api = Api::open().await;
    let created = api
        .post("/orders", order_with(r#""reference":"a","metadata":{"b":1}"#))
        .await;
    assert_eq!(created.header("etag"), "\"1\"");
    let body = r#"{"total_amount":"99.90","items":[{"sku":"MUG","quantity":3}],"reference":null}"#;
    let amended = patch(&api, "/orders/1", "\"1\"", body).await;
    assert_eq!(amended.header("etag"), "\"2\"");
    let order = amended.ok();
    assert_eq!(order["total_amount"], json!(99.90));
    assert_eq!(order["items"], json!([{"sku": "MUG", "quantity": 3}]));
    assert_eq!(
        (&order["item_ids"], &order["item_count"]),
        (&json!("MUG"), &json!(3))
    );
    assert_eq!(
        (&order["reference"], &order["metadata"]),
        (&json!(null), &json!({"b": 1}))
    );
    assert_eq!(api.get("/orders/1").await.ok(), order);
    let history = api.get("/orders/1/events").await.ok();
    let event = &history["events"][1];
    assert_eq!(event["fields"], json!(["items", "total_amount", "reference"]));
    assert_eq!(
        (&event["kind"], &event["status"]),
        (&json!("amended"), &json!("Pending"))
    );
    let same = patch(&api, "/orders/1", "\"2\"", r#"{"reference":null}"#)
        .await
        .ok();
    assert_eq!(same, order, "nothing differs");
    let plain = [("content-type", "application/json"), ("if-match", "\"2\"")];
    let as_json = api.ask("PATCH", "/orders/1", &plain, r#"{"item_ids":[7]}"#).await;
    let order = as_json.ok();
    assert_eq!((&order["item_ids"], &order["items"]), (&json!("7"), &json!(null)));
    let lines = r#"{"item_ids":null,"items":[{"sku":"A","quantity":1}]}"#;
    assert_eq!(
        patch(&api, "/orders/1", "\"3\"", lines).await.ok()["item_ids"],
        "A"
    );
    let ids = r#"{"items":null,"item_ids":[8]}"#;
    assert_eq!(patch(&api, "/orders/1", "\"4\"", ids).await.ok()["item_ids"], "8");
    assert_eq!(patch(&api, "/orders/1", "\"5\"", "{}").await.ok()["version"], 5);
    api.close().await;
}

#[tokio::test]
async fn metadata_is_merged() {
    let api = Api::open().await;
    let metadata = r#""metadata":{ "a": 1.10, "b": {"c": 1, "d": [1]} }"#;
    api.post("/orders", order_with(metadata)).await.created();
    let body = r#"{"metadata":{"b":{"c":null,"e":2}}}"#;
    let amended = patch(&api, "/orders/1", "\"1\"", body).await;
    let merged = r#""metadata":{"a":1.10,"b":{"d":[1],"e":2}}"#;
    assert!(amended.text().contains(merged), "{}", amended.text());
    let same = patch(&api, "/orders/1", "\"2\"", r#"{"metadata":{"a":1.10,"x":null}}"#).await;
    assert_eq!(same.ok()["version"], 2);
    let half = format!(r#"{{"metadata":{{"{}":"{}"}}}}"#, "y", "z".repeat(5_000));
    patch(&api, "/orders/1", "\"2\"", &half).await.ok();
    let other_half = half.replace("\"y\"", "\"x\"");
    let answer = patch(&api, "/orders/1", "\"3\"", &other_half).await;
    answer.assert_refused_at(422, "invalid-fields", &["#/metadata"]);
    patch(&api, "/orders/1", "\"3\"", r#"{"metadata":null}"#)
        .await
        .ok();
    patch(&api, "/orders/1", "\"4\"", r#"{"metadata":{"n":null,"k":0}}"#)
        .await
        .ok();
    let read = api.get("/orders/1").await;
    assert!(read.text().contains(r#""metadata":{"k":0}"#), "{}", read.text());
    api.close().await;
}

#[tokio::test]
async fn an_amendment_needs_the_version_that_was_read() {
    let api = Api::open().await;
    api.post("/orders", order_with(r#""reference":"a""#))
        .await
        .created();
    let without = [("content-type", PATCH)];
    let answer = api
        .ask("PATCH", "/orders/1", &without, r#"{"reference":"b"}"#)
        .await;
    answer.assert_refused(428, "version-required");
    for tag in ["*", "W/\"1\"", "1", "\"1\", \"2\"", "\"x\"", "\"-1\"", ""] {
        let answer = patch(&api, "/orders/1", tag, r#"{"reference":"b"}"#).await;
        answer.assert_refused(400, "bad-request");
    }
    let answer = patch(&api, "/orders/1", "\"2\"", r#"{"reference":"b"}"#).await;
    answer.assert_refused(412, "version-moved");
    api.post("/orders/1/cancel", "").await.ok();
    let answer = patch(&api, "/orders/1", "\"1\"", r#"{"reference":"b"}"#).await;
    answer.assert_refused(412, "version-moved");
    let answer = patch(&api, "/orders/1", "\"2\"", r#"{"reference":"b"}"#).await;
    answer.assert_refused(409, "action-refused");
    let answer = patch(&api, "/orders/9", "\"1\"", r#"{"reference":"b"}"#).await;
    answer.assert_refused(404, "order-not-found");
    assert_eq!(kinds(&api, 1).await, ["accepted", "cancelled"]);
    assert_eq!(api.get("/orders/1").await.ok()["reference"], "a");
    api.close().await;
}

#[tokio::test]
async fn bad_amendments_are_named() {
    let api = Api::open().await;
    let fields = format!(r#""currency":"JPY","deadline":"{}""#, in_hours(5));
    api.post("/orders", order_with(&fields).replace("250.75", "250"))
        .await
        .created();
    let later = in_hours(6);
    for (body, pointer) in [
        (r#"{"total_amount":null}"#.to_owned(), "#/total_amount"),
        (r#"{"total_amount":1.5}"#.to_owned(), "#/total_amount"),
        (r#"{"items":null}"#.to_owned(), "#/items"),
        (r#"{"item_ids":[]}"#.to_owned(), "#/item_ids"),
        (
            r#"{"item_ids":[1],"items":[{"sku":"A","quantity":1}]}"#.to_owned(),
            "#/items",
        ),
        (r#"{"user_id":5}"#.to_owned(), "#/user_id"),
        (r#"{"currency":"EUR"}"#.to_owned(), "#/currency"),
        (r#"{"metadata":[]}"#.to_owned(), "#/metadata"),
        (r#"{"start_after":"soon"}"#.to_owned(), "#/start_after"),
        (format!(r#"{{"start_after":"{later}"}}"#), "#/start_after"),
        (r#"{"deadline":"2025-12-31T23:59:59Z"}"#.to_owned(), "#/deadline"),
        (
            format!(r#"{{"start_after":"{later}","deadline":"{later}"}}"#),
            "#/deadline",
        ),
    ] {
        let answer = patch(&api, "/orders/1", "\"1\"", &body).await;
        answer.assert_refused_at(422, "invalid-fields", &[pointer]);
    }
    let lines = [("content-type", "application/x-ndjson"), ("if-match", "\"1\"")];
    let answer = api.ask("PATCH", "/orders/1", &lines, "{}").await;
    answer.assert_refused(415, "unsupported-media-type");
    patch(&api, "/orders/1", "\"1\"", "[]")
        .await
        .assert_refused_at(422, "invalid-fields", &["#"]);
    patch(&api, "/orders/1", "\"1\"", "{")
        .await
        .assert_refused(400, "malformed-json");
    assert_eq!(kinds(&api, 1).await, ["accepted"]);
    api.close().await;
}

#[tokio::test]
async fn milestones_are_added_in_any_status() {
    let api = Api::open().await;
    api.post("/orders", order_with(r#""reference":"a""#))
        .await
        .created();
    api.post("/orders/1/cancel", "").await.ok();
    let body = r#"{"name":"refunded","data":{ "amount": 1.10 },"reason":"by phone"}"#;
    let order = api.post("/orders/1/milestones", body).await.ok();
    assert_eq!(
        (&order["milestone"], &order["status"]),
        (&json!("refunded"), &json!("Cancelled"))
    );
    let events = api.get("/orders/1/events").await;
    assert!(
        events.text().contains(r#""data":{ "amount": 1.10 }"#),
        "{}",
        events.text()
    );
    let event = &events.json()["events"][2];
    assert_eq!(event["milestone"], "refunded");
    assert_eq!(
        (&event["reason"], &event["status"]),
        (&json!("by phone"), &json!("Cancelled"))
    );
    let long = format!(r#"{{"name":"packed","data":{{"a":"{}"}}}}"#, "x".repeat(1_100));
    for (body, pointer) in [
        (r"{}", "#/name"),
        (r#"{"name":"Packed"}"#, "#/name"),
        (r#"{"name":5}"#, "#/name"),
        (r#"{"name":"packed","data":[]}"#, "#/data"),
        (r#"{"name":"packed","at":1}"#, "#/at"),
        (long.as_str(), "#/data"),
    ] {
        let answer = api.post("/orders/1/milestones", body.to_owned()).await;
        answer.assert_refused_at(422, "invalid-fields", &[pointer]);
    }
    api.post("/orders/9/milestones", r#"{"name":"packed"}"#)
        .await
        .assert_refused(404, "order-not-found");
    assert_eq!(kinds(&api, 1).await, ["accepted", "cancelled", "milestone"]);
    api.close().await;
}

#[tokio::test]
async fn a_deadline_must_be_in_the_future_and_after_the_start() {
    let api = Api::open().await;
    // By the clock of the store; how far ahead a time is, the real clock judges.
    let (start, deadline) = ("2026-01-01T00:10:00Z", "2026-01-01T00:20:00Z");
    let order = order_with(&format!(r#""start_after":"{start}","deadline":"{deadline}""#));
    let created = api.post_keyed("/orders", "k", order.clone()).await.created();
    assert!(
        created["deadline"].is_string() && created["overdue"].is_null(),
        "{created}"
    );
    for field in [
        format!(r#""start_after":"{deadline}","deadline":"{deadline}""#),
        r#""deadline":"2025-12-31T23:59:59Z""#.to_owned(),
        r#""deadline":"2099-01-01T00:00:00Z""#.to_owned(),
        r#""deadline":7"#.to_owned(),
    ] {
        let answer = api.post("/orders", order_with(&field)).await;
        answer.assert_refused_at(422, "invalid-fields", &["#/deadline"]);
    }
    let batch = format!(
        r#"{{"orders":[{},{}]}}"#,
        order_with(r#""reference":"a""#),
        order_with(r#""deadline":"2025-12-31T23:59:59Z""#)
    );
    let answer = api.post("/orders/batch", batch).await;
    answer.assert_refused_at(422, "invalid-fields", &["#/orders/1/deadline"]);
    api.harness.advance(Duration::from_mins(20)).await;
    let again = api.post_keyed("/orders", "k", order).await;
    assert_eq!(
        again.created(),
        created,
        "a repeated request is answered after the deadline, too"
    );
    assert_eq!(api.stored().await, 1);
    api.close().await;
}

#[tokio::test]
async fn an_overdue_order_says_so() {
    let api = Api::open().await;
    let order = order_with(&format!(r#""deadline":"{}""#, in_hours(1)));
    let created = api.post("/orders", order).await.created();
    let wait = deadline_in(&api, &created).await;
    api.harness.advance(wait).await;
    assert_eq!(api.harness.fire_timers().await.overdue, 1);
    let shown = api.get("/orders/1").await.ok();
    assert_eq!((&shown["overdue"], &shown["version"]), (&json!(true), &json!(2)));
    assert_eq!(shown["deadline"], created["deadline"]);
    assert_eq!(kinds(&api, 1).await, ["accepted", "overdue"]);
    let answer = patch(&api, "/orders/1", "\"2\"", r#"{"deadline":null}"#).await;
    answer.assert_refused(409, "action-refused");
    patch(&api, "/orders/1", "\"2\"", r#"{"reference":"late"}"#)
        .await
        .ok();
    api.close().await;
}
