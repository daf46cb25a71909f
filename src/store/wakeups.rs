//! Signals from the store to whoever waits in this process: work to claim, new events, orders that became final. Spurious
//! signals do no harm. Nor do lost ones to whoever also polls; one that leaves the database alone (`ORDERLY_IDLE_SLEEP`)
//! does not, and may learn of other nodes' changes only when something wakes it.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::{Notify, oneshot, watch};

use crate::order::OrderId;

#[derive(Default)]
pub struct Wakeups {
    work: Notify,
    /// Told apart from `work`, of which there is very much that means nothing while the queue is paused.
    resumed: Notify,
    changed: Notify,
    /// Written by the store; false while it may miss what others commit.
    hears_all: watch::Sender<bool>,
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

    /// Waits until the queue was resumed by a call to this node since the last time; for one dispatcher.
    pub async fn resumed(&self) {
        self.resumed.notified().await;
    }

    /// There may be work as well.
    pub fn notify_resumed(&self) {
        self.resumed.notify_one();
        self.work.notify_one();
    }

    /// Waits until there may be new events since the last call; for one reader of the feed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    pub fn notify_changed(&self) {
        self.changed.notify_one();
    }

    /// Whether every commit is signalled, other nodes' too: then there is little to find by polling.
    pub fn hears_all(&self) -> bool {
        *self.hears_all.borrow()
    }

    /// To hear of it when that changes: what was committed around that moment may not have been signalled.
    pub fn watch_hears_all(&self) -> watch::Receiver<bool> {
        self.hears_all.subscribe()
    }

    pub fn set_hears_all(&self, hears_all: bool) {
        self.hears_all
            .send_if_modified(|current| std::mem::replace(current, hears_all) != hears_all);
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
