//! Invalid input from workers: all errors are named at once, and nothing changes.

use futures_util::FutureExt;
use orderly::event::EventKind;
use orderly::order::OrderId;
use orderly::pull::WAITING_MAX;
use serde_json::Value;

use super::ids;
use crate::api::in_process::{Api, JSON, NDJSON};
use crate::support::until;

/// Has the form of a token.
const TOKEN: &str = "AAAAAQAAAAG0dD3CFOLHXYGPYFkxm4a7";
const CALLS: [&str; 4] = ["renew", "complete", "fail", "release"];

/// An API with the first order leased and a second one waiting.
async fn held() -> Api {
    let api = Api::for_workers().await;
    api.harness.accept_some(2).await;
    assert_eq!(ids(&api.act("/leases").await.ok()), [1]);
    api
}

/// Asserts that nothing changed.
async fn unchanged(api: Api) {
    assert_eq!(
        api.harness.events(OrderId(1)).await,
        [EventKind::Accepted, EventKind::Started]
    );
    assert_eq!(api.harness.events(OrderId(2)).await, [EventKind::Accepted]);
    api.close().await;
}

#[tokio::test]
async fn every_invalid_field_is_named_and_nothing_changes() {
    let api = held().await;
    let long = format!("\"{}\"", "é".repeat(513));
    let large = format!("\"{}\"", "x".repeat(8_191));
    let deep = format!("{}{}", "[".repeat(33), "]".repeat(33));
    let with = |field: &str, value: &str| format!("{{\"token\":\"{TOKEN}\",{field}:{value}}}");
    let error = |value: &str| with("\"error\"", value);
    let result = |value: &str| with("\"result\"", value);
    let refused: Vec<(&str, String, Vec<&str>)> = vec![
        ("", r#"{"max":0}"#.into(), vec!["#/max"]),
        (
            "",
            r#"{"max":101,"wait":61,"lease":0}"#.into(),
            vec!["#/max", "#/wait", "#/lease"],
        ),
        (
            "",
            r#"{"max":"1","wait":-1,"lease":3601}"#.into(),
            vec!["#/max", "#/wait", "#/lease"],
        ),
        (
            "",
            r#"{"max":1.0,"wait":1.5,"lease":"30s"}"#.into(),
            vec!["#/max", "#/wait", "#/lease"],
        ),
        ("", r#"{"max":99999999999999999999}"#.into(), vec!["#/max"]),
        ("", r#"{"max":1,"max":1}"#.into(), vec!["#/max"]),
        (
            "",
            r#"{"limit":1,"wait_seconds":1}"#.into(),
            vec!["#/limit", "#/wait_seconds"],
        ),
        ("", "[]".into(), vec!["#"]),
        ("", "1".into(), vec!["#"]),
        ("renew", "{}".into(), vec!["#/token"]),
        ("renew", r#"{"token":0}"#.into(), vec!["#/token"]),
        ("renew", r#"{"token":null}"#.into(), vec!["#/token"]),
        ("renew", r#"{"token":"1"}"#.into(), vec!["#/token"]),
        ("renew", format!("{{\"token\":\"{TOKEN}A\"}}"), vec!["#/token"]),
        (
            "renew",
            format!("{{\"token\":\"{}=\"}}", &TOKEN[1..]),
            vec!["#/token"],
        ),
        (
            "renew",
            with("\"token\"", &format!("\"{TOKEN}\"")),
            vec!["#/token"],
        ),
        ("renew", with("\"lease\"", "0"), vec!["#/lease"]),
        (
            "renew",
            r#"{"lease":9999,"x":1}"#.into(),
            vec!["#/x", "#/token", "#/lease"],
        ),
        ("complete", r#"{"result":7}"#.into(), vec!["#/token"]),
        ("complete", with("\"error\"", "\"x\""), vec!["#/error"]),
        ("complete", result(&large), vec!["#/result"]),
        ("complete", result(&deep), vec!["#/result"]),
        ("complete", result(r#"{"a":1,"\u0061":2}"#), vec!["#/result"]),
        ("complete", result(r#""\u0000""#), vec!["#/result"]),
        ("complete", result(r#""\ud800""#), vec!["#/result"]),
        ("complete", result("1e400"), vec!["#/result"]),
        ("fail", format!("{{\"token\":\"{TOKEN}\"}}"), vec!["#/error"]),
        ("fail", error("\"\""), vec!["#/error"]),
        ("fail", error(&long), vec!["#/error"]),
        ("fail", error("7"), vec!["#/error"]),
        ("fail", error(r#""a\u0000b""#), vec!["#/error"]),
        ("fail", error(r#""\ud800""#), vec!["#/error"]),
        (
            "fail",
            r#"{"error":null,"permanent":1,"retry_after":86401}"#.into(),
            vec!["#/token", "#/error", "#/permanent", "#/retry_after"],
        ),
        (
            "fail",
            error("\"x\"").replace('}', r#","retry_after":-1}"#),
            vec!["#/retry_after"],
        ),
        ("release", "{}".into(), vec!["#/token"]),
        ("release", error("\"x\""), vec!["#/error"]),
        ("release", "null".into(), vec!["#"]),
    ];
    for (action, body, pointers) in refused {
        let path = if action.is_empty() {
            "/leases".to_owned()
        } else {
            format!("/leases/1/{action}")
        };
        let answer = api.post(&path, body).await;
        answer.assert_refused_at(422, "invalid-fields", &pointers);
    }
    unchanged(api).await;
}

#[tokio::test]
async fn values_at_the_limits_are_accepted() {
    let api = held().await;
    let error = "é".repeat(512);
    let result = format!("\"{}\"", "x".repeat(8_190));
    let body = async |id: i64, rest: &str| api.harness.call_body(id, 1, rest).await;
    api.post("/leases/1/renew", body(1, r#","lease":3600"#).await)
        .await
        .ok();
    let completion = body(1, &format!(",\"result\":{result}")).await;
    let answer = api.post("/leases/1/complete", completion).await;
    assert_eq!(answer.ok()["result"].as_str().unwrap().len(), 8_190);
    assert_eq!(
        ids(&api.post("/leases", r#"{"max":100,"lease":1}"#).await.ok()),
        [2]
    );
    let rest = format!(",\"error\":\"{error}\",\"retry_after\":86400,\"permanent\":null");
    let body = body(2, &rest).await;
    assert_eq!(
        api.post("/leases/2/fail", body).await.ok()["last_error"],
        Value::from(error)
    );
    api.close().await;
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused_as_malformed() {
    let api = held().await;
    for body in ["{", "{\"token\":1", "token=1", "{\"token\":01}", " "] {
        api.post("/leases", body)
            .await
            .assert_refused(400, "malformed-json");
        for action in CALLS {
            let answer = api.post(&format!("/leases/1/{action}"), body).await;
            answer.assert_refused(400, "malformed-json");
        }
    }
    for action in CALLS {
        let path = format!("/leases/1/{action}");
        api.post(&path, "").await.assert_refused(400, "malformed-json");
        api.act(&path).await.assert_refused(415, "unsupported-media-type");
    }
    unchanged(api).await;
}

#[tokio::test]
async fn oversized_or_undeclared_json_is_refused() {
    let api = held().await;
    let paths = CALLS.map(|action| format!("/leases/1/{action}"));
    for path in paths.iter().map(String::as_str).chain(["/leases"]) {
        for kind in ["text/plain", NDJSON, "application/x-www-form-urlencoded"] {
            let answer = api
                .ask("POST", path, &[("content-type", kind)], "{\"token\":1}")
                .await;
            answer.assert_refused(415, "unsupported-media-type");
        }
        let answer = api.ask("POST", path, &[], "{\"max\":1}").await;
        answer.assert_refused(415, "unsupported-media-type");
        let large = format!("{{\"token\":1{}}}", " ".repeat(64 * 1024));
        let answer = api.ask("POST", path, &[("content-type", JSON)], large).await;
        answer.assert_refused(413, "body-too-large");
        api.get(path).await.assert_refused(405, "method-not-allowed");
    }
    unchanged(api).await;
}

#[tokio::test]
async fn an_unknown_order_is_not_found() {
    let api = held().await;
    for id in ["3", "0", "-1", "x", "9007199254740992"] {
        for action in CALLS {
            let rest = if action == "fail" { r#","error":"no""# } else { "" };
            let body = format!("{{\"token\":\"{TOKEN}\"{rest}}}");
            let answer = api.post(&format!("/leases/{id}/{action}"), body).await;
            answer.assert_refused(404, "order-not-found");
        }
    }
    unchanged(api).await;
}

#[tokio::test]
async fn a_server_with_its_own_processor_leases_no_orders() {
    let api = Api::open().await;
    api.harness.accept_one().await;
    api.act("/leases").await.assert_refused(409, "pull-disabled");
    let answer = api.post("/leases", r#"{"max":0}"#).await;
    answer.assert_refused_at(422, "invalid-fields", &["#/max"]);
    assert_eq!(api.harness.events(OrderId(1)).await, [EventKind::Accepted]);
    api.close().await;
}

#[tokio::test]
async fn lease_requests_beyond_the_waiting_limit_are_refused() {
    let api = Api::for_workers().await;
    let headers = [("content-type", JSON)];
    let mut waiting = Vec::new();
    for _ in 0..WAITING_MAX {
        let mut request = Box::pin(async {
            api.response("POST", "/leases", &headers, r#"{"wait":60}"#)
                .await
                .status()
        });
        assert!((&mut request).now_or_never().is_none());
        waiting.push(request);
    }
    let in_line = || api.harness.metrics().lease_requests_waiting.get();
    until("all workers wait", async || {
        usize::try_from(in_line()) == Ok(WAITING_MAX)
    })
    .await;
    let answer = api.act("/leases").await;
    answer.assert_refused(503, "busy");
    assert_eq!(answer.header("retry-after"), "1");
    drop(waiting);
    api.harness.accept_one().await;
    api.take_one().await;
    api.close().await;
}
