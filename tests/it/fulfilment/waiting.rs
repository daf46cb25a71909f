//! A service can request a wait.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::fixture::{Fixture, service};
use super::receiver::{Receiver, answer};
use crate::support::until;

/// The longest wait that a service may request.
const DAY_SECONDS: u64 = 24 * 60 * 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_header_delays_the_next_attempt() {
    let receiver = Receiver::start().await;
    let fixture = Fixture::open(service(&receiver.url()), |_| {}).await;
    let began = fixture.harness.now().await;
    let in_an_hour = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_hours(1));
    let dated = format!("Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nRetry-After: {in_an_hour}\r\n");
    for (name, status, header, seconds) in [
        ("seconds", 503, "Retry-After: 120\r\n", 120),
        ("too many", 429, "Retry-After: 0000120\r\n", 120),
        ("a failure", 500, "retry-after: 7\r\n", 7),
        ("a redirect", 302, "Retry-After: 9\r\n", 9),
        ("a time", 503, dated.as_str(), 3_600),
        (
            "for ever",
            503,
            "Retry-After: 99999999999999999999\r\n",
            DAY_SECONDS,
        ),
    ] {
        receiver.set_reactions(name, [answer(status, header, "")]);
        let id = fixture.order(name).await;
        until("the order waits", async || {
            !next_attempt(&fixture.now(id).await).is_null()
        })
        .await;
        let order = fixture.now(id).await;
        assert_eq!(order["status"], "Pending");
        let due: jiff::Timestamp = next_attempt(&order).as_str().unwrap().parse().unwrap();
        let wait = due.as_microsecond() - began.micros();
        assert_eq!(wait, i64::try_from(seconds * 1_000_000).unwrap(), "{name}");
        assert_eq!(receiver.deliveries_of(name).len(), 1, "{name}");
    }
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_attempted_again_after_its_requested_wait() {
    let receiver = Receiver::start().await;
    let fixture = Fixture::open(service(&receiver.url()), |_| {}).await;
    // Where other orders are served, the try counts as an attempt.
    fixture.ended(fixture.order("before").await).await;
    receiver.set_reactions("it", [answer(503, "Retry-After: 5\r\n", "")]);
    let id = fixture.order("it").await;
    until("the order waits", async || {
        !next_attempt(&fixture.now(id).await).is_null()
    })
    .await;
    fixture.harness.advance(Duration::from_secs(5)).await;
    let order = fixture.ended(id).await;
    assert_eq!(
        (&order["status"], &order["attempts"]),
        (&"Completed".into(), &2.into())
    );
    fixture.close().await;
}

fn next_attempt(order: &Value) -> &Value {
    &order["next_attempt_at"]
}
