//! Waits between claims: for work, by polls that grow rarer while the store is idle, and after a failed claim.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::backoff::Backoff;
use super::{Pace, QUIET_INTERVAL, Shared, jittered};
use crate::log_lines::Latch;
use crate::store::{Claimed, StoreError};

/// Maximum interval of polls while orders are open: ensures progress if every wake-up is lost.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum wait for an order that is due soon, so that the claim does not come a moment too early.
const DUE_WAIT_MIN: Duration = Duration::from_millis(1);
/// First and longest wait after a failed claim. The longest bounds the delay after the store returns.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Time for which accepted orders cause no claim once the queue is paused; otherwise each commit would trigger a claim in
/// vain. A resume on another node may go unnoticed for this time; one on this node is noticed at once.
const PAUSED_IGNORE: Duration = Duration::from_millis(100);
/// Idle time after which the node lets the database sleep. Serverless databases sleep after five minutes without a query;
/// with a shorter time, a shop with an order a minute would pay for going to sleep and waking each time.
const SLEEP_AFTER: Duration = Duration::from_mins(2);

/// Waits of one task that claims.
pub(super) struct Waits<'s> {
    shared: &'s Shared,
    /// Set after a claim that found the store without work.
    idle_period: Option<IdlePeriod>,
    retries: Backoff,
    failing: Latch,
}

impl Waits<'_> {
    pub fn new(shared: &Shared) -> Waits<'_> {
        Waits {
            shared,
            idle_period: None,
            retries: Backoff::new(RETRY_MIN, RETRY_MAX),
            failing: Latch::default(),
        }
    }

    /// Notes a claim, whatever it found.
    pub fn succeeded(&mut self, claimed: &Claimed) {
        self.retries.reset();
        self.failing.clear();
        if !claimed.idle {
            self.idle_period = None;
        }
    }

    /// Notes a failed claim, and logs the first of several with `message`.
    pub fn failed(&mut self, error: &StoreError, message: &'static str) {
        self.idle_period = None;
        if self.failing.set() {
            tracing::warn!(%error, "{message}");
        }
    }

    /// Waits until there may be work or a poll is due. `may_sleep` lets the database sleep after some idle time.
    pub async fn for_work(&mut self, claimed: &Claimed, may_sleep: bool) {
        let (shared, idle_period) = (self.shared, self.idle_period.take());
        if claimed.paused {
            ignore_wakeups_while_paused(shared).await;
        }
        if !claimed.idle {
            let due = claimed
                .next_due_in
                .map_or(POLL_INTERVAL, |due| due.max(DUE_WAIT_MIN));
            woken_within(shared, due.min(jittered(POLL_INTERVAL))).await;
            return;
        }
        let idle_period = idle_period.map_or_else(IdlePeriod::begin, IdlePeriod::go_on);
        let mut poll = jittered(idle_period.poll);
        if may_sleep {
            let time_to_sleep = SLEEP_AFTER.saturating_sub(idle_period.began.elapsed());
            if time_to_sleep.is_zero() {
                return sleep_until_woken(shared).await;
            }
            // The node sleeps only after a poll, so the last thing it saw is an idle store.
            poll = poll.min(time_to_sleep);
        }
        if !woken_within(shared, poll).await {
            self.idle_period = Some(idle_period);
        }
    }

    /// Waits after a failed claim. A wake-up shows that the store is alive and shortens the wait, but only to
    /// [`RETRY_MIN`], so that many wake-ups do not cause many claims.
    pub async fn after_failure(&mut self) {
        let span = self.retries.pause();
        let at_least = span.min(RETRY_MIN);
        tokio::select! {
            () = self.shared.draining.cancelled() => return,
            () = sleep(at_least) => {}
        }
        woken_within(self.shared, span.saturating_sub(at_least)).await;
    }
}

/// A period in which the store has no work on any node, as far as this node has seen.
struct IdlePeriod {
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
    tracing::info!(
        "no orders to process: this node makes no store calls until its next request or scheduled order"
    );
    shared.set_pace(Pace::Asleep);
    let wakeups = shared.store.wakeups();
    tokio::select! {
        () = shared.draining.cancelled() => {}
        () = wakeups.work() => shared.set_pace(Pace::Working),
    }
}
