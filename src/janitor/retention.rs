//! Takes out orders that ended so long ago that nobody keeps them, while the server runs and without anybody noticing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::order::OrderId;
use crate::store::{Prune, RefusedChange, RefusedOrder, Store, StoreError, tell_refused};

/// Between two rounds when the last one took something out, and when there was nothing to take.
const BUSY_INTERVAL: Duration = Duration::from_mins(10);
const QUIET_INTERVAL: Duration = Duration::from_hours(1);
/// After a round that failed.
const RETRY_INTERVAL: Duration = Duration::from_mins(1);
/// After a step the store is left alone for so many times what the step took: a tenth of its time at most goes into
/// retention, however slow it is.
const PAUSE_SHARE: u32 = 9;
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Orders that may not be taken out, remembered for the log.
const REFUSED_MAX: usize = 1_000;

/// Rounds until stopped, each after a heartbeat of this node: one that sleeps does not wake its database for this, and a
/// store that is away is not asked. Several nodes may do it at once.
pub async fn run(
    store: Arc<dyn Store>,
    older_than: Duration,
    awake: Arc<Notify>,
    stopped: CancellationToken,
) {
    let mut due = Instant::now();
    let mut failing = false;
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
        tell_refused(RefusedChange::Removal, &round.refused);
        // Behind what was looked at before a step failed: one that takes too long would never get further otherwise.
        after = if ended.is_err() { round.after } else { None };
        if round.orders > 0 {
            tracing::info!(
                orders = round.orders,
                "took out orders that ended more than {} ago, with their events",
                humantime::format_duration(older_than)
            );
        }
        due = Instant::now()
            + match ended {
                Ok(()) if round.orders > 0 => BUSY_INTERVAL,
                Ok(()) => QUIET_INTERVAL,
                Err(_) => RETRY_INTERVAL,
            };
        match ended {
            Ok(()) => failing = false,
            Err(error) => {
                if !failing && !stopped.is_cancelled() {
                    tracing::warn!(%error, "cannot take out old orders, trying again");
                    failing = true;
                }
            }
        }
    }
}

/// One walk through the orders.
struct Round {
    /// Where its next step begins; `None` at the first order.
    after: Option<OrderId>,
    /// Taken out so far.
    orders: usize,
    /// The first orders that may not be taken out.
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
