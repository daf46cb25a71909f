//! Follows the log of events once per node and delivers every change to the node's subscribers, in order and without
//! gaps. `http` renders changes; the store has the log and keeps its promises.
//!
//! A subscriber gets changes from its own bounded queue. A subscriber whose queue is full is removed and catches up
//! from the recent changes in memory or from the log, at no cost to the others.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::epoch::EpochIdentity;
use crate::metrics::Metrics;
use crate::order::{OrderId, OrderStatus, UserId};
use crate::store::{Epochs, FeedCursor, FeedEvent, FeedPosition, Store, StoreError};

mod catch_up;
mod recent;
/// Public only for the benchmark of its cost.
#[doc(hidden)]
pub mod routes;
mod subscription;
mod tail;

pub use catch_up::LogPage;
pub use subscription::{Next, Subscription};

use recent::{RECENT_CHANGES_MAX, Recent};
use routes::Routes;

/// Maximum number of subscribers per node. A stuck one costs some 40 KiB, most of it for its connection.
const SUBSCRIBERS_MAX: usize = 16_384;
/// Maximum concurrent reads of the log by all subscribers that catch up; the store's other readers serve requests.
const LOG_READS_MAX: usize = 2;

#[derive(Clone, Copy, Debug)]
pub struct LiveSettings {
    /// Leaves the store alone after some quiet time, even with subscribers.
    pub idle_sleep: bool,
}

/// One event, shared by all subscribers.
pub struct Change {
    /// Epoch of the event's position.
    pub epoch: EpochIdentity,
    pub event: FeedEvent,
    text: OnceLock<Bytes>,
}

impl Change {
    pub fn new(epoch: EpochIdentity, event: FeedEvent) -> Arc<Change> {
        Arc::new(Change {
            epoch,
            event,
            text: OnceLock::new(),
        })
    }

    pub fn cursor(&self) -> FeedCursor {
        FeedCursor {
            epoch: self.epoch,
            position: self.event.position,
        }
    }

    /// Returns the rendered change, which the first caller renders for all.
    pub fn text(&self, render: impl FnOnce(&Change) -> Bytes) -> Bytes {
        self.text.get_or_init(|| render(self)).clone()
    }
}

/// Selects the events that match all given fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub order_id: Option<OrderId>,
    pub user_id: Option<UserId>,
    /// Status after the event.
    pub status: Option<OrderStatus>,
}

impl Filter {
    pub fn matches(&self, event: &FeedEvent) -> bool {
        self.order_id.is_none_or(|id| id == event.event.order_id)
            && self.user_id.as_ref().is_none_or(|user| *user == event.user_id)
            && self.status.is_none_or(|status| status == event.event.status)
    }
}

/// Reason why a subscription cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    #[error("this node has reached its limit of feed subscribers")]
    TooMany,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Access to the feed for the rest of the process. Cheap to clone.
#[derive(Clone)]
pub struct Feed(Arc<Shared>);

/// The task that follows the log. Ends when the server drains.
pub struct Live {
    feed: Feed,
    tail: JoinHandle<()>,
}

struct Shared {
    store: Arc<dyn Store>,
    metrics: Metrics,
    settings: LiveSettings,
    state: Mutex<State>,
    /// Position up to which all events are in the subscribers' queues. Written by the tail afterwards, under the lock
    /// of `state`; read without it.
    head: AtomicI64,
    /// Number of subscribers, long polls included.
    subscribers: AtomicUsize,
    /// Signals a new subscriber: the tail may have to start, or to poll more often.
    joined: Notify,
    log_reads: Semaphore,
    /// Held while a subscriber starts to follow the feed; others that come meanwhile wait for its result.
    begin_lock: tokio::sync::Mutex<()>,
    /// Number of failed starts. Written with `begin_lock` held, read before and under it.
    failed_begins: AtomicU64,
    /// Cancelled when streams end.
    draining: CancellationToken,
}

/// State shared by the tail and new subscribers. Locked while one page is delivered.
struct State {
    /// Epochs of the latest read of the feed; `None` without subscribers.
    epochs: Option<Epochs>,
    /// Rises whenever events do not continue from the last position; earlier positions are void then.
    restarts: u64,
    recent: Recent,
    routes: Routes,
}

impl Live {
    pub fn start(
        store: Arc<dyn Store>,
        metrics: Metrics,
        settings: LiveSettings,
        draining: CancellationToken,
    ) -> Live {
        let shared = Arc::new(Shared {
            store,
            metrics,
            settings,
            state: Mutex::new(State {
                epochs: None,
                restarts: 0,
                recent: Recent::default(),
                routes: Routes::default(),
            }),
            head: AtomicI64::new(0),
            subscribers: AtomicUsize::new(0),
            joined: Notify::new(),
            log_reads: Semaphore::new(LOG_READS_MAX),
            begin_lock: tokio::sync::Mutex::default(),
            failed_begins: AtomicU64::new(0),
            draining,
        });
        Live {
            tail: tokio::spawn(tail::run(shared.clone())),
            feed: Feed(shared),
        }
    }

    pub fn feed(&self) -> Feed {
        self.feed.clone()
    }

    /// Resolves once the server drains.
    pub async fn ended(self) -> Result<(), JoinError> {
        self.tail.await
    }
}

impl Feed {
    /// Subscribes to the events from now on, or after `after`. If that position is not in the feed, or later events
    /// were removed, the first item is a [`Next::Resync`].
    ///
    /// With `after`, [`Subscription::next`] waits for a store that is unavailable.
    pub async fn subscribe(
        &self,
        filter: Filter,
        after: Option<FeedCursor>,
    ) -> Result<Subscription, SubscribeError> {
        Subscription::begin(self.0.clone(), filter, after).await
    }

    /// Reads the next matching changes of the log without following it. See [`LogPage`].
    pub async fn page(
        &self,
        filter: Filter,
        after: FeedPosition,
        limit: usize,
    ) -> Result<LogPage, StoreError> {
        catch_up::page(&*self.0.store, filter, after, limit).await
    }

    /// Resolves when the server stops.
    pub async fn ending(&self) {
        self.0.draining.cancelled().await;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no code panics while it holds this lock")
    }

    /// Returns the position up to which the feed was delivered, and starts to follow the feed if needed. The caller
    /// already counts as a subscriber, so the tail keeps running.
    async fn head(&self) -> Result<FeedCursor, StoreError> {
        if let Some(head) = self.known_head() {
            return Ok(head);
        }
        let failed_begins = self.failed_begins.load(Ordering::SeqCst);
        let _beginning = self.begin_lock.lock().await;
        if let Some(head) = self.known_head() {
            return Ok(head);
        }
        if self.failed_begins.load(Ordering::SeqCst) != failed_begins {
            // Otherwise thousands of waiting subscribers would find out one by one that the store is unavailable.
            return Err(StoreError::Unavailable {
                attempted: "begin to follow the feed",
                source: anyhow::anyhow!("an attempt failed just now"),
            });
        }
        let begun = self.begin().await;
        if begun.is_err() {
            self.failed_begins.fetch_add(1, Ordering::SeqCst);
        }
        begun
    }

    async fn begin(&self) -> Result<FeedCursor, StoreError> {
        let bounds = self.store.events_after(None, 0).await?.bounds;
        // Earlier events are read first: clients of a restarted server reconnect together.
        let warm = i64::try_from(RECENT_CHANGES_MAX).expect("it is a small number");
        let first = FeedPosition((bounds.last.0 - warm).max(bounds.complete_after.0));
        let epochs = bounds.epochs.clone();
        let page = catch_up::newest(&*self.store, epochs, first, RECENT_CHANGES_MAX).await?;
        let mut state = self.state();
        if state.epochs.is_none() {
            state.epochs = Some(page.epochs.clone());
            state.recent.begin(page.begin);
            self.head.store(page.begin.0, Ordering::Release);
            self.deliver(&mut state, &page.epochs, page.events);
            self.joined.notify_one();
        }
        drop(state);
        Ok(self.known_head().unwrap_or(bounds.cursor(bounds.last)))
    }

    fn known_head(&self) -> Option<FeedCursor> {
        let state = self.state();
        let epochs = state.epochs.as_ref()?;
        Some(epochs.cursor(FeedPosition(self.head.load(Ordering::Acquire))))
    }

    /// Delivers events to the subscribers' queues and the recent changes.
    fn deliver(&self, state: &mut State, epochs: &Epochs, events: Vec<FeedEvent>) {
        for event in events {
            let position = event.position;
            let change = Change::new(epochs.cursor(position).epoch, event);
            let delivery = state.routes.deliver(&change);
            self.metrics.feed_deliveries.inc_by(delivery.delivered);
            self.metrics.feed_subscribers_lagged.inc_by(delivery.lagged);
            state.recent.push(change);
            self.head.store(position.0, Ordering::Release);
        }
    }
}
