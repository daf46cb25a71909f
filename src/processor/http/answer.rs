//! Interprets the answer of a service. The service is not trusted: bodies are read only up to a size and a time.

use std::time::{Duration, SystemTime};

use reqwest::Response;
use reqwest::header::{DATE, HeaderName, LOCATION, RETRY_AFTER};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use crate::config::address_of;
use crate::lease::REASON_BYTES_MAX;
use crate::order::{OrderId, RESULT_BYTES_MAX};
use crate::portable_json::{JsonError, JsonText};
use crate::processor::{Cause, Processed, ProcessingError, Reason};

/// Maximum size of a body that may hold a result, with room for other members.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Maximum time from the head of an answer to the end of its body; services send both at once.
const BODY_TIME_MAX: Duration = Duration::from_secs(5);
/// Bytes of a reason to read: one character more, so that a cut character lies beyond the kept part.
const REASON_BYTES_READ: usize = REASON_BYTES_MAX + 4;
/// Maximum length of a logged redirect address.
const LOCATION_CHARS_MAX: usize = 300;

/// Returns the outcome of an answer. Stops reading at `read_until`, the end of the attempt's time.
pub(super) async fn meaning(
    order_id: OrderId,
    answer: Response,
    read_until: Instant,
) -> Result<Processed, ProcessingError> {
    let status = answer.status().as_u16();
    let read_until = read_until.min(Instant::now() + BODY_TIME_MAX);
    match status {
        202 => Ok(Processed::HandedOver),
        // The order is done whatever happens to the body: a repeated call would repeat the effect.
        200..=299 => {
            let result = result(answer, read_until).await.unwrap_or_else(|why| {
                tracing::warn!(order.id = %order_id, "order {order_id} completed but its result is lost: {why}; change what the service answers");
                None
            });
            Ok(Processed::Completed { result })
        }
        _ => Err(refusal(status, answer, read_until).await),
    }
}

async fn refusal(status: u16, answer: Response, read_until: Instant) -> ProcessingError {
    let retry_after = retry_after(&answer);
    if (300..=399).contains(&status) {
        let error = Cause::new(Reason::Status(status), redirected(status, &answer));
        // A maintenance page or a wrong URL; either way not a failure of this order alone.
        return ProcessingError::Ailing { error, retry_after };
    }
    let reason = reason(answer, read_until).await;
    let words = format!("the service answered {status}");
    let error = Cause::new(Reason::Status(status), words).with_said(reason);
    match status {
        408 | 425 | 429 => ProcessingError::Transient { error, retry_after },
        // The service does not accept this program or has nothing at that address. Not a failure of the order alone, or
        // one wrong secret would fail every order. Nor of the service alone: an order that it always refuses must end.
        401 | 403 | 404 | 405 | 407 => ProcessingError::Denied { error },
        400..=499 => ProcessingError::Permanent { error },
        // Sent by a proxy in front of a service that is away, or by the service itself.
        502..=504 => ProcessingError::Unavailable { error, retry_after },
        500..=599 => ProcessingError::Ailing { error, retry_after },
        // 101, and numbers that are not HTTP statuses.
        _ => ProcessingError::Transient { error, retry_after },
    }
}

/// The reason why the result of a completed order is lost.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Lost {
    #[error("the body of the answer has more than {BODY_BYTES_MAX} bytes")]
    TooLong,
    #[error("the body of the answer did not end in time")]
    TooSlow,
    #[error("the body of the answer was cut off")]
    Cut,
    #[error("the body of the answer is not JSON: {0}")]
    NotJson(String),
    #[error("it has more than {RESULT_BYTES_MAX} bytes")]
    ResultTooLong,
    #[error("it {0}")]
    Unfit(#[from] JsonError),
}

async fn result(mut answer: Response, read_until: Instant) -> Result<Option<JsonText>, Lost> {
    let body = match timeout_at(read_until, read(&mut answer, BODY_BYTES_MAX + 1)).await {
        Ok((body, _)) if body.len() > BODY_BYTES_MAX => return Err(Lost::TooLong),
        Ok((body, Ended::Well)) => body,
        Ok((_, Ended::Cut)) => return Err(Lost::Cut),
        Err(_) => return Err(Lost::TooSlow),
    };
    result_in(&body)
}

/// Returns the result in a body; `None` for `null` or a body that is not an object.
fn result_in(body: &[u8]) -> Result<Option<JsonText>, Lost> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        result: Option<&'a RawValue>,
    }
    if !body.trim_ascii_start().starts_with(b"{") {
        return Ok(None);
    }
    let answer: Answer<'_> = std::str::from_utf8(body)
        .map_err(|error| Lost::NotJson(error.to_string()))
        .and_then(|text| serde_json::from_str(text).map_err(|error| Lost::NotJson(error.to_string())))?;
    let Some(result) = answer.result.map(RawValue::get) else {
        return Ok(None);
    };
    if result.len() > RESULT_BYTES_MAX {
        return Err(Lost::ResultTooLong);
    }
    Ok(Some(JsonText::parse(result)?))
}

/// Reads a reason; a part of it, cut off by time or the connection, is better than none.
async fn reason(mut answer: Response, read_until: Instant) -> String {
    let mut body = Vec::new();
    let reading = read_into(&mut body, &mut answer, REASON_BYTES_READ);
    // A timeout or a cut leaves what was read so far.
    let _ = timeout_at(read_until, reading).await;
    legible(&body)
}

/// Returns text fit for logs and terminals, at most [`REASON_BYTES_MAX`].
fn legible(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let is_shown = |letter: &char| !letter.is_control() || ['\n', '\t'].contains(letter);
    let mut shown: String = text.chars().filter(is_shown).collect();
    shown.truncate(shown.floor_char_boundary(REASON_BYTES_MAX));
    shown.truncate(shown.trim_end().len());
    shown
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The body ended, or the limit was reached.
    Well,
    Cut,
}

async fn read(answer: &mut Response, bytes_max: usize) -> (Vec<u8>, Ended) {
    let mut body = Vec::new();
    let ended = read_into(&mut body, answer, bytes_max).await;
    (body, ended)
}

/// Reads at most `bytes_max` bytes.
async fn read_into(body: &mut Vec<u8>, answer: &mut Response, bytes_max: usize) -> Ended {
    while body.len() < bytes_max {
        match answer.chunk().await {
            Ok(Some(chunk)) => {
                let room = bytes_max - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            }
            Ok(None) => return Ended::Well,
            Err(_) => return Ended::Cut,
        }
    }
    Ended::Well
}

/// Describes a redirect by scheme, host and port; the path may hold a secret, as in the service's own URL.
fn redirected(status: u16, answer: &Response) -> String {
    let words = format!("the service answered {status}: redirects are not followed");
    let Some(location) = answer.headers().get(LOCATION) else {
        return words;
    };
    // A relative location is resolved against the service's URL.
    let target = answer.url().join(&String::from_utf8_lossy(location.as_bytes()));
    let shown = target.map_or_else(|_| "no URL".to_owned(), |target| address_of(target.as_str()));
    let shown: String = shown.chars().take(LOCATION_CHARS_MAX).collect();
    format!("{words} (to {shown})")
}

fn retry_after(answer: &Response) -> Option<Duration> {
    let header = |name: HeaderName| answer.headers().get(name)?.to_str().ok();
    let now = header(DATE).and_then(http_date).unwrap_or_else(SystemTime::now);
    delay(header(RETRY_AFTER)?, now)
}

/// Parses `Retry-After` (RFC 9110 section 10.2.3): seconds, or a time by the clock of the server.
fn delay(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Too large to represent, so as long as possible.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    // A time in the past means now.
    http_date(text).map(|at| at.duration_since(now).unwrap_or_default())
}

fn http_date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(body: &str) -> Option<String> {
        let result = result_in(body.as_bytes()).unwrap();
        result.map(|text| text.as_str().to_owned())
    }

    #[test]
    fn a_result_is_kept_byte_for_byte() {
        for (body, result) in [
            (
                r#" {"result" : { "a":  1.10 }, "more": [] } "#,
                Some(r#"{ "a":  1.10 }"#),
            ),
            (r#"{"result":"é\u00e9"}"#, Some(r#""é\u00e9""#)),
            (r#"{"result":0}"#, Some("0")),
            (r#"{"result":false}"#, Some("false")),
            (r#"{"result":null}"#, None),
            ("{}", None),
            ("", None),
            ("ok", None),
            (r#"[{"result":1}]"#, None),
            ("<html>", None),
        ] {
            assert_eq!(kept(body).as_deref(), result, "{body}");
        }
    }

    #[test]
    fn an_invalid_result_is_lost() {
        let lost = |body: &str| result_in(body.as_bytes()).unwrap_err();
        let long = |bytes: usize| format!(r#"{{"result":"{}"}}"#, "a".repeat(bytes - 2));
        assert!(kept(&long(RESULT_BYTES_MAX)).is_some());
        assert_eq!(lost(&long(RESULT_BYTES_MAX + 1)), Lost::ResultTooLong);
        assert_eq!(
            lost(r#"{"result":{"a":1,"a":2}}"#),
            Lost::Unfit(JsonError::DuplicateKey)
        );
        assert_eq!(lost(r#"{"result":"\u0000"}"#), Lost::Unfit(JsonError::Nul));
        let deep = format!(r#"{{"result":{}{}}}"#, "[".repeat(40), "]".repeat(40));
        assert_eq!(lost(&deep), Lost::Unfit(JsonError::TooDeep));
        let deeper = format!(r#"{{"result":{}{}}}"#, "[".repeat(4_000), "]".repeat(4_000));
        assert_eq!(lost(&deeper), Lost::Unfit(JsonError::TooDeep));
        for body in [
            r#"{"result":1"#,
            r#"{"result":1,"result":2}"#,
            "{result:1}",
            r#"{"a":1} x"#,
        ] {
            assert!(matches!(lost(body), Lost::NotJson(_)), "{body}");
        }
        assert!(matches!(
            result_in(b"{\"result\":\"\xff\"}"),
            Err(Lost::NotJson(_))
        ));
    }

    #[test]
    fn a_reason_is_printable_text() {
        assert_eq!(
            legible(b"no\x00 \x1b[31mstock\r\n\tleft \n"),
            "no [31mstock\n\tleft"
        );
        assert_eq!(legible(b"a\xffb"), "a\u{fffd}b");
        assert_eq!(legible("a\u{85}\u{7f}b".as_bytes()), "ab");
        let long = "é".repeat(REASON_BYTES_MAX);
        assert_eq!(legible(&long.as_bytes()[..REASON_BYTES_READ]), "é".repeat(512));
        let odd = format!("a{long}");
        assert_eq!(
            legible(&odd.as_bytes()[..REASON_BYTES_READ]).len(),
            REASON_BYTES_MAX - 1
        );
    }

    #[test]
    fn retry_after_is_given_in_seconds_or_as_a_time() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let seconds = |text: &str| delay(text, now).map(|wait| wait.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds(" 0 "), Some(0));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:50:07 GMT"), Some(30));
        assert_eq!(seconds("Sunday, 06-Nov-94 08:50:07 GMT"), Some(30));
        assert_eq!(seconds("Sun Nov  6 08:50:07 1994"), Some(30));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(seconds("99999999999999999999"), Some(u64::MAX));
        for text in ["", "soon", "-1", "1.5", "+5", "1h"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
