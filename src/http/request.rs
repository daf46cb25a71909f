//! What is common to all requests, in one pass: their id, who may call, panics, problems written out, metrics
//! and the log line. What they ask for is left to the routes.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::extract::{Request, State};
use axum::http::header::X_CONTENT_TYPE_OPTIONS;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tracing::Instrument;
use uuid::Uuid;

use super::problem::{Problem, ProblemType};
use super::{Access, Shared, auth};
use crate::metrics::{RequestLabels, RouteLabels};

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
}

impl Context {
    pub fn new(shared: Arc<Shared>, route: &'static str, access: Access) -> Context {
        Context {
            shared,
            route,
            access,
        }
    }

    fn admit(&self, request: &Request) -> Result<(), Problem> {
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
            (Access::Keyed, Some(key)) => key.admit(headers)?,
            (Access::Keyed, None) if self.shared.local_only => auth::require_local_name(headers)?,
            (Access::Keyed, None) | (Access::Open, _) => {}
        }
        auth::refuse_cross_site(request.method(), headers)
    }

    fn count(&self, method: &'static str, status: u16, took: Duration) {
        let metrics = &self.shared.metrics;
        let labels = RequestLabels {
            method,
            route: self.route,
            status,
        };
        metrics.http_requests.get_or_create(&labels).inc();
        let labels = RouteLabels { route: self.route };
        metrics
            .http_request_duration
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }
}

/// Wraps every route and the answer to what no route takes.
pub async fn attend(State(context): State<Context>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = RequestId::of(request.headers());
    let method = method_label(request.method());
    // At error, so that it is there for every line that passes the filter: each names its request, the one of the
    // panic hook included.
    let span = tracing::error_span!("request", request.id = id.as_str());
    let answer = match context.admit(&request) {
        Ok(()) => AssertUnwindSafe(next.run(request))
            .catch_unwind()
            .instrument(span.clone())
            .await
            // Without a cause to log: the panic hook did, with the place.
            .unwrap_or_else(|_panic| Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR).into_response()),
        Err(problem) => problem.into_response(),
    };
    let mut response = span.in_scope(|| written_out(answer, &id));
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id.0);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));

    let status = response.status().as_u16();
    let took = started.elapsed();
    context.count(method, status, took);
    tracing::debug!(
        parent: &span,
        http.method = method,
        http.route = context.route,
        http.status = status,
        duration_ms = took.as_secs_f64() * 1_000.0,
        "request answered"
    );
    response
}

/// Turns the note of a problem, and every refusal that the framework made, into a problem document.
fn written_out(mut answer: Response, id: &RequestId) -> Response {
    let status = answer.status();
    let problem = match answer.extensions_mut().remove::<Problem>() {
        Some(problem) => problem,
        None if status.is_client_error() || status.is_server_error() => Problem::of_status(status),
        None => return answer,
    };
    if let Some(cause) = problem.cause() {
        let kind = problem.kind.slug();
        tracing::error!(problem = kind, cause, "request {} failed", id.as_str());
    }
    problem.render(id.as_str())
}

/// Names one request in answers, problems and logs.
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The caller's own id when it is fit for a log, otherwise a new one.
    fn of(headers: &HeaderMap) -> RequestId {
        let fit = |value: &&HeaderValue| {
            let bytes = value.as_bytes();
            (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
        };
        match headers.get(REQUEST_ID).filter(fit) {
            Some(given) => RequestId(given.clone()),
            None => RequestId::generate(),
        }
    }

    /// A version 7 UUID (RFC 9562), with random bits that take no system call.
    pub fn generate() -> RequestId {
        let since_epoch = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let millis = u64::try_from(since_epoch.as_millis()).unwrap_or_default();
        let id = uuid::Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid();
        let text = id
            .hyphenated()
            .encode_lower(&mut Uuid::encode_buffer())
            .to_owned();
        RequestId(HeaderValue::try_from(text).expect("a UUID consists of hexadecimal digits and hyphens"))
    }

    pub fn as_str(&self) -> &str {
        self.0
            .to_str()
            .expect("made of visible ASCII characters in both ways")
    }
}

/// A closed set: whatever a client makes up is `other`.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
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
