//! Takes back orders from nodes that fell silent.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::store::{GiveBack, Store, StoreError};

/// Sweeps until stopped, after every heartbeat of this node while orders are open on any. A node that slept, or whose
/// clock was set forward, renews its own leases first that way, and does not take its running orders from itself.
pub async fn run(store: Arc<dyn Store>, request: GiveBack, beaten: Arc<Notify>, stopped: CancellationToken) {
    let mut failing = false;
    loop {
        tokio::select! {
            () = stopped.cancelled() => return,
            () = beaten.notified() => {}
        }
        match sweep(&*store, request).await {
            Ok(()) => failing = false,
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "cannot look for lost leases, trying on");
                    failing = true;
                }
            }
        }
    }
}

async fn sweep(store: &dyn Store, request: GiveBack) -> Result<(), StoreError> {
    loop {
        let given_back = store.give_back_expired(request).await?;
        if given_back.pending + given_back.poisoned > 0 {
            tracing::warn!(
                pending = given_back.pending,
                poisoned = given_back.poisoned,
                "took orders back whose leases ran out"
            );
        }
        if !given_back.more {
            return Ok(());
        }
    }
}
