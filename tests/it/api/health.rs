//! Health checks: live means that the process runs, ready that the node can store orders now.

use serde_json::json;

use super::in_process::Api;
use crate::support::layers::{Fails, IsNotReady, IsWeak};

#[tokio::test]
async fn a_server_that_can_store_orders_is_ready() {
    let api = Api::open().await;
    assert_eq!(api.get("/livez").await.text(), r#"{"status":"alive"}"#);
    assert_eq!(api.get("/readyz").await.text(), r#"{"status":"ready"}"#);
    assert_eq!(api.get("/healthz").await.text(), r#"{"status":"ready"}"#);
    api.close_empty().await;
}

#[tokio::test]
async fn a_verbose_health_request_lists_the_checks() {
    let api = Api::open().await;
    let checks = json!([
        {"name": "serving", "ok": true}, {"name": "store", "ok": true}, {"name": "durability", "ok": true},
    ]);
    for path in ["/readyz?verbose", "/healthz?verbose", "/readyz?verbose=1"] {
        assert_eq!(
            api.get(path).await.ok(),
            json!({"status": "ready", "checks": checks, "findings": []}),
            "{path}"
        );
    }
    api.close_empty().await;
}

#[tokio::test]
async fn a_weak_database_setting_is_reported_without_failing_readiness() {
    let api = Api::layered(IsWeak("synchronous_commit is off for role /secret")).await;
    assert_eq!(api.get("/readyz").await.text(), r#"{"status":"ready"}"#);
    let answer = api.get("/readyz?verbose").await;
    let reason = "the database confirms commits before they are safe; the log says which setting";
    assert_eq!(
        answer.ok()["checks"][2],
        json!({"name": "durability", "ok": false, "reason": reason})
    );
    assert!(!answer.text().contains("secret"), "{}", answer.text());
    api.draining.cancel();
    let refused = api.get("/readyz?verbose").await.json();
    assert_eq!(refused["detail"], "serving: the server is shutting down");
    assert_eq!(refused["checks"][2]["ok"], false);
    api.close_empty().await;
}

#[tokio::test]
async fn a_stopping_server_is_live_but_not_ready() {
    let api = Api::open().await;
    api.draining.cancel();
    for path in ["/readyz", "/healthz", "/readyz?verbose"] {
        let answer = api.get(path).await;
        answer.assert_refused(503, "not-ready");
        assert!(answer.text().contains("shutting down"), "{}", answer.text());
    }
    let checks = api.get("/readyz?verbose").await.json()["checks"].clone();
    let reason = "the server is shutting down";
    assert_eq!(
        checks,
        json!([
            {"name": "serving", "ok": false, "reason": reason},
            {"name": "store", "ok": true},
            {"name": "durability", "ok": true},
        ])
    );
    assert_eq!(api.get("/livez").await.ok()["status"], "alive");
    api.close_empty().await;
}

#[tokio::test]
async fn a_store_that_cannot_write_is_not_ready() {
    let api = Api::layered(IsNotReady("disk I/O error in /secret")).await;
    for path in ["/readyz", "/healthz", "/readyz?verbose"] {
        let answer = api.get(path).await;
        answer.assert_refused(503, "not-ready");
        let reason = "store: orders cannot be stored; the log says why";
        assert_eq!(answer.json()["detail"], reason);
        assert!(!answer.text().contains("secret"), "{}", answer.text());
    }
    api.draining.cancel();
    let checks = api.get("/healthz?verbose").await.json()["checks"].clone();
    let failed = checks
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["ok"] == false);
    assert_eq!(failed.count(), 2, "{checks}");
    assert!(api.get("/healthz").await.json()["checks"].is_null());
    assert_eq!(api.get("/livez").await.ok()["status"], "alive");
    api.close_empty().await;
}

/// Answered from the last known state: a health check must not wait for a hanging store.
#[tokio::test]
async fn health_requests_never_query_the_store() {
    let api = Api::layered(Fails(|| panic!("the store was queried"))).await;
    for path in ["/livez", "/readyz?verbose", "/healthz"] {
        api.get(path).await.ok();
    }
    api.close_empty().await;
}
