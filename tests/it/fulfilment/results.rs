//! Results from a service that completed an order.

use std::time::Duration;

use super::fixture::{Fixture, service};
use super::receiver::{Reaction, Receiver, answer};

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_returned_exactly_as_given() {
    let receiver = Receiver::start().await;
    let fixture = Fixture::open(service(&receiver.url()), |_| {}).await;
    let longest = format!("\"{}\"", "é".repeat(4_095));
    for (name, result) in [
        ("object", r#"{ "charge":  "ch_7", "fee": 1.10, "é": "\u00e9" }"#),
        ("number", "1.50"),
        ("false", "false"),
        ("longest", &longest),
        ("null", "null"),
    ] {
        receiver.set_reactions(
            name,
            [answer(
                201,
                "",
                &format!("{{\"ok\": true, \"result\" : {result}\n}}"),
            )],
        );
        let id = fixture.order(name).await;
        assert_eq!(fixture.ended(id).await["status"], "Completed");
        let text = fixture.text(id, false).await;
        assert!(
            text.ends_with(&format!(",\"result\":{result}}}")),
            "{name}: {text}"
        );
    }
    fixture.close().await;
}

/// The order was processed, so a second call would process it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_success_status_completes_the_order_whatever_its_body() {
    let receiver = Receiver::start().await;
    let fixture = Fixture::open(service(&receiver.url()), |config| {
        // Endless bodies are read until shortly before this timeout.
        config.attempt_timeout = Duration::from_secs(1);
        config.concurrency = 20;
    })
    .await;
    let head = |length: usize| {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{{\"result\":").into_bytes()
    };
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let mut orders = Vec::new();
    for (name, reaction) in [
        ("no body", answer(204, "", "")),
        (
            "no JSON",
            answer(200, "Content-Type: application/json\r\n", "{oops"),
        ),
        ("a page", answer(200, "", "<html>")),
        ("a list", answer(200, "", "[1]")),
        ("twice", answer(200, "", r#"{"result":1,"result":2}"#)),
        ("a key twice", answer(200, "", r#"{"result":{"a":1,"a":2}}"#)),
        (
            "long result",
            answer(200, "", &format!("{{\"result\":\"{}\"}}", "a".repeat(8_191))),
        ),
        (
            "long body",
            answer(
                200,
                "",
                &format!("{{\"result\":1,\"more\":\"{}\"}}", "a".repeat(65_536)),
            ),
        ),
        ("endless", Reaction::Endless(head(1 << 40), b"1".to_vec())),
        (
            "endless chunks",
            Reaction::Endless(chunked.clone(), b"1\r\n1\r\n".to_vec()),
        ),
        (
            "bad chunks",
            Reaction::AnswerAndClose([&chunked[..], b"zz\r\n"].concat()),
        ),
        ("hangs", Reaction::AnswerAndHang(head(20))),
        ("cut", Reaction::AnswerAndClose(head(20))),
    ] {
        receiver.set_reactions(name, [reaction]);
        orders.push((name, fixture.order(name).await));
    }
    for (name, id) in orders {
        let order = fixture.ended(id).await;
        assert_eq!(order["status"], "Completed", "{name}: {order}");
        assert!(order["result"].is_null(), "{name}: {order}");
        assert_eq!(receiver.deliveries_of(name).len(), 1, "{name}");
    }
    fixture.close().await;
}
