//! Health checks: live means that the process runs, ready that the node can store orders now.

use serde_json::json;

use super::door::Door;
use crate::support::twisted::{Fails, IsNotReady, IsWeak};

#[tokio::test]
async fn a_server_that_can_store_orders_is_ready() {
    let door = Door::open().await;
    assert_eq!(door.get("/livez").await.text(), r#"{"status":"alive"}"#);
    assert_eq!(door.get("/readyz").await.text(), r#"{"status":"ready"}"#);
    assert_eq!(door.get("/healthz").await.text(), r#"{"status":"ready"}"#);
    door.close_empty().await;
}

#[tokio::test]
async fn a_verbose_health_request_lists_the_checks() {
    let door = Door::open().await;
    let checks = json!([
        {"name": "serving", "ok": true}, {"name": "store", "ok": true}, {"name": "durability", "ok": true},
    ]);
    for path in ["/readyz?verbose", "/healthz?verbose", "/readyz?verbose=1"] {
        assert_eq!(
            door.get(path).await.ok(),
            json!({"status": "ready", "checks": checks}),
            "{path}"
        );
    }
    door.close_empty().await;
}

#[tokio::test]
async fn a_weak_database_setting_is_reported_without_failing_readiness() {
    let door = Door::twisted(IsWeak("synchronous_commit is off for role /secret")).await;
    assert_eq!(door.get("/readyz").await.text(), r#"{"status":"ready"}"#);
    let answer = door.get("/readyz?verbose").await;
    let reason = "the database confirms commits before they are safe; the log says which setting";
    assert_eq!(
        answer.ok()["checks"][2],
        json!({"name": "durability", "ok": false, "reason": reason})
    );
    assert!(!answer.text().contains("secret"), "{}", answer.text());
    door.draining.cancel();
    let refused = door.get("/readyz?verbose").await.json();
    assert_eq!(refused["detail"], "serving: the server is shutting down");
    assert_eq!(refused["checks"][2]["ok"], false);
    door.close_empty().await;
}

#[tokio::test]
async fn a_stopping_server_is_live_but_not_ready() {
    let door = Door::open().await;
    door.draining.cancel();
    for path in ["/readyz", "/healthz", "/readyz?verbose"] {
        let answer = door.get(path).await;
        answer.assert_refused(503, "not-ready");
        assert!(answer.text().contains("shutting down"), "{}", answer.text());
    }
    let checks = door.get("/readyz?verbose").await.json()["checks"].clone();
    let reason = "the server is shutting down";
    assert_eq!(
        checks,
        json!([
            {"name": "serving", "ok": false, "reason": reason},
            {"name": "store", "ok": true},
            {"name": "durability", "ok": true},
        ])
    );
    assert_eq!(door.get("/livez").await.ok()["status"], "alive");
    door.close_empty().await;
}

#[tokio::test]
async fn a_store_that_cannot_write_is_not_ready() {
    let door = Door::twisted(IsNotReady("disk I/O error in /secret")).await;
    for path in ["/readyz", "/healthz", "/readyz?verbose"] {
        let answer = door.get(path).await;
        answer.assert_refused(503, "not-ready");
        let reason = "store: orders cannot be stored; the log says why";
        assert_eq!(answer.json()["detail"], reason);
        assert!(!answer.text().contains("secret"), "{}", answer.text());
    }
    door.draining.cancel();
    let checks = door.get("/healthz?verbose").await.json()["checks"].clone();
    let failed = checks
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["ok"] == false);
    assert_eq!(failed.count(), 2, "{checks}");
    assert!(door.get("/healthz").await.json()["checks"].is_null());
    assert_eq!(door.get("/livez").await.ok()["status"], "alive");
    door.close_empty().await;
}

/// Answered from the last known state: a health check must not wait for a hanging store.
#[tokio::test]
async fn health_requests_never_query_the_store() {
    let door = Door::twisted(Fails(|| panic!("the store was queried"))).await;
    for path in ["/livez", "/readyz?verbose", "/healthz"] {
        door.get(path).await.ok();
    }
    door.close_empty().await;
}
