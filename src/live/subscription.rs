//! One follower of the feed: from memory, from the log or from its queue, whichever has what comes next.

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

/// Changes that one who catches up holds: shared ones out of memory, and his own out of the log.
const RECENT_STEP: usize = 256;
const LOG_STEP: usize = 64;
/// Before the log is read again where it could not be, or had nothing while the tail was not there yet.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Follows the feed. Dropping it ends that.
pub struct Subscription {
    filter: Filter,
    /// Everything that matches up to here was handed out.
    at: FeedCursor,
    /// Whether `at` was found to be a place of this feed.
    verified: bool,
    /// Of the feed when `at` was last known to be a place of it.
    life: u64,
    /// Comes before anything else. Until it is handed out the place to come back with is the one that led nowhere, so
    /// that whoever is cut off before hears of it again.
    resync: Option<FeedCursor>,
    /// Comes next, from memory or from the log.
    backlog: VecDeque<Arc<Change>>,
    /// With the backlog, everything that matches up to here was handed out.
    complete_to: FeedCursor,
    /// Comes behind the backlog; `None` while catching up.
    following: Option<Registration>,
    /// The log, as it is read at the moment. It goes on when the wait for it is broken off, and so keeps its place in the
    /// line; being a task of its own, it also gives its turn back when nobody asks for what it read.
    reading: Option<AbortOnDropHandle<Result<LogPage, StoreError>>>,
    present: Present,
}

/// What comes next to a subscriber.
pub enum Next {
    Change(Arc<Change>),
    /// What was asked for cannot be had: it was taken out, or never was in this feed. It goes on from here, the end of
    /// the feed; what came before is to be read otherwise.
    Resync(FeedCursor),
}

impl Subscription {
    pub(super) async fn begin(
        shared: Arc<Shared>,
        filter: Filter,
        after: Option<FeedCursor>,
    ) -> Result<Subscription, SubscribeError> {
        // First, so that the tail goes on meanwhile.
        let present = Present::new(shared).ok_or(SubscribeError::TooMany)?;
        let life = present.0.state().life;
        let head = present.0.head().await;
        let at = match (after, head) {
            (Some(after), Ok(_) | Err(_)) => after,
            (None, head) => head?,
        };
        let mut subscription = Subscription {
            filter,
            at,
            verified: after.is_none(),
            life,
            resync: None,
            backlog: VecDeque::new(),
            complete_to: at,
            following: None,
            reading: None,
            present,
        };
        // A place known from before this moment is judged by the log, which may take its turn.
        subscription.step_in_memory();
        Ok(subscription)
    }

    /// Waits for what comes next, also while the store is away. Cancel safe.
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
            self.at = further(self.at, self.complete_to);
            match &mut self.following {
                Some(following) => match following.queue.recv().await {
                    // It had been read from the log, ahead of the tail.
                    Some(change) if change.event.position <= self.at.position => {}
                    Some(change) => {
                        self.at = change.cursor();
                        return Next::Change(change);
                    }
                    None => self.taken_off(),
                },
                None => self.catch_up().await,
            }
        }
    }

    /// The place to come back with: everything that matches up to here was handed out. Rises with the feed also while
    /// nothing matches.
    pub fn cursor(&mut self) -> FeedCursor {
        // Before the look at the queue: what was handed out up to there is in it or was taken from it.
        let head = self.present.0.known_head();
        if let (Some(following), Some(head)) = (&self.following, head)
            && self.backlog.is_empty()
            && following.queue.is_empty()
            && !following.queue.is_closed()
        {
            self.at = further(self.at, head);
        }
        self.at
    }

    /// The queue was full once, and is empty now; or the feed is another one.
    fn taken_off(&mut self) {
        self.verified = false;
        if let Some(registration) = self.following.take() {
            if let Some(complete_to) = registration.complete_to.get() {
                self.complete_to = further(self.complete_to, *complete_to);
            }
            self.at = further(self.at, self.complete_to);
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
                tracing::debug!(%error, "a subscriber cannot catch up, trying again");
                sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// The next changes out of memory, and with the last of them a queue for what follows. `false` when not all of what
    /// comes next is there.
    fn step_in_memory(&mut self) -> bool {
        let shared = &self.present.0;
        let mut state = shared.state();
        let Some(epochs) = &state.epochs else {
            return false;
        };
        let head = epochs.cursor(FeedPosition(shared.head.load(Ordering::Acquire)));
        if state.life != self.life {
            self.life = state.life;
            self.resync = Some(head);
            return true;
        }
        // A place ahead of this node's tail may be another node's, or none at all: the log knows.
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
            self.following = Some(state.routes.add(self.filter));
            self.complete_to = further(self.complete_to, head);
        }
        true
    }

    /// Cancel safe: what is broken off goes on with the next call.
    async fn step_in_log(&mut self) -> Result<(), StoreError> {
        let reading = self.reading.get_or_insert_with(|| {
            let read = read_log(self.present.0.clone(), self.filter, self.at.position);
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

/// The later one of two places.
fn further(one: FeedCursor, other: FeedCursor) -> FeedCursor {
    if other.position > one.position { other } else { one }
}

/// One of a few at a time.
async fn read_log(shared: Arc<Shared>, filter: Filter, after: FeedPosition) -> Result<LogPage, StoreError> {
    let turn = shared.log_reads.acquire().await;
    let _turn = turn.expect("the semaphore of log reads is never closed");
    // Where nobody followed the feed so far.
    shared.head().await?;
    catch_up::page(&*shared.store, filter, after, LOG_STEP).await
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(registration) = &self.following {
            let mut state = self.present.0.state();
            state.routes.remove(&self.filter, registration.number);
        }
    }
}

/// Counts as a subscriber until it is dropped.
struct Present(Arc<Shared>);

impl Present {
    /// `None` when there are as many as may be.
    fn new(shared: Arc<Shared>) -> Option<Present> {
        shared
            .subscribers
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| {
                (count < SUBSCRIBERS_MAX).then_some(count + 1)
            })
            .ok()?;
        shared.metrics.feed_subscribers.inc();
        shared.joined.notify_one();
        Some(Present(shared))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.subscribers.fetch_sub(1, Ordering::SeqCst);
        self.0.metrics.feed_subscribers.dec();
    }
}
