//! The HTTP API in process: the server's routes over a store with a test clock, and checks that apply to every answer.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, Request, StatusCode};
use axum::response::Response;
use http_body_util::BodyExt;
use orderly::config::Secret;
use orderly::http::problem::ProblemType;
use orderly::http::{App, Routes, router};
use orderly::live::{Feed, Live, LiveSettings};
use orderly::order::Ordering;
use orderly::store::{Store, layer::Layer};
use orderly::worker::Worker;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::support::Harness;
use crate::support::layers::layered;

mod described;
mod lines;
mod setup;
pub mod workers;

use lines::in_lines;
pub use setup::Setup;

pub const ORDER: &str = r#"{"user_id":104,"item_ids":[101,102,103],"total_amount":250.75}"#;
pub const JSON: &str = "application/json";
pub const NDJSON: &str = "application/x-ndjson";

/// [`ORDER`] with further fields.
pub fn order_with(field: &str) -> String {
    format!("{},{field}}}", ORDER.trim_end_matches('}'))
}

pub struct Api {
    /// The store behind the API, for workers and time, and for checks of what is stored.
    pub harness: Harness,
    /// Cancelled to stop the server.
    pub draining: CancellationToken,
    router: Routes,
    live: Live,
    /// Claims orders for external workers.
    worker: Option<Worker>,
}

impl Api {
    pub async fn open() -> Api {
        Api::build(|store| store, Setup::default()).await
    }

    pub async fn with_key(api_key: &str) -> Api {
        let setup = Setup {
            api_key: Some(api_key),
            local_only: true,
            ..Setup::default()
        };
        Api::build(|store| store, setup).await
    }

    /// A server that only its own machine can reach.
    pub async fn local() -> Api {
        let setup = Setup {
            local_only: true,
            ..Setup::default()
        };
        Api::build(|store| store, setup).await
    }

    pub async fn with_pending_max(pending_max: u64) -> Api {
        let mut harness = Harness::sqlite().await;
        harness.reopen_with_pending_max(Some(pending_max)).await;
        Api::before(harness, |store| store, &Setup::default())
    }

    /// Sets whether the orders of a user run one after another.
    pub async fn with_ordering(ordering: Ordering) -> Api {
        let mut harness = Harness::sqlite().await;
        harness.reopen_with_ordering(ordering).await;
        Api::before(harness, |store| store, &Setup::default())
    }

    /// Requests see the store through `layer`; the harness sees the store itself.
    pub async fn layered(layer: impl Layer) -> Api {
        Api::build(|store| layered(store, layer), Setup::default()).await
    }

    pub async fn with_heartbeat(heartbeat: Duration) -> Api {
        let setup = Setup {
            heartbeat,
            ..Setup::default()
        };
        Api::build(|store| store, setup).await
    }

    async fn build(layer: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>, setup: Setup<'_>) -> Api {
        Api::before(Harness::sqlite().await, layer, &setup)
    }

    fn before(
        harness: Harness,
        layer: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
        setup: &Setup<'_>,
    ) -> Api {
        let draining = CancellationToken::new();
        let store = layer(harness.store().clone());
        let settings = LiveSettings { idle_sleep: false };
        let live = Live::start(
            store.clone(),
            harness.metrics().clone(),
            settings,
            draining.clone(),
        );
        let (outside, worker) = workers::outside(&store, harness.metrics(), setup.pull);
        let router = router(App {
            store,
            metrics: harness.metrics().clone(),
            api_key: setup.api_key.map(|key| Secret::new(key.to_owned())),
            local_only: setup.local_only,
            live: live.feed(),
            outside,
            heartbeat: setup.heartbeat,
            service: None,
            order_defaults: setup.defaults,
            judged_by: orderly::diagnosis::Settings::default(),
            draining: draining.clone(),
        });
        Api {
            harness,
            draining,
            router,
            live,
            worker,
        }
    }

    /// Ends a test and verifies the store.
    pub async fn close(self) {
        if let Some(worker) = self.worker {
            worker.drain(Instant::now()).await;
        }
        self.harness.assert_sound().await;
        self.draining.cancel();
        self.live.ended().await.expect("the feed task does not panic");
        self.harness.store().close().await;
    }

    /// Ends a test and checks that nothing was stored: no order, no event, no key.
    pub async fn close_empty(self) {
        assert_eq!(
            self.stored().await,
            0,
            "something was stored although nothing was accepted"
        );
        self.close().await;
    }

    /// The routes, for a listener in front of them.
    pub fn router(&self) -> Routes {
        self.router.clone()
    }

    /// The feed behind the streams.
    pub fn feed(&self) -> Feed {
        self.live.feed()
    }

    pub async fn stored(&self) -> u64 {
        self.harness.counters().await.total()
    }
}

impl Api {
    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    pub async fn get_with(&self, path: &str, header: (&str, &str)) -> Answer {
        self.ask("GET", path, &[header], "").await
    }

    pub async fn act(&self, path: &str) -> Answer {
        self.ask("POST", path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.ask("POST", path, &[("content-type", JSON)], body).await
    }

    pub async fn post_keyed(&self, path: &str, key: &str, body: impl Into<Body>) -> Answer {
        let headers = [("content-type", JSON), ("idempotency-key", key)];
        self.ask("POST", path, &headers, body).await
    }

    pub async fn post_lines(&self, body: impl Into<Body>) -> Answer {
        self.ask("POST", "/orders/batch", &[("content-type", NDJSON)], body)
            .await
    }

    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let (head, body) = self.response(method, path, headers, body).await.into_parts();
        let body = body.collect().await.expect("answers are complete");
        let answer = Answer {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        };
        answer.assert_common(&format!("{method} {path}"));
        described::assert_described(method, path, &answer);
        answer
    }
}

/// Requests whose answers are left unread.
impl Api {
    pub async fn response(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        let named = headers.iter().any(|(name, _)| *name == "host");
        let host: &[_] = if named { &[] } else { &[("host", "127.0.0.1:5000")] };
        for (name, value) in headers.iter().chain(host) {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).expect("a well-formed request");
        let Ok(response) = self.router.clone().oneshot(request).await;
        response
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("our headers are ASCII"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("our answers are UTF-8")
    }

    pub fn bytes(&self) -> &Bytes {
        &self.body
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// The body of a 200 answer.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        self.json()
    }

    #[track_caller]
    pub fn created(&self) -> Value {
        assert_eq!(self.status, StatusCode::CREATED, "{}", self.text());
        self.json()
    }

    /// Status, problem type and invalid fields of a refusal.
    pub fn refusal(&self) -> (u16, String, Vec<String>) {
        let problem = self.json();
        let kind = problem["type"].as_str().unwrap_or_default();
        let errors = problem["errors"].as_array().cloned().unwrap_or_default();
        let pointers = errors.iter().filter_map(|error| error["pointer"].as_str());
        (
            self.status.as_u16(),
            kind.trim_start_matches("/problems/").to_owned(),
            pointers.map(str::to_owned).collect(),
        )
    }

    /// Asserts a refusal without a list of fields.
    #[track_caller]
    pub fn assert_refused(&self, status: u16, kind: &str) {
        let expected = (status, kind.to_owned(), Vec::new());
        assert_eq!(self.refusal(), expected, "{}", self.text());
    }

    /// Asserts a refusal because of exactly these fields or parameters.
    #[track_caller]
    pub fn assert_refused_at(&self, status: u16, kind: &str, pointers: &[&str]) {
        let pointers = pointers.iter().map(|&pointer| pointer.to_owned()).collect();
        assert_eq!(
            self.refusal(),
            (status, kind.to_owned(), pointers),
            "{}",
            self.text()
        );
    }

    /// The whole answer for a snapshot, without headers that are common or follow from the body.
    pub fn shown(&self) -> String {
        let common = ["content-length", "etag", "x-content-type-options", "x-request-id"];
        let mut lines: Vec<String> = self
            .headers
            .keys()
            .map(HeaderName::as_str)
            .filter(|name| !common.contains(name) && *name != "cache-control")
            .map(|name| format!("{name}: {}", self.header(name)))
            .collect();
        lines.sort();
        lines.insert(0, self.status.to_string());
        lines.push(String::new());
        lines.push(in_lines(self.text()));
        let mut shown = lines
            .join("\n")
            .replace(self.header("x-request-id"), "[request id]");
        // Cursors contain a random feed identity.
        for name in ["orderly-cursor: ", "\"cursor\":\""] {
            let mut from = 0;
            while let Some(found) = shown[from..].find(name) {
                let begin = from + found + name.len();
                let end = shown[begin..]
                    .find(['"', '\n'])
                    .map_or(shown.len(), |length| begin + length);
                shown.replace_range(begin..end, "[cursor]");
                from = begin;
            }
        }
        shown
    }

    /// Checks that apply to every answer.
    fn assert_common(&self, request: &str) {
        assert!(
            !self.header("x-request-id").is_empty(),
            "{request} has no request id"
        );
        assert_eq!(self.header("x-content-type-options"), "nosniff", "{request}");
        assert!(!self.header("cache-control").is_empty(), "{request}");
        let refused = self.status.is_client_error() || self.status.is_server_error();
        if !refused {
            return;
        }
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{request}"
        );
        let problem = self.json();
        let kind = problem["type"].as_str().unwrap_or_default();
        let documented = kind.strip_prefix("/problems/").and_then(ProblemType::of_slug);
        let documented = documented.unwrap_or_else(|| panic!("{request}: {kind} is not documented"));
        assert_eq!(problem["status"], self.status.as_u16(), "{request}");
        assert_eq!(problem["title"], documented.title(), "{request}");
        assert_eq!(problem["instance"], self.header("x-request-id"), "{request}");
        assert!(
            problem["detail"].as_str().is_some_and(|text| !text.is_empty()),
            "{request}"
        );
        let repeatable = self.status == StatusCode::SERVICE_UNAVAILABLE || kind.ends_with("in-flight");
        assert_eq!(repeatable, !self.header("retry-after").is_empty(), "{request}");
    }
}
