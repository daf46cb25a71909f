//! Internal failures: store errors and panics, each as a problem that tells the client what to do.

use insta::assert_snapshot;
use orderly::store::layer::Layer;
use orderly::store::{QueueState, Store, StoreError};

use super::in_process::{Api, ORDER};
use crate::support::layers::{Fails, Panics};

const READS: [&str; 5] = ["/orders", "/orders/1", "/orders/1/events", "/queue", "/metrics"];
const ACTIONS: [&str; 4] = [
    "/orders/1/cancel",
    "/orders/1/retry",
    "/queue/pause",
    "/queue/resume",
];

type Failing = fn() -> StoreError;

/// Asserts that every request needing the store is refused in the same way.
async fn assert_all_refused(api: &Api, status: u16, kind: &str, retry_after: &str) {
    let batch = format!(r#"{{"orders":[{ORDER}]}}"#);
    let mut answers = vec![
        api.post("/orders", ORDER).await,
        api.post_keyed("/orders", "k", ORDER).await,
        api.post("/orders/batch", batch).await,
        api.post("/orders/retry", r#"{"status":"Failed"}"#).await,
    ];
    for path in READS {
        answers.push(api.get(path).await);
    }
    for path in ACTIONS {
        answers.push(api.act(path).await);
    }
    for answer in answers {
        answer.assert_refused(status, kind);
        assert_eq!(answer.header("retry-after"), retry_after);
        assert!(!answer.text().contains("secret"), "{}", answer.text());
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable {
        attempted: "read a secret table",
        source: anyhow::anyhow!("secret path"),
    }
}

fn unexpected() -> StoreError {
    StoreError::Unexpected {
        attempted: "read a secret table",
        source: anyhow::anyhow!("secret path"),
    }
}

#[tokio::test]
async fn every_store_error_maps_to_its_own_problem() {
    let errors: [(Failing, u16, &str, &str); 7] = [
        (|| StoreError::Busy, 503, "busy", "1"),
        (|| StoreError::QueueFull, 503, "queue-full", "5"),
        (|| StoreError::Closed, 503, "shutting-down", "5"),
        (|| StoreError::DiskFull, 503, "disk-full", "30"),
        (unavailable, 503, "store-unavailable", "5"),
        (|| StoreError::KeyReused, 422, "idempotency-key-reused", ""),
        (unexpected, 500, "unexpected", ""),
    ];
    for (error, status, kind, retry_after) in errors {
        let api = Api::layered(Fails(error)).await;
        assert_all_refused(&api, status, kind, retry_after).await;
        api.close_empty().await;
    }
}

/// Pauses or resumes the queue, but fails to read it back.
struct FailsToReadTheQueue;

impl Layer for FailsToReadTheQueue {
    async fn queue(&self, _inner: &dyn Store) -> Result<QueueState, StoreError> {
        Err(StoreError::Busy)
    }

    async fn queue_just_set(&self, _inner: &dyn Store) -> Result<QueueState, StoreError> {
        Err(StoreError::Busy)
    }
}

/// A 503 would claim that nothing changed.
#[tokio::test]
async fn a_change_whose_read_back_fails_is_not_reported_as_failed() {
    let api = Api::layered(FailsToReadTheQueue).await;
    for (action, paused) in [("/queue/pause", true), ("/queue/resume", false)] {
        api.act(action).await.assert_refused(500, "unexpected");
        assert_eq!(api.harness.paused().await, paused);
    }
    api.get("/queue").await.assert_refused(503, "busy");
    api.close_empty().await;
}

#[tokio::test]
async fn a_panic_becomes_a_problem_and_the_server_keeps_serving() {
    let api = Api::layered(Panics).await;
    assert_all_refused(&api, 500, "unexpected", "").await;
    let answer = api.get("/orders/1").await;
    assert!(!answer.text().contains("bug"), "{}", answer.text());
    assert_snapshot!(answer.shown(), @r#"
    500 Internal Server Error
    content-type: application/problem+json

    {
      "type":"/problems/unexpected",
      "title":"The server failed",
      "status":500,
      "detail":"internal error; it is unknown whether anything was stored",
      "instance":"[request id]"
    }
    "#);
    assert_eq!(api.get("/livez").await.ok()["status"], "alive");
    api.close_empty().await;
}

/// A panic must not leave its idempotency key in flight.
#[tokio::test]
async fn an_idempotency_key_is_reusable_after_a_failure() {
    let api = Api::layered(Panics).await;
    for _ in 0..2 {
        api.post_keyed("/orders", "k", ORDER)
            .await
            .assert_refused(500, "unexpected");
    }
    api.close_empty().await;
}

#[tokio::test]
async fn a_closed_store_refuses_as_shutting_down() {
    let api = Api::open().await;
    api.harness.store().close().await;
    let answer = api.post("/orders", ORDER).await;
    answer.assert_refused(503, "shutting-down");
}

#[tokio::test]
async fn an_order_beyond_the_pending_limit_is_refused() {
    let api = Api::with_pending_max(2).await;
    api.post("/orders", ORDER).await.created();
    let batch = format!(r#"{{"orders":[{ORDER},{ORDER}]}}"#);
    api.post("/orders/batch", batch)
        .await
        .assert_refused(503, "queue-full");
    api.post("/orders", ORDER).await.created();
    api.post("/orders", ORDER).await.assert_refused(503, "queue-full");
    api.act("/orders/1/cancel").await.ok();
    api.post("/orders", ORDER).await.created();
    api.close().await;
}

#[tokio::test]
async fn an_unknown_route_is_not_found() {
    let api = Api::open().await;
    for path in [
        "/order",
        "/orders/",
        "/orders/1/",
        "/orders/1/nothing",
        "/Orders",
        "//orders",
        "/docs/../x",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let answer = api.ask(method, path, &[], "").await;
            answer.assert_refused(404, "not-found");
        }
    }
    assert_snapshot!(api.get("/nothing").await.shown(), @r#"
    404 Not Found
    content-type: application/problem+json

    {
      "type":"/problems/not-found",
      "title":"There is nothing here",
      "status":404,
      "detail":"no route has this path; /docs lists all routes",
      "instance":"[request id]"
    }
    "#);
    api.close_empty().await;
}

#[tokio::test]
async fn a_request_keeps_the_id_given_by_its_client() {
    let api = Api::open().await;
    let answer = api.get_with("/orders/1", ("x-request-id", "caller-7")).await;
    assert_eq!(answer.header("x-request-id"), "caller-7");
    assert_eq!(answer.json()["instance"], "caller-7");
    let answer = api
        .get_with("/orders/1", ("x-request-id", "not fit for a log"))
        .await;
    assert_ne!(answer.header("x-request-id"), "not fit for a log");
    api.close_empty().await;
}

#[tokio::test]
async fn too_many_headers_are_refused() {
    let api = Api::open().await;
    let names: Vec<String> = (0..100).map(|number| format!("x-{number}")).collect();
    let headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "y")).collect();
    let answer = api.ask("POST", "/orders", &headers, ORDER).await;
    answer.assert_refused(431, "too-many-headers");
    api.close_empty().await;
}

#[tokio::test]
async fn a_path_or_query_that_is_too_long_is_refused() {
    let api = Api::open().await;
    let of_length = |start: &str, length: usize| format!("{start}{}", "x".repeat(length - start.len()));
    for start in ["/orders?reference=", "/orders/", "/nothing/"] {
        let answer = api.get(&of_length(start, 8_001)).await;
        answer.assert_refused(414, "uri-too-long");
        let answer = api.get(&of_length(start, 8_000)).await;
        assert_ne!(answer.status, 414);
    }
    api.close_empty().await;
}

#[tokio::test]
async fn every_problem_type_has_a_page() {
    let api = Api::open().await;
    let list = api.get("/problems").await;
    for line in list.text().lines() {
        let path = line.split(' ').next().unwrap();
        assert_eq!(api.get(path).await.status, 200, "{path}");
    }
    assert!(list.text().lines().count() > 20);
    api.get("/problems/nothing")
        .await
        .assert_refused(404, "not-found");
    api.close_empty().await;
}

/// Scrapes matter most while the store is unavailable: process metrics still appear, the table's do not.
#[tokio::test]
async fn a_scrape_without_the_store_still_has_process_metrics() {
    let api = Api::layered(Fails(|| StoreError::DiskFull)).await;
    let scraped = api.get("/metrics/prometheus").await;
    assert_eq!(scraped.exposition().value("orderly_store_up").to_string(), "0");
    assert!(!scraped.text().contains("orderly_orders{"), "{}", scraped.text());
    api.get("/metrics").await.assert_refused(503, "disk-full");
    api.close_empty().await;
}
