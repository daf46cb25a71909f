//! Takes orders back from nodes whose leases expired.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::log_lines::Latch;
use crate::order::OrderId;
use crate::store::{GiveBack, RefusedChange, Store, StoreError, log_refused};

/// Maximum number of orders that could not be taken back to remember for the log.
const REFUSED_MAX: usize = 1_000;

/// Sweeps after every heartbeat of this node until stopped. A node that was suspended, or whose clock jumped forward,
/// thus renews its own leases first and does not take its running orders from itself.
pub async fn run(
    store: Arc<dyn Store>,
    request: GiveBack,
    heartbeat: Arc<Notify>,
    stopped: CancellationToken,
) {
    let failing = Latch::default();
    // Each is logged once, not after every sweep.
    let mut refused = HashSet::new();
    loop {
        tokio::select! {
            () = stopped.cancelled() => return,
            () = heartbeat.notified() => {}
        }
        if let Some(error) = failing.new_failure(&sweep(&*store, request, &mut refused).await) {
            tracing::warn!(%error, "cannot sweep expired leases; retrying. If it goes on, `orderly doctor` says why");
        }
    }
}

async fn sweep(
    store: &dyn Store,
    request: GiveBack,
    refused: &mut HashSet<OrderId>,
) -> Result<(), StoreError> {
    let mut refused_now = HashSet::new();
    let mut newly_refused = Vec::new();
    let mut request = request;
    loop {
        let given_back = store.give_back_expired(request).await?;
        let room = REFUSED_MAX.saturating_sub(refused_now.len());
        for order in given_back.refused.into_iter().take(room) {
            refused_now.insert(order.order_id);
            if !refused.contains(&order.order_id) {
                newly_refused.push(order);
            }
        }
        if given_back.pending + given_back.poisoned > 0 {
            tracing::warn!(
                pending = given_back.pending,
                poisoned = given_back.poisoned,
                "took back orders whose leases expired; they start again. `orderly doctor` names orders that lose them again and again"
            );
        }
        request.after = given_back.next;
        if request.after.is_none() {
            log_refused(RefusedChange::TakingBack, &newly_refused);
            *refused = refused_now;
            return Ok(());
        }
    }
}
