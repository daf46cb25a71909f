//! The HTTP edge, and the only module that knows HTTP statuses. `routes` lists all routes, `listener` owns the sockets,
//! `request` does everything common to all requests, and the store keeps the orders.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::body::Bytes;
use tokio_util::sync::CancellationToken;

use crate::config::Secret;
use crate::diagnosis::{self, Monitor};
use crate::live::Feed;
use crate::metrics::{Metrics, RequestLabels};
use crate::order::OrderDefaults;
use crate::pull::Outside;
use crate::store::Store;
use crate::worker::{ServiceTrouble, ServiceWatch};

mod accept;
mod actions;
mod auth;
mod batch_memory;
mod body;
mod call;
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
mod openapi;
mod orders;
pub mod problem;
mod query;
mod queue;
mod request;
mod routes;
/// Public only for the benchmark of its cost.
#[doc(hidden)]
pub mod wire;

pub use dispatch::Routes;
use routes::Route;
pub use routes::document;

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
    /// The service that this node sends orders to; `None` without one.
    pub service: Option<ServiceWatch>,
    /// Settings that new orders get where their request has none.
    pub order_defaults: OrderDefaults,
    /// Settings of this node, for the judgement whether orders flow.
    pub judged_by: diagnosis::Settings,
    /// Cancelled when the server stops: probes report it and long polls end.
    pub draining: CancellationToken,
}

/// Interval between heartbeats on a stream, shorter than proxies wait before they close a silent connection.
pub const HEARTBEAT: Duration = Duration::from_secs(15);

/// Builds the routes; a request without a route gets a 404 problem.
pub fn router(app: App) -> Routes {
    let shared = Arc::new(Shared::new(app));
    for route in routes::table() {
        begin_at_zero(&shared.metrics, route);
    }
    Routes::new(&shared, routes::table())
}

/// Creates the counter of every documented answer, so that the first answer counts as an increase.
fn begin_at_zero(metrics: &Metrics, route: &'static Route) {
    for status in route.statuses() {
        drop(metrics.http_requests.get_or_create(&RequestLabels {
            method: route.method_name(),
            route: &route.path,
            status,
        }));
    }
}

/// Shared by all requests, behind an `Arc`.
struct Shared {
    store: Arc<dyn Store>,
    monitor: Arc<Monitor>,
    service: Option<ServiceWatch>,
    metrics: Metrics,
    draining: CancellationToken,
    api_key: Option<auth::KeyDigest>,
    in_flight: idempotency::InFlight,
    batch_memory: batch_memory::BatchMemory,
    local_only: bool,
    live: Feed,
    outside: Outside,
    heartbeat: Duration,
    order_defaults: OrderDefaults,
    /// The OpenAPI document of this server.
    document: LazyLock<Bytes>,
}

impl Shared {
    fn service_trouble(&self) -> Option<ServiceTrouble> {
        self.service.as_ref()?.trouble()
    }

    fn new(app: App) -> Shared {
        Shared {
            monitor: Monitor::new(app.store.clone(), app.judged_by, app.metrics.clone()),
            service: app.service,
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
            order_defaults: app.order_defaults,
            document: LazyLock::new(if app.api_key.is_some() {
                || openapi::rendered(document(), true)
            } else {
                || openapi::rendered(document(), false)
            }),
        }
    }
}

#[cfg(test)]
mod tests;
