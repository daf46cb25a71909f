//! What the parts of the driver have in common: what to tell the rest of the process once something is committed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::epochs::KnownEpochs;
use super::failure::Failure;
use super::floor::KnownFloor;
use super::locked::Locked;
use super::unanswered::Unanswered;
use crate::metrics::Metrics;
use crate::order::{self, OrderId};
use crate::store::Wakeups;
use crate::store::refusals::Refusals;

/// Rows of counters, as the schema has them. Many more than statements are under way at once: two that take the same one
/// wait for each other.
const COUNTER_SLOTS: i16 = 128;

pub(super) struct Shared {
    pub wakeups: Arc<Wakeups>,
    pub metrics: Metrics,
    /// Rises with every commit that may have left events without a place in the feed.
    pub commits: watch::Sender<u64>,
    /// Something was committed, on whatever node, since the feed was last read to its end. Set before the readers are
    /// woken, taken by the one that reads.
    pub unread: AtomicBool,
    /// Other nodes may want to know of new work or events; the notifier waits for it.
    pub news: Notify,
    /// Of what there is to tell, some is work. Set before `news`, taken by the notifier.
    pub work_news: AtomicBool,
    /// This node is on the list of those that live, so that the others tell it what they do. Written by the heartbeat,
    /// followed by the listener.
    pub listed: watch::Sender<bool>,
    /// The number of nodes that live, as this node's heartbeats find.
    pub nodes: watch::Sender<usize>,
    /// Other nodes are alive, as the last heartbeat found, or a notification since.
    pub others: AtomicBool,
    /// There was news, and nobody was told. Set by the notifier before it looks for others and cleared when it told
    /// them; taken by the heartbeat that finds some, so that a node that joined between two of them is told as well.
    pub untold: AtomicBool,
    /// Idempotency keys stored since old ones were last forgotten.
    pub keys_stored: AtomicUsize,
    /// Whether the orders of a user wait for each other, so that the end of one may be the start of another. Written by the
    /// claims, which find out.
    ordering: watch::Sender<order::Ordering>,
    /// What this node was told of it.
    told_ordering: Option<order::Ordering>,
    /// Written by the claims that choose.
    floor: Mutex<KnownFloor>,
    /// Orders that other sessions of the database have locked.
    pub locked: Locked,
    /// Orders that the database refuses to start or to take back.
    pub refusals: Refusals,
    /// Results that were sent and not answered.
    pub unanswered: Unanswered,
    pub epochs: KnownEpochs,
    /// The store takes no further calls.
    pub closing: CancellationToken,
}

impl Shared {
    pub fn new(metrics: Metrics, told_ordering: Option<order::Ordering>) -> Shared {
        Shared {
            wakeups: Arc::default(),
            metrics,
            commits: watch::Sender::new(0),
            unread: AtomicBool::new(true),
            news: Notify::new(),
            work_news: AtomicBool::new(false),
            listed: watch::Sender::new(false),
            nodes: watch::Sender::new(1),
            others: AtomicBool::new(false),
            untold: AtomicBool::new(false),
            keys_stored: AtomicUsize::new(0),
            ordering: watch::Sender::new(told_ordering.unwrap_or_default()),
            told_ordering,
            floor: Mutex::default(),
            locked: Locked::default(),
            refusals: Refusals::default(),
            unanswered: Unanswered::default(),
            epochs: KnownEpochs::default(),
            closing: CancellationToken::new(),
        }
    }

    /// The row of counters that one statement changes; drawn for each, so that no two meet for long.
    pub fn any_slot() -> i16 {
        rand::random_range(0..COUNTER_SLOTS)
    }

    /// Events were committed.
    pub fn changed(&self) {
        self.found_unplaced();
        self.events_came();
        self.news.notify_one();
    }

    /// The same where orders may have become claimable by it. Told to the other nodes in one go.
    pub fn changed_with_work(&self) {
        self.wakeups.notify_work();
        self.work_news.store(true, Ordering::SeqCst);
        self.changed();
    }

    /// A statement that writes failed. Where it may be carried out all the same nobody else will tell of it.
    pub fn unsure(&self, failure: &Failure) {
        if failure.may_be_stored() {
            self.changed_with_work();
        }
    }

    /// Orders may have become claimable without any event.
    pub fn work_came(&self) {
        self.wakeups.notify_work();
        self.work_news.store(true, Ordering::SeqCst);
        self.news.notify_one();
    }

    /// There may be more in the feed, or soon, for those who read it here.
    pub fn events_came(&self) {
        self.unread.store(true, Ordering::SeqCst);
        self.wakeups.notify_changed();
    }

    /// There may be events without a place in the feed.
    pub fn found_unplaced(&self) {
        self.commits.send_modify(|commits| *commits += 1);
    }

    /// What a heartbeat found, or what somebody else's notification says.
    pub fn found_others(&self, others: bool) {
        self.others.store(others, Ordering::SeqCst);
        if others && self.untold.swap(false, Ordering::SeqCst) {
            self.news.notify_one();
        }
    }

    /// Orders ended, as events say that are committed.
    pub fn ended(&self, order_ids: impl IntoIterator<Item = OrderId>) {
        let mut order_ids = order_ids.into_iter().peekable();
        if order_ids.peek().is_some() && self.ordering() != order::Ordering::None {
            self.work_came();
        }
        self.wakeups.notify_final(order_ids);
    }

    pub fn set_floor(&self, floor: KnownFloor) {
        *self.known_floor() = floor;
    }

    /// None where the orders of a user wait for each other: one below any floor may get its turn.
    pub fn floor(&self) -> KnownFloor {
        match self.ordering() {
            order::Ordering::None => self.known_floor().clone(),
            order::Ordering::User(_) => KnownFloor::default(),
        }
    }

    fn known_floor(&self) -> MutexGuard<'_, KnownFloor> {
        self.floor
            .lock()
            .expect("no code panics while it holds this lock")
    }

    pub fn go_by(&self, ordering: order::Ordering) {
        self.ordering.send_replace(ordering);
    }

    /// For the other nodes; one that goes by whatever is says that.
    pub fn told_ordering(&self) -> order::Ordering {
        self.told_ordering.unwrap_or_else(|| self.ordering())
    }

    pub fn ordering(&self) -> order::Ordering {
        *self.ordering.borrow()
    }
}
