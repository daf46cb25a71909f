//! Announces that the node is alive and renews the leases of its running attempts; removes the node from the list before
//! it sleeps. `running.rs` ends attempts whose lease expired.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::backoff::Backoff;
use super::{Pace, QUIET_INTERVAL, Shared, jittered};
use crate::lease::LeaseKey;
use crate::log_lines::Latch;
use crate::store::clock::system_clock;
use crate::store::{
    Breaker, Heartbeat, Leaving, NodeReport, RefusedChange, StoreError, StoreHealth, log_refused,
};

/// Heartbeats per validity of one: two may fail before the node counts as dead.
const BEATS_PER_VALIDITY: u32 = 3;
/// Maximum interval of heartbeats while orders are open; the sweep follows each.
const INTERVAL_MAX: Duration = Duration::from_secs(5);
/// First wait after a failed heartbeat.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Time for which cancels on other nodes are gathered before a heartbeat asks which orders they were.
const CANCELS_GATHERED: Duration = Duration::from_millis(50);
/// Interval of checks of the store's health, which need no query.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

pub(super) async fn run(shared: Arc<Shared>) {
    let mut pace = shared.pace.subscribe();
    let mut breaker = shared.guard.watch_state();
    // The node has just joined.
    let mut announced = Announced {
        pace: Pace::Working,
        breaker: Breaker::Closed,
    };
    let mut retries = Backoff::new(RETRY_MIN, interval(&shared, Pace::Working));
    let failing = Latch::default();
    loop {
        let due = async {
            if failing.is_set() {
                sleep(retries.pause()).await;
            } else {
                until_due(&shared, &mut pace, &mut breaker, announced).await;
            }
        };
        // A running heartbeat is not dropped: it could take effect after the node left.
        tokio::select! {
            () = shared.stopped.cancelled() => return,
            () = due => {}
        }
        let wanted = Announced {
            pace: wanted(&shared, &pace),
            breaker: shared.guard.state(),
        };
        match announce(&shared, wanted).await {
            Ok(()) => {
                announced = wanted;
                failing.clear();
                retries.reset();
            }
            Err(error) if wanted.pace == Pace::Asleep => {
                // Not retried: that would keep the database awake. The list shows the node as dead for a while.
                announced = wanted;
                failing.clear();
                tracing::warn!(%error, "cannot remove this node from the list before it sleeps; until it wakes, others call it silent");
            }
            Err(error) => {
                if failing.set() {
                    tracing::warn!(%error, "cannot renew leases; retrying. If it goes on, `orderly doctor` says why");
                }
            }
        }
    }
}

/// State that the node announced last.
#[derive(Clone, Copy)]
struct Announced {
    pace: Pace,
    breaker: Breaker,
}

/// Waits until the next heartbeat is due, or the node needs to be more awake than announced, to sleep, or to announce its
/// breaker. A slower pace is announced with the next regular heartbeat, so a trickle of orders adds none.
async fn until_due(
    shared: &Shared,
    pace: &mut watch::Receiver<Pace>,
    breaker: &mut watch::Receiver<Breaker>,
    announced: Announced,
) {
    let wakeups = shared.store.wakeups();
    let due = match announced.pace {
        Pace::Working | Pace::Idle => Some(Instant::now() + jittered(interval(shared, announced.pace))),
        Pace::Asleep => None,
    };
    loop {
        pace.mark_unchanged();
        let wanted = wanted(shared, pace);
        let at_once = wanted < announced.pace || (wanted == Pace::Asleep && announced.pace != Pace::Asleep);
        // A sleeping node is not on the list.
        let breaker_changed = wanted != Pace::Asleep && *breaker.borrow_and_update() != announced.breaker;
        if at_once || breaker_changed || due.is_some_and(|due| due <= Instant::now()) {
            return;
        }
        let look = Instant::now() + HEALTH_INTERVAL;
        tokio::select! {
            () = sleep_until(due.map_or(look, |due| due.min(look))) => {}
            changed = pace.changed() => changed.expect("the sender is shared with this task"),
            changed = breaker.changed() => changed.expect("the sender is shared with this task"),
            // The heartbeat's answer names the order. Many cancels in a row share one.
            () = wakeups.cancelled_elsewhere(), if !shared.running.is_empty() => {
                sleep(CANCELS_GATHERED).await;
                return;
            }
        }
    }
}

/// Returns the pace to announce. A store that is not ready is called often, or a quiet node would miss its return.
fn wanted(shared: &Shared, pace: &watch::Receiver<Pace>) -> Pace {
    match shared.store.health() {
        StoreHealth::Ready => *pace.borrow(),
        StoreHealth::NotReady(_) => Pace::Working,
    }
}

async fn announce(shared: &Shared, wanted: Announced) -> Result<(), StoreError> {
    let breaker = wanted.breaker;
    match wanted.pace {
        Pace::Working => {
            send(shared, breaker, shared.settings.lease).await?;
            shared.sweep_due.notify_one();
            // An idle node makes few calls; its timers know the next time, and hear of new ones.
            shared.store.wakeups().notify_timers();
        }
        // No sweep: no lease exists anywhere.
        Pace::Idle => send(shared, breaker, QUIET_INTERVAL * BEATS_PER_VALIDITY).await?,
        Pace::Asleep => return shared.store.leave(shared.settings.node, Leaving::ToSleep).await,
    }
    shared.awake.notify_one();
    Ok(())
}

/// Sends a heartbeat. A node without leases counts as alive for `validity`; leases, and nodes with any, last as
/// configured.
async fn send(shared: &Shared, breaker: Breaker, validity: Duration) -> Result<(), StoreError> {
    // Counted from before the call, so that a lease never lasts longer here than in the store.
    let asked = Instant::now();
    let lease = shared.settings.lease;
    let leases = shared.running.keys(shared.settings.node, asked);
    let renewed = shared
        .store
        .renew(Heartbeat {
            node: shared.settings.node,
            slots: shared.settings.slots,
            busy: shared.busy.load(Ordering::Relaxed),
            lease: if leases.is_empty() {
                validity.max(lease)
            } else {
                lease
            },
            leases: leases.clone(),
            breaker,
            processor: Some(shared.processor_kind()),
            report: NodeReport {
                name: shared.settings.name.clone(),
                clock: Some(system_clock()()),
                last_start_age: shared.starts.age(),
            },
        })
        .await?;
    log_refused(RefusedChange::Renewal, &renewed.refused);
    // A lease whose renewal was refused, or whose order is locked, keeps its previous expiry.
    let is_refused = |key: &LeaseKey| {
        let mut refused = renewed.refused.iter();
        refused.any(|refused| refused.order_id == key.order_id)
    };
    let kept: Vec<LeaseKey> = leases
        .into_iter()
        .filter(|key| !is_refused(key) && !renewed.locked.contains(key))
        .collect();
    shared.running.renewed(&kept, &renewed.lost, asked + lease);
    Ok(())
}

fn interval(shared: &Shared, pace: Pace) -> Duration {
    match pace {
        Pace::Working => (shared.settings.lease / BEATS_PER_VALIDITY).min(INTERVAL_MAX),
        Pace::Idle | Pace::Asleep => QUIET_INTERVAL,
    }
}
