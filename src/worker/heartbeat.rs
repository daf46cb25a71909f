//! Says that the node lives and keeps the leases of its running attempts, as often as there is need; takes the node
//! off the list before it sleeps. Giving up an attempt whose lease ran out is left to `running.rs`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::backoff::Backoff;
use super::{Pace, QUIET_INTERVAL, Shared, jittered};
use crate::lease::LeaseKey;
use crate::store::{Breaker, Heartbeat, RefusedChange, StoreError, StoreHealth, tell_refused};

/// Heartbeats per time that one says the node lives for: two may fail before the node counts as dead.
const BEATS_PER_VALIDITY: u32 = 3;
/// Longest time between two heartbeats while orders are open: the sweep for lost leases follows each.
const INTERVAL_MAX: Duration = Duration::from_secs(5);
/// First wait after a heartbeat that could not be stored.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Between two looks at what the store says of itself, which cost no query.
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
    let mut failing = false;
    loop {
        let due = async {
            if failing {
                sleep(retries.pause()).await;
            } else {
                until_due(&shared, &mut pace, &mut breaker, announced).await;
            }
        };
        // A heartbeat on its way is not dropped: it could be carried out after the node left.
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
                failing = false;
                retries.reset();
            }
            Err(error) if wanted.pace == Pace::Asleep => {
                // Not tried again: that would keep the database awake. The list shows the node as dead for a while.
                announced = wanted;
                failing = false;
                tracing::warn!(%error, "could not take this node off the list before it sleeps");
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "cannot renew leases, trying again");
                    failing = true;
                }
            }
        }
    }
}

/// What the node told the store last.
#[derive(Clone, Copy)]
struct Announced {
    pace: Pace,
    breaker: Breaker,
}

/// Until the rhythm that was announced asks for the next heartbeat, or the node is to be more awake than it announced,
/// or is to sleep, or has something to tell of its breaker. One that may be quieter says so with its next heartbeat: a trickle of orders does not add any.
async fn until_due(
    shared: &Shared,
    pace: &mut watch::Receiver<Pace>,
    breaker: &mut watch::Receiver<Breaker>,
    announced: Announced,
) {
    let due = match announced.pace {
        Pace::Working | Pace::Idle => Some(Instant::now() + jittered(interval(shared, announced.pace))),
        Pace::Asleep => None,
    };
    loop {
        pace.mark_unchanged();
        let wanted = wanted(shared, pace);
        let at_once = wanted < announced.pace || (wanted == Pace::Asleep && announced.pace != Pace::Asleep);
        // A node that sleeps is not on the list.
        let news = wanted != Pace::Asleep && *breaker.borrow_and_update() != announced.breaker;
        if at_once || news || due.is_some_and(|due| due <= Instant::now()) {
            return;
        }
        let look = Instant::now() + HEALTH_INTERVAL;
        tokio::select! {
            () = sleep_until(due.map_or(look, |due| due.min(look))) => {}
            changed = pace.changed() => changed.expect("the sender is shared with this task"),
            changed = breaker.changed() => changed.expect("the sender is shared with this task"),
        }
    }
}

/// A store that is not ready is asked often, or a quiet node would not notice that it is back.
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
            beat(shared, breaker, shared.settings.lease).await?;
            shared.beaten.notify_one();
        }
        // No sweep: nothing is held anywhere.
        Pace::Idle => beat(shared, breaker, QUIET_INTERVAL * BEATS_PER_VALIDITY).await?,
        Pace::Asleep => return shared.store.leave(shared.settings.node).await,
    }
    shared.awake.notify_one();
    Ok(())
}

/// A node without leases counts as alive for as long as `validity`; leases, and nodes with any, last as configured.
async fn beat(shared: &Shared, breaker: Breaker, validity: Duration) -> Result<(), StoreError> {
    // Counted from before the store is asked, so that this node's clock never outlives the store's.
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
        })
        .await?;
    tell_refused(RefusedChange::Renewal, &renewed.refused);
    // A lease that was refused, or whose order is locked, is believed in as long as before.
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
