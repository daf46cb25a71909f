//! Takes back orders from nodes that fell silent.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::order::OrderId;
use crate::store::{GiveBack, RefusedChange, Store, StoreError, tell_refused};

/// Orders that may not be taken back, remembered for the log.
const REFUSED_MAX: usize = 1_000;

/// Sweeps until stopped, after every heartbeat of this node while orders are open on any. A node that slept, or whose
/// clock was set forward, renews its own leases first that way, and does not take its running orders from itself.
pub async fn run(store: Arc<dyn Store>, request: GiveBack, beaten: Arc<Notify>, stopped: CancellationToken) {
    let mut failing = false;
    // Told once, not after every sweep.
    let mut refused = HashSet::new();
    loop {
        tokio::select! {
            () = stopped.cancelled() => return,
            () = beaten.notified() => {}
        }
        match sweep(&*store, request, &mut refused).await {
            Ok(()) => failing = false,
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "cannot look for lost leases, trying again");
                    failing = true;
                }
            }
        }
    }
}

async fn sweep(
    store: &dyn Store,
    request: GiveBack,
    refused: &mut HashSet<OrderId>,
) -> Result<(), StoreError> {
    let mut refused_now = HashSet::new();
    let mut news = Vec::new();
    let mut request = request;
    loop {
        let given_back = store.give_back_expired(request).await?;
        let room = REFUSED_MAX.saturating_sub(refused_now.len());
        for order in given_back.refused.into_iter().take(room) {
            refused_now.insert(order.order_id);
            if !refused.contains(&order.order_id) {
                news.push(order);
            }
        }
        if given_back.pending + given_back.poisoned > 0 {
            tracing::warn!(
                pending = given_back.pending,
                poisoned = given_back.poisoned,
                "took orders back whose leases ran out"
            );
        }
        request.after = given_back.next;
        if request.after.is_none() {
            tell_refused(RefusedChange::TakingBack, &news);
            *refused = refused_now;
            return Ok(());
        }
    }
}
