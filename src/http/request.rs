//! Handling common to all requests: id, access, panics, problem documents, metrics and the log line. The routes do the
//! rest.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::response::Response;
use futures_util::FutureExt;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use uuid::Uuid;

use super::call::Caller;
use super::listener::NewClient;
use super::problem::{Problem, ProblemType};
use super::routes::Access;
use super::{Shared, auth, framing};
use crate::metrics::{DurationLabels, RequestLabels};

/// Route of requests without a route, in metrics and logs.
pub const NO_ROUTE: &str = "none";
/// More headers than any browser or proxy chain sends.
pub const HEADERS_MAX: usize = 64;
/// Maximum bytes of path and query: what every server should accept (RFC 9110 section 4.1), and several times the
/// longest legal list query. hyper itself refuses above 64 KiB, without a problem document.
const TARGET_BYTES_MAX: usize = 8_000;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Context of one route.
#[derive(Clone)]
pub struct Context {
    shared: Arc<Shared>,
    route: &'static str,
    access: Access,
    counted: Arc<RouteMetrics>,
}

/// Metrics that nearly every request to a route updates, once they exist.
#[derive(Default)]
struct RouteMetrics {
    /// By method.
    took: [OnceLock<Histogram>; METHODS.len()],
    /// By method: the status of its first success, and the counter of that status.
    good: [OnceLock<(u16, Counter)>; METHODS.len()],
}

impl Context {
    pub fn new(shared: Arc<Shared>, route: &'static str, access: Access) -> Context {
        Context {
            shared,
            route,
            access,
            counted: Arc::default(),
        }
    }

    /// Returns the client that may go on, or the reason why it may not.
    fn admit(&self, request: &Request) -> Result<Caller, Problem> {
        framing::check(request)?;
        let headers = request.headers();
        if headers.len() > HEADERS_MAX {
            return Err(Problem::new(
                ProblemType::TooManyHeaders,
                format!("a request must not have more than {HEADERS_MAX} headers"),
            ));
        }
        let target = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
        if target.len() > TARGET_BYTES_MAX {
            return Err(Problem::new(
                ProblemType::UriTooLong,
                format!("path and query must not exceed {TARGET_BYTES_MAX} bytes"),
            ));
        }
        match (self.access, &self.shared.api_key) {
            (Access::Keyed, Some(key)) => {
                key.admit(headers)?;
                report_key_check(request, NewClient::showed_the_key);
            }
            (Access::Keyed, None) => {
                if self.shared.local_only {
                    auth::require_local_name(request.uri(), headers)?;
                }
                report_key_check(request, NewClient::needs_no_key);
            }
            (Access::Open, _) => {}
        }
        auth::refuse_cross_site(request.method(), headers)?;
        Ok(Caller::ONLY)
    }

    fn count(&self, method: usize, status: u16, took: Duration) {
        let metrics = &self.shared.metrics;
        let counter = || {
            let labels = RequestLabels {
                method: METHODS[method],
                route: self.route,
                status,
            };
            metrics.http_requests.get_or_create(&labels).clone()
        };
        let good = &self.counted.good[method];
        if (200..300).contains(&status) {
            good.get_or_init(|| (status, counter()));
        }
        match good.get() {
            Some((known, requests)) if *known == status => requests.inc(),
            Some(_) | None => counter().inc(),
        };
        let histogram = || {
            let labels = DurationLabels {
                method: METHODS[method],
                route: self.route,
            };
            metrics.http_request_duration.get_or_create(&labels).clone()
        };
        let duration = self.counted.took[method].get_or_init(histogram);
        duration.observe(took.as_secs_f64());
    }
}

fn report_key_check(request: &Request, report: fn(&NewClient)) {
    if let Some(new_client) = request.extensions().get::<NewClient>() {
        report(new_client);
    }
}

/// Runs `answer` for an admitted request, with the common handling around it.
pub async fn answered<F>(
    context: &Context,
    request: Request,
    answer: impl FnOnce(Caller, RequestId, Request) -> F,
) -> Response
where
    F: Future<Output = Result<Response, Problem>>,
{
    let started = Instant::now();
    let id = RequestId::of(request.headers());
    let method = method_index(request.method());
    let answered = match context.admit(&request) {
        Ok(caller) => {
            let answering =
                AssertUnwindSafe(async { answer(caller, id.clone(), request).await }).catch_unwind();
            // The panic hook has logged the cause and the place, but not the request.
            let answered = answering.await;
            answered.unwrap_or_else(|_panic| Err(Problem::unexpected(HandlerPanicked)))
        }
        Err(problem) => Err(problem),
    };
    let mut response = answered.unwrap_or_else(|problem| written_out(problem, id.as_str()));
    let status = response.status().as_u16();
    let took = started.elapsed();
    tracing::debug!(
        request.id = id.as_str(),
        http.method = METHODS[method],
        http.route = context.route,
        http.status = status,
        duration_ms = took.as_secs_f64() * 1_000.0,
        "request answered"
    );
    id.mark(&mut response);
    context.count(method, status, took);
    response
}

#[derive(Debug, thiserror::Error)]
#[error("the handler panicked")]
struct HandlerPanicked;

fn common_headers(headers: &mut HeaderMap) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Answers without a cache header of their own may change; caches must not keep them.
    let cached = headers.entry(CACHE_CONTROL);
    cached.or_insert(HeaderValue::from_static("no-store"));
}

/// Logs the cause and renders the problem's document.
fn written_out(problem: Problem, id: &str) -> Response {
    if let Some(cause) = problem.cause() {
        let kind = problem.kind.slug();
        tracing::error!(request.id = id, problem = kind, cause, "request {id} failed");
    }
    problem.render(id)
}

/// Id of one request in answers, problems and logs. Cheap to clone.
#[derive(Clone)]
pub struct RequestId(Bytes);

impl RequestId {
    /// Returns the caller's own id if it is fit for a log, otherwise a new one.
    fn of(headers: &HeaderMap) -> RequestId {
        let fit = |value: &&HeaderValue| {
            let bytes = value.as_bytes();
            (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
        };
        match headers.get(REQUEST_ID).filter(fit) {
            Some(given) => RequestId(Bytes::copy_from_slice(given.as_bytes())),
            None => RequestId::generate(),
        }
    }

    /// Generates a version 7 UUID (RFC 9562) with random bits that need no system call.
    pub fn generate() -> RequestId {
        let since_epoch = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let millis = u64::try_from(since_epoch.as_millis()).unwrap_or_default();
        let mut buffer = Uuid::encode_buffer();
        let id = uuid::Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid();
        let text = id.hyphenated().encode_lower(&mut buffer);
        RequestId(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// Adds the headers that every answer carries.
    pub fn mark(self, response: &mut Response) {
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, HeaderValue::from_maybe_shared(self.0).expect(VISIBLE));
        common_headers(headers);
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect(VISIBLE)
    }
}

/// Ensured for received and for generated ids.
const VISIBLE: &str = "an id consists of visible ASCII characters";

/// A closed set: unknown methods count as the last one.
const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other",
];

fn method_index(method: &Method) -> usize {
    let other = METHODS.len() - 1;
    METHODS[..other]
        .iter()
        .position(|name| *name == method.as_str())
        .unwrap_or(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_request_id_is_kept_and_any_other_replaced() {
        let of = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
            RequestId::of(&headers).as_str().to_owned()
        };
        assert_eq!(of(b"abc/1:2"), "abc/1:2");
        assert_eq!(of(&[b'a'; 128]).len(), 128);
        for unfit in [&b""[..], b"a b", b"a\tb", b"\xc3\xa9", &[b'a'; 129]] {
            let id = Uuid::parse_str(&of(unfit)).unwrap();
            assert_eq!(id.get_version_num(), 7);
        }
        assert_ne!(of(b""), of(b""));
    }
}
