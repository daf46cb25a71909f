//! External workers at the API: taking orders, keeping them and posting results.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use insta::assert_snapshot;
use orderly::event::EventKind;
use orderly::order::{OrderId, OrderStatus};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::in_process::Api;
use crate::support::make::{FIRST_FENCE, LONGER_THAN_A_LEASE, new_order};
use crate::support::until;

mod lost;
mod refused;
mod settled;

#[tokio::test]
async fn a_worker_leases_an_order_and_completes_it() {
    let api = Api::for_workers().await;
    api.harness.accept_one().await;
    let (token, key) = (
        api.harness.token(OrderId(1), 1).await,
        api.harness.attempt_key(1, 0).await,
    );
    let shown = api.act("/leases").await.shown();
    let shown = shown
        .replace(&token.to_string(), "(token)")
        .replace(&key, "(epoch)-1-0");
    assert_snapshot!(shown, @r#"
    200 OK
    content-type: application/json

    {
      "leases":[
        {
          "order":{
            "order_id":1,
            "user_id":104,
            "item_ids":"101,102,103",
            "total_amount":250.75,
            "status":"Processing",
            "reference":null,
            "metadata":null,
            "version":2,
            "item_count":3,
            "attempts":1,
            "created_at":"2026-01-01T00:00:00.000000Z",
            "processing_at":"2026-01-01T00:00:00.000000Z",
            "completed_at":null,
            "next_attempt_at":null,
            "last_error":null,
            "time_taken_seconds":null,
            "result":null
          },
          "token":"(token)",
          "fence":134217729,
          "attempt":1,
          "idempotency_key":"(epoch)-1-0",
          "expires_at":"2026-01-01T00:00:30.000000Z"
        }
      ]
    }
    "#);
    let completed = api
        .post(
            "/leases/1/complete",
            api.harness
                .call_body(1, 1, r#","result":{ "charge": "ch_1" }"#)
                .await,
        )
        .await;
    assert_eq!(completed.ok()["status"], "Completed");
    assert!(
        completed.text().ends_with(r#""result":{ "charge": "ch_1" }}"#),
        "{}",
        completed.text()
    );
    assert_eq!(api.get("/orders/1").await.bytes(), completed.bytes());
    api.close().await;
}

#[tokio::test]
async fn orders_are_leased_in_order_of_acceptance_up_to_the_requested_number() {
    let api = Api::for_workers().await;
    api.harness.accept_some(6).await;
    let taken = async |body: &str| ids(&api.post("/leases", body.to_owned()).await.ok());
    assert_eq!(taken("{}").await, [1]);
    assert_eq!(taken(r#"{"max":3,"lease":null}"#).await, [2, 3, 4]);
    assert_eq!(taken(r#"{"max":100,"wait":0}"#).await, [5, 6]);
    assert_eq!(taken(r#"{"max":100}"#).await, [0; 0]);
    assert_eq!(api.harness.counters().await.processing, 6);
    api.close().await;
}

#[tokio::test]
async fn a_waiting_worker_gets_the_next_order_at_once() {
    let api = Api::for_workers().await;
    let waits = api.post("/leases", r#"{"wait":60}"#);
    let accepts = async {
        until("the worker waits", async || {
            api.harness.metrics().lease_requests_waiting.get() == 1
        })
        .await;
        api.harness.accept_one().await;
    };
    let (taken, ()) = tokio::join!(waits, accepts);
    assert_eq!(ids(&taken.ok()), [1]);
    assert_eq!(api.harness.metrics().lease_requests_waiting.get(), 0);
    assert_eq!(api.harness.metrics().leases_granted.get(), 1);
    api.close().await;
}

#[tokio::test]
async fn a_wait_without_orders_ends_empty() {
    let api = Api::for_workers().await;
    assert_eq!(ids(&api.post("/leases", r#"{"wait":1}"#).await.ok()), [0; 0]);
    api.close().await;
}

#[tokio::test]
async fn a_paused_queue_hands_out_nothing_until_it_is_resumed() {
    let api = Api::for_workers().await;
    api.act("/queue/pause").await.ok();
    api.harness.accept_one().await;
    assert_eq!(ids(&api.act("/leases").await.ok()), [0; 0]);
    let waits = api.post("/leases", r#"{"wait":60}"#);
    let resumes = async {
        until("the worker waits", async || {
            api.harness.metrics().lease_requests_waiting.get() == 1
        })
        .await;
        api.act("/queue/resume").await.ok();
    };
    let (taken, ()) = tokio::join!(waits, resumes);
    assert_eq!(ids(&taken.ok()), [1]);
    api.close().await;
}

#[tokio::test]
async fn a_lease_lasts_as_requested_and_is_renewable_until_its_attempt_ends() {
    let api = Api::for_workers().await;
    api.harness.accept_one().await;
    let expires = async |seconds: u64| {
        let micros = api
            .harness
            .now()
            .await
            .plus(Duration::from_secs(seconds))
            .micros();
        let instant = jiff::Timestamp::from_microsecond(micros).unwrap();
        json!(format!("{instant:.6}"))
    };
    let taken = api.post("/leases", r#"{"lease":10}"#).await.ok();
    assert_eq!(taken["leases"][0]["expires_at"], expires(10).await);
    api.harness.advance(Duration::from_secs(9)).await;
    let renewed = async |rest: &str| {
        let body = api.harness.call_body(1, 1, rest).await;
        api.post("/leases/1/renew", body).await
    };
    let answer = renewed("").await.ok();
    assert_eq!(
        answer,
        json!({"expires_at": expires(30).await}),
        "ORDERLY_LEASE by default"
    );
    api.harness.advance(Duration::from_secs(100)).await;
    let answer = renewed(r#","lease":3600"#).await.ok();
    assert_eq!(
        answer["expires_at"],
        expires(300 - 109).await,
        "ORDERLY_ATTEMPT_TIMEOUT"
    );
    api.harness.advance(Duration::from_secs(191)).await;
    renewed("").await.assert_refused(409, "lease-lost");
    api.close().await;
}

#[tokio::test]
async fn a_lease_never_outlasts_the_attempt_timeout() {
    let api = Api::for_workers().await;
    api.harness.accept_one().await;
    let taken = api.post("/leases", r#"{"lease":3600}"#).await.ok();
    let started = taken["leases"][0]["order"]["processing_at"]
        .as_str()
        .unwrap()
        .to_owned();
    let expires = taken["leases"][0]["expires_at"].as_str().unwrap().to_owned();
    let instant = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
    assert_eq!(instant(&expires).duration_since(instant(&started)).as_secs(), 300);
    api.harness.advance(Duration::from_secs(301)).await;
    assert_eq!(api.harness.give_back().await.pending, 1);
    api.close().await;
}

#[tokio::test]
async fn a_waiting_client_that_disconnects_loses_no_order() {
    let api = Api::for_workers().await;
    let waiting = || api.harness.metrics().lease_requests_waiting.get();
    {
        let hangs_up = api.post("/leases", r#"{"wait":60}"#);
        let line_up = until("the worker waits", async || waiting() == 1);
        tokio::select! {
            _ = hangs_up => panic!("no order is available"),
            () = line_up => {}
        }
    }
    assert_eq!(waiting(), 0);
    api.harness.accept_one().await;
    // A claim in progress for the disconnected client may hold the order for a moment.
    let taken = api.post("/leases", r#"{"wait":60}"#).await.ok();
    assert_eq!(taken["leases"][0]["attempt"], 1);
    let events = api.harness.events(OrderId(1)).await;
    assert!(!events.contains(&EventKind::LeaseLost), "{events:?}");
    api.close().await;
}

#[tokio::test]
async fn a_stopping_server_answers_waiting_workers_and_hands_out_nothing() {
    let mut api = Api::for_workers().await;
    let router = api.router();
    let waits = tokio::spawn(async move {
        let request = Request::post("/leases")
            .header("host", "localhost")
            .header("content-type", "application/json");
        let answer = router
            .oneshot(request.body(Body::from(r#"{"wait":60}"#)).unwrap())
            .await
            .unwrap();
        to_bytes(answer.into_body(), 1_000).await.unwrap()
    });
    until("the worker waits", async || {
        api.harness.metrics().lease_requests_waiting.get() == 1
    })
    .await;
    api.stop_handing_out().await;
    assert_eq!(waits.await.unwrap(), r#"{"leases":[]}"#);
    api.harness.accept_one().await;
    api.act("/leases").await.assert_refused(503, "shutting-down");
    assert_eq!(api.harness.order(OrderId(1)).await.status, OrderStatus::Pending);
    api.close().await;
}

#[tokio::test]
async fn an_order_of_a_silent_worker_is_leased_again_with_new_token() {
    let api = Api::for_workers().await;
    api.harness.accept_one().await;
    api.take_one().await;
    api.harness.advance(LONGER_THAN_A_LEASE).await;
    api.harness.give_back().await;
    let lease = api.take_one().await;
    assert_eq!(
        (&lease["fence"], &lease["attempt"]),
        (&json!(FIRST_FENCE + 1), &json!(1))
    );
    assert_eq!(lease["token"], api.harness.token(OrderId(1), 2).await.to_string());
    let complete = async |claim: u64| {
        api.post("/leases/1/complete", api.harness.call_body(1, claim, "").await)
            .await
    };
    complete(1).await.assert_refused(409, "lease-lost");
    complete(2).await.ok();
    api.close().await;
}

#[tokio::test]
async fn the_largest_orders_are_handed_out_whole() {
    let api = Api::for_workers().await;
    let order = orderly::order::NewOrder {
        metadata: Some(format!("{{\"a\":\"{}\"}}", "x".repeat(8_000)).into()),
        ..new_order()
    };
    api.harness.accept(vec![order; 100]).await;
    let taken = api.post("/leases", r#"{"max":100}"#).await.ok();
    assert_eq!(ids(&taken).len(), 100);
    api.close().await;
}

fn ids(taken: &Value) -> Vec<i64> {
    let leases = taken["leases"].as_array().expect("a list of leases");
    leases
        .iter()
        .map(|lease| lease["order"]["order_id"].as_i64().unwrap())
        .collect()
}
