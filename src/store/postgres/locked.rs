//! Orders that other sessions of the database have locked: how long a call waits for one, and which they are. Who holds them
//! is left to `holders.rs`.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::failure::Failure;
use crate::order::OrderId;

/// The longest wait for an order that another session has locked. No connection waits meanwhile.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(3);
/// First and longest pause between two tries: most locks are other nodes' own and last for a moment.
const TRY_PAUSE_MIN: Duration = Duration::from_millis(5);
const TRY_PAUSE_MAX: Duration = Duration::from_millis(250);

/// The patience of one call whose order is locked.
pub(super) struct Patience {
    began: Option<Instant>,
    pause: Duration,
}

impl Patience {
    pub fn new() -> Patience {
        Patience {
            began: None,
            pause: TRY_PAUSE_MIN,
        }
    }

    /// Waits until the call should be tried again. Fails when the call has waited for long enough: nothing is stored.
    pub async fn wait(&mut self, id: OrderId, locked: &Locked) -> Result<(), Failure> {
        let began = *self.began.get_or_insert_with(Instant::now);
        if began.elapsed() >= LOCK_WAIT_MAX {
            let text = format!("order {id} is locked by another session of the database");
            return Err(Failure::TimedOut(text.into()));
        }
        locked.found([id]);
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(TRY_PAUSE_MAX);
        Ok(())
    }
}

/// The most orders that are remembered as locked.
const LOCKED_ORDERS_MAX: usize = 1_000;

/// Orders that were found locked and not found free since.
#[derive(Default)]
pub(super) struct Locked {
    orders: Mutex<BTreeSet<OrderId>>,
    came: Notify,
}

impl Locked {
    pub fn found(&self, ids: impl IntoIterator<Item = OrderId>) {
        let mut ids = ids.into_iter().peekable();
        if ids.peek().is_none() {
            return;
        }
        let mut orders = self.orders();
        let room = LOCKED_ORDERS_MAX.saturating_sub(orders.len());
        orders.extend(ids.take(room));
        self.came.notify_one();
    }

    /// Resolves when more were found since the last time.
    pub async fn came(&self) {
        self.came.notified().await;
    }

    pub fn ids(&self) -> Vec<OrderId> {
        self.orders().iter().copied().collect()
    }

    pub fn free(&self, ids: impl Iterator<Item = OrderId>) {
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
