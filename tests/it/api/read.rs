//! Reads of one order: its current state, a wait until it is final, and its history.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use insta::assert_snapshot;
use orderly::lease::Outcome;
use orderly::order::{OrderId, OrderStatus};
use orderly::store::layer::Layer;
use orderly::store::{OrderView, Store, StoreError};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::in_process::Api;
use crate::support::make::{failed, retry_after};

type Failing = fn() -> StoreError;

/// Fails this many reads of an order.
struct FailsToRead {
    error: Failing,
    times: AtomicU32,
}

impl Layer for FailsToRead {
    async fn order_view(&self, inner: &dyn Store, id: OrderId) -> Result<Option<OrderView>, StoreError> {
        let left = self
            .times
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match left {
            Ok(_) => Err((self.error)()),
            Err(_) => inner.order_view(id).await,
        }
    }
}

/// Cancels an order right after each read, before the reader has the answer.
struct CancelledOnceRead;

impl Layer for CancelledOnceRead {
    async fn order_view(&self, inner: &dyn Store, id: OrderId) -> Result<Option<OrderView>, StoreError> {
        let order = inner.order_view(id).await?;
        inner.cancel(id, None).await?;
        Ok(order)
    }
}

/// Adds a permit for every read of an order.
struct CountsLooks(Arc<Semaphore>);

impl Layer for CountsLooks {
    async fn order_view(&self, inner: &dyn Store, id: OrderId) -> Result<Option<OrderView>, StoreError> {
        let view = inner.order_view(id).await;
        self.0.add_permits(1);
        view
    }
}

#[tokio::test]
async fn a_completed_order_is_returned_in_full() {
    let api = Api::open().await;
    let id = api.harness.accept_one().await;
    api.harness.advance(Duration::from_millis(1500)).await;
    let lease = api.harness.claim_only(id).await;
    api.harness.advance(Duration::from_micros(2_000_001)).await;
    api.harness.settle(&lease, Outcome::COMPLETED).await;
    assert_snapshot!(api.get("/orders/1").await.shown(), @r#"
    200 OK
    content-type: application/json
    orderly-cursor: [cursor]

    {
      "order_id":1,
      "user_id":104,
      "item_ids":"101,102,103",
      "total_amount":250.75,
      "status":"Completed",
      "reference":null,
      "metadata":null,
      "version":3,
      "item_count":3,
      "attempts":1,
      "created_at":"2026-01-01T00:00:00.000000Z",
      "processing_at":"2026-01-01T00:00:01.500000Z",
      "completed_at":"2026-01-01T00:00:03.500001Z",
      "next_attempt_at":null,
      "last_error":null,
      "time_taken_seconds":3.500001,
      "result":null
    }
    "#);
    api.close().await;
}

#[tokio::test]
async fn an_order_in_backoff_shows_its_due_time_and_last_error() {
    let api = Api::open().await;
    api.harness.attempt_once(retry_after(90)).await;
    let order = api.get("/orders/1").await.ok();
    assert_eq!(order["status"], "Pending");
    assert_eq!(order["attempts"], 1);
    assert_eq!(order["version"], 3);
    assert_eq!(order["last_error"], "the warehouse did not answer");
    assert_eq!(order["next_attempt_at"], "2026-01-01T00:01:30.000000Z");
    assert_eq!(order["processing_at"], "2026-01-01T00:00:00.000000Z");
    api.close().await;
}

#[tokio::test]
async fn only_a_completed_order_shows_completion_fields() {
    let api = Api::open().await;
    for status in OrderStatus::ALL {
        let id = api.harness.order_in(status).await;
        let order = api.get(&format!("/orders/{id}")).await.ok();
        assert_eq!(order["status"], status.name());
        let completed = status == OrderStatus::Completed;
        assert_eq!(order["completed_at"].is_string(), completed, "{order}");
        assert_eq!(order["time_taken_seconds"].is_number(), completed, "{order}");
        assert_eq!(
            order["last_error"].is_string(),
            status == OrderStatus::Failed,
            "{order}"
        );
        assert!(order["next_attempt_at"].is_null(), "{order}");
        // The next order must be the only one that can start.
        if status == OrderStatus::Pending {
            api.harness.claim_only(id).await;
        }
    }
    api.close().await;
}

#[tokio::test]
async fn an_unknown_order_is_not_found_at_once() {
    let api = Api::open().await;
    api.get("/orders/1").await.assert_refused(404, "order-not-found");
    let started = Instant::now();
    let answer = api.get_with("/orders/1", ("prefer", "wait=60")).await;
    answer.assert_refused(404, "order-not-found");
    assert!(started.elapsed() < Duration::from_secs(30));
    api.get("/orders/1/events")
        .await
        .assert_refused(404, "order-not-found");
    api.close().await;
}

#[tokio::test]
async fn a_held_read_is_answered_when_the_order_becomes_final() {
    let api = Api::open().await;
    let id = api.harness.accept_one().await;
    let started = Instant::now();
    let held = api.get_with("/orders/1", ("prefer", "wait=60"));
    let processing = async {
        let lease = api.harness.claim_only(id).await;
        api.harness.settle(&lease, failed()).await;
    };
    let (answer, ()) = tokio::join!(held, processing);
    assert_eq!(answer.ok()["status"], "Failed");
    assert_eq!(answer.header("preference-applied"), "wait=60");
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "the read waited for its full timeout"
    );
    api.close().await;
}

/// Issue 13, point 34: only the signal may answer. It comes after the second read, made once the wait began, has also
/// found the order pending.
#[tokio::test]
async fn a_cancel_answers_a_held_read_by_its_own_signal() {
    let looks = Arc::new(Semaphore::new(0));
    let api = Api::layered(CountsLooks(looks.clone())).await;
    let id = api.harness.accept_one().await;
    let started = Instant::now();
    let held = api.get_with("/orders/1", ("prefer", "wait=60"));
    let cancelled = async {
        looks.acquire_many(2).await.unwrap().forget();
        assert_eq!(api.harness.metrics().feed_subscribers.get(), 1);
        api.harness.cancel(id).await;
    };
    let (answer, ()) = tokio::join!(held, cancelled);
    assert_eq!(answer.ok()["status"], "Cancelled");
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "the read waited for its full timeout"
    );
    assert_eq!(looks.available_permits(), 1, "one more read, for the answer");
    api.close().await;
}

/// The first read finds the order pending, and the signal comes before that read ends.
#[tokio::test]
async fn a_change_during_the_first_read_is_not_missed() {
    let api = Api::layered(CancelledOnceRead).await;
    api.harness.accept_one().await;
    let started = Instant::now();
    let answer = api.get_with("/orders/1", ("prefer", "wait=60")).await;
    assert_eq!(answer.ok()["status"], "Cancelled");
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "the read waited for its full timeout"
    );
    api.close().await;
}

#[tokio::test]
async fn a_held_read_survives_a_busy_or_unavailable_store() {
    let errors: [Failing; 2] = [
        || StoreError::Busy,
        || StoreError::Unavailable {
            attempted: "read an order",
            source: anyhow::anyhow!("gone"),
        },
    ];
    for error in errors {
        let times = 3.into();
        let api = Api::layered(FailsToRead { error, times }).await;
        api.harness.order_in(OrderStatus::Completed).await;
        let answer = api.get_with("/orders/1", ("prefer", "wait=60")).await;
        assert_eq!(answer.ok()["status"], "Completed");
        api.close().await;
    }
}

#[tokio::test]
async fn a_held_read_reports_store_errors_at_its_timeout_or_when_permanent() {
    let cases: [(Failing, &str, &str); 2] = [
        (|| StoreError::Busy, "wait=0", "busy"),
        (|| StoreError::Closed, "wait=60", "shutting-down"),
    ];
    for (error, prefer, kind) in cases {
        let times = u32::MAX.into();
        let api = Api::layered(FailsToRead { error, times }).await;
        api.harness.accept_one().await;
        let answer = api.get_with("/orders/1", ("prefer", prefer)).await;
        answer.assert_refused(503, kind);
        api.close().await;
    }
}

/// A start is a change, but not the one waited for.
#[tokio::test(start_paused = true)]
async fn a_held_read_returns_the_current_order_at_its_timeout() {
    let api = Api::open().await;
    let id = api.harness.accept_one().await;
    api.harness.claim_only(id).await;
    let started = Instant::now();
    let answer = api.get_with("/orders/1", ("prefer", "wait=20")).await;
    assert_eq!(answer.ok()["status"], "Processing");
    assert_eq!(answer.header("preference-applied"), "wait=20");
    assert_eq!(started.elapsed().as_secs(), 20);
    api.close().await;
}

#[tokio::test]
async fn a_held_read_is_answered_when_the_server_stops() {
    let api = Api::open().await;
    api.harness.accept_one().await;
    let held = api.get_with("/orders/1", ("prefer", "wait=60"));
    let (answer, ()) = tokio::join!(held, async { api.draining.cancel() });
    assert_eq!(answer.ok()["status"], "Pending");
    api.close().await;
}

#[tokio::test]
async fn a_wait_preference_is_capped_at_a_minute_and_ignored_if_malformed() {
    let api = Api::open().await;
    api.harness.order_in(OrderStatus::Completed).await;
    for (prefer, applied) in [
        ("wait=5", "wait=5"),
        ("respond-async, wait=7", "wait=7"),
        ("wait=61", "wait=60"),
        ("wait=3600", "wait=60"),
        ("wait=99999999999999999999", "wait=60"),
        ("wait=0", "wait=0"),
        ("wait=soon", ""),
        ("wait=-1", ""),
        ("wait", ""),
        ("return=minimal", ""),
    ] {
        let answer = api.get_with("/orders/1", ("prefer", prefer)).await;
        assert_eq!(answer.ok()["status"], "Completed");
        assert_eq!(answer.header("preference-applied"), applied, "{prefer}");
    }
    assert_eq!(api.get("/orders/1").await.header("preference-applied"), "");
    api.close().await;
}

#[tokio::test]
async fn a_history_lists_every_event() {
    let api = Api::open().await;
    api.harness.attempt_once(retry_after(0)).await;
    let lease = api.harness.claim_only(OrderId(1)).await;
    api.harness.settle(&lease, failed()).await;
    api.harness.redrive(OrderId(1)).await;
    api.harness.cancel(OrderId(1)).await;
    let history = api.get("/orders/1/events").await.ok();
    let events = history["events"].as_array().unwrap();
    let kinds: Vec<&str> = events
        .iter()
        .map(|event| event["kind"].as_str().unwrap())
        .collect();
    let expected = [
        "accepted",
        "started",
        "retry_scheduled",
        "started",
        "failed",
        "redriven",
        "cancelled",
    ];
    assert_eq!(kinds, expected);
    let versions = events.iter().map(|event| event["version"].as_u64().unwrap());
    assert!(versions.eq(1..=7));
    api.close().await;
}

#[tokio::test]
async fn an_event_is_returned_in_full() {
    let api = Api::open().await;
    api.harness.attempt_once(failed()).await;
    assert_snapshot!(api.get("/orders/1/events?after=1").await.shown(), @r#"
    200 OK
    content-type: application/json
    orderly-cursor: [cursor]

    {
      "events":[
        {
          "cursor":"[cursor]",
          "order_id":1,
          "user_id":104,
          "version":2,
          "kind":"started",
          "status":"Processing",
          "at":"2026-01-01T00:00:00.000000Z",
          "attempt":1,
          "node":"000000000000000a",
          "error":null
        },
        {
          "cursor":"[cursor]",
          "order_id":1,
          "user_id":104,
          "version":3,
          "kind":"failed",
          "status":"Failed",
          "at":"2026-01-01T00:00:00.000000Z",
          "attempt":1,
          "node":"000000000000000a",
          "error":"the card was declined"
        }
      ]
    }
    "#);
    api.close().await;
}

#[tokio::test]
async fn a_history_continues_after_a_version() {
    let api = Api::open().await;
    api.harness.attempt_once(Outcome::COMPLETED).await;
    for (after, left) in [("0", 3), ("2", 1), ("3", 0), ("4294967295", 0)] {
        let history = api.get(&format!("/orders/1/events?after={after}")).await.ok();
        assert_eq!(history["events"].as_array().unwrap().len(), left, "{after}");
    }
    for bad in ["", "-1", "x", "4294967296"] {
        let answer = api.get(&format!("/orders/1/events?after={bad}")).await;
        answer.assert_refused_at(400, "invalid-parameters", &["#/after"]);
    }
    let answer = api.get("/orders/1/events?before=1").await;
    answer.assert_refused_at(400, "invalid-parameters", &["#/before"]);
    api.close().await;
}
