//! State that the parts of the driver share: what to tell the rest of the process once something is committed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::epochs::KnownEpochs;
use super::failure::PgFailure;
use super::locked_orders::LockedOrders;
use super::lost_answers::LostAnswers;
use super::lower_bound::LowerBound;
use crate::metrics::Metrics;
use crate::order::{self, OrderId};
use crate::store::refusals::Refusals;
use crate::store::{PeerNews, Wakeups};

/// The number of counter rows in the schema. It is far above the number of concurrent statements, since two that
/// change the same row wait for each other.
const COUNTER_SLOTS: i16 = 128;

pub(super) struct Shared {
    pub wakeups: Arc<Wakeups>,
    pub metrics: Metrics,
    /// Rises with every commit that may have left unnumbered events.
    pub commits: watch::Sender<u64>,
    /// Events were committed, on any node, since the feed was last read to its end. Set before the readers are woken,
    /// cleared by the one that reads.
    pub unread_events: AtomicBool,
    /// Wakes the notifier: there is new work, or there are new events, for the other nodes.
    pub peer_news: Notify,
    /// Some of the news is work. Set before `peer_news` is notified, cleared by the notifier.
    pub work_news: AtomicBool,
    /// This node is on the list of live nodes, so that peers notify it. Written by the heartbeat, read by the
    /// listener.
    pub listed: watch::Sender<bool>,
    /// The number of live nodes, as found by this node's heartbeats.
    pub live_nodes: watch::Sender<usize>,
    /// Peers are alive, by the latest heartbeat or a notification since.
    pub has_peers: AtomicBool,
    /// There was news that was sent to no peer. Set by the notifier before it looks for peers and cleared once it has
    /// sent the news. Cleared by a heartbeat that finds peers, so that a node that joined between two heartbeats gets
    /// it as well.
    pub unsent_news: AtomicBool,
    /// The number of idempotency keys stored since expired ones were last forgotten.
    pub keys_stored: AtomicUsize,
    /// The ordering in use. Where the orders of a user wait for each other, the end of one may be the start of
    /// another. Written by the claims, which read it from the store.
    ordering: watch::Sender<order::Ordering>,
    /// The ordering in this node's configuration.
    configured_ordering: Option<order::Ordering>,
    /// The lower bound of the first line. Written by the claims.
    lower_bound: Mutex<LowerBound>,
    /// Orders that other sessions of the database have locked.
    pub locked: LockedOrders,
    /// Orders that the database refuses to start or to take back.
    pub refusals: Refusals,
    /// Results that were sent and not answered.
    pub lost_answers: LostAnswers,
    pub epochs: KnownEpochs,
    /// Another way for news between nodes.
    pub peers: Option<Arc<PeerNews>>,
    /// The store takes no further calls.
    pub closing: CancellationToken,
}

impl Shared {
    pub fn new(
        metrics: Metrics,
        configured_ordering: Option<order::Ordering>,
        peers: Option<Arc<PeerNews>>,
    ) -> Shared {
        Shared {
            wakeups: Arc::default(),
            metrics,
            commits: watch::Sender::new(0),
            unread_events: AtomicBool::new(true),
            peer_news: Notify::new(),
            work_news: AtomicBool::new(false),
            listed: watch::Sender::new(false),
            live_nodes: watch::Sender::new(1),
            has_peers: AtomicBool::new(false),
            unsent_news: AtomicBool::new(false),
            keys_stored: AtomicUsize::new(0),
            ordering: watch::Sender::new(configured_ordering.unwrap_or_default()),
            configured_ordering,
            lower_bound: Mutex::default(),
            locked: LockedOrders::default(),
            refusals: Refusals::default(),
            lost_answers: LostAnswers::default(),
            epochs: KnownEpochs::default(),
            peers,
            closing: CancellationToken::new(),
        }
    }

    /// Draws the counter row for one statement. It is random, so that statements rarely meet.
    pub fn random_counter_slot() -> i16 {
        rand::random_range(0..COUNTER_SLOTS)
    }

    /// Notes that events were committed, and wakes the readers here and on other nodes.
    pub fn events_committed(&self) {
        self.note_unnumbered_events();
        self.events_available();
        self.peer_news.notify_one();
    }

    /// Notes that a commit may have made orders claimable, and wakes claims as well.
    pub fn work_committed(&self) {
        self.wakeups.notify_work();
        self.work_news.store(true, Ordering::SeqCst);
        self.events_committed();
    }

    /// Notes that a writing statement failed. If it may have been stored all the same, no other part will announce
    /// it.
    pub fn note_possible_commit(&self, failure: &PgFailure) {
        if failure.may_be_stored() {
            self.work_committed();
            self.wakeups.notify_timers();
        }
    }

    /// Notes that orders may have become claimable without an event.
    pub fn work_available(&self) {
        self.wakeups.notify_work();
        self.work_news.store(true, Ordering::SeqCst);
        self.peer_news.notify_one();
    }

    /// Notes that the feed may have new events, now or soon, for readers on this node.
    pub fn events_available(&self) {
        self.unread_events.store(true, Ordering::SeqCst);
        self.wakeups.notify_changed();
    }

    /// Notes that there may be unnumbered events.
    pub fn note_unnumbered_events(&self) {
        self.commits.send_modify(|commits| *commits += 1);
    }

    /// Notes whether peers are alive, as found by a heartbeat or a notification.
    pub fn set_has_peers(&self, has_peers: bool) {
        self.has_peers.store(has_peers, Ordering::SeqCst);
        if has_peers && self.unsent_news.swap(false, Ordering::SeqCst) {
            self.peer_news.notify_one();
        }
    }

    /// Notes that orders ended, by committed events.
    pub fn orders_ended(&self, order_ids: impl IntoIterator<Item = OrderId>) {
        let mut order_ids = order_ids.into_iter().peekable();
        if order_ids.peek().is_some() && self.ordering() != order::Ordering::None {
            self.work_available();
        }
        self.wakeups.notify_final(order_ids);
    }

    pub fn set_lower_bound(&self, lower_bound: LowerBound) {
        *self.latest_lower_bound() = lower_bound;
    }

    /// Returns the lower bound of the first line. There is none where the orders of a user wait for each other: an
    /// order below any bound may get its turn.
    pub fn lower_bound(&self) -> LowerBound {
        match self.ordering() {
            order::Ordering::None => self.latest_lower_bound().clone(),
            order::Ordering::User { .. } => LowerBound::default(),
        }
    }

    fn latest_lower_bound(&self) -> MutexGuard<'_, LowerBound> {
        self.lower_bound
            .lock()
            .expect("no code panics while it holds this lock")
    }

    pub fn set_ordering(&self, ordering: order::Ordering) {
        self.ordering.send_replace(ordering);
    }

    /// Returns the ordering to announce to the other nodes: the configured one, otherwise the one in use.
    pub fn configured_ordering(&self) -> order::Ordering {
        self.configured_ordering.unwrap_or_else(|| self.ordering())
    }

    pub fn ordering(&self) -> order::Ordering {
        *self.ordering.borrow()
    }
}
