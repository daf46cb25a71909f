//! Reads request bodies within limits of type, size and time, and writes JSON answers. `wire` interprets the text.

use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use http_body_util::{BodyExt, Collected, LengthLimitError, Limited};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::timeout;

use super::batch_memory::Share;
use super::problem::{Problem, ProblemType};
use crate::order_json::OrderBody;

/// Actions and results of external workers.
pub const ACTION_BODY_BYTES_MAX: usize = 64 * 1024;
/// An order with a thousand lines with names, and the longest legal metadata.
pub const NEW_ORDER_BODY_BYTES_MAX: usize = 256 * 1024;
/// A thousand orders of the largest usual size.
pub const BATCH_BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Maximum size of the items of one page: thousands of usual orders or events, or forty of the largest orders.
const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Maximum time from the head of a request to the last byte of its body. A full batch passes at 2.3 Mbit/s; a slow
/// client cannot hold its connection for longer.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// Accepted media types of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    Json,
    /// One JSON value per line.
    JsonLines,
    /// A JSON merge patch.
    MergePatch,
}

/// Returns the media type that the request declares, or 415.
pub fn media_type(headers: &HeaderMap) -> Result<MediaType, Problem> {
    let refuse = |detail| Err(Problem::new(ProblemType::UnsupportedMediaType, detail));
    if let Some(encoding) = headers.get(CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return refuse("the body must come without a Content-Encoding");
    }
    let mut given = headers.get_all(CONTENT_TYPE).iter();
    let (Some(content_type), None) = (given.next(), given.next()) else {
        return refuse("one Content-Type is required: application/json");
    };
    let bytes = content_type.as_bytes();
    let essence = bytes
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or(bytes)
        .trim_ascii();
    if essence.eq_ignore_ascii_case(b"application/json") {
        Ok(MediaType::Json)
    } else if essence.eq_ignore_ascii_case(b"application/x-ndjson") {
        Ok(MediaType::JsonLines)
    } else if essence.eq_ignore_ascii_case(b"application/merge-patch+json") {
        Ok(MediaType::MergePatch)
    } else {
        refuse("the body must be application/json")
    }
}

/// Refuses every type but JSON.
pub fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    match media_type(headers)? {
        MediaType::Json => Ok(()),
        MediaType::JsonLines | MediaType::MergePatch => Err(Problem::new(
            ProblemType::UnsupportedMediaType,
            "only a batch may be application/x-ndjson, and only an amendment application/merge-patch+json: the body must be \
             application/json",
        )),
    }
}

/// Refuses every type but JSON and a JSON merge patch.
pub fn require_patch(headers: &HeaderMap) -> Result<(), Problem> {
    match media_type(headers)? {
        MediaType::Json | MediaType::MergePatch => Ok(()),
        MediaType::JsonLines => Err(Problem::new(
            ProblemType::UnsupportedMediaType,
            "the body must be application/merge-patch+json or application/json",
        )),
    }
}

/// Reads the whole body: at most `bytes_max` bytes, within [`BODY_TIME_MAX`].
pub async fn read(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let collected = async {
        let collected = limited(body, bytes_max)?.collect().await;
        collected
            .map(Collected::to_bytes)
            .map_err(|error| broken(&*error, bytes_max))
    };
    in_time(collected).await
}

/// Reads the whole body like [`read`] and reserves its memory in `share` beforehand. The buffer doubles, so it takes at
/// most twice the bytes that the client has sent.
pub async fn read_in_share(body: Body, bytes_max: usize, share: &mut Share) -> Result<Bytes, Problem> {
    let collected = async {
        let mut body = limited(body, bytes_max)?;
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broken(&*error, bytes_max))?;
            // Trailers are ignored.
            let Ok(data) = frame.into_data() else { continue };
            let needed = text.len() + data.len();
            if needed > text.capacity() {
                let capacity = needed.max(2 * text.capacity()).min(bytes_max);
                share.grow_to(capacity)?;
                text.reserve_exact(capacity - text.len());
            }
            text.extend_from_slice(&data);
        }
        Ok(Bytes::from(text))
    };
    in_time(collected).await
}

fn limited(body: Body, bytes_max: usize) -> Result<Limited<Body>, Problem> {
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large(bytes_max));
    }
    Ok(Limited::new(body, bytes_max))
}

async fn in_time(read: impl Future<Output = Result<Bytes, Problem>>) -> Result<Bytes, Problem> {
    let mut read = pin!(read);
    // A body that came with its head is complete at the second poll and needs no timer.
    let mut polled = false;
    let at_once = poll_fn(|waking| match read.as_mut().poll(waking) {
        Poll::Ready(body) => Poll::Ready(Some(body)),
        Poll::Pending if polled => Poll::Ready(None),
        Poll::Pending => {
            polled = true;
            waking.waker().wake_by_ref();
            Poll::Pending
        }
    });
    if let Some(body) = at_once.await {
        return body;
    }
    timeout(BODY_TIME_MAX, read).await.unwrap_or_else(|_| {
        Err(Problem::new(
            ProblemType::RequestTimeout,
            format!("the body must arrive within {} seconds", BODY_TIME_MAX.as_secs()),
        ))
    })
}

fn broken(error: &(dyn Error + Send + Sync + 'static), bytes_max: usize) -> Problem {
    if error.is::<LengthLimitError>() {
        too_large(bytes_max)
    } else {
        Problem::new(
            ProblemType::BadRequest,
            "the body ended early or its chunks are malformed",
        )
    }
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(
        ProblemType::BodyTooLarge,
        format!("the body must not exceed {bytes_max} bytes"),
    )
}

/// Decodes the body: JSON is UTF-8 (RFC 8259 section 8.1).
pub fn text(body: &Bytes) -> Result<&str, Problem> {
    std::str::from_utf8(body).map_err(|error| {
        Problem::new(
            ProblemType::MalformedJson,
            format!("the body is not UTF-8 after byte {}", error.valid_up_to()),
        )
    })
}

/// Builds a JSON answer.
pub fn json(status: StatusCode, value: &impl Serialize) -> Result<Response, Problem> {
    Ok(json_text(status, rendered(value)?))
}

/// Builds an answer with one order, whose version is the `ETag`.
pub fn order(status: StatusCode, order: &OrderBody<'_>) -> Result<Response, Problem> {
    let mut text = Vec::new();
    order.write(&mut text).map_err(Problem::unexpected)?;
    let mut response = json_text(status, text);
    let tag = HeaderValue::try_from(format!("\"{}\"", order.version())).map_err(Problem::unexpected)?;
    response.headers_mut().insert(ETAG, tag);
    Ok(response)
}

/// Builds an answer from JSON text. It keeps its part of `share` until it is sent.
pub fn text_in_share(status: StatusCode, text: Vec<u8>, share: Share) -> Response {
    json_text(status, share.hold(text))
}

/// Renders the items of a page up to [`PAGE_BYTES_MAX`], at least one. If some do not fit, also returns the last
/// rendered item; the next page starts after it.
pub fn page_items<'i, T, B: Serialize>(
    items: &'i [T],
    body: impl Fn(&'i T) -> B,
) -> Result<(Vec<Box<RawValue>>, Option<&'i T>), Problem> {
    let mut texts = Vec::with_capacity(items.len());
    let (mut bytes, mut last) = (0, None);
    for item in items {
        let text = to_raw_value(&body(item)).map_err(Problem::unexpected)?;
        bytes += text.get().len();
        if bytes > PAGE_BYTES_MAX && last.is_some() {
            return Ok((texts, last));
        }
        texts.push(text);
        last = Some(item);
    }
    Ok((texts, None))
}

fn rendered(value: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(value).map_err(Problem::unexpected)
}

fn json_text(status: StatusCode, text: impl Into<Body>) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::batch_memory::BatchMemory;
    use futures_util::{StreamExt, stream};

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_content_type_decides_the_media_type() {
        for (value, kind) in [
            ("application/json", MediaType::Json),
            ("Application/JSON ; charset=utf-8", MediaType::Json),
            ("application/x-ndjson", MediaType::JsonLines),
        ] {
            assert_eq!(media_type(&headers(&[("content-type", value)])).unwrap(), kind);
        }
        for refused in [
            &[][..],
            &[("content-type", "text/plain")],
            &[("content-type", "application/jsonp")],
            &[
                ("content-type", "application/json"),
                ("content-type", "text/plain"),
            ],
            &[("content-type", "application/json"), ("content-encoding", "gzip")],
        ] {
            let problem = media_type(&headers(refused)).unwrap_err();
            assert_eq!(problem.kind, ProblemType::UnsupportedMediaType);
        }
        assert!(require_json(&headers(&[("content-type", "application/x-ndjson")])).is_err());
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_with_or_without_a_length() {
        let chunks = |count: usize| {
            let chunk = Bytes::from_static(b"0123456789");
            Body::from_stream(stream::repeat(chunk).take(count).map(Ok::<_, std::io::Error>))
        };
        assert_eq!(read(chunks(2), 20).await.unwrap().len(), 20);
        assert_eq!(
            read(chunks(3), 20).await.unwrap_err().kind,
            ProblemType::BodyTooLarge
        );
        let announced = read(Body::from(vec![0; 21]), 20).await;
        assert_eq!(announced.unwrap_err().kind, ProblemType::BodyTooLarge);
    }

    #[tokio::test]
    async fn a_body_reserves_at_most_twice_the_bytes_sent() {
        const KIB: usize = 1024;
        let memory = BatchMemory::new(64 * KIB);
        let chunks = |count: usize| {
            let chunk = Bytes::from_static(&[b'x'; KIB]);
            Body::from_stream(stream::repeat(chunk).take(count).map(Ok::<_, std::io::Error>))
        };
        let mut share = memory.share();
        let body = read_in_share(chunks(30), 1024 * KIB, &mut share).await.unwrap();
        assert_eq!(body.len(), 30 * KIB);
        memory.share().grow_to(4 * KIB).unwrap();
        let refused = read_in_share(chunks(40), 1024 * KIB, &mut memory.share()).await;
        assert_eq!(refused.unwrap_err().kind, ProblemType::Busy);
        let too_long = read_in_share(chunks(5), 4 * KIB, &mut share).await;
        assert_eq!(too_long.unwrap_err().kind, ProblemType::BodyTooLarge);
        drop(share);
        read_in_share(chunks(40), 1024 * KIB, &mut memory.share())
            .await
            .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_times_out() {
        let silent = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(
            read(silent, 20).await.unwrap_err().kind,
            ProblemType::RequestTimeout
        );
    }

    #[test]
    fn a_body_must_be_utf8() {
        assert_eq!(
            text(&Bytes::from_static(b"{\"a\":\"\xff\"}")).unwrap_err().kind,
            ProblemType::MalformedJson
        );
    }
}
