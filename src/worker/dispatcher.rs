//! Claims orders for the free slots, as many as the guard allows, and waits for work: the less there is, the fewer its
//! polls.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::backoff::Backoff;
use super::guard::Allowance;
use super::{Pace, QUIET_INTERVAL, Shared, executor, jittered};
use crate::store::{CLAIM_ORDERS_MAX, ClaimRequest, Claimed, StoreError};

/// Maximum wait for more slots while the store is behind.
const TURN_TIME_MAX: Duration = Duration::from_millis(5);
/// Maximum interval of polls while orders are open: ensures progress if every wake-up is lost.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum wait for an order that is due soon, so that the claim does not come a moment too early.
const DUE_WAIT_MIN: Duration = Duration::from_millis(1);
/// First and longest wait after a failed claim. The longest bounds the delay after the store returns.
pub(super) const RETRY_MIN: Duration = Duration::from_millis(500);
pub(super) const RETRY_MAX: Duration = Duration::from_secs(5);
/// Time for which accepted orders cause no claim once the queue is paused; otherwise each commit would trigger a claim in
/// vain. A resume on another node may go unnoticed for this time; one on this node is noticed at once.
const PAUSED_IGNORE: Duration = Duration::from_millis(100);
/// Idle time after which the node lets the database sleep. Serverless databases sleep after five minutes without a query;
/// with a shorter time, a shop with an order a minute would pay for going to sleep and waking each time.
const SLEEP_AFTER: Duration = Duration::from_mins(2);

pub(super) async fn run(shared: Arc<Shared>) {
    let mut idle_period: Option<IdlePeriod> = None;
    let mut retries = Backoff::new(RETRY_MIN, RETRY_MAX);
    let mut failing = false;
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
                retries.reset();
                failing = false;
                if !claimed.idle {
                    idle_period = None;
                }
                if started < places {
                    shared.guard.found_no_more();
                    idle_period =
                        wait_for_work(&shared, &claimed, idle_period, shared.settings.idle_sleep).await;
                }
            }
            Err(error) => {
                idle_period = None;
                if !failing {
                    tracing::warn!(%error, "cannot claim orders; retrying");
                    failing = true;
                }
                wait_after_failure(&shared, retries.pause()).await;
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

/// A period in which the store has no work on any node, as far as this node has seen.
#[derive(Clone, Copy)]
pub(super) struct IdlePeriod {
    began: Instant,
    /// Time until the next poll.
    poll: Duration,
}

impl IdlePeriod {
    fn begin() -> IdlePeriod {
        IdlePeriod {
            began: Instant::now(),
            poll: POLL_INTERVAL,
        }
    }

    fn go_on(self) -> IdlePeriod {
        IdlePeriod {
            poll: (self.poll * 2).min(QUIET_INTERVAL),
            ..self
        }
    }
}

/// Waits until there may be work or a poll is due; returns the idle period if it goes on.
pub(super) async fn wait_for_work(
    shared: &Shared,
    claimed: &Claimed,
    idle_period: Option<IdlePeriod>,
    may_sleep: bool,
) -> Option<IdlePeriod> {
    if claimed.paused {
        ignore_wakeups_while_paused(shared).await;
    }
    if !claimed.idle {
        let due = claimed
            .next_due_in
            .map_or(POLL_INTERVAL, |due| due.max(DUE_WAIT_MIN));
        woken_within(shared, due.min(jittered(POLL_INTERVAL))).await;
        return None;
    }
    let idle_period = idle_period.map_or_else(IdlePeriod::begin, IdlePeriod::go_on);
    let poll = jittered(idle_period.poll);
    if !may_sleep {
        return (!woken_within(shared, poll).await).then_some(idle_period);
    }
    let time_to_sleep = SLEEP_AFTER.saturating_sub(idle_period.began.elapsed());
    if time_to_sleep.is_zero() {
        sleep_until_woken(shared).await;
        return None;
    }
    // The node sleeps only after a poll, so the last thing it saw is an idle store.
    (!woken_within(shared, poll.min(time_to_sleep)).await).then_some(idle_period)
}

/// Leaves wake-ups pending for a while, unless the queue is resumed on this node.
async fn ignore_wakeups_while_paused(shared: &Shared) {
    let wakeups = shared.store.wakeups();
    tokio::select! {
        () = shared.draining.cancelled() => {}
        () = wakeups.resumed() => {}
        () = sleep(PAUSED_IGNORE) => {}
    }
}

/// Reports whether a wake-up came in time. One that came during the claim is pending and ends the wait at once.
pub(super) async fn woken_within(shared: &Shared, span: Duration) -> bool {
    let wakeups = shared.store.wakeups();
    tokio::select! {
        () = shared.draining.cancelled() => false,
        () = wakeups.work() => true,
        () = sleep(span) => false,
    }
}

/// Sleeps until a request to this node. Other nodes do not wake it, since they process the orders they accept; but a node
/// that leaves while orders are open notifies the others.
async fn sleep_until_woken(shared: &Shared) {
    tracing::info!("no open orders: this node makes no store calls until its next request");
    shared.set_pace(Pace::Asleep);
    let wakeups = shared.store.wakeups();
    tokio::select! {
        () = shared.draining.cancelled() => {}
        () = wakeups.work() => shared.set_pace(Pace::Working),
    }
}

/// Waits after a failed claim. A wake-up shows that the store is alive and shortens the wait, but only to `RETRY_MIN`, so
/// that many wake-ups do not cause many claims.
pub(super) async fn wait_after_failure(shared: &Shared, span: Duration) {
    let at_least = span.min(RETRY_MIN);
    tokio::select! {
        () = shared.draining.cancelled() => return,
        () = sleep(at_least) => {}
    }
    woken_within(shared, span.saturating_sub(at_least)).await;
}
