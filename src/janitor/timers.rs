//! Moves scheduled orders into their line when their time comes, and marks orders whose deadline passes.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::log_lines::Latch;
use crate::order::OrderId;
use crate::store::{Fired, RefusedChange, Store, StoreError, log_refused};

/// Shortest time between two looks, so that many wake-ups do not cause many.
const INTERVAL_MIN: Duration = Duration::from_millis(250);
/// Pause after a failed call; a heartbeat while orders are open ends it.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Pause after a look that left an order that is due: another session of the database has locked it.
const LOCKED_INTERVAL: Duration = Duration::from_secs(1);
/// Time for which orders are left alone that the database refused to change.
const REFUSED_INTERVAL: Duration = Duration::from_secs(30);
/// Refused orders that are left alone, at most.
const REFUSED_MAX: usize = 1_000;

/// Looks whenever the next known time has come, and after each wake-up: a heartbeat while orders are open, an order with such a
/// time accepted here, or news of another node. Several nodes may look at once. A sleeping node still wakes at the next time that it
/// knows.
pub async fn run(store: Arc<dyn Store>, stopped: CancellationToken) {
    let wakeups = store.wakeups();
    let failing = Latch::default();
    let mut refused = Refused::default();
    let mut due = Some(Instant::now());
    let mut free_from = Instant::now();
    loop {
        tokio::select! {
            () = stopped.cancelled() => return,
            () = until(due) => {}
            () = wakeups.timers() => {}
        }
        tokio::select! {
            () = stopped.cancelled() => return,
            () = sleep_until(free_from) => {}
        }
        let fired = store.fire_timers(refused.now().into()).await;
        let now = Instant::now();
        free_from = now + INTERVAL_MIN;
        if let Some(error) = failing.new_failure(&fired)
            && !stopped.is_cancelled()
        {
            tracing::warn!(%error, "cannot look after start times and deadlines; retrying. If it goes on, `orderly doctor` says why");
        }
        if let Ok(fired) = &fired {
            refused.add(fired);
        }
        due = refused
            .until
            .into_iter()
            .chain(wait(&fired).map(|wait| now + wait))
            .min();
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// The time until the next look is due, if none is asked for earlier.
fn wait(fired: &Result<Fired, StoreError>) -> Option<Duration> {
    match fired {
        Ok(fired) if fired.entered + fired.overdue == 0 && fired.next_in == Some(Duration::ZERO) => {
            Some(LOCKED_INTERVAL)
        }
        Ok(fired) => fired.next_in,
        Err(_) => Some(RETRY_INTERVAL),
    }
}

/// Orders that the database refused to change.
#[derive(Default)]
struct Refused {
    ids: BTreeSet<OrderId>,
    /// The time when they are tried again.
    until: Option<Instant>,
    /// Those of the round before, whose refusal the log has.
    logged: BTreeSet<OrderId>,
}

impl Refused {
    /// Returns the orders to leave alone now.
    fn now(&mut self) -> Vec<OrderId> {
        if self.until.is_some_and(|until| until <= Instant::now()) {
            self.logged = std::mem::take(&mut self.ids);
            self.until = None;
        }
        self.ids.iter().copied().collect()
    }

    fn add(&mut self, fired: &Fired) {
        let is_new = |id: &OrderId| !self.logged.contains(id);
        let new: Vec<_> = fired
            .refused
            .iter()
            .filter(|order| is_new(&order.order_id))
            .cloned()
            .collect();
        log_refused(RefusedChange::Timer, &new);
        for order in &fired.refused {
            if self.ids.len() < REFUSED_MAX {
                self.ids.insert(order.order_id);
            }
        }
        if !self.ids.is_empty() {
            self.until.get_or_insert(Instant::now() + REFUSED_INTERVAL);
        }
    }
}
