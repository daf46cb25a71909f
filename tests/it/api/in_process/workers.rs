//! The API of a server whose orders go to external workers.

use std::sync::Arc;
use std::time::Duration;

use orderly::metrics::Metrics;
use orderly::pull::{LeaseRequests, Outside, OutsideSettings};
use orderly::retry::RetryPolicy;
use orderly::store::Store;
use orderly::worker::{Worker, WorkerSettings};
use serde_json::Value;
use tokio::time::Instant;

use super::{Api, Setup};
use crate::support::make::NODE_A;

/// Backoff takes no time.
fn settings() -> WorkerSettings {
    WorkerSettings {
        node: NODE_A,
        name: "api".into(),
        slots: 0,
        lease: Duration::from_secs(30),
        attempt_timeout: Duration::from_mins(5),
        retry: RetryPolicy {
            attempts_max: 2,
            base: Duration::ZERO,
            cap: Duration::ZERO,
        },
        rate_limit: None,
        idle_sleep: false,
    }
}

/// State of the worker routes, and the dispatcher that claims for them.
pub(super) fn outside(store: &Arc<dyn Store>, metrics: &Metrics, pull: bool) -> (Outside, Option<Worker>) {
    let lease_requests = pull.then(|| LeaseRequests::new(store.wakeups(), metrics.clone()));
    let worker = lease_requests
        .clone()
        .map(|lease_requests| Worker::start_for(lease_requests, store.clone(), settings(), metrics.clone()));
    let outside = Outside {
        store: store.clone(),
        settings: OutsideSettings {
            lease: settings().lease,
            attempt_timeout: settings().attempt_timeout,
            retry: settings().retry,
        },
        lease_requests,
        metrics: metrics.clone(),
    };
    (outside, worker)
}

impl Api {
    /// A server whose orders go to external workers.
    pub async fn for_workers() -> Api {
        Api::layered_for_workers(|store| store).await
    }

    /// Lets requests and the dispatcher see the store through `layer`.
    pub async fn layered_for_workers(layer: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> Api {
        let setup = Setup {
            pull: true,
            ..Setup::default()
        };
        Api::build(layer, setup).await
    }

    /// Stops handing out orders, as a stopping server does.
    pub async fn stop_handing_out(&mut self) {
        let worker = self.worker.take().expect("the server hands out orders");
        worker.drain(Instant::now()).await;
    }

    /// Takes the only available lease.
    pub async fn take_one(&self) -> Value {
        let mut leases = self.post("/leases", r#"{"max":2}"#).await.ok()["leases"].take();
        let leases = leases.as_array_mut().expect("a list of leases");
        assert_eq!(leases.len(), 1, "{leases:?}");
        leases.remove(0)
    }
}
