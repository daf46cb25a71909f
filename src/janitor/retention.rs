//! Removes orders past their retention time while the server runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::log_lines::Latch;
use crate::order::OrderId;
use crate::store::{Prune, RefusedChange, RefusedOrder, Store, StoreError, log_refused};

/// Interval between rounds: busy after one that removed orders, quiet after one that found none.
const BUSY_INTERVAL: Duration = Duration::from_mins(10);
const QUIET_INTERVAL: Duration = Duration::from_hours(1);
/// Delay after a failed round.
const RETRY_INTERVAL: Duration = Duration::from_mins(1);
/// Pause after a step as a multiple of its duration, so that retention takes at most a tenth of the time.
const PAUSE_SHARE: u32 = 9;
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Maximum number of orders that could not be removed to remember for the log.
const REFUSED_MAX: usize = 1_000;

/// Runs rounds until stopped, each after a heartbeat of this node: a sleeping node does not wake its database for this,
/// and an unreachable store is not called. Several nodes may run rounds at once.
pub async fn run(
    store: Arc<dyn Store>,
    older_than: Duration,
    awake: Arc<Notify>,
    stopped: CancellationToken,
) {
    let mut due = Instant::now();
    let failing = Latch::default();
    let mut after = None;
    loop {
        tokio::select! {
            () = stopped.cancelled() => return,
            () = awake.notified() => {}
        }
        if Instant::now() < due {
            continue;
        }
        let mut round = Round {
            after,
            orders: 0,
            refused: Vec::new(),
        };
        let ended = round.go(&*store, older_than, &stopped).await;
        log_refused(RefusedChange::Removal, &round.refused);
        // Resumes after the last successful step: otherwise a step that always times out would block the ones after it.
        after = if ended.is_err() { round.after } else { None };
        if round.orders > 0 {
            tracing::info!(
                orders = round.orders,
                "removed orders that ended more than {} ago, with their events",
                humantime::format_duration(older_than)
            );
        }
        due = Instant::now()
            + match ended {
                Ok(()) if round.orders > 0 => BUSY_INTERVAL,
                Ok(()) => QUIET_INTERVAL,
                Err(_) => RETRY_INTERVAL,
            };
        if let Some(error) = failing.new_failure(&ended)
            && !stopped.is_cancelled()
        {
            tracing::warn!(%error, "cannot remove old orders; retrying. If it goes on, `orderly doctor` says why");
        }
    }
}

/// One pass through the orders.
struct Round {
    /// Start of the next step; `None` for the first order.
    after: Option<OrderId>,
    /// Number of orders removed so far.
    orders: usize,
    /// The first orders that could not be removed.
    refused: Vec<RefusedOrder>,
}

impl Round {
    async fn go(
        &mut self,
        store: &dyn Store,
        older_than: Duration,
        stopped: &CancellationToken,
    ) -> Result<(), StoreError> {
        loop {
            let began = Instant::now();
            let pruned = store
                .prune(Prune {
                    older_than,
                    after: self.after,
                })
                .await?;
            self.orders += pruned.orders;
            let room = REFUSED_MAX.saturating_sub(self.refused.len());
            self.refused.extend(pruned.refused.into_iter().take(room));
            if pruned.next.is_none() {
                return Ok(());
            }
            self.after = pruned.next;
            let pause = (began.elapsed() * PAUSE_SHARE).clamp(PAUSE_MIN, PAUSE_MAX);
            tokio::select! {
                () = stopped.cancelled() => return Ok(()),
                () = sleep(pause) => {}
            }
        }
    }
}
