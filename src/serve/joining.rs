//! Announces a node to its store before it starts to work.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::ServeError;
use crate::config::Config;
use crate::lease::{NodeId, ProcessorKind};
use crate::store::clock::system_clock;
use crate::store::{
    Breaker, Heartbeat, NodeReport, RefusedChange, Store, StoreError, StoreHealth, log_refused,
};

/// Maximum time the start waits for a store that was not ready when opened. Later the worker's heartbeats announce the
/// node.
const JOIN_WAIT_MAX: Duration = Duration::from_secs(1);

pub(super) async fn join(
    store: &dyn Store,
    node: NodeId,
    name: &Arc<str>,
    (slots, kind): (u32, ProcessorKind),
    config: &Config,
) -> Result<(), ServeError> {
    let heartbeat = Heartbeat {
        node,
        slots,
        busy: 0,
        leases: Vec::new(),
        lease: config.lease,
        breaker: Breaker::Closed,
        processor: Some(kind),
        report: NodeReport {
            name: name.clone(),
            clock: Some(system_clock()()),
            last_start_age: None,
        },
    };
    // Read before the call, which may change it: a failure of a ready store is an error, but a store that never was ready
    // only waits for its database.
    let health = store.health();
    let joining = store.join(heartbeat, config.crashes_max);
    let joined = match &health {
        StoreHealth::Ready => joining.await,
        StoreHealth::NotReady(reason) => {
            let Ok(joined) = timeout(JOIN_WAIT_MAX, joining).await else {
                tracing::warn!(
                    reason,
                    "cannot announce this node yet; serving without the store until it answers. `orderly doctor` says what to do"
                );
                return Ok(());
            };
            joined
        }
    };
    let given_back = match (joined, health) {
        (Ok(given_back), _) => given_back,
        (Err(error @ StoreError::Unavailable { .. }), StoreHealth::NotReady(_)) => {
            tracing::warn!(%error, "cannot announce this node yet; serving without the store until it can be reached. `orderly doctor` says what to do");
            return Ok(());
        }
        (Err(error), _) => return Err(ServeError::Join(error)),
    };
    log_refused(RefusedChange::TakingBack, &given_back.refused);
    if given_back.pending + given_back.poisoned > 0 {
        tracing::warn!(
            pending = given_back.pending,
            poisoned = given_back.poisoned,
            "took over orders that were being processed when the last node died; they start again"
        );
    }
    Ok(())
}
