//! Rules that hold for every route.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use super::routes::Access;
use super::*;
use crate::config::Database;
use crate::live::{Live, LiveSettings};
use crate::pull::OutsideSettings;
use crate::retry::RetryPolicy;
use crate::store::clock::system_clock;
use crate::store::open::{OpenOptions, open};

struct Served {
    router: BoxCloneSyncService<Request<Body>, Response, Infallible>,
    store: Arc<dyn Store>,
    draining: CancellationToken,
    live: Feed,
    outside: Outside,
    _folder: tempfile::TempDir,
}

impl Served {
    async fn new(api_key: Option<&str>) -> Served {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Metrics::new();
        let options = OpenOptions {
            peers: None,
            migrate: true,
            pending_max: None,
            metrics: metrics.clone(),
            clock: system_clock(),
            ordering: None,
        };
        let database = Database::Sqlite(folder.path().join("orderly.db"));
        let store = open(&database, options).await.unwrap();
        let draining = CancellationToken::new();
        let settings = LiveSettings { idle_sleep: false };
        let live = Live::start(store.clone(), metrics.clone(), settings, draining.clone()).feed();
        let outside = Outside {
            store: store.clone(),
            settings: OutsideSettings {
                lease: Duration::from_secs(30),
                attempt_timeout: Duration::from_mins(5),
                retry: RetryPolicy {
                    attempts_max: 5,
                    base: Duration::ZERO,
                    cap: Duration::ZERO,
                },
            },
            lease_requests: None,
            metrics: metrics.clone(),
        };
        let router = router(App {
            store: store.clone(),
            metrics,
            api_key: api_key.map(|key| Secret::new(key.to_owned())),
            local_only: false,
            live: live.clone(),
            outside: outside.clone(),
            heartbeat: HEARTBEAT,
            service: None,
            order_defaults: crate::order::OrderDefaults::default(),
            judged_by: crate::diagnosis::Settings::default(),
            draining: draining.clone(),
        });
        Served {
            router: BoxCloneSyncService::new(router),
            store,
            draining,
            live,
            outside,
            _folder: folder,
        }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1:5000");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: head.status,
            headers: head.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }
}

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the problem's type after checking what all problems have.
    fn problem(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{}",
            self.body
        );
        let problem: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(problem["instance"], self.header("x-request-id"));
        assert!(problem["title"].is_string() && problem["detail"].is_string());
        problem["type"].as_str().unwrap().to_owned()
    }
}

const JSON: (&str, &str) = ("content-type", "application/json");
const ORDER: &str = r#"{"user_id":104,"item_ids":[101,102,103],"total_amount":250.75}"#;

/// The path of a route with values for its parameters.
fn path_of(route: &Route) -> String {
    route
        .path
        .replace("{id}", "1")
        .replace("{file}", "x")
        .replace("{type}", "x")
}

#[tokio::test]
async fn every_path_names_its_methods() {
    let served = Served::new(None).await;
    let mut methods: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for route in routes::table() {
        let of_path = methods.entry(path_of(route)).or_default();
        assert!(of_path.insert(route.method_name()), "{}", route.path);
    }
    assert!(methods.len() > 25);
    for (path, methods) in methods {
        let refused = served.ask("TRACE", &path, &[], "").await;
        assert_eq!(refused.problem(), "/problems/method-not-allowed");
        let allowed = refused.header("allow").split(',');
        let allowed: BTreeSet<&str> = allowed.filter(|method| *method != "HEAD").collect();
        assert_eq!(allowed, methods, "{path}");
    }
}

#[tokio::test]
async fn a_request_without_a_route_gets_a_problem() {
    let served = Served::new(None).await;
    for path in [
        "/nothing",
        "/orders/",
        "/docs/../x",
        "/problems/nothing",
        "/docs/nothing.js",
    ] {
        let answer = served.ask("GET", path, &[], "").await;
        assert_eq!(answer.problem(), "/problems/not-found", "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    let answer = served.ask("GET", "/orders/%ff", &[], "").await;
    assert_eq!(answer.problem(), "/problems/order-not-found");
    let answer = served
        .ask("DELETE", "/orders", &[("x-request-id", "mine")], "")
        .await;
    assert_eq!(answer.header("allow"), "GET,HEAD,POST");
    assert_eq!(
        (answer.problem().as_str(), answer.header("x-request-id")),
        ("/problems/method-not-allowed", "mine")
    );
    let many: Vec<(String, &str)> = (0..=request::HEADERS_MAX)
        .map(|n| (format!("x-{n}"), "y"))
        .collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let answer = served.ask("GET", "/livez", &many, "").await;
    assert_eq!(answer.problem(), "/problems/too-many-headers");
}

#[tokio::test]
async fn every_route_that_is_not_open_requires_the_key() {
    let served = Served::new(Some("s3cret")).await;
    for route in routes::table() {
        let (method, path) = (route.method_name(), path_of(route));
        let answer = served.ask(method, &path, &[], "").await;
        assert_eq!(
            answer.status != StatusCode::UNAUTHORIZED,
            route.access == Access::Open,
            "{method} {path}"
        );
        let right = [("authorization", "Bearer s3cret")];
        let answer = served.ask(method, &path, &right, "").await;
        assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
    }
    let answer = served.ask("GET", "/nothing", &[], "").await;
    assert_eq!(answer.header("www-authenticate"), "Bearer");
    assert_eq!(answer.problem(), "/problems/unauthorized");
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer_byte_for_byte() {
    let served = Served::new(None).await;
    let first = served
        .ask("POST", "/orders", &[JSON, ("idempotency-key", "k")], ORDER)
        .await;
    assert_eq!(
        (first.status, first.header("location")),
        (StatusCode::CREATED, "/orders/1")
    );
    let again = served
        .ask("POST", "/orders", &[JSON, ("idempotency-key", "\"k\"")], ORDER)
        .await;
    assert_eq!((again.status, &again.body), (StatusCode::CREATED, &first.body));
    assert_eq!(again.header("idempotent-replayed"), "true");
    let other = served
        .ask("POST", "/orders", &[JSON, ("idempotency-key", "k")], "{}")
        .await;
    assert_eq!(other.problem(), "/problems/invalid-fields");
    let other = format!("{ORDER} ");
    let other = served
        .ask("POST", "/orders", &[JSON, ("idempotency-key", "k")], &other)
        .await;
    assert_eq!(other.problem(), "/problems/idempotency-key-reused");
}

#[tokio::test]
async fn a_long_poll_ends_when_the_order_is_final_or_the_server_stops() {
    let served = Served::new(None).await;
    served.ask("POST", "/orders", &[JSON], ORDER).await;
    served.ask("POST", "/orders", &[JSON], ORDER).await;
    let wait = [("prefer", "wait=60")];
    let started = Instant::now();
    let ((), held) = tokio::join!(
        async {
            served.store.cancel(crate::order::OrderId(1), None).await.unwrap();
        },
        served.ask("GET", "/orders/1", &wait, "")
    );
    assert!(held.body.contains(r#""status":"Cancelled""#));
    assert_eq!(held.header("preference-applied"), "wait=60");
    let (held, ()) = tokio::join!(served.ask("GET", "/orders/2", &wait, ""), async {
        served.draining.cancel();
    });
    assert!(held.body.contains(r#""status":"Pending""#));
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "no request waited to the end of its time"
    );
    assert_eq!(
        served.ask("GET", "/readyz", &[], "").await.problem(),
        "/problems/not-ready"
    );
    assert_eq!(served.ask("GET", "/livez", &[], "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_documentation_works_offline() {
    let served = Served::new(None).await;
    let page = served.ask("GET", "/docs", &[], "").await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (StatusCode::OK, "text/html; charset=utf-8")
    );
    assert!(!page.body.contains("http"));
    for file in ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-initializer.js"] {
        assert!(page.body.contains(file));
        let answer = served.ask("GET", &format!("/docs/{file}"), &[], "").await;
        assert_eq!(answer.status, StatusCode::OK, "{file}");
    }
    let document = served.ask("GET", "/openapi.json", &[], "").await;
    let document: Value = serde_json::from_str(&document.body).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(
        served.ask("GET", "/problems/busy", &[], "").await.status,
        StatusCode::OK
    );
}

/// Captured log, shared by its clones.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn take(&self) -> Vec<String> {
        let text = std::mem::take(&mut *self.0.lock().unwrap());
        let text = String::from_utf8(text).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_failure_is_a_problem_and_one_log_line_with_the_request_id() {
    let served = Served::new(None).await;
    let shared = Arc::new(Shared::new(App {
        store: served.store.clone(),
        metrics: Metrics::new(),
        api_key: None,
        local_only: false,
        live: served.live.clone(),
        outside: served.outside.clone(),
        heartbeat: HEARTBEAT,
        service: None,
        order_defaults: crate::order::OrderDefaults::default(),
        judged_by: crate::diagnosis::Settings::default(),
        draining: served.draining.clone(),
    }));
    let context = request::Context::new(shared, "/fails", Access::Open);
    let router = tower::service_fn(move |request: Request<Body>| {
        let context = context.clone();
        let fails = async |_, _, request: Request<Body>| {
            if request.uri().path() == "/panic" {
                // Logs like the panic hook.
                tracing::error!("panicked");
                panic!("at the sight of this");
            }
            Err(problem::Problem::unexpected(std::io::Error::other(
                "no cause for alarm",
            )))
        };
        async move { Ok(request::answered(&context, request, fails).await) }
    });
    let router = BoxCloneSyncService::new(router);
    let served = Served { router, ..served };
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::ERROR)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _logged = tracing::subscriber::set_default(log);
    for (path, hooked, said) in [
        ("/panic", 1, "the handler panicked"),
        ("/fail", 0, "no cause for alarm"),
    ] {
        let answer = served.ask("GET", path, &[("x-request-id", "r-7")], "").await;
        assert_eq!(answer.problem(), "/problems/unexpected");
        assert!(!answer.body.contains("sight") && !answer.body.contains("alarm"));
        let lines = lines.take();
        let [line] = &lines[hooked..] else {
            panic!("a failure is logged once: {lines:?}")
        };
        assert!(
            line.contains(said) && line.contains("request.id=\"r-7\""),
            "{line}"
        );
    }
}
