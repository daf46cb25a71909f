//! Claims orders for the free slots, and waits for work where there is none.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::{Shared, executor, jittered};
use crate::store::{CLAIM_ORDERS_MAX, ClaimRequest, Claimed, StoreError};

/// Longest time between two looks at the queue: what makes progress when every wake-up is lost.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest wait for an order that is due soon: spares a claim that comes a moment too early.
const DUE_WAIT_MIN: Duration = Duration::from_millis(1);
/// Wait after a claim that failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

pub(super) async fn run(shared: Arc<Shared>) {
    let mut failing = false;
    while let Some(slots) = free_slots(&shared).await {
        let places = slots.len();
        match claim(&shared, slots).await {
            Ok(claimed) => {
                failing = false;
                if claimed.leases.len() < places {
                    wait_for_work(&shared, claimed.next_due_in).await;
                }
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "cannot claim orders, trying on");
                    failing = true;
                }
                wait(&shared, jittered(RETRY_INTERVAL)).await;
            }
        }
    }
}

/// At least one slot, as many as are free and one claim may use; `None` when draining.
async fn free_slots(shared: &Shared) -> Option<Vec<OwnedSemaphorePermit>> {
    let first = tokio::select! {
        biased;
        () = shared.draining.cancelled() => return None,
        permit = shared.slots.clone().acquire_owned() => permit.expect("the semaphore of slots is never closed"),
    };
    let mut slots = vec![first];
    while slots.len() < CLAIM_ORDERS_MAX {
        match shared.slots.clone().try_acquire_owned() {
            Ok(permit) => slots.push(permit),
            Err(_) => break,
        }
    }
    Some(slots)
}

/// Each lease moves into a task with its slot; the slots that are left over are free again.
///
/// Not to be cancelled: a claim that was carried out but not started would sit until its lease runs out.
async fn claim(shared: &Arc<Shared>, slots: Vec<OwnedSemaphorePermit>) -> Result<Claimed, StoreError> {
    let expires = Instant::now() + shared.settings.lease;
    let claimed = shared
        .store
        .claim(ClaimRequest {
            node: shared.settings.node,
            orders_max: slots.len(),
            lease: shared.settings.lease,
            suspect: !shared.running.has_suspect(),
        })
        .await?;
    for (lease, slot) in claimed.leases.iter().zip(slots) {
        let lost = shared.running.begin(lease, expires);
        let attempt = executor::run(shared.clone(), lease.clone(), lost, slot);
        shared.executors.spawn(attempt);
    }
    Ok(claimed)
}

async fn wait_for_work(shared: &Shared, next_due_in: Option<Duration>) {
    let due = next_due_in.map_or(POLL_INTERVAL, |due| due.max(DUE_WAIT_MIN));
    // A wake-up that came during the claim is kept and ends the wait at once.
    let wakeups = shared.store.wakeups();
    tokio::select! {
        () = wakeups.work() => {}
        () = wait(shared, due.min(jittered(POLL_INTERVAL))) => {}
    }
}

async fn wait(shared: &Shared, span: Duration) {
    tokio::select! {
        () = shared.draining.cancelled() => {}
        () = tokio::time::sleep(span) => {}
    }
}
