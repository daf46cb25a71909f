//! Follows the log of events once per node and hands every change to whoever follows it here, in order and without a
//! gap. What a change looks like on a wire is left to `http`; the log, and with it every promise, to the store.
//!
//! A subscriber gets changes from a bounded queue of its own. One whose queue is full is taken off, and reads on from
//! the recent changes in memory or from the log until it has caught up: it costs the others nothing.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::epoch::EpochIdentity;
use crate::metrics::Metrics;
use crate::order::{OrderId, OrderStatus};
use crate::store::{Epochs, FeedCursor, FeedEvent, FeedPosition, Store, StoreError};

mod catch_up;
mod recent;
/// Seen from outside by the benchmark of its costs only.
#[doc(hidden)]
pub mod routes;
mod subscription;
mod tail;

pub use catch_up::LogPage;
pub use subscription::{Next, Subscription};

use recent::{RECENT_CHANGES_MAX, Recent};
use routes::Routes;

/// Who may follow the feed at once on one node. Each costs some 40 KiB when it is stuck, most of that its connection's.
const SUBSCRIBERS_MAX: usize = 16_384;
/// Reads of the log under way at once, for all who catch up together: the rest of the store's readers is for requests.
const LOG_READS_MAX: usize = 2;

#[derive(Clone, Copy, Debug)]
pub struct LiveSettings {
    /// Leave the store alone after some quiet time, though somebody listens.
    pub idle_sleep: bool,
}

/// One event, as all subscribers share it.
pub struct Change {
    /// The epoch that the event's place belongs to.
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

    /// The change as it is sent: made by whoever needs it first, the same for all others.
    pub fn text(&self, render: impl FnOnce(&Change) -> Bytes) -> Bytes {
        self.text.get_or_init(|| render(self)).clone()
    }
}

/// What somebody wants to hear of: everything that agrees with all that is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub order_id: Option<OrderId>,
    pub user_id: Option<i64>,
    /// After the event.
    pub status: Option<OrderStatus>,
}

impl Filter {
    pub fn matches(&self, event: &FeedEvent) -> bool {
        self.order_id.is_none_or(|id| id == event.event.order_id)
            && self.user_id.is_none_or(|id| id == event.user_id)
            && self.status.is_none_or(|status| status == event.event.status)
    }
}

/// Why nobody can follow the feed now.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    #[error("as many follow the feed on this node as may")]
    TooMany,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The feed as the rest of the process uses it. Cheap to clone.
#[derive(Clone)]
pub struct Feed(Arc<Shared>);

/// The task that follows the log; ends when the server drains.
pub struct Live {
    feed: Feed,
    tail: JoinHandle<()>,
}

struct Shared {
    store: Arc<dyn Store>,
    metrics: Metrics,
    settings: LiveSettings,
    state: Mutex<State>,
    /// Everything up to here was handed to the subscribers' queues. Written by the tail after it did, under the lock of
    /// `state`; read without it.
    head: AtomicI64,
    /// Who follows the log, held reads included.
    subscribers: AtomicUsize,
    /// Somebody subscribed: the tail may have to begin, or to look more often.
    joined: Notify,
    log_reads: Semaphore,
    /// Held by the one who begins to follow the feed: of those who come together the others wait for what he finds.
    beginning: tokio::sync::Mutex<()>,
    /// How often that could not be done. Written with `beginning` held, read before and under it.
    begun_in_vain: AtomicU64,
    /// Streams end.
    draining: CancellationToken,
}

/// What the tail and those who subscribe have in common. Held for as long as one page is handed out.
struct State {
    /// The epochs that the latest read of the feed found; `None` while nobody listens.
    epochs: Option<Epochs>,
    /// Rises whenever what comes does not follow what was: places known from before mean nothing then.
    life: u64,
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
                life: 0,
                recent: Recent::default(),
                routes: Routes::default(),
            }),
            head: AtomicI64::new(0),
            subscribers: AtomicUsize::new(0),
            joined: Notify::new(),
            log_reads: Semaphore::new(LOG_READS_MAX),
            beginning: tokio::sync::Mutex::default(),
            begun_in_vain: AtomicU64::new(0),
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
    /// What happens from now on, or happened since `after`. A place that is not in the feed, or behind which something
    /// was taken out, is answered by a [`Next::Resync`] first.
    ///
    /// With a place to begin behind, a store that is away is waited for by [`Subscription::next`].
    pub async fn subscribe(
        &self,
        filter: Filter,
        after: Option<FeedCursor>,
    ) -> Result<Subscription, SubscribeError> {
        Subscription::begin(self.0.clone(), filter, after).await
    }

    /// The next changes of the log that match, without following it. See [`LogPage`].
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

    /// The feed and the place up to which it was handed out; begins to follow it where nobody does. Whoever asks counts
    /// as a subscriber already, so that it goes on.
    async fn head(&self) -> Result<FeedCursor, StoreError> {
        if let Some(head) = self.known_head() {
            return Ok(head);
        }
        let begun_in_vain = self.begun_in_vain.load(Ordering::SeqCst);
        let _beginning = self.beginning.lock().await;
        if let Some(head) = self.known_head() {
            return Ok(head);
        }
        if self.begun_in_vain.load(Ordering::SeqCst) != begun_in_vain {
            // Thousands who wait do not each find out for themselves, one after the other, that the store is away.
            return Err(StoreError::Unavailable {
                attempted: "begin to follow the feed",
                source: anyhow::anyhow!("it was tried just now, and the store did not answer"),
            });
        }
        let begun = self.begin().await;
        if begun.is_err() {
            self.begun_in_vain.fetch_add(1, Ordering::SeqCst);
        }
        begun
    }

    async fn begin(&self) -> Result<FeedCursor, StoreError> {
        let bounds = self.store.events_after(None, 0).await?.bounds;
        // What was before is read first: clients of a server that was restarted come back together.
        let warm = i64::try_from(RECENT_CHANGES_MAX).expect("it is a small number");
        let first = FeedPosition((bounds.last.0 - warm).max(bounds.complete_after.0));
        let epochs = bounds.epochs.clone();
        let page = catch_up::newest(&*self.store, epochs, first, RECENT_CHANGES_MAX).await?;
        let mut state = self.state();
        if state.epochs.is_none() {
            state.epochs = Some(page.epochs.clone());
            state.recent.begin(page.begin);
            self.head.store(page.begin.0, Ordering::Release);
            self.hand_out(&mut state, &page.epochs, page.events);
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

    /// To the queues of those who follow, and to the recent changes.
    fn hand_out(&self, state: &mut State, epochs: &Epochs, events: Vec<FeedEvent>) {
        for event in events {
            let position = event.position;
            let change = Change::new(epochs.cursor(position).epoch, event);
            let handed = state.routes.hand_out(&change);
            self.metrics.feed_deliveries.inc_by(handed.delivered);
            self.metrics.feed_subscribers_lagged.inc_by(handed.lagged);
            state.recent.push(change);
            self.head.store(position.0, Ordering::Release);
        }
    }
}
