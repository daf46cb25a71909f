//! The deliveries that a service receives.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orderly::order::OrderId;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use standardwebhooks::Webhook;

use super::fixture::{Fixture, patient, service, signed};
use super::receiver::{Delivery, Reaction, Receiver, answer};
use crate::support::client::http;
use crate::support::until;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_contains_the_order_as_the_api_returns_it() {
    let receiver = Receiver::start().await;
    let fixture = Fixture::open(patient(&receiver.url()), |_| {}).await;
    receiver.set_reactions("held", [Reaction::Hold]);
    let id = fixture.order("held").await;
    until("the order is delivered", async || receiver.open() == 1).await;
    let read = fixture.text(id, false).await;
    receiver.release();
    let order = fixture.ended(id).await;
    let [delivery] = &receiver.deliveries()[..] else {
        panic!("the order was delivered once")
    };
    assert_eq!(String::from_utf8_lossy(&delivery.body), read);
    assert_eq!(delivery.order()["status"], "Processing");
    assert_eq!(delivery.request_line, "POST /orders HTTP/1.1");
    for (name, value) in [
        ("host", receiver.address.to_string()),
        ("content-type", "application/json".to_owned()),
        ("user-agent", format!("orderly/{}", env!("CARGO_PKG_VERSION"))),
        ("orderly-attempt", "1".to_owned()),
        ("idempotency-key", fixture.harness.attempt_key(id, 0).await),
        ("webhook-id", fixture.harness.attempt_key(id, 0).await),
    ] {
        assert_eq!(delivery.header(name), value, "{name}");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let sent: u64 = delivery.header("webhook-timestamp").parse().unwrap();
    assert!((now - 60..=now).contains(&sent), "{sent}");
    assert!(
        !delivery.headers.contains_key("webhook-signature"),
        "signed without a secret"
    );
    assert_eq!(order["status"], "Completed");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_attempts_share_a_key_and_a_redrive_changes_it() {
    let receiver = Receiver::start().await;
    let fixture = Fixture::open(service(&receiver.url()), |_| {}).await;
    receiver.set_reactions(
        "it",
        [
            answer(500, "", ""),
            Reaction::Reset,
            answer(422, "", "no"),
            answer(503, "", ""),
        ],
    );
    let id = fixture.order("it").await;
    assert_eq!(fixture.ended(id).await["status"], "Failed");
    fixture.act(id, "retry").await;
    assert_eq!(fixture.ended(id).await["status"], "Completed");
    let sent = receiver.deliveries();
    let all = |name: &str| -> Vec<String> {
        sent.iter()
            .map(|delivery| delivery.header(name).to_owned())
            .collect()
    };
    let key = async |redrives| fixture.harness.attempt_key(id, redrives).await;
    let (first, second) = (key(0).await, key(1).await);
    let keys = [&first, &first, &first, &second, &second];
    assert_eq!(all("idempotency-key").iter().collect::<Vec<_>>(), keys);
    assert_eq!(all("webhook-id").iter().collect::<Vec<_>>(), keys);
    assert_eq!(all("orderly-attempt"), ["1", "2", "3", "1", "2"]);
    let fences: Vec<u64> = all("orderly-fence")
        .iter()
        .map(|fence| fence.parse().unwrap())
        .collect();
    assert!(
        fences.is_sorted_by(|earlier, later| earlier < later),
        "{fences:?}"
    );
    let mut traces = all("traceparent");
    for trace in &traces {
        let parts: Vec<&str> = trace.split('-').collect();
        assert_eq!(
            parts.iter().map(|part| part.len()).collect::<Vec<_>>(),
            [2, 32, 16, 2],
            "{trace}"
        );
        assert!(
            parts
                .iter()
                .all(|part| part.bytes().all(|byte| b"0123456789abcdef".contains(&byte)))
        );
    }
    traces.sort();
    traces.dedup();
    assert_eq!(traces.len(), 5, "attempts share a trace");
    fixture.close().await;
}

/// The delivered token lets others than the node's executor end the attempt.
#[tokio::test(flavor = "multi_thread")]
async fn the_delivered_token_can_settle_the_order() {
    let receiver = Receiver::start().await;
    let fixture = Fixture::open(patient(&receiver.url()), |_| {}).await;
    receiver.set_reactions("held", [Reaction::Hold]);
    let id = fixture.order("held").await;
    until("the order is delivered", async || receiver.open() == 1).await;
    let sent = receiver.deliveries().remove(0);
    let (token, fence) = (sent.header("orderly-token"), sent.header("orderly-fence"));
    let claim = fixture
        .harness
        .store()
        .claimed(OrderId(id))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(claim.token.unwrap().to_string(), token);
    assert_eq!(claim.key.unwrap().fence.to_string(), fence);
    receiver.release();
    fixture.ended(id).await;
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_verify_with_either_configured_secret_and_no_other() {
    let receiver = Receiver::start().await;
    let url = receiver.url();
    for (secrets, good) in [
        (SECRET.to_owned(), vec![SECRET]),
        (format!("{OTHER} {SECRET}"), vec![SECRET, OTHER]),
    ] {
        let fixture = Fixture::open(signed(&url, &secrets), |_| {}).await;
        let id = fixture.order(&secrets).await;
        assert_eq!(fixture.ended(id).await["status"], "Completed");
        let delivery = receiver.deliveries_of(&secrets).remove(0);
        for secret in [SECRET, OTHER] {
            assert_eq!(
                is_signed(&delivery, secret),
                good.contains(&secret),
                "{secret} of {secrets}"
            );
        }
        let mut changed = delivery.clone();
        changed.body[20] ^= 1;
        assert!(!is_signed(&changed, SECRET));
        let mut moved = delivery.clone();
        let other_id = delivery
            .header("webhook-id")
            .replace(&format!("-{id}-"), &format!("-{}-", id + 1));
        moved.headers.insert("webhook-id".to_owned(), other_id);
        assert!(!is_signed(&moved, SECRET));
        fixture.close().await;
    }
}

/// Verified with the library of the specification.
fn is_signed(delivery: &Delivery, secret: &str) -> bool {
    let headers: HeaderMap = delivery
        .headers
        .iter()
        .map(|(name, value)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        })
        .collect();
    Webhook::new(secret)
        .unwrap()
        .verify(&delivery.body, &headers)
        .is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_accepted_with_202_stays_in_processing_without_a_slot() {
    let receiver = Receiver::start().await;
    let fixture = Fixture::open(service(&receiver.url()), |config| config.concurrency = 1).await;
    // The body of a 202 is ignored.
    receiver.set_reactions("later", [answer(202, "", r#"{"result":1}"#)]);
    let taken_on = fixture.order("later").await;
    let next = fixture.order("next").await;
    assert_eq!(fixture.ended(next).await["status"], "Completed");
    let order: Value = fixture.now(taken_on).await;
    assert_eq!(
        (&order["status"], &order["result"]),
        (&"Processing".into(), &Value::Null)
    );
    assert_eq!(receiver.deliveries_of("later").len(), 1);
    fixture.close().await;
}

/// A fast service calls back before its 202 has arrived.
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_before_the_202_counts() {
    let receiver = Receiver::start().await;
    let fixture = Fixture::open(patient(&receiver.url()), |_| {}).await;
    receiver.set_reactions("quick", [Reaction::Hold]);
    let id = fixture.order("quick").await;
    until("the order is delivered", async || receiver.open() == 1).await;
    let token = receiver.deliveries()[0].header("orderly-token").to_owned();
    let url = format!("{}/leases/{id}/complete", fixture.url);
    let call_back = http().post(url).json(&json!({"token": token}));
    assert_eq!(call_back.send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(fixture.now(id).await["status"], "Completed");
    receiver.release();
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_in_the_url_are_sent_as_basic_authentication() {
    let receiver = Receiver::start().await;
    let url = format!("http://shop:open%20sesame@{}/in?tenant=7", receiver.address);
    let fixture = Fixture::open(service(&url), |_| {}).await;
    assert_eq!(
        fixture.ended(fixture.order("it").await).await["status"],
        "Completed"
    );
    let sent = receiver.deliveries().remove(0);
    assert_eq!(sent.request_line, "POST /in?tenant=7 HTTP/1.1");
    assert_eq!(sent.header("authorization"), "Basic c2hvcDpvcGVuIHNlc2FtZQ==");
    fixture.close().await;
}

/// A reused connection serves many orders, one after another.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_reuse_connections() {
    const ORDERS: usize = 50;
    let receiver = Receiver::start().await;
    let fixture = Fixture::open(service(&receiver.url()), |config| {
        config.concurrency = 2;
        config.lease = Duration::from_secs(30);
    })
    .await;
    let mut orders = Vec::new();
    for _ in 0..ORDERS {
        orders.push(fixture.order("it").await);
    }
    for id in orders {
        assert_eq!(fixture.ended(id).await["status"], "Completed");
    }
    assert_eq!(receiver.deliveries().len(), ORDERS);
    assert!(receiver.connections() < ORDERS / 2, "{}", receiver.connections());
    fixture.close().await;
}
