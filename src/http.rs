//! The HTTP edge: all routes on one screen, and the only module that knows HTTP statuses. `listener` owns the sockets,
//! `request` does everything common to all requests, and the store keeps the orders.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::handler::Handler;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get, post};
use tokio_util::sync::CancellationToken;

use crate::config::Secret;
use crate::live::Feed;
use crate::metrics::{Metrics, RequestLabels};
use crate::pull::Outside;
use crate::store::Store;

mod accept;
mod auth;
mod batch_memory;
mod body;
mod cursor;
mod dispatch;
mod docs;
mod explain;
mod fields;
mod framing;
mod health;
mod idempotency;
mod json;
mod leases;
pub mod listener;
mod live;
mod metrics;
mod negotiation;
mod observed_stream;
pub mod openapi;
mod orders;
pub mod problem;
mod query;
mod queue;
mod request;
/// Public only for the benchmark of its cost.
#[doc(hidden)]
pub mod wire;

pub use dispatch::Routes;

/// Everything the routes need.
#[derive(Clone)]
pub struct App {
    pub store: Arc<dyn Store>,
    pub metrics: Metrics,
    /// Required of every caller except on open routes; `None` admits every caller.
    pub api_key: Option<Secret>,
    /// Set when only this machine can connect. Without a key nothing else guards the orders, so requests must then use
    /// a local host name: a web page may have pointed its own name at this machine's address.
    pub local_only: bool,
    /// Feed that long polls and streams follow.
    pub live: Feed,
    /// Leases to external workers.
    pub outside: Outside,
    /// The time a stream may be silent before a heartbeat is sent.
    pub heartbeat: Duration,
    /// Cancelled when the server stops: probes report it and long polls end.
    pub draining: CancellationToken,
}

/// Access rule of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Needs the API key, if one is set.
    Keyed,
    /// Needs no key: load balancers have none, and these routes show no data.
    Open,
}

/// Interval between heartbeats on a stream, shorter than proxies wait before they close a silent connection.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
const ROUTES: usize = 30;
const ORDERS: &str = "/orders";
const ORDER: &str = "/orders/{id}";
const LISTED: &str = "the route is listed in `routes`";

fn routes() -> [(&'static str, Access, MethodRouter<Arc<Shared>>); ROUTES] {
    use Access::{Keyed, Open};
    [
        (ORDERS, Keyed, get(orders::list).post(accept::one)),
        ("/orders/batch", Keyed, post(accept::batch)),
        ("/orders/retry", Keyed, post(orders::retry_matching)),
        (ORDER, Keyed, get(orders::read)),
        ("/orders/{id}/events", Keyed, get(orders::history)),
        ("/orders/{id}/explain", Keyed, get(explain::explain)),
        ("/orders/{id}/cancel", Keyed, post(orders::cancel)),
        ("/orders/{id}/retry", Keyed, post(orders::retry)),
        ("/leases", Keyed, post(leases::take)),
        ("/leases/{id}/renew", Keyed, post(leases::renew)),
        ("/leases/{id}/complete", Keyed, post(leases::complete)),
        ("/leases/{id}/fail", Keyed, post(leases::fail)),
        ("/leases/{id}/release", Keyed, post(leases::release)),
        ("/events", Keyed, get(live::events)),
        ("/ws", Keyed, get(live::socket::open)),
        ("/queue", Keyed, get(queue::read)),
        ("/queue/pause", Keyed, post(queue::pause)),
        ("/queue/resume", Keyed, post(queue::resume)),
        ("/metrics", Keyed, get(metrics::negotiated)),
        ("/metrics/prometheus", Keyed, get(metrics::prometheus)),
        ("/livez", Open, get(health::livez)),
        ("/readyz", Open, get(health::readyz)),
        ("/healthz", Open, get(health::healthz)),
        ("/", Open, get(docs::root)),
        ("/openapi.json", Open, get(docs::openapi)),
        ("/docs", Open, get(docs::page)),
        ("/docs/", Open, get(docs::folder)),
        ("/docs/{file}", Open, get(docs::file)),
        ("/problems", Open, get(docs::problems)),
        ("/problems/{type}", Open, get(docs::problem)),
    ]
}

/// Builds the routes; a request without a route gets a 404 problem.
pub fn router(app: App) -> Routes {
    let shared = Arc::new(Shared::new(app));
    let context = |pattern, access| request::Context::new(shared.clone(), pattern, access);
    let (mut orders, mut order) = (None, None);
    let mut router = Router::new();
    for (pattern, access, methods) in routes() {
        let context = context(pattern, access);
        begin_at_zero(&shared.metrics, pattern);
        match pattern {
            ORDERS => orders = Some(context.clone()),
            ORDER => order = Some(context.clone()),
            _ => {}
        }
        let around = from_fn_with_state(context, request::attend);
        router = router.route(pattern, methods.layer(around));
    }
    let around = from_fn_with_state(context(request::NO_ROUTE, Access::Keyed), request::attend);
    Routes(Arc::new(dispatch::Dispatch {
        orders: orders.expect(LISTED),
        order: order.expect(LISTED),
        router: router
            .fallback(docs::nothing_here.layer(around))
            .with_state(shared.clone()),
        shared,
    }))
}

/// Creates the counter of every documented answer, so that the first answer counts as an increase.
fn begin_at_zero(metrics: &Metrics, route: &'static str) {
    for (method, path, status) in openapi::answers() {
        if path == route {
            drop(metrics.http_requests.get_or_create(&RequestLabels {
                method,
                route,
                status: *status,
            }));
        }
    }
}

/// Shared by all requests, behind an `Arc`.
struct Shared {
    store: Arc<dyn Store>,
    metrics: Metrics,
    draining: CancellationToken,
    api_key: Option<auth::KeyDigest>,
    in_flight: idempotency::InFlight,
    batch_memory: batch_memory::BatchMemory,
    local_only: bool,
    live: Feed,
    outside: Outside,
    heartbeat: Duration,
}

impl Shared {
    fn new(app: App) -> Shared {
        Shared {
            store: app.store,
            metrics: app.metrics,
            draining: app.draining,
            api_key: app.api_key.as_ref().map(auth::KeyDigest::of),
            in_flight: idempotency::InFlight::default(),
            batch_memory: batch_memory::BatchMemory::new(batch_memory::BATCH_MEMORY_BYTES_MAX),
            local_only: app.local_only,
            live: app.live,
            outside: app.outside,
            heartbeat: app.heartbeat,
        }
    }
}

#[cfg(test)]
mod tests;
