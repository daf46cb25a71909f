//! Wake-ups: signals inside the process for work to claim, new events and orders that became final. A spurious wake-up does no
//! harm. A lost one does none while the waiter also polls; a sleeping node (`ORDERLY_IDLE_SLEEP`) does not poll, and then learns
//! of other nodes' changes only with the next wake-up.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::{Notify, oneshot, watch};

use crate::order::OrderId;

#[derive(Default)]
pub struct Wakeups {
    work: Notify,
    /// Separate from `work`: while the queue is paused, `work` fires on every accept and is ignored.
    resumed: Notify,
    changed: Notify,
    /// A time at which the store has something to do may have come nearer.
    timers: Notify,
    /// Another node cancelled an order that may run here.
    cancelled: Notify,
    /// Written by the store. False while it may miss commits of other nodes.
    hears_all: watch::Sender<bool>,
    /// Woken and removed when the order becomes final; one entry per live [`FinalWaiter`].
    finals: Mutex<HashMap<OrderId, Vec<oneshot::Sender<()>>>>,
}

/// News between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// There is work for other nodes, and there are new events.
    Work,
    /// There are new events only.
    Events,
    /// An order in processing was cancelled: its node should learn that it lost the lease.
    Cancelled,
}

impl News {
    pub const ALL: [News; 3] = [News::Work, News::Events, News::Cancelled];

    pub fn name(self) -> &'static str {
        match self {
            News::Work => "work",
            News::Events => "events",
            News::Cancelled => "cancelled",
        }
    }
}

/// News between nodes over another way than the store's own.
#[derive(Default)]
pub struct PeerNews {
    outgoing: Inbox,
    incoming: Inbox,
}

/// News that no task has taken yet, each kind once.
#[derive(Default)]
struct Inbox {
    waiting: Mutex<Vec<News>>,
    grown: Notify,
}

impl Inbox {
    fn put(&self, news: News) {
        let mut waiting = self
            .waiting
            .lock()
            .expect("no code panics while it holds this lock");
        if !waiting.contains(&news) {
            waiting.push(news);
        }
        drop(waiting);
        self.grown.notify_one();
    }

    async fn take(&self) -> Vec<News> {
        loop {
            let taken = std::mem::take(
                &mut *self
                    .waiting
                    .lock()
                    .expect("no code panics while it holds this lock"),
            );
            if !taken.is_empty() {
                return taken;
            }
            self.grown.notified().await;
        }
    }
}

impl PeerNews {
    /// Tells the other nodes, soon.
    pub fn send(&self, news: News) {
        self.outgoing.put(news);
    }

    /// Waits for what is to be sent. Only one task may call this.
    pub async fn to_send(&self) -> Vec<News> {
        self.outgoing.take().await
    }

    /// Notes what another node told.
    pub fn hear(&self, news: News) {
        self.incoming.put(news);
    }

    /// Waits for what other nodes told. Only one task may call this.
    pub async fn heard(&self) -> Vec<News> {
        self.incoming.take().await
    }
}

/// A waiter for one order to become final.
pub struct FinalWaiter<'a> {
    wakeups: &'a Wakeups,
    order_id: OrderId,
    woken: oneshot::Receiver<()>,
}

impl Wakeups {
    /// Waits until orders may have become claimable since the last call. Only one task may call this.
    pub async fn work(&self) {
        self.work.notified().await;
    }

    pub fn notify_work(&self) {
        self.work.notify_one();
    }

    /// Waits until a call to this node has resumed the queue since the last call. Only one task may call this.
    pub async fn resumed(&self) {
        self.resumed.notified().await;
    }

    /// Signals that the queue was resumed, and that there may be work.
    pub fn notify_resumed(&self) {
        self.resumed.notify_one();
        self.work.notify_one();
    }

    /// Waits until a scheduled order may have been stored or changed since the last call. Only one task may call this.
    pub async fn timers(&self) {
        self.timers.notified().await;
    }

    pub fn notify_timers(&self) {
        self.timers.notify_one();
    }

    /// Waits until there may be new events since the last call. Only one task may call this.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    pub fn notify_changed(&self) {
        self.changed.notify_one();
    }

    /// Waits until another node has cancelled an order that may run here. Only one task may call this.
    pub async fn cancelled_elsewhere(&self) {
        self.cancelled.notified().await;
    }

    pub fn notify_cancelled_elsewhere(&self) {
        self.cancelled.notify_one();
    }

    /// Reports whether every commit of every node causes a wake-up. Then polling rarely finds anything new.
    pub fn hears_all(&self) -> bool {
        *self.hears_all.borrow()
    }

    /// Watches [`Wakeups::hears_all`]. Commits around a change of it may have caused no wake-up.
    pub fn watch_hears_all(&self) -> watch::Receiver<bool> {
        self.hears_all.subscribe()
    }

    pub fn set_hears_all(&self, hears_all: bool) {
        self.hears_all
            .send_if_modified(|current| std::mem::replace(current, hears_all) != hears_all);
    }

    /// Registers a waiter. Must be called before reading the order, so that no change between the two is missed.
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
                // Fails only if the waiter is gone.
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
    /// Resolves once the order became final after the registration. Cancel safe.
    pub async fn woken(&mut self) {
        // An error means that the signal was received before.
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
    async fn a_waiter_is_woken_and_unregistered() {
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
