//! Signals from the store to whoever waits in this process: work to claim, orders that became final. Lost or
//! spurious signals do no harm: every waiter also polls.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::{Notify, oneshot};

use crate::order::OrderId;

#[derive(Default)]
pub struct Wakeups {
    work: Notify,
    /// Woken and removed when the order becomes final; one entry per live [`FinalWaiter`].
    finals: Mutex<HashMap<OrderId, Vec<oneshot::Sender<()>>>>,
}

/// Resolves when an order became final after the waiter was made.
pub struct FinalWaiter<'a> {
    wakeups: &'a Wakeups,
    order_id: OrderId,
    woken: oneshot::Receiver<()>,
}

impl Wakeups {
    /// Waits until orders may have become claimable since the last call; for one dispatcher.
    pub async fn work(&self) {
        self.work.notified().await;
    }

    pub fn notify_work(&self) {
        self.work.notify_one();
    }

    /// Register before reading the order, so that a change between the two is not missed.
    pub fn watch_final(&self, order_id: OrderId) -> FinalWaiter<'_> {
        let (sender, woken) = oneshot::channel();
        self.finals().entry(order_id).or_default().push(sender);
        FinalWaiter {
            wakeups: self,
            order_id,
            woken,
        }
    }

    pub fn notify_final(&self, order_ids: impl IntoIterator<Item = OrderId>) {
        let mut finals = self.finals();
        if finals.is_empty() {
            return;
        }
        for order_id in order_ids {
            for waiter in finals.remove(&order_id).unwrap_or_default() {
                // A waiter that is gone needs no signal.
                let _ = waiter.send(());
            }
        }
    }

    fn finals(&self) -> std::sync::MutexGuard<'_, HashMap<OrderId, Vec<oneshot::Sender<()>>>> {
        self.finals
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

impl FinalWaiter<'_> {
    /// Cancel safe.
    pub async fn woken(&mut self) {
        // An error means that the sender is gone with the signal already taken.
        let _ = (&mut self.woken).await;
    }
}

impl Drop for FinalWaiter<'_> {
    fn drop(&mut self) {
        self.woken.close();
        let mut finals = self.wakeups.finals();
        if let Some(waiters) = finals.get_mut(&self.order_id) {
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                finals.remove(&self.order_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiter_is_woken_and_leaves_nothing_behind() {
        let wakeups = Wakeups::default();
        let mut first = wakeups.watch_final(OrderId(1));
        let second = wakeups.watch_final(OrderId(1));
        let other = wakeups.watch_final(OrderId(2));
        drop(second);
        wakeups.notify_final([OrderId(1)]);
        first.woken().await;
        assert_eq!(wakeups.finals().len(), 1);
        drop((first, other));
        assert!(wakeups.finals().is_empty());
    }
}
