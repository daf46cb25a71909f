//! One subscriber of the feed. Reads from memory, the log or its queue, whichever has the next change.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::catch_up::LogPage;
use super::routes::Registration;
use super::{Change, Filter, SUBSCRIBERS_MAX, Shared, SubscribeError, catch_up};
use crate::store::{FeedCursor, FeedEvent, FeedPosition, StoreError};

/// Changes that a subscriber holds while it catches up: shared ones from memory, its own from the log.
const RECENT_STEP: usize = 256;
const LOG_STEP: usize = 64;
/// Pause before another read of the log after a failure, or when it has nothing that the tail lacks.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Follows the feed until dropped.
pub struct Subscription {
    filter: Filter,
    /// Position up to which all matching changes were delivered.
    at: FeedCursor,
    /// True once `at` is known to be a position of this feed.
    verified: bool,
    /// The feed's `restarts` when `at` was last known to be valid.
    restarts: u64,
    /// Returned before anything else. Until then the cursor stays the one that cannot be followed, so that a subscriber
    /// cut off earlier gets the resync again.
    resync: Option<FeedCursor>,
    /// Next changes, from memory or from the log.
    backlog: VecDeque<Arc<Change>>,
    /// Position up to which all matching changes are delivered once the backlog is.
    complete_to: FeedCursor,
    /// Follows the backlog; `None` while catching up.
    following: Option<Registration>,
    /// Current read of the log. It continues when the wait for it is cancelled, and so keeps its place in the queue; as
    /// a task of its own it also releases its permit if the result is never fetched.
    reading: Option<AbortOnDropHandle<Result<LogPage, StoreError>>>,
    counted: SubscriberCount,
}

/// Next item for a subscriber.
pub enum Next {
    Change(Arc<Change>),
    /// The requested events were removed or never existed in this feed. The subscription continues from here, the end
    /// of the feed; earlier changes have to be read by other means.
    Resync(FeedCursor),
}

impl Subscription {
    pub(super) async fn begin(
        shared: Arc<Shared>,
        filter: Filter,
        after: Option<FeedCursor>,
    ) -> Result<Subscription, SubscribeError> {
        // First, so that the tail keeps running meanwhile.
        let counted = SubscriberCount::new(shared).ok_or(SubscribeError::TooMany)?;
        let restarts = counted.0.state().restarts;
        let head = counted.0.head().await;
        let at = match (after, head) {
            (Some(after), Ok(_) | Err(_)) => after,
            (None, head) => head?,
        };
        let mut subscription = Subscription {
            filter,
            at,
            verified: after.is_none(),
            restarts,
            resync: None,
            backlog: VecDeque::new(),
            complete_to: at,
            following: None,
            reading: None,
            counted,
        };
        // The log decides on a position from before this moment, which may take a while.
        subscription.step_in_memory();
        Ok(subscription)
    }

    /// Waits for the next item, also while the store is unavailable. Cancel safe.
    pub async fn next(&mut self) -> Next {
        loop {
            if let Some(end) = self.resync.take() {
                self.at = end;
                self.complete_to = end;
                return Next::Resync(end);
            }
            if let Some(change) = self.backlog.pop_front() {
                self.at = change.cursor();
                return Next::Change(change);
            }
            self.at = later_of(self.at, self.complete_to);
            match &mut self.following {
                Some(following) => match following.queue.recv().await {
                    // It was read from the log already, ahead of the tail.
                    Some(change) if change.event.position <= self.at.position => {}
                    Some(change) => {
                        self.at = change.cursor();
                        return Next::Change(change);
                    }
                    None => self.handle_queue_end(),
                },
                None => self.catch_up().await,
            }
        }
    }

    /// Returns the cursor to resume from: all matching changes up to it were delivered. Advances with the feed even
    /// while nothing matches.
    pub fn cursor(&mut self) -> FeedCursor {
        // Read before the queue: changes up to there are in the queue or were taken from it.
        let head = self.counted.0.known_head();
        if let (Some(following), Some(head)) = (&self.following, head)
            && self.backlog.is_empty()
            && following.queue.is_empty()
            && !following.queue.is_closed()
        {
            self.at = later_of(self.at, head);
        }
        self.at
    }

    /// Handles the end of the queue: it was full once and is empty now, or the feed has restarted.
    fn handle_queue_end(&mut self) {
        self.verified = false;
        if let Some(registration) = self.following.take() {
            if let Some(complete_to) = registration.complete_to.get() {
                self.complete_to = later_of(self.complete_to, *complete_to);
            }
            self.at = later_of(self.at, self.complete_to);
        }
    }

    async fn catch_up(&mut self) {
        if self.step_in_memory() {
            self.reading = None;
            return;
        }
        let before = self.at;
        match self.step_in_log().await {
            Ok(()) if self.resync.is_some() || !self.backlog.is_empty() => {}
            Ok(()) if self.complete_to.position > before.position => {}
            Ok(()) => sleep(RETRY_PAUSE).await,
            Err(error) => {
                tracing::debug!(%error, "a subscriber cannot catch up; retrying");
                sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// Takes the next changes from memory, and joins the queue with the last of them. `false` if some of the next
    /// changes are not in memory.
    fn step_in_memory(&mut self) -> bool {
        let shared = &self.counted.0;
        let mut state = shared.state();
        let Some(epochs) = &state.epochs else {
            return false;
        };
        let head = epochs.cursor(FeedPosition(shared.head.load(Ordering::Acquire)));
        if state.restarts != self.restarts {
            self.restarts = state.restarts;
            self.resync = Some(head);
            return true;
        }
        // A position ahead of this node's tail may come from another node or be invalid; the log decides.
        let ahead = !self.verified && self.at.position > head.position;
        if !epochs.contain(self.at) || ahead {
            return false;
        }
        let Some(found) = state.recent.after(self.at.position, &self.filter, RECENT_STEP) else {
            return false;
        };
        self.verified = true;
        self.backlog = found.changes;
        if found.all {
            self.following = Some(state.routes.add(&self.filter));
            self.complete_to = later_of(self.complete_to, head);
        }
        true
    }

    /// Cancel safe: a cancelled read continues with the next call.
    async fn step_in_log(&mut self) -> Result<(), StoreError> {
        let reading = self.reading.get_or_insert_with(|| {
            let read = read_log(self.counted.0.clone(), self.filter.clone(), self.at.position);
            AbortOnDropHandle::new(tokio::spawn(read))
        });
        let read = reading.await;
        self.reading = None;
        let read = read.map_err(|error| StoreError::Unexpected {
            attempted: "read the feed",
            source: error.into(),
        })??;
        self.verified = true;
        if !read.bounds.contain(self.at) {
            self.resync = Some(read.bounds.cursor(read.bounds.last));
            return Ok(());
        }
        self.complete_to = read.bounds.cursor(read.position);
        let epochs = read.bounds.epochs;
        let change = |event: FeedEvent| Change::new(epochs.cursor(event.position).epoch, event);
        self.backlog = read.events.into_iter().map(change).collect();
        Ok(())
    }
}

/// Returns the later of two positions.
fn later_of(one: FeedCursor, other: FeedCursor) -> FeedCursor {
    if other.position > one.position { other } else { one }
}

/// Reads the log; only a few reads run at a time.
async fn read_log(shared: Arc<Shared>, filter: Filter, after: FeedPosition) -> Result<LogPage, StoreError> {
    let turn = shared.log_reads.acquire().await;
    let _turn = turn.expect("the semaphore of log reads is never closed");
    // Starts to follow the feed if no subscriber did so far.
    shared.head().await?;
    catch_up::page(&*shared.store, filter, after, LOG_STEP).await
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(registration) = &self.following {
            let mut state = self.counted.0.state();
            state.routes.remove(&self.filter, registration.number);
        }
    }
}

/// Counts as a subscriber until dropped.
struct SubscriberCount(Arc<Shared>);

impl SubscriberCount {
    /// Returns `None` at the limit of subscribers.
    fn new(shared: Arc<Shared>) -> Option<SubscriberCount> {
        shared
            .subscribers
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| {
                (count < SUBSCRIBERS_MAX).then_some(count + 1)
            })
            .ok()?;
        shared.metrics.feed_subscribers.inc();
        shared.joined.notify_one();
        Some(SubscriberCount(shared))
    }
}

impl Drop for SubscriberCount {
    fn drop(&mut self) {
        self.0.subscribers.fetch_sub(1, Ordering::SeqCst);
        self.0.metrics.feed_subscribers.dec();
    }
}
