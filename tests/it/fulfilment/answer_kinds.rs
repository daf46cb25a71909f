//! Every kind of answer, and of no answer, leads to its outcome.

use orderly::config::HttpService;
use orderly::event::EventKind;
use orderly::lease::ERROR_BYTES_MAX;
use orderly::order::OrderId;
use orderly::processor::ProcessingError;

use super::fixture::{Fixture, patient, service};
use super::receiver::{Reaction, Receiver, answer};
use crate::support::until;

/// Number of times each hostile answer occurs per order.
const ROUNDS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    Transient,
    Unreachable,
    Unavailable,
    Denied,
    Ailing,
    Permanent,
}

fn blame(error: &ProcessingError) -> Blame {
    match error {
        ProcessingError::Transient { .. } => Blame::Transient,
        ProcessingError::Unreachable { .. } => Blame::Unreachable,
        ProcessingError::Unavailable { .. } => Blame::Unavailable,
        ProcessingError::Denied { .. } => Blame::Denied,
        ProcessingError::Ailing { .. } => Blame::Ailing,
        ProcessingError::Permanent { .. } => Blame::Permanent,
    }
}

fn bytes(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

const LATE: &str = "the service did not answer within 700ms";

/// Answers that are retried, the blamed side, and the reported error.
fn retried() -> Vec<(&'static str, Reaction, Blame, &'static str)> {
    use Blame::{Ailing, Denied, Transient, Unavailable};
    use Reaction::{AnswerAndClose, AnswerAndHang, Endless, Reset};
    const NONE: &str = "the service gave no answer: ";
    let location = "Location: https://me:hunter2@shop.example/hunter2?token=hunter2\r\n";
    let many_headers = "X-A: a\r\n".repeat(150);
    vec![
        ("hangs", AnswerAndHang(Vec::new()), Ailing, LATE),
        (
            "hangs in its head",
            AnswerAndHang(bytes("HTTP/1.1 200 OK\r\nConte")),
            Ailing,
            LATE,
        ),
        ("resets", Reset, Ailing, NONE),
        ("closes", AnswerAndClose(Vec::new()), Ailing, NONE),
        (
            "closes in its head",
            AnswerAndClose(bytes("HTTP/1.1 200 OK\r\nConte")),
            Ailing,
            NONE,
        ),
        (
            "no HTTP",
            AnswerAndClose(bytes("SSH-2.0-OpenSSH_9.9\r\n\r\n")),
            Ailing,
            NONE,
        ),
        (
            "endless head",
            Endless(bytes("HTTP/1.1 200 OK\r\n"), bytes("X-A: aaaaaaaaaaaaaaaa\r\n")),
            Ailing,
            NONE,
        ),
        (
            "endless line",
            Endless(bytes("HTTP/1.1 200 OK\r\nX-A: "), vec![b'a'; 1024]),
            Ailing,
            NONE,
        ),
        (
            "dripping head",
            Endless(bytes("HTTP/1.1 200 OK\r\nX-A: "), vec![b'a']),
            Ailing,
            "the service ",
        ),
        (
            "never begins",
            Endless(Vec::new(), bytes("HTTP/1.1 103 Early Hints\r\n\r\n")),
            Ailing,
            LATE,
        ),
        ("too many headers", answer(200, &many_headers, ""), Ailing, NONE),
        (
            "408",
            answer(408, "", "slow"),
            Transient,
            "the service answered 408: slow",
        ),
        ("425", answer(425, "", ""), Transient, "the service answered 425"),
        (
            "429",
            answer(429, "Retry-After: 0\r\n", ""),
            Transient,
            "the service answered 429",
        ),
        (
            "500",
            answer(500, "", "out of\tpaper\n"),
            Ailing,
            "the service answered 500: out of\tpaper",
        ),
        ("501", answer(501, "", ""), Ailing, "the service answered 501"),
        (
            "401",
            answer(401, "", "\u{1b}[31mwho?\0"),
            Denied,
            "the service answered 401: [31mwho?",
        ),
        ("403", answer(403, "", ""), Denied, "the service answered 403"),
        (
            "404",
            answer(404, "", "a\n\tb"),
            Denied,
            "the service answered 404: a\n\tb",
        ),
        ("405", answer(405, "", ""), Denied, "the service answered 405"),
        ("407", answer(407, "", ""), Denied, "the service answered 407"),
        (
            "502",
            answer(502, "", "<html>"),
            Unavailable,
            "the service answered 502: <html>",
        ),
        (
            "503",
            answer(503, "", ""),
            Unavailable,
            "the service answered 503",
        ),
        (
            "504",
            answer(504, "", ""),
            Unavailable,
            "the service answered 504",
        ),
        ("599", answer(599, "", ""), Ailing, "the service answered 599"),
        ("700", answer(700, "", ""), Transient, "the service answered 700"),
        (
            "500 with an endless body",
            Endless(bytes("HTTP/1.1 500 No\r\n\r\n"), bytes("no ")),
            Ailing,
            "the service answered 500: no no no",
        ),
        (
            "500 with a body that hangs",
            AnswerAndHang(bytes("HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\nno")),
            Ailing,
            "the service answered 500: no",
        ),
        (
            "304",
            answer(304, "", ""),
            Ailing,
            "the service answered 304: redirects are not followed",
        ),
        (
            "301",
            answer(301, location, ""),
            Ailing,
            "the service answered 301: redirects are not followed (to https://shop.example)",
        ),
        (
            "307",
            answer(307, "Location: /hunter2\r\n", ""),
            Ailing,
            "the service answered 307: redirects are not followed (to http://127.0.0.1:",
        ),
    ]
}

/// Two slots for all orders, over several rounds: every slot taken is given back.
#[tokio::test(flavor = "multi_thread")]
async fn transient_failures_are_retried_without_losing_slots() {
    // Answers in time get all the time they need, however busy the machine is.
    tried_again_without_losing_a_slot(|error_text| !is_late(error_text), patient).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timeouts_are_retried_without_losing_slots() {
    tried_again_without_losing_a_slot(is_late, service).await;
}

/// A slow trickle may time out, or exceed the size limit before that.
fn is_late(error_text: &str) -> bool {
    [LATE, "the service "].contains(&error_text)
}

async fn tried_again_without_losing_a_slot(which: fn(&str) -> bool, service: fn(&str) -> HttpService) {
    let retried = || retried().into_iter().filter(|(.., error_text)| which(error_text));
    let receiver = Receiver::start().await;
    let fixture = Fixture::open(service(&receiver.url()), |config| {
        config.concurrency = 2;
        config.attempt_timeout = std::time::Duration::from_secs(4);
        config.retry.attempts_max = u32::try_from(ROUNDS).unwrap() + 1;
    })
    .await;
    let mut orders = Vec::new();
    for (name, reaction, ..) in retried() {
        receiver.set_reactions(name, vec![reaction; ROUNDS]);
        orders.push(fixture.order(name).await);
    }
    for ((name, _, blamed, error_text), id) in retried().zip(orders) {
        let order = fixture.ended(id).await;
        assert_eq!(order["status"], "Completed", "{name}: {order}");
        // Without other served orders, or with several failures in a row, orders are given back without counting an
        // attempt.
        let events = fixture.harness.events(OrderId(id)).await;
        let given_back = events.iter().filter(|kind| **kind == EventKind::Released).count();
        assert_eq!(order["attempts"], ROUNDS + 1 - given_back, "{name}");
        assert!(given_back == 0 || blamed == Blame::Unavailable, "{name}");
        let failures = fixture.failures(id);
        assert_eq!(failures.len(), ROUNDS, "{name}");
        for failure in failures {
            let text = failure.to_string();
            assert_eq!(blame(&failure), blamed, "{name}: {text}");
            assert!(text.starts_with(error_text), "{name}: {text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        assert_eq!(receiver.deliveries_of(name).len(), ROUNDS + 1, "{name}");
    }
    // Both slots are free at the same time.
    for name in ["last", "very last"] {
        receiver.set_reactions(name, [Reaction::Hold]);
        fixture.order(name).await;
    }
    until("both are being processed", async || receiver.open() == 2).await;
    receiver.release();
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_permanent_and_keeps_one_kib_of_its_reason() {
    let receiver = Receiver::start().await;
    let fixture = Fixture::open(service(&receiver.url()), |_| {}).await;
    let long = "é".repeat(2_000);
    for (status, body, error_text) in [
        (
            422,
            "the card was declined\r\n",
            "the service answered 422: the card was declined",
        ),
        (400, "", "the service answered 400"),
        (410, "gone", "the service answered 410: gone"),
        (
            409,
            long.as_str(),
            &format!("the service answered 409: {}", "é".repeat(512)),
        ),
    ] {
        let name = status.to_string();
        receiver.set_reactions(&name, [answer(status, "Retry-After: 1\r\n", body)]);
        let id = fixture.order(&name).await;
        let order = fixture.ended(id).await;
        assert_eq!(
            (&order["status"], &order["attempts"]),
            (&"Failed".into(), &1.into())
        );
        assert_eq!(order["last_error"], error_text);
        assert_eq!(
            fixture.failures(id).iter().map(blame).collect::<Vec<_>>(),
            [Blame::Permanent]
        );
        assert!(error_text.len() <= ERROR_BYTES_MAX);
    }
    // An incomplete reason is kept as far as it arrived.
    for (name, reaction) in [
        (
            "cut",
            Reaction::AnswerAndClose(bytes("HTTP/1.1 422 No\r\nContent-Length: 99\r\n\r\nsold out")),
        ),
        (
            "hangs",
            Reaction::AnswerAndHang(bytes("HTTP/1.1 422 No\r\nContent-Length: 99\r\n\r\nsold out")),
        ),
    ] {
        receiver.set_reactions(name, [reaction]);
        let order = fixture.ended(fixture.order(name).await).await;
        assert_eq!(
            order["last_error"], "the service answered 422: sold out",
            "{name}"
        );
        assert_eq!(order["status"], "Failed");
    }
    fixture.close().await;
}

/// Issue 13, points 6c and 19: such a try is no attempt, and the order shows why it waits.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_service_costs_no_attempt_and_is_reported() {
    let receiver = Receiver::start().await;
    let closed = receiver.url();
    receiver.stop().await;
    for (url, error_text) in [
        (
            closed.as_str(),
            "the service cannot be reached: Connection refused",
        ),
        ("http://service.invalid/", "the service cannot be reached: "),
    ] {
        let fixture = Fixture::open(service(url), |config| config.retry.attempts_max = 1).await;
        let id = fixture.order("any").await;
        until("the order shows an error", async || {
            fixture.now(id).await["last_error"].is_string()
        })
        .await;
        let order = fixture.now(id).await;
        assert!(
            order["last_error"].as_str().unwrap().starts_with(error_text),
            "{order}"
        );
        let history = fixture.harness.history(OrderId(id), 0).await;
        let released = history
            .iter()
            .find(|event| event.kind == EventKind::Released)
            .unwrap();
        assert!(
            released.error.as_ref().unwrap().starts_with(error_text),
            "{released:?}"
        );
        assert_eq!(released.attempt, 0);
        let last = fixture.failures(id).remove(0);
        assert_eq!(blame(&last), Blame::Unreachable, "{last}");
        fixture.act(id, "cancel").await;
        fixture.close().await;
    }
}

/// Stored text only: the service's answer may contain customer data.
#[tokio::test(flavor = "multi_thread")]
async fn a_given_back_order_shows_only_the_status_of_the_service() {
    let receiver = Receiver::start().await;
    let fixture = Fixture::open(service(&receiver.url()), |_| {}).await;
    let away = answer(503, "Retry-After: 60\r\n", "customer 4711 is on holiday");
    receiver.set_reactions("it", [away]);
    let id = fixture.order("it").await;
    until("the order is given back", async || {
        !fixture.now(id).await["next_attempt_at"].is_null()
    })
    .await;
    let order = fixture.now(id).await;
    assert_eq!(
        (&order["last_error"], &order["attempts"]),
        (&"the service answered 503".into(), &0.into())
    );
    fixture.harness.advance(std::time::Duration::from_mins(1)).await;
    fixture.ended(id).await;
    fixture.close().await;
}
