//! Claims orders for the free slots, as many as the guard allows. `waits` waits between the claims.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};

use super::guard::Allowance;
use super::waits::Waits;
use super::{Pace, Shared, executor};
use crate::store::{CLAIM_ORDERS_MAX, ClaimRequest, Claimed, StoreError};

/// Maximum wait for more slots while the store is behind.
const TURN_TIME_MAX: Duration = Duration::from_millis(5);

pub(super) async fn run(shared: Arc<Shared>) {
    let mut waits = Waits::new(&shared);
    while let Some(mut slots) = free_slots(&shared).await {
        match shared.guard.allowance(slots.num_permits()) {
            Allowance::Start(attempts) => {
                let spare = slots.num_permits().saturating_sub(attempts);
                drop(slots.split(spare));
            }
            Allowance::Wait(until) => {
                drop(slots);
                wait_for_allowance(&shared, until).await;
                continue;
            }
        }
        let places = slots.num_permits();
        match claim(&shared, slots).await {
            Ok((claimed, started)) => {
                waits.succeeded(&claimed);
                if started < places {
                    shared.guard.found_no_more();
                    waits.for_work(&claimed, shared.settings.idle_sleep).await;
                }
            }
            Err(error) => {
                waits.failed(&error, "cannot claim orders; retrying");
                waits.after_failure().await;
            }
        }
    }
}

/// Waits for free slots: at least one, at most as many as one claim may use; `None` when draining.
async fn free_slots(shared: &Shared) -> Option<OwnedSemaphorePermit> {
    let mut slots = tokio::select! {
        biased;
        () = shared.draining.cancelled() => return None,
        permit = shared.slots.clone().acquire_owned() => permit.expect("the semaphore of slots is never closed"),
    };
    // Attempts settled by one commit free their slots one by one; a claim for each would need a commit for each.
    loop {
        let free = shared.slots.available_permits();
        tokio::task::yield_now().await;
        if shared.slots.available_permits() == free {
            break;
        }
    }
    take_free(shared, &mut slots);
    // While results wait for room the store is behind, and ended attempts keep their slots. Slots then come free a few at
    // a time, and claims for so few would each need a commit.
    let enough = (shared.settings.slots as usize / 2).min(CLAIM_ORDERS_MAX);
    let missing = enough.saturating_sub(slots.num_permits());
    if missing > 0 && shared.results.available_permits() == 0 {
        let missing = u32::try_from(missing).expect("a claim has few slots");
        if let Ok(more) = timeout(TURN_TIME_MAX, shared.slots.clone().acquire_many_owned(missing)).await {
            slots.merge(more.expect("the semaphore of slots is never closed"));
        }
        take_free(shared, &mut slots);
    }
    Some(slots)
}

/// Adds free slots up to the limit of one claim. No other task takes slots.
fn take_free(shared: &Shared, slots: &mut OwnedSemaphorePermit) {
    let places = CLAIM_ORDERS_MAX - slots.num_permits();
    let more = shared.slots.available_permits().min(places);
    if let Ok(more) = shared
        .slots
        .clone()
        .try_acquire_many_owned(u32::try_from(more).unwrap_or(0))
    {
        slots.merge(more);
    }
}

/// Waits until attempts, or more of them, may start.
async fn wait_for_allowance(shared: &Shared, until: Instant) {
    tokio::select! {
        () = shared.draining.cancelled() => {}
        () = shared.guard.changed() => {}
        () = sleep_until(until) => {}
    }
}

/// Claims orders and starts each lease in a task with its slot; leftover slots become free. Returns the claim and the
/// number of started attempts.
///
/// Must not be cancelled: a claim without a started attempt would block its orders until the leases expire.
async fn claim(
    shared: &Arc<Shared>,
    mut slots: OwnedSemaphorePermit,
) -> Result<(Claimed, usize), StoreError> {
    // Counted from before the call. If the answer comes later than that, no attempt starts.
    let expires = Instant::now() + shared.settings.lease;
    let mut claimed = shared
        .store
        .claim(ClaimRequest {
            node: shared.settings.node,
            orders_max: slots.num_permits(),
            lease: shared.settings.lease,
            suspect: !shared.running.has_suspect(),
            processor: Some(shared.processor_kind()),
        })
        .await?;
    // An attempt here whose order was cancelled on another node learns of it at the next heartbeat, which should be soon.
    claimed.idle &= shared.running.is_empty();
    shared.set_pace(if claimed.idle { Pace::Idle } else { Pace::Working });
    shared.starts.count(claimed.leases.len(), &shared.metrics);
    let mut started = 0;
    for lease in std::mem::take(&mut claimed.leases) {
        let Some(slot) = slots.split(1) else { break };
        let time_max = shared.settings.attempt_timeout;
        let hold = shared.running.begin(&lease, expires, time_max);
        let guarded = shared.guard.begin(lease.order.order_id, lease.order.attempts);
        let attempt = executor::run(shared.clone(), lease, hold, guarded, slot);
        shared.executors.spawn(attempt);
        started += 1;
    }
    Ok((claimed, started))
}
