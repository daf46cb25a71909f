//! What is common to all requests, in one pass: their id, who may call, panics, problems written out, metrics
//! and the log line. What they ask for is left to the routes.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use uuid::Uuid;

use super::listener::Newcomer;
use super::problem::{Problem, ProblemType};
use super::{Access, Shared, auth, framing};
use crate::metrics::{DurationLabels, RequestLabels};
use crate::telemetry::RequestLog;

/// The route of requests that no route takes, in metrics and logs.
pub const NO_ROUTE: &str = "none";
/// More headers than any browser or proxy chain sends.
pub const HEADERS_MAX: usize = 64;
/// Path and query: what every server should take (RFC 9110 section 4.1), and several times the longest legal list
/// query. hyper refuses above 64 KiB without our help, and without a problem document.
const TARGET_BYTES_MAX: usize = 8_000;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_BYTES_MAX: usize = 128;

/// One per route.
#[derive(Clone)]
pub struct Context {
    shared: Arc<Shared>,
    route: &'static str,
    access: Access,
    counted: Arc<Counted>,
}

/// The numbers of a route that nearly every request to it changes, once there are any.
#[derive(Default)]
struct Counted {
    /// By method.
    took: [OnceLock<Histogram>; METHODS.len()],
    /// By method: the status of its first good answer, and how many there were of those.
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

    fn admit(&self, request: &Request) -> Result<(), Problem> {
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
                tell(request, Newcomer::showed_the_key);
            }
            (Access::Keyed, None) => {
                if self.shared.local_only {
                    auth::require_local_name(request.uri(), headers)?;
                }
                tell(request, Newcomer::needs_no_key);
            }
            (Access::Open, _) => {}
        }
        auth::refuse_cross_site(request.method(), headers)
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

fn tell(request: &Request, what: fn(&Newcomer)) {
    if let Some(newcomer) = request.extensions().get::<Newcomer>() {
        what(newcomer);
    }
}

/// Wraps every route that the router finds, and the answer to what no route takes.
pub async fn attend(State(context): State<Context>, request: Request, next: Next) -> Response {
    answered(&context, request, |request| next.run(request)).await
}

/// What `answer` makes of a request, and all around it.
pub async fn answered<F>(context: &Context, request: Request, answer: impl FnOnce(Request) -> F) -> Response
where
    F: Future<Output = Response>,
{
    let started = Instant::now();
    let mut log = RequestLog::new(RequestId::of(request.headers()).0);
    let method = method_index(request.method());
    let mut answered = match context.admit(&request) {
        Ok(()) => {
            let answering = AssertUnwindSafe(async { answer(request).await }).catch_unwind();
            log.follow(pin!(answering))
                .await
                // Without a cause to log: the panic hook did, with the place.
                .unwrap_or_else(|_panic| {
                    Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR).into_response()
                })
        }
        Err(problem) => problem.into_response(),
    };
    let mut response = match problem_of(&mut answered) {
        Some(problem) => {
            let id = log.id().to_owned();
            log.within(|| written_out(problem, &id))
        }
        None => answered,
    };
    let status = response.status().as_u16();
    let took = started.elapsed();
    log.within(|| {
        tracing::debug!(
            http.method = METHODS[method],
            http.route = context.route,
            http.status = status,
            duration_ms = took.as_secs_f64() * 1_000.0,
            "request answered"
        );
    });
    let headers = response.headers_mut();
    headers.insert(
        REQUEST_ID,
        HeaderValue::from_maybe_shared(log.into_id()).expect(VISIBLE),
    );
    common_headers(headers);
    context.count(method, status, took);
    response
}

fn common_headers(headers: &mut HeaderMap) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Whatever says nothing else of itself changes, and a cache between must not answer with it.
    let cached = headers.entry(CACHE_CONTROL);
    cached.or_insert(HeaderValue::from_static("no-store"));
}

/// The note of a problem, or a refusal that the framework made.
fn problem_of(answer: &mut Response) -> Option<Problem> {
    let status = answer.status();
    let noted = answer.extensions_mut().remove::<Problem>();
    let refused =
        || (status.is_client_error() || status.is_server_error()).then(|| Problem::of_status(status));
    noted.or_else(refused)
}

/// The problem's document.
fn written_out(problem: Problem, id: &str) -> Response {
    if let Some(cause) = problem.cause() {
        let kind = problem.kind.slug();
        tracing::error!(problem = kind, cause, "request {id} failed");
    }
    problem.render(id)
}

/// Names one request in answers, problems and logs.
pub struct RequestId(Bytes);

impl RequestId {
    /// The caller's own id when it is fit for a log, otherwise a new one.
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

    /// A version 7 UUID (RFC 9562), with random bits that take no system call.
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

/// What both ways to an id see to.
const VISIBLE: &str = "it consists of visible ASCII characters";

/// A closed set: whatever a client makes up is the last.
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
    fn a_fit_request_id_is_kept_and_another_replaced() {
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
