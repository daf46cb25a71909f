//! Claims orders for the free slots, as many as the guard lets begin, and waits for work where there is none: the less there is, the more quietly.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::backoff::Backoff;
use super::guard::Turn;
use super::{Pace, QUIET_INTERVAL, Shared, executor, jittered};
use crate::store::{CLAIM_ORDERS_MAX, ClaimRequest, Claimed, StoreError};

/// Longest wait for more slots while the store is behind.
const TURN_TIME_MAX: Duration = Duration::from_millis(5);
/// Longest time between two looks at the queue while orders are open: what makes progress when every wake-up is lost.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest wait for an order that is due soon: spares a claim that comes a moment too early.
const DUE_WAIT_MIN: Duration = Duration::from_millis(1);
/// First and longest wait after a claim that failed. The longest is what a store that comes back may wait for us.
pub(super) const RETRY_MIN: Duration = Duration::from_millis(500);
pub(super) const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long orders that come are no news once a claim found the queue paused: each commit would bring the next claim in
/// vain. That the queue was resumed by another node may be noticed so much later, by this one at once.
const PAUSED_DEAF: Duration = Duration::from_millis(100);
/// Nothing to do for so long, and the node lets the database sleep. Serverless ones do after five minutes without
/// a query; sooner than this, and a shop with an order a minute would pay for the way to sleep and back each time.
const SLEEP_AFTER: Duration = Duration::from_mins(2);

pub(super) async fn run(shared: Arc<Shared>) {
    let mut lull: Option<Lull> = None;
    let mut retries = Backoff::new(RETRY_MIN, RETRY_MAX);
    let mut failing = false;
    while let Some(mut slots) = free_slots(&shared).await {
        match shared.guard.turn(slots.num_permits()) {
            Turn::Start(attempts) => {
                let spare = slots.num_permits().saturating_sub(attempts);
                drop(slots.split(spare));
            }
            Turn::Wait(until) => {
                drop(slots);
                wait_for_turn(&shared, until).await;
                continue;
            }
        }
        let places = slots.num_permits();
        match claim(&shared, slots).await {
            Ok((claimed, started)) => {
                retries.reset();
                failing = false;
                if !claimed.idle {
                    lull = None;
                }
                if started < places {
                    shared.guard.found_no_more();
                    lull = wait_for_work(&shared, &claimed, lull, shared.settings.idle_sleep).await;
                }
            }
            Err(error) => {
                lull = None;
                if !failing {
                    tracing::warn!(%error, "cannot claim orders, trying again");
                    failing = true;
                }
                wait_after_failure(&shared, retries.pause()).await;
            }
        }
    }
}

/// At least one slot, as many as are free and one claim may use; `None` when draining.
async fn free_slots(shared: &Shared) -> Option<OwnedSemaphorePermit> {
    let mut slots = tokio::select! {
        biased;
        () = shared.draining.cancelled() => return None,
        permit = shared.slots.clone().acquire_owned() => permit.expect("the semaphore of slots is never closed"),
    };
    // Attempts that one commit ended free their slots one after the other: a claim for each would be a commit for each.
    loop {
        let free = shared.slots.available_permits();
        tokio::task::yield_now().await;
        if shared.slots.available_permits() == free {
            break;
        }
    }
    take_free(shared, &mut slots);
    // While results find no place, the store is behind, and attempts that ended keep their slots: few of them come free at a
    // time, and a claim for those would be a commit for each few.
    let enough = (shared.settings.slots as usize / 2).min(CLAIM_ORDERS_MAX);
    let missing = enough.saturating_sub(slots.num_permits());
    if missing > 0 && shared.results.available_permits() == 0 {
        let missing = u32::try_from(missing).expect("there are few places in a claim");
        if let Ok(more) = timeout(TURN_TIME_MAX, shared.slots.clone().acquire_many_owned(missing)).await {
            slots.merge(more.expect("the semaphore of slots is never closed"));
        }
        take_free(shared, &mut slots);
    }
    Some(slots)
}

/// Adds the slots that are free, as many as a claim may use. No other task takes any.
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

/// Until attempts may begin, or more of them than were allowed.
async fn wait_for_turn(shared: &Shared, until: Instant) {
    tokio::select! {
        () = shared.draining.cancelled() => {}
        () = shared.guard.changed() => {}
        () = sleep_until(until) => {}
    }
}

/// Each lease moves into a task with its slot; the slots that are left over are free again. How many there were is told
/// beside what else was.
///
/// Not to be cancelled: a claim that was carried out but not started would sit until its lease runs out.
async fn claim(
    shared: &Arc<Shared>,
    mut slots: OwnedSemaphorePermit,
) -> Result<(Claimed, usize), StoreError> {
    // Counted from before the store is asked. Should the answer come later than that, no attempt begins.
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
    // What still runs here although the store has done with it - cancelled on another node - is heard of at the next
    // heartbeat, which should be soon.
    claimed.idle &= shared.running.is_empty();
    shared.set_pace(if claimed.idle { Pace::Idle } else { Pace::Working });
    let mut started = 0;
    for lease in std::mem::take(&mut claimed.leases) {
        let Some(slot) = slots.split(1) else { break };
        let time_max = shared.settings.attempt_timeout;
        let hold = shared.running.begin(&lease, expires, time_max);
        let trial = shared.guard.begin(lease.order.order_id, lease.order.attempts);
        let attempt = executor::run(shared.clone(), lease, hold, trial, slot);
        shared.executors.spawn(attempt);
        started += 1;
    }
    Ok((claimed, started))
}

/// A time in which the store has nothing to do, on any node, as far as this one has seen.
#[derive(Clone, Copy)]
pub(super) struct Lull {
    began: Instant,
    /// Until the next look.
    poll: Duration,
}

impl Lull {
    fn begin() -> Lull {
        Lull {
            began: Instant::now(),
            poll: POLL_INTERVAL,
        }
    }

    fn go_on(self) -> Lull {
        Lull {
            poll: (self.poll * 2).min(QUIET_INTERVAL),
            ..self
        }
    }
}

/// Until there may be work or it is time to look; answers the lull that goes on.
pub(super) async fn wait_for_work(
    shared: &Shared,
    claimed: &Claimed,
    lull: Option<Lull>,
    may_sleep: bool,
) -> Option<Lull> {
    if claimed.paused {
        deaf_while_paused(shared).await;
    }
    if !claimed.idle {
        let due = claimed
            .next_due_in
            .map_or(POLL_INTERVAL, |due| due.max(DUE_WAIT_MIN));
        woken_within(shared, due.min(jittered(POLL_INTERVAL))).await;
        return None;
    }
    let lull = lull.map_or_else(Lull::begin, Lull::go_on);
    let poll = jittered(lull.poll);
    if !may_sleep {
        return (!woken_within(shared, poll).await).then_some(lull);
    }
    let time_to_sleep = SLEEP_AFTER.saturating_sub(lull.began.elapsed());
    if time_to_sleep.is_zero() {
        sleep_until_woken(shared).await;
        return None;
    }
    // The node sleeps after a look, so that an idle store is what it saw last.
    (!woken_within(shared, poll.min(time_to_sleep)).await).then_some(lull)
}

/// Leaves wake-ups where they are for a while, unless the queue is resumed here.
async fn deaf_while_paused(shared: &Shared) {
    let wakeups = shared.store.wakeups();
    tokio::select! {
        () = shared.draining.cancelled() => {}
        () = wakeups.resumed() => {}
        () = sleep(PAUSED_DEAF) => {}
    }
}

/// Whether a wake-up came first. One that came during the claim is kept and ends the wait at once.
pub(super) async fn woken_within(shared: &Shared, span: Duration) -> bool {
    let wakeups = shared.store.wakeups();
    tokio::select! {
        () = shared.draining.cancelled() => false,
        () = wakeups.work() => true,
        () = sleep(span) => false,
    }
}

/// A request to this node ends it. Other nodes do not, as whatever they accept they process; but one that leaves says so
/// while orders are open.
async fn sleep_until_woken(shared: &Shared) {
    tracing::info!("nothing to do: this node leaves its store alone until it is asked for something");
    shared.set_pace(Pace::Asleep);
    let wakeups = shared.store.wakeups();
    tokio::select! {
        () = shared.draining.cancelled() => {}
        () = wakeups.work() => shared.set_pace(Pace::Working),
    }
}

/// A wake-up is a sign of life of the store and shortens the wait, but many of them do not make a storm of claims.
pub(super) async fn wait_after_failure(shared: &Shared, span: Duration) {
    let at_least = span.min(RETRY_MIN);
    tokio::select! {
        () = shared.draining.cancelled() => return,
        () = sleep(at_least) => {}
    }
    woken_within(shared, span.saturating_sub(at_least)).await;
}
