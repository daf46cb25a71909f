//! Orders that other sessions of the database have locked: which they are, and how long a call waits for one.
//! `lock_holders.rs` finds the sessions.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::failure::PgFailure;
use crate::order::OrderId;

/// The longest wait of a call for a locked order. It holds no connection meanwhile.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(3);
/// The shortest and longest pause between two tries: most locks are held by other nodes, for a moment.
const TRY_PAUSE_MIN: Duration = Duration::from_millis(5);
const TRY_PAUSE_MAX: Duration = Duration::from_millis(250);

/// The waiting time of one call whose order is locked.
pub(super) struct LockRetry {
    began: Option<Instant>,
    pause: Duration,
}

impl LockRetry {
    pub fn new() -> LockRetry {
        LockRetry {
            began: None,
            pause: TRY_PAUSE_MIN,
        }
    }

    /// Waits until the call should be tried again. Fails with [`PgFailure::TimedOut`] after [`LOCK_WAIT_MAX`];
    /// nothing is stored then.
    pub async fn wait(&mut self, id: OrderId, locked: &LockedOrders) -> Result<(), PgFailure> {
        let began = *self.began.get_or_insert_with(Instant::now);
        if began.elapsed() >= LOCK_WAIT_MAX {
            let text = format!("order {id} is locked by another session of the database");
            return Err(PgFailure::TimedOut(text.into()));
        }
        locked.found([id]);
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(TRY_PAUSE_MAX);
        Ok(())
    }
}

/// The most locked orders that are remembered.
const LOCKED_ORDERS_MAX: usize = 1_000;

/// Orders that were found locked, and not found free since.
#[derive(Default)]
pub(super) struct LockedOrders {
    orders: Mutex<BTreeSet<OrderId>>,
    more_found: Notify,
}

impl LockedOrders {
    /// Notes orders that were found locked.
    pub fn found(&self, ids: impl IntoIterator<Item = OrderId>) {
        let mut ids = ids.into_iter().peekable();
        if ids.peek().is_none() {
            return;
        }
        let mut orders = self.orders();
        let room = LOCKED_ORDERS_MAX.saturating_sub(orders.len());
        orders.extend(ids.take(room));
        self.more_found.notify_one();
    }

    /// Resolves when more orders were found locked since the last call.
    pub async fn more_found(&self) {
        self.more_found.notified().await;
    }

    pub fn ids(&self) -> Vec<OrderId> {
        self.orders().iter().copied().collect()
    }

    /// Notes orders that were found free.
    pub fn found_free(&self, ids: impl Iterator<Item = OrderId>) {
        let mut orders = self.orders();
        for id in ids {
            orders.remove(&id);
        }
    }

    fn orders(&self) -> MutexGuard<'_, BTreeSet<OrderId>> {
        self.orders
            .lock()
            .expect("no code panics while it holds this lock")
    }
}
