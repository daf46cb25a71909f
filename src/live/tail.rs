//! Follows the end of the log while somebody listens: woken by the store's signals, and by itself where those may not
//! tell everything.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::{Shared, State};
use crate::store::{FEED_EVENTS_MAX, FeedBounds, FeedPosition, StoreError, Wakeups};

/// Between two reads at least: what is committed meanwhile is read together.
const READ_INTERVAL_MIN: Duration = Duration::from_millis(2);
/// Where another node is just giving places to what is committed.
const UNPLACED_PAUSE: Duration = Duration::from_millis(10);
/// Between two looks where every commit is signalled: above 30 s, two a minute.
const POLL_HEARING: Duration = Duration::from_secs(34);
/// Where another node's commits are not signalled: after a change for a while often, then less and less.
const POLLS_DEAF: [(Duration, Duration); 2] = [
    (Duration::from_secs(10), Duration::from_millis(250)),
    (Duration::from_mins(1), Duration::from_secs(1)),
];
const POLL_DEAF_QUIET: Duration = Duration::from_secs(15);
/// No change for so long, and a database that may sleep is left alone until this node changes something.
const SLEEP_AFTER: Duration = Duration::from_mins(2);
/// How long the feed is followed on when the last subscriber is gone: those whose connection was cut come back.
const LINGER: Duration = Duration::from_mins(1);
/// After a read that failed, whatever is signalled meanwhile: a store that is away is not asked at the pace of the changes
/// that others still make, or of those that fail.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// A change that is read so long after it happened is worth a warning.
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
    /// The last change, or the last time somebody began to listen.
    active_at: Instant,
    /// Since when nobody listens.
    deserted_at: Option<Instant>,
    /// Since when there is, or may be, something that cannot be read.
    behind_since: Option<Instant>,
    failing: bool,
    lagging: bool,
}

/// The store takes no more calls.
struct Closed;

/// When to read again, unless something is signalled before.
enum Look {
    In(Duration),
    /// As there is need.
    Poll,
}

impl<'s> Tail<'s> {
    fn new(shared: &'s Shared) -> Tail<'s> {
        Tail {
            shared,
            active_at: Instant::now(),
            deserted_at: None,
            behind_since: None,
            failing: false,
            lagging: false,
        }
    }

    /// Until nobody has listened for a while.
    async fn follow(&mut self) -> Result<(), Closed> {
        let wakeups = self.shared.store.wakeups();
        loop {
            let began = Instant::now();
            let look = match self.read(began).await {
                Ok(Found::More) => continue,
                Ok(Found::Soon) => Look::In(UNPLACED_PAUSE),
                Ok(Found::End) => Look::Poll,
                Err(StoreError::Closed) => return Err(Closed),
                Err(error) => {
                    self.measure(Duration::ZERO, Some(began));
                    if !self.failing {
                        tracing::warn!(%error, "cannot follow the feed, trying again");
                        self.failing = true;
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
            self.until_due(&wakeups, began, &look).await;
            sleep_until(began + READ_INTERVAL_MIN).await;
        }
    }

    async fn until_due(&mut self, wakeups: &Wakeups, began: Instant, look: &Look) {
        let mut hears_all = wakeups.watch_hears_all();
        loop {
            let due = match look {
                Look::In(pause) => Some(began + *pause),
                Look::Poll => self
                    .poll_interval(*hears_all.borrow_and_update())
                    .map(|interval| began + interval),
            };
            // One that is about to be over looks again then.
            let due = due.or(self.deserted_at.map(|since| since + LINGER));
            tokio::select! {
                () = wakeups.changed() => return,
                () = sleep_until(due.unwrap_or(began)), if due.is_some() => return,
                () = self.shared.joined.notified() => self.active_at = Instant::now(),
                heard = hears_all.changed() => {
                    heard.expect("the sender lives as long as the wake-ups");
                    // Something may have been missed before. That a database which is left alone ends the connection
                    // on which it tells its news is no reason to wake it.
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
        self.failing = false;
        let oldest = page.events.first();
        let age = oldest.map_or(Duration::ZERO, |oldest| page.read_at.since(oldest.event.at));
        self.measure(age, page.unplaced.then_some(began));
        let mut state = self.shared.state();
        // As it was handed out: an epoch that began since may have begun before it.
        let head = state.epochs.as_ref().map(|epochs| epochs.cursor(after));
        let follows = head.is_some_and(|head| page.bounds.contain(head));
        if !follows {
            begin_anew(self.shared, &mut state, page.bounds);
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
        self.shared.hand_out(&mut state, &page.bounds.epochs, page.events);
        state.epochs = Some(page.bounds.epochs);
        Ok(found)
    }

    /// `age` is that of the oldest change that was read; `behind` when a read began that did not come to the end.
    fn measure(&mut self, age: Duration, behind: Option<Instant>) {
        self.behind_since = behind.map(|began| self.behind_since.unwrap_or(began));
        let waited = self.behind_since.map_or(Duration::ZERO, |since| since.elapsed());
        let lag = age.max(waited);
        self.shared.metrics.feed_lag.read(lag);
        let lagging = lag >= LAG_WARNING;
        if lagging && !self.lagging {
            tracing::warn!(
                "the feed is {:.1} s behind: subscribers hear of changes late",
                lag.as_secs_f64()
            );
        }
        self.lagging = lagging;
    }

    /// `None` to wait for a signal however long that takes.
    fn poll_interval(&self, hears_all: bool) -> Option<Duration> {
        if self.is_asleep() {
            return None;
        }
        if hears_all {
            return Some(POLL_HEARING);
        }
        let quiet = self.active_at.elapsed();
        let step = POLLS_DEAF.iter().find(|(until, _)| quiet < *until);
        Some(step.map_or(POLL_DEAF_QUIET, |(_, interval)| *interval))
    }

    fn is_asleep(&self) -> bool {
        self.shared.settings.idle_sleep && self.active_at.elapsed() >= SLEEP_AFTER
    }

    fn is_over(&mut self) -> bool {
        let mut state = self.shared.state();
        // Whoever subscribes counts before looking at the state.
        if self.shared.subscribers.load(Ordering::SeqCst) > 0 {
            self.deserted_at = None;
            return false;
        }
        let deserted_at = *self.deserted_at.get_or_insert_with(Instant::now);
        if deserted_at.elapsed() < LINGER {
            return false;
        }
        state.epochs = None;
        state.recent.clear();
        self.shared.metrics.feed_lag.read(Duration::ZERO);
        true
    }
}

/// What a read of the log's end found.
enum Found {
    /// A full page.
    More,
    /// There is more that cannot be read yet.
    Soon,
    End,
}

/// What comes does not follow what was handed out: the database was put back to an earlier state or exchanged, or what comes
/// next was taken out while this node did not look. Every subscriber is told so.
fn begin_anew(shared: &Shared, state: &mut State, bounds: FeedBounds) {
    tracing::warn!("the feed does not go on where it was left: subscribers begin anew");
    state.routes.clear();
    state.life += 1;
    state.recent.begin(bounds.last);
    shared.head.store(bounds.last.0, Ordering::Release);
    state.epochs = Some(bounds.epochs);
}
