//! Explanations of why an order waits, and the basis of start estimates.

use std::time::Duration;

use insta::assert_snapshot;
use orderly::lease::{NodeId, Outcome, ProcessorKind};
use orderly::order::{OnFailure, OrderId, OrderStatus, Ordering};
use orderly::store::{Breaker, ClaimRequest, Heartbeat};
use serde_json::Value;

use super::in_process::Api;
use crate::support::make::{NODE_A, NODE_B, claim_by, failed, heartbeat, order_of, retry_after};

async fn explained(api: &Api, id: OrderId) -> Value {
    api.get(&format!("/orders/{id}/explain")).await.ok()
}

async fn reasons(api: &Api, id: OrderId) -> Vec<String> {
    let explained = explained(api, id).await;
    let reasons = explained["reasons"].as_array().unwrap();
    let names = reasons
        .iter()
        .map(|given| given["reason"].as_str().unwrap().to_owned());
    names.collect()
}

/// Sends a node's heartbeat.
async fn node(api: &Api, node: NodeId, slots: u32, breaker: Breaker) {
    let beat = Heartbeat {
        slots,
        breaker,
        ..heartbeat(node, &[])
    };
    api.harness.store().renew(beat).await.unwrap();
}

#[tokio::test]
async fn the_next_order_to_start_is_explained_as_next() {
    let api = Api::open().await;
    node(&api, NODE_A, 2, Breaker::Closed).await;
    api.harness.accept_one().await;
    let answer = api.get("/orders/1/explain").await;
    assert_snapshot!(answer.shown(), @r#"
    200 OK
    content-type: application/json

    {
      "order_id":1,
      "status":"Pending",
      "reasons":[
        {
          "reason":"next",
          "detail":"nothing holds the order back: it starts in a moment, or as soon as ORDERLY_RATE_LIMIT allows",
          "order_id":null,
          "until":null
        }
      ],
      "position":1,
      "position_at_least":false,
      "estimated_start":null
    }
    "#);
    api.close().await;
}

#[tokio::test]
async fn a_queued_order_names_its_predecessor_and_position() {
    let api = Api::open().await;
    node(&api, NODE_A, 2, Breaker::Closed).await;
    let ids = api.harness.accept_some(3).await;
    let explanation = explained(&api, ids[2]).await;
    assert_eq!(explanation["position"], 3);
    assert_eq!(explanation["reasons"][0]["reason"], "behind_order");
    assert_eq!(explanation["reasons"][0]["order_id"], ids[1].0);
    assert_eq!(
        explanation["estimated_start"],
        Value::Null,
        "no order has completed yet"
    );
    api.close().await;
}

#[tokio::test]
async fn conditions_that_stop_all_orders_are_explained() {
    let api = Api::open().await;
    let id = api.harness.accept_one().await;
    assert_eq!(reasons(&api, id).await, ["no_node"]);
    node(&api, NODE_A, 0, Breaker::Closed).await;
    assert_eq!(reasons(&api, id).await, ["waits_for_worker"]);
    node(&api, NODE_A, 2, Breaker::Open).await;
    assert_eq!(reasons(&api, id).await, ["breaker_open"]);
    node(&api, NODE_A, 2, Breaker::HalfOpen).await;
    assert_eq!(reasons(&api, id).await, ["breaker_half_open"]);
    node(&api, NODE_B, 2, Breaker::Closed).await;
    assert_eq!(reasons(&api, id).await, ["next"]);
    api.act("/queue/pause").await.ok();
    assert_eq!(reasons(&api, id).await, ["paused"]);
    api.close().await;
}

#[tokio::test]
async fn a_lack_of_free_slots_is_explained() {
    let api = Api::open().await;
    let ids = api.harness.accept_some(2).await;
    let lease = api.harness.claim(1).await.remove(0);
    let full = Heartbeat {
        slots: 1,
        ..heartbeat(NODE_A, &[lease.key()])
    };
    api.harness.store().renew(full).await.unwrap();
    assert_eq!(reasons(&api, ids[1]).await, ["no_free_slot"]);
    api.close().await;
}

#[tokio::test]
async fn an_order_in_backoff_is_explained_with_its_due_time() {
    let api = Api::open().await;
    node(&api, NODE_A, 2, Breaker::Closed).await;
    let id = api.harness.attempt_once(retry_after(60)).await;
    let explanation = explained(&api, id).await;
    assert_eq!(explanation["reasons"][0]["reason"], "back_off");
    let order = api.get(&format!("/orders/{id}")).await.ok();
    assert_eq!(explanation["reasons"][0]["until"], order["next_attempt_at"]);
    assert_eq!(explanation["position"], Value::Null);
    api.close().await;
}

#[tokio::test]
async fn a_blocked_order_names_the_order_it_waits_for() {
    let api = Api::with_ordering(Ordering::by_user(OnFailure::Block)).await;
    node(&api, NODE_A, 2, Breaker::Closed).await;
    let ids = api.harness.accept(vec![order_of(1); 2]).await;
    let lease = api.harness.claim(1).await.remove(0);
    api.harness.settle(&lease, failed()).await;
    let explanation = explained(&api, ids[1]).await;
    assert_eq!(explanation["reasons"][0]["reason"], "user_order");
    assert_eq!(explanation["reasons"][0]["order_id"], ids[0].0);
    api.close().await;
}

/// Issue 13, point 17: a blocking order is named together with its remedies.
#[tokio::test]
async fn a_blocking_failed_order_is_explained_with_its_remedies() {
    let api = Api::with_ordering(Ordering::by_user(OnFailure::Block)).await;
    node(&api, NODE_A, 2, Breaker::Closed).await;
    let ids = api.harness.accept(vec![order_of(1); 2]).await;
    let detail = async || {
        let explanation = explained(&api, ids[1]).await;
        explanation["reasons"][0]["detail"].as_str().unwrap().to_owned()
    };
    assert!(detail().await.ends_with("comes first and is Pending"));
    let lease = api.harness.claim(1).await.remove(0);
    assert!(detail().await.ends_with("comes first and is Processing"));
    api.harness.settle(&lease, failed()).await;
    let explanation = detail().await;
    for part in [
        "order 1",
        "is Failed",
        "POST /orders/1/retry",
        "POST /orders/1/cancel",
    ] {
        assert!(explanation.contains(part), "{explanation}");
    }
    api.harness.advance(Duration::from_secs(90)).await;
    let queue = api.get("/queue").await.ok();
    assert_eq!(
        (&queue["blocked"], &queue["oldest_blocked_seconds"]),
        (&1.into(), &90.0.into())
    );
    let metrics = api.get("/metrics").await.ok();
    assert_eq!(
        (&metrics["blocked_orders"], &metrics["oldest_blocked_seconds"]),
        (&1.into(), &90.0.into())
    );
    let text = api.get("/metrics/prometheus").await.text().to_owned();
    for line in [
        "orderly_blocked_orders 1\n",
        "orderly_oldest_blocked_seconds 90.0\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    api.act("/orders/1/cancel").await.ok();
    api.harness.claim_only(ids[1]).await;
    api.close().await;
}

/// Issue 13, point 17: heartbeats are seconds old, so slots are counted from the table.
#[tokio::test]
async fn slots_taken_since_the_last_heartbeat_count_as_taken() {
    let api = Api::open().await;
    node(&api, NODE_A, 1, Breaker::Closed).await;
    let ids = api.harness.accept_some(2).await;
    let lease = api.harness.claim(1).await.remove(0);
    assert_eq!(reasons(&api, ids[1]).await, ["no_free_slot"]);
    api.harness.settle(&lease, Outcome::COMPLETED).await;
    assert_eq!(reasons(&api, ids[1]).await, ["next"]);
    api.close().await;
}

#[tokio::test]
async fn a_suspect_is_explained_as_one() {
    let api = Api::open().await;
    let id = api.harness.accept_one().await;
    api.harness.crash_all(&[id], 2).await;
    node(&api, NODE_A, 2, Breaker::Closed).await;
    assert_eq!(reasons(&api, id).await, ["suspect"]);
    api.close().await;
}

#[tokio::test]
async fn an_order_in_processing_names_its_node_or_external_worker() {
    let api = Api::open().await;
    for outside in [false, true] {
        let id = api.harness.accept_one().await;
        let request = ClaimRequest {
            processor: outside.then_some(ProcessorKind::Pull),
            ..claim_by(NODE_A, 1)
        };
        api.harness.store().claim(request).await.unwrap();
        let explanation = explained(&api, id).await;
        assert_eq!(explanation["reasons"][0]["reason"], "processing");
        assert!(explanation["reasons"][0]["until"].is_string());
        let detail = explanation["reasons"][0]["detail"].as_str().unwrap().to_owned();
        assert_eq!(detail.contains("external worker"), outside, "{detail}");
        assert_eq!(detail.contains(&NODE_A.to_string()), !outside, "{detail}");
    }
    api.close().await;
}

#[tokio::test]
async fn a_final_order_is_explained_as_ended() {
    let api = Api::open().await;
    for status in [
        OrderStatus::Completed,
        OrderStatus::Failed,
        OrderStatus::Cancelled,
    ] {
        let id = api.harness.order_in(status).await;
        assert_eq!(reasons(&api, id).await, ["ended"]);
    }
    api.get("/orders/7/explain")
        .await
        .assert_refused(404, "order-not-found");
    api.close().await;
}

/// One slot and 10 s per order: the fourth order starts in about 30 s.
#[tokio::test]
async fn an_estimate_is_a_range_around_the_mean() {
    let api = Api::open().await;
    let id = api.harness.accept_one().await;
    let lease = api.harness.claim_only(id).await;
    api.harness.advance(Duration::from_secs(10)).await;
    api.harness.settle(&lease, Outcome::COMPLETED).await;
    node(&api, NODE_A, 1, Breaker::Closed).await;
    let ids = api.harness.accept_some(4).await;
    let explanation = explained(&api, ids[3]).await;
    let now = api.harness.now().await;
    let seconds_from_now = |name: &str| {
        let at = explanation["estimated_start"][name].as_str().unwrap();
        let at: jiff::Timestamp = at.parse().unwrap();
        at.as_microsecond() - now.micros()
    };
    let expected = 30_000_000;
    let (earliest, latest) = (seconds_from_now("earliest"), seconds_from_now("latest"));
    assert!(
        0 < earliest && earliest < expected && expected < latest,
        "{explanation}"
    );
    let first = explained(&api, ids[0]).await;
    assert!(first["estimated_start"].is_object(), "{first}");
    api.close().await;
}

/// Issue 13, point 1.
#[tokio::test]
async fn a_refusal_by_the_database_is_explained() {
    let api = Api::open().await;
    let harness = &api.harness;
    node(&api, NODE_A, 2, Breaker::Closed).await;
    let ids = harness.accept_some(2).await;
    harness
        .refuse_updates(&format!("new.order_id = {} and new.status = 1", ids[0]))
        .await;
    let leases = harness.store().claim(claim_by(NODE_A, 2)).await.unwrap().leases;
    assert_eq!(leases.len(), 1);
    let explanation = explained(&api, ids[0]).await;
    assert_eq!(explanation["reasons"][0]["reason"], "refused");
    let detail = explanation["reasons"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("SQLite error 1811"), "{detail}");
    assert!(!detail.contains("not with us"), "{detail}");
    assert_eq!(explanation["estimated_start"], Value::Null);

    harness.allow_updates().await;
    harness.refuse_updates("old.status = 1 and new.status <> 1").await;
    let settled = harness.store().settle(leases[0].key(), Outcome::COMPLETED).await;
    assert!(settled.is_err());
    assert_eq!(reasons(&api, ids[1]).await, ["refused", "processing"]);

    harness.allow_updates().await;
    let instead = Outcome::COMPLETED.after_refusal("SQLite error 1811").remove(0);
    harness.settle(&leases[0], instead).await;
    assert_eq!(reasons(&api, ids[1]).await, ["ended", "refused"]);
    api.close().await;
}

/// Issue 13, point 1: only a lasting refusal hides the expected start.
#[tokio::test]
async fn an_earlier_refused_result_does_not_hide_the_expected_start() {
    let api = Api::open().await;
    let harness = &api.harness;
    harness.order_in(OrderStatus::Completed).await;
    node(&api, NODE_A, 2, Breaker::Closed).await;
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    let put_off = Outcome::COMPLETED.after_refusal("SQLite error 1811").remove(1);
    harness.settle(&lease, put_off).await;
    assert_eq!(reasons(&api, id).await, ["back_off", "refused"]);
    harness.advance(Duration::from_hours(1)).await;
    node(&api, NODE_A, 2, Breaker::Closed).await;
    let explanation = explained(&api, id).await;
    assert_eq!(explanation["reasons"][0]["reason"], "next", "{explanation}");
    assert_eq!(explanation["reasons"][1]["reason"], "refused", "{explanation}");
    assert!(explanation["estimated_start"].is_object(), "{explanation}");
    api.close().await;
}
