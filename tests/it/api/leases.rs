//! Workers outside at the door: taking orders, keeping them, bringing back what became of them.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use insta::assert_snapshot;
use orderly::event::EventKind;
use orderly::order::{OrderId, OrderStatus};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::door::Door;
use crate::support::make::{LONGER_THAN_A_LEASE, new_order};
use crate::support::until;

mod lost;
mod refused;

#[tokio::test]
async fn a_worker_takes_an_order_and_completes_it() {
    let door = Door::for_workers().await;
    door.harness.accept_one().await;
    assert_snapshot!(door.act("/leases").await.shown());
    let completed = door
        .post(
            "/leases/1/complete",
            r#"{"token":1,"result":{ "charge": "ch_1" }}"#,
        )
        .await;
    assert_snapshot!(completed.shown());
    assert_eq!(door.get("/orders/1").await.bytes(), completed.bytes());
    door.close().await;
}

#[tokio::test]
async fn orders_are_taken_in_the_order_of_their_acceptance_as_many_as_asked_for() {
    let door = Door::for_workers().await;
    door.harness.accept_some(6).await;
    let taken = async |body: &str| ids(&door.post("/leases", body.to_owned()).await.ok());
    assert_eq!(taken("{}").await, [1]);
    assert_eq!(taken(r#"{"max":3,"lease":null}"#).await, [2, 3, 4]);
    assert_eq!(taken(r#"{"max":100,"wait":0}"#).await, [5, 6]);
    assert_eq!(taken(r#"{"max":100}"#).await, [0; 0]);
    assert_eq!(door.harness.counters().await.processing, 6);
    door.close().await;
}

#[tokio::test]
async fn who_waits_gets_the_next_order_at_once() {
    let door = Door::for_workers().await;
    let waits = door.post("/leases", r#"{"wait":60}"#);
    let accepts = async {
        until("it stands in line", async || {
            door.harness.metrics().lease_requests_waiting.get() == 1
        })
        .await;
        door.harness.accept_one().await;
    };
    let (taken, ()) = tokio::join!(waits, accepts);
    assert_eq!(ids(&taken.ok()), [1]);
    assert_eq!(door.harness.metrics().lease_requests_waiting.get(), 0);
    assert_eq!(door.harness.metrics().leases_granted.get(), 1);
    door.close().await;
}

#[tokio::test]
async fn the_wait_ends_without_an_order() {
    let door = Door::for_workers().await;
    assert_eq!(ids(&door.post("/leases", r#"{"wait":1}"#).await.ok()), [0; 0]);
    door.close().await;
}

#[tokio::test]
async fn a_paused_queue_hands_out_nothing_until_it_is_resumed() {
    let door = Door::for_workers().await;
    door.act("/queue/pause").await.ok();
    door.harness.accept_one().await;
    assert_eq!(ids(&door.act("/leases").await.ok()), [0; 0]);
    let waits = door.post("/leases", r#"{"wait":60}"#);
    let resumes = async {
        until("it stands in line", async || {
            door.harness.metrics().lease_requests_waiting.get() == 1
        })
        .await;
        door.act("/queue/resume").await.ok();
    };
    let (taken, ()) = tokio::join!(waits, resumes);
    assert_eq!(ids(&taken.ok()), [1]);
    door.close().await;
}

#[tokio::test]
async fn the_idempotency_key_is_the_same_for_all_attempts_until_somebody_retries_the_order() {
    let door = Door::for_workers().await;
    door.harness.accept_one().await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let lease = door.take_one().await;
        seen.push((
            lease["idempotency_key"].clone(),
            lease["attempt"].clone(),
            lease["token"].clone(),
        ));
        door.post(
            "/leases/1/fail",
            json!({"token": lease["token"], "error": "no"}).to_string(),
        )
        .await
        .ok();
    }
    door.act("/orders/1/retry").await.ok();
    let lease = door.take_one().await;
    seen.push((
        lease["idempotency_key"].clone(),
        lease["attempt"].clone(),
        lease["token"].clone(),
    ));
    let first = json!("order-1-0");
    assert_eq!(
        seen,
        [
            (first.clone(), 1.into(), 1.into()),
            (first, 2.into(), 2.into()),
            (json!("order-1-1"), 1.into(), 3.into())
        ]
    );
    door.close().await;
}

#[tokio::test]
async fn a_lease_lasts_as_long_as_asked_and_is_renewed_until_its_attempt_is_over() {
    let door = Door::for_workers().await;
    door.harness.accept_one().await;
    let expires = async |seconds: u64| {
        let micros = door
            .harness
            .now()
            .await
            .plus(Duration::from_secs(seconds))
            .micros();
        let instant = jiff::Timestamp::from_microsecond(micros).unwrap();
        json!(format!("{instant:.6}"))
    };
    let taken = door.post("/leases", r#"{"lease":10}"#).await.ok();
    assert_eq!(taken["leases"][0]["expires_at"], expires(10).await);
    door.harness.advance(Duration::from_secs(9)).await;
    let renewed = async |body: &str| door.post("/leases/1/renew", body.to_owned()).await;
    let answer = renewed(r#"{"token":1}"#).await.ok();
    assert_eq!(
        answer,
        json!({"expires_at": expires(30).await}),
        "ORDERLY_LEASE unless it says so"
    );
    door.harness.advance(Duration::from_secs(100)).await;
    let answer = renewed(r#"{"token":1,"lease":3600}"#).await.ok();
    assert_eq!(
        answer["expires_at"],
        expires(300 - 109).await,
        "ORDERLY_ATTEMPT_TIMEOUT"
    );
    door.harness.advance(Duration::from_secs(191)).await;
    renewed(r#"{"token":1}"#).await.assert_refused(409, "lease-lost");
    door.close().await;
}

#[tokio::test]
async fn a_lease_is_never_longer_than_an_attempt_may_take() {
    let door = Door::for_workers().await;
    door.harness.accept_one().await;
    let taken = door.post("/leases", r#"{"lease":3600}"#).await.ok();
    let started = taken["leases"][0]["order"]["processing_at"]
        .as_str()
        .unwrap()
        .to_owned();
    let expires = taken["leases"][0]["expires_at"].as_str().unwrap().to_owned();
    let instant = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
    assert_eq!(instant(&expires).duration_since(instant(&started)).as_secs(), 300);
    door.harness.advance(Duration::from_secs(301)).await;
    assert_eq!(door.harness.give_back().await.pending, 1);
    door.close().await;
}

#[tokio::test]
async fn a_failed_attempt_is_followed_by_another_until_none_is_left() {
    let door = Door::for_workers().await;
    door.harness.accept_one().await;
    let fail = async |lease: &Value| {
        let body = json!({"token": lease["token"], "error": "the \"warehouse\" is closed"});
        door.post("/leases/1/fail", body.to_string()).await.ok()
    };
    let answer = fail(&door.take_one().await).await;
    assert_eq!(
        (&answer["status"], &answer["attempts"]),
        (&json!("Pending"), &json!(1))
    );
    assert_eq!(answer["last_error"], "the \"warehouse\" is closed");
    let answer = fail(&door.take_one().await).await;
    assert_eq!(
        (&answer["status"], &answer["attempts"]),
        (&json!("Failed"), &json!(2))
    );
    door.close().await;
}

#[tokio::test]
async fn a_failure_for_good_is_not_tried_again() {
    let door = Door::for_workers().await;
    door.harness.accept_one().await;
    let lease = door.take_one().await;
    let body = json!({"token": lease["token"], "error": "no such item", "permanent": true, "retry_after": 5});
    let answer = door.post("/leases/1/fail", body.to_string()).await.ok();
    assert_eq!(
        (&answer["status"], &answer["attempts"]),
        (&json!("Failed"), &json!(1))
    );
    assert_eq!(answer["last_error"], "no such item");
    door.close().await;
}

#[tokio::test]
async fn a_worker_may_ask_for_a_longer_wait_before_the_next_attempt() {
    let door = Door::for_workers().await;
    door.harness.accept_one().await;
    door.take_one().await;
    let body = r#"{"token":1,"error":"try in a minute","retry_after":60}"#;
    door.post("/leases/1/fail", body).await.ok();
    let due = door.harness.now().await.plus(Duration::from_mins(1));
    assert_eq!(door.harness.order(OrderId(1)).await.next_attempt_at, Some(due));
    assert_eq!(ids(&door.act("/leases").await.ok()), [0; 0]);
    door.harness.advance(Duration::from_mins(1)).await;
    assert_eq!(door.take_one().await["token"], 2);
    door.close().await;
}

#[tokio::test]
async fn a_released_order_is_due_again_with_its_attempt() {
    let door = Door::for_workers().await;
    door.harness.accept_one().await;
    door.take_one().await;
    let answer = door.post("/leases/1/release", r#"{"token":1}"#).await.ok();
    assert_eq!(
        (&answer["status"], &answer["attempts"]),
        (&json!("Pending"), &json!(0))
    );
    let lease = door.take_one().await;
    assert_eq!((&lease["token"], &lease["attempt"]), (&json!(2), &json!(1)));
    door.close().await;
}

#[tokio::test]
async fn a_receiver_settles_what_a_node_handed_over_to_it() {
    let door = Door::open().await;
    door.harness.accept_some(3).await;
    let leases = door.harness.claim(3).await;
    let path = |index: usize, action: &str| format!("/leases/{}/{action}", leases[index].order.order_id);
    let token = |index: usize| json!({"token": leases[index].token}).to_string();
    door.post(&path(0, "renew"), token(0)).await.ok();
    assert_eq!(
        door.post(&path(0, "complete"), token(0)).await.ok()["status"],
        "Completed"
    );
    let body = json!({"token": leases[1].token, "error": "no", "permanent": true});
    assert_eq!(
        door.post(&path(1, "fail"), body.to_string()).await.ok()["status"],
        "Failed"
    );
    assert_eq!(
        door.post(&path(2, "release"), token(2)).await.ok()["status"],
        "Pending"
    );
    door.close().await;
}

#[tokio::test]
async fn results_are_counted_by_what_they_are() {
    let door = Door::for_workers().await;
    door.harness.accept_some(4).await;
    for (action, body) in [
        ("complete", json!({})),
        ("complete", json!({"result": null})),
        ("fail", json!({"error": "no"})),
        ("release", json!({})),
    ] {
        let lease = door.take_one().await;
        let mut body = body;
        body["token"] = lease["token"].clone();
        let path = format!("/leases/{}/{action}", lease["order"]["order_id"]);
        door.post(&path, body.to_string()).await.ok();
        if action == "release" {
            door.post(&path, body.to_string())
                .await
                .assert_refused(409, "lease-lost");
        }
    }
    let text = door.get("/metrics/prometheus").await;
    for line in [
        "orderly_leases_granted_total 4",
        "orderly_lease_requests_waiting 0",
        "orderly_outside_results_total{result=\"completed\"} 2",
        "orderly_outside_results_total{result=\"retry\"} 1",
        "orderly_outside_results_total{result=\"released\"} 1",
        "orderly_outside_results_total{result=\"lost\"} 1",
        "orderly_stale_results_rejected_total 1",
        "orderly_order_processing_seconds_count 2",
        "orderly_order_wait_seconds_count 4",
    ] {
        assert!(
            text.text().lines().any(|found| found == line),
            "{line} in {}",
            text.text()
        );
    }
    door.close().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_while_it_waits_loses_nothing() {
    let door = Door::for_workers().await;
    let waiting = || door.harness.metrics().lease_requests_waiting.get();
    {
        let hangs_up = door.post("/leases", r#"{"wait":60}"#);
        let line_up = until("it stands in line", async || waiting() == 1);
        tokio::select! {
            _ = hangs_up => panic!("there is nothing to be had"),
            () = line_up => {}
        }
    }
    assert_eq!(waiting(), 0);
    door.harness.accept_one().await;
    assert_eq!(door.take_one().await["attempt"], 1);
    assert_eq!(
        door.harness.events(OrderId(1)).await,
        [EventKind::Accepted, EventKind::Started]
    );
    door.close().await;
}

#[tokio::test]
async fn a_server_that_stops_lets_who_waits_go_and_hands_out_nothing_more() {
    let mut door = Door::for_workers().await;
    let router = door.router();
    let waits = tokio::spawn(async move {
        let request = Request::post("/leases").header("content-type", "application/json");
        let answer = router
            .oneshot(request.body(Body::from(r#"{"wait":60}"#)).unwrap())
            .await
            .unwrap();
        to_bytes(answer.into_body(), 1_000).await.unwrap()
    });
    until("it stands in line", async || {
        door.harness.metrics().lease_requests_waiting.get() == 1
    })
    .await;
    door.stop_handing_out().await;
    assert_eq!(waits.await.unwrap(), r#"{"leases":[]}"#);
    door.harness.accept_one().await;
    door.act("/leases").await.assert_refused(503, "shutting-down");
    assert_eq!(door.harness.order(OrderId(1)).await.status, OrderStatus::Pending);
    door.close().await;
}

#[tokio::test]
async fn what_a_silent_worker_held_goes_to_another_with_a_new_token() {
    let door = Door::for_workers().await;
    door.harness.accept_one().await;
    door.take_one().await;
    door.harness.advance(LONGER_THAN_A_LEASE).await;
    door.harness.give_back().await;
    let lease = door.take_one().await;
    assert_eq!((&lease["token"], &lease["attempt"]), (&json!(2), &json!(1)));
    let late = door.post("/leases/1/complete", r#"{"token":1}"#).await;
    late.assert_refused(409, "lease-lost");
    door.post("/leases/1/complete", r#"{"token":2}"#).await.ok();
    door.close().await;
}

#[tokio::test]
async fn the_largest_orders_are_handed_out_whole() {
    let door = Door::for_workers().await;
    let order = orderly::order::NewOrder {
        metadata: Some(format!("{{\"a\":\"{}\"}}", "x".repeat(8_000)).into()),
        ..new_order()
    };
    door.harness.accept(vec![order; 100]).await;
    let taken = door.post("/leases", r#"{"max":100}"#).await.ok();
    assert_eq!(ids(&taken).len(), 100);
    door.close().await;
}

fn ids(taken: &Value) -> Vec<i64> {
    let leases = taken["leases"].as_array().expect("a list of leases");
    leases
        .iter()
        .map(|lease| lease["order"]["order_id"].as_i64().unwrap())
        .collect()
}
