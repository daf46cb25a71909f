//! Claims orders for waiting lease requests of external workers, and gives back leases that were not picked up. Without
//! requests it only polls: the pace of the node, and with it the sweep, depends on the result.

use std::sync::Arc;

use tokio::time::{Instant, sleep};

use super::backoff::Backoff;
use super::executor::observe_wait;
use super::results::{STORE_RETRY_MAX, STORE_RETRY_MIN};
use super::waits::{POLL_INTERVAL, Waits, woken_within};
use super::{Pace, Shared, jittered};
use crate::lease::{Lease, LeaseKey, Outcome};
use crate::order::OrderStatus;
use crate::pull::{ClaimBatch, LeaseRequests};
use crate::store::{ClaimRequest, Claimed, StoreError};

pub(super) async fn run(shared: Arc<Shared>, requests: Arc<LeaseRequests>) {
    let _closed = ClosedAtTheEnd(&requests);
    let mut waits = Waits::new(&shared);
    let mut suspect: Option<LeaseKey> = None;
    while !shared.draining.is_cancelled() {
        give_back_returned(&shared, &requests);
        let batch = requests.next_batch();
        let may_take_suspect = !is_out(&shared, &mut suspect).await;
        match claim(&shared, &batch, may_take_suspect).await {
            Ok(mut claimed) => {
                let taken = claimed.leases.iter().find(|lease| lease.suspect);
                suspect = taken.map(Lease::key).or(suspect);
                waits.succeeded(&claimed);
                let leases = std::mem::take(&mut claimed.leases);
                let is_dry = leases.len() < batch.orders_max();
                requests.serve(batch, leases);
                if !requests.has_waiting() && !claimed.idle {
                    wait_for_a_worker(&shared, &requests).await;
                } else if is_dry || !requests.has_waiting() {
                    let may_sleep = shared.settings.idle_sleep && !requests.has_waiting();
                    waits.for_work(&claimed, may_sleep).await;
                }
            }
            Err(error) => {
                waits.failed(&error, "cannot claim orders for external workers; retrying");
                requests.put_off(batch, error);
                waits.after_failure().await;
            }
        }
    }
    // Answers waiting requests, and gives back leases of requests that are gone before the node leaves.
    requests.close();
    give_back_returned(&shared, &requests);
}

/// Closes the requests however the dispatcher ends.
struct ClosedAtTheEnd<'d>(&'d Arc<LeaseRequests>);

impl Drop for ClosedAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Reports whether the last granted suspect is still leased. This node does not know which worker has it, so the next
/// suspect waits: if one worker crashed on two, both could count as poisoned.
async fn is_out(shared: &Shared, suspect: &mut Option<LeaseKey>) -> bool {
    let Some(key) = *suspect else { return false };
    let is_out = match shared.store.claimed(key.order_id).await {
        Ok(latest) => latest
            .is_some_and(|latest| latest.key == Some(key) && latest.order.status == OrderStatus::Processing),
        // The following claim is about to fail too.
        Err(_) => true,
    };
    if !is_out {
        *suspect = None;
    }
    is_out
}

/// Must not be cancelled, like any claim.
async fn claim(shared: &Shared, batch: &ClaimBatch, suspect: bool) -> Result<Claimed, StoreError> {
    let claimed = shared
        .store
        .claim(ClaimRequest {
            node: shared.settings.node,
            orders_max: batch.orders_max(),
            lease: batch.lease().min(shared.settings.attempt_timeout),
            suspect,
            processor: Some(shared.processor_kind()),
        })
        .await?;
    shared.set_pace(if claimed.idle { Pace::Idle } else { Pace::Working });
    shared.starts.count(claimed.leases.len(), &shared.metrics);
    for lease in &claimed.leases {
        observe_wait(shared, lease);
    }
    Ok(claimed)
}

/// Waits for a request while orders are open; newly accepted orders do not matter.
async fn wait_for_a_worker(shared: &Shared, requests: &LeaseRequests) {
    let look = Instant::now() + jittered(POLL_INTERVAL);
    while !requests.has_waiting() && !requests.has_returned() {
        let left = look.saturating_duration_since(Instant::now());
        if left.is_zero() || !woken_within(shared, left).await {
            return;
        }
    }
}

fn give_back_returned(shared: &Arc<Shared>, requests: &LeaseRequests) {
    for lease in requests.returned() {
        shared.executors.spawn(give_back(shared.clone(), lease));
    }
}

/// Gives a lease back, with retries while it lasts; after that the sweep takes it back.
async fn give_back(shared: Arc<Shared>, lease: Lease) {
    let order_id = lease.order.order_id;
    let until = Instant::now() + shared.settings.lease;
    let mut retries = Backoff::new(STORE_RETRY_MIN, STORE_RETRY_MAX);
    while let Err(error) = shared.store.settle(lease.key(), Outcome::Released).await {
        let is_over = matches!(error, StoreError::Closed | StoreError::Refused { .. });
        if is_over || Instant::now() >= until || shared.hand_back.is_cancelled() {
            tracing::warn!(order.id = %order_id, %error,
                "cannot give back order {order_id}, which no worker took; it starts again when its lease expires");
            return;
        }
        sleep(retries.pause()).await;
    }
}
