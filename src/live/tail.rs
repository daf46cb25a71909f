//! Follows the end of the log while there are subscribers: woken by the store's signals, and by polling where signals
//! may be incomplete.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::{Shared, State};
use crate::log_lines::Latch;
use crate::store::{FEED_EVENTS_MAX, FeedBounds, FeedPosition, StoreError, Wakeups};

/// Minimum interval between reads; commits in between are read together.
const READ_INTERVAL_MIN: Duration = Duration::from_millis(2);
/// Pause while another node is numbering committed events.
const UNNUMBERED_PAUSE: Duration = Duration::from_millis(10);
/// Poll interval when every commit is signalled: above 30 s, two a minute.
const POLL_WITH_SIGNALS: Duration = Duration::from_secs(34);
/// Poll intervals when other nodes' commits are not signalled: short after a change, then longer.
const POLLS_WITHOUT_SIGNALS: [(Duration, Duration); 2] = [
    (Duration::from_secs(10), Duration::from_millis(250)),
    (Duration::from_mins(1), Duration::from_secs(1)),
];
const POLL_WITHOUT_SIGNALS_QUIET: Duration = Duration::from_secs(15);
/// After this time without a change, a database that may sleep is left alone until this node changes something.
const SLEEP_AFTER: Duration = Duration::from_mins(2);
/// The time the feed is still followed after the last subscriber leaves, since subscribers that were cut off reconnect.
const LINGER: Duration = Duration::from_mins(1);
/// Pause after a failed read, regardless of signals: an unavailable store is not polled at the pace of changes.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Age at which reading a change is worth a warning.
const LAG_WARNING: Duration = Duration::from_secs(10);

pub(super) async fn run(shared: Arc<Shared>) {
    let follow = async {
        loop {
            until_begun(&shared).await;
            if Tail::new(&shared).follow().await.is_err() {
                // The store is closed.
                return;
            }
        }
    };
    tokio::select! {
        () = shared.draining.cancelled() => {}
        () = follow => {}
    }
}

async fn until_begun(shared: &Shared) {
    while shared.known_head().is_none() {
        shared.joined.notified().await;
    }
}

struct Tail<'s> {
    shared: &'s Shared,
    /// Time of the last change or the last new subscriber.
    active_at: Instant,
    /// Instant since which there are no subscribers.
    empty_since: Option<Instant>,
    /// Instant since which there are, or may be, events that cannot be read.
    behind_since: Option<Instant>,
    failing: Latch,
    lagging: Latch,
}

/// The store takes no more calls.
struct Closed;

/// Time of the next read unless a signal comes before.
enum NextRead {
    In(Duration),
    /// Poll interval.
    Poll,
}

impl<'s> Tail<'s> {
    fn new(shared: &'s Shared) -> Tail<'s> {
        Tail {
            shared,
            active_at: Instant::now(),
            empty_since: None,
            behind_since: None,
            failing: Latch::default(),
            lagging: Latch::default(),
        }
    }

    /// Follows the log until there have been no subscribers for a while.
    async fn follow(&mut self) -> Result<(), Closed> {
        let wakeups = self.shared.store.wakeups();
        loop {
            let began = Instant::now();
            let next_read = match self.read(began).await {
                Ok(Found::More) => continue,
                Ok(Found::Soon) => NextRead::In(UNNUMBERED_PAUSE),
                Ok(Found::End) => NextRead::Poll,
                Err(StoreError::Closed) => return Err(Closed),
                Err(error) => {
                    self.measure(Duration::ZERO, Some(began));
                    if self.failing.set() {
                        tracing::warn!(%error, "cannot follow the feed; retrying. If it goes on, `orderly doctor` says why");
                    }
                    if self.is_over() {
                        return Ok(());
                    }
                    sleep(RETRY_PAUSE).await;
                    continue;
                }
            };
            if self.is_over() {
                return Ok(());
            }
            self.until_due(&wakeups, began, &next_read).await;
            sleep_until(began + READ_INTERVAL_MIN).await;
        }
    }

    async fn until_due(&mut self, wakeups: &Wakeups, began: Instant, next_read: &NextRead) {
        let mut hears_all = wakeups.watch_hears_all();
        loop {
            let due = match next_read {
                NextRead::In(pause) => Some(began + *pause),
                NextRead::Poll => self
                    .poll_interval(*hears_all.borrow_and_update())
                    .map(|interval| began + interval),
            };
            // A tail about to end checks again at that time.
            let due = due.or(self.empty_since.map(|since| since + LINGER));
            tokio::select! {
                () = wakeups.changed() => return,
                () = sleep_until(due.unwrap_or(began)), if due.is_some() => return,
                () = self.shared.joined.notified() => self.active_at = Instant::now(),
                changed = hears_all.changed() => {
                    changed.expect("the sender lives as long as the wake-ups");
                    // Signals may have been missed before. A sleeping database closes the connection that carries its
                    // signals; that is no reason to wake it.
                    if *hears_all.borrow() && !self.is_asleep() {
                        return;
                    }
                }
            }
        }
    }

    async fn read(&mut self, began: Instant) -> Result<Found, StoreError> {
        let after = FeedPosition(self.shared.head.load(Ordering::Acquire));
        let page = self
            .shared
            .store
            .events_after(Some(after), FEED_EVENTS_MAX)
            .await?;
        self.failing.clear();
        let oldest = page.events.first();
        let age = oldest.map_or(Duration::ZERO, |oldest| page.read_at.since(oldest.event.at));
        self.measure(age, page.unplaced.then_some(began));
        let mut state = self.shared.state();
        // With the epochs as delivered: a newer epoch may have begun before this position.
        let head = state.epochs.as_ref().map(|epochs| epochs.cursor(after));
        let follows = head.is_some_and(|head| page.bounds.contain(head));
        if !follows {
            restart(self.shared, &mut state, page.bounds);
            return Ok(Found::End);
        }
        let found = match page.events.len() {
            FEED_EVENTS_MAX => Found::More,
            _ if page.unplaced => Found::Soon,
            _ => Found::End,
        };
        if !page.events.is_empty() {
            self.active_at = Instant::now();
        }
        self.shared.deliver(&mut state, &page.bounds.epochs, page.events);
        state.epochs = Some(page.bounds.epochs);
        Ok(found)
    }

    /// Records the lag. `age` is that of the oldest change read; `behind` is the start of a read that did not reach the
    /// end.
    fn measure(&mut self, age: Duration, behind: Option<Instant>) {
        self.behind_since = behind.map(|began| self.behind_since.unwrap_or(began));
        let waited = self.behind_since.map_or(Duration::ZERO, |since| since.elapsed());
        let lag = age.max(waited);
        self.shared.metrics.feed_lag.read(lag);
        if lag < LAG_WARNING {
            self.lagging.clear();
        } else if self.lagging.set() {
            tracing::warn!(
                "the feed is {:.1} s behind; subscribers get changes late. `orderly doctor` says why",
                lag.as_secs_f64()
            );
        }
    }

    /// Returns `None` to wait for a signal only.
    fn poll_interval(&self, hears_all: bool) -> Option<Duration> {
        if self.is_asleep() {
            return None;
        }
        if hears_all {
            return Some(POLL_WITH_SIGNALS);
        }
        let quiet = self.active_at.elapsed();
        let step = POLLS_WITHOUT_SIGNALS.iter().find(|(until, _)| quiet < *until);
        Some(step.map_or(POLL_WITHOUT_SIGNALS_QUIET, |(_, interval)| *interval))
    }

    fn is_asleep(&self) -> bool {
        self.shared.settings.idle_sleep && self.active_at.elapsed() >= SLEEP_AFTER
    }

    fn is_over(&mut self) -> bool {
        let mut state = self.shared.state();
        // A new subscriber is counted before it reads the state.
        if self.shared.subscribers.load(Ordering::SeqCst) > 0 {
            self.empty_since = None;
            return false;
        }
        let empty_since = *self.empty_since.get_or_insert_with(Instant::now);
        if empty_since.elapsed() < LINGER {
            return false;
        }
        state.epochs = None;
        state.recent.clear();
        self.shared.metrics.feed_lag.read(Duration::ZERO);
        true
    }
}

/// Result of a read of the log's end.
enum Found {
    /// A full page.
    More,
    /// There are more events that cannot be read yet.
    Soon,
    End,
}

/// Restarts the feed when events do not continue from the last position: the database was replaced or put back to an
/// earlier state, or the next events were removed unread. Every subscriber gets a resync.
fn restart(shared: &Shared, state: &mut State, bounds: FeedBounds) {
    tracing::warn!("the feed does not continue from its last position; subscribers must resync");
    state.routes.clear();
    state.restarts += 1;
    state.recent.begin(bounds.last);
    shared.head.store(bounds.last.0, Ordering::Release);
    state.epochs = Some(bounds.epochs);
}
