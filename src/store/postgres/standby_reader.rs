//! Reads lists of orders and full pages of the feed from the standby of `DATABASE_READ_URL`. Its answer counts if it
//! belongs to the primary's history and is not older than what the caller has seen. Otherwise, and whenever the
//! standby fails or is slow, the primary answers. Nothing here affects whether the node is ready. Why that is enough
//! is in docs/decisions/0022-reads-from-a-standby.md.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_postgres::types::Type;
use tokio_util::task::TaskTracker;

use super::await_answer::no_answer_text;
use super::class_pool::ClassPool;
use super::failure::PgFailure;
use super::feed::{self, Feed};
use super::query::{self, END_AND_PLACE, End, end_of};
use super::rows;
use super::shared::Shared;
use crate::config::PostgresUrl;
use crate::log_lines::Latch;
use crate::metrics::reads::{ReadKind, ReadServer};
use crate::store::opening::OpenError;
use crate::store::{FEED_EVENTS_MAX, FeedBounds, FeedPage, FeedPosition, OrderPage, OrderQuery};

mod health_check;
mod primary_feed;
mod sessions;

use primary_feed::{PrimaryFeed, Unfit};
use sessions::Sessions;

/// The limit for one read from the standby, including connecting; after that the primary is asked.
const READ_TIME_MAX: Duration = Duration::from_secs(3);
/// The server's limit for a statement on the standby.
const STATEMENT_TIME_MAX: Duration = Duration::from_millis(2_500);
/// The time for which a standby may have another history before it is left alone: it also has to replay a new epoch.
const UNFIT_MAX: Duration = Duration::from_secs(5);
/// The time for which a standby that lacked a position is not asked for that position again.
const END_KNOWN_FOR: Duration = Duration::from_millis(250);

pub(super) struct StandbyReader {
    sessions: Sessions,
    /// Asks the primary for its feed.
    primary: ClassPool,
    shared: Arc<Shared>,
    latest_feed: Mutex<Option<PrimaryFeed>>,
    /// Held while the primary is asked. Other callers wait for its answer.
    asking: tokio::sync::Mutex<()>,
    /// The number of times that the primary did not answer.
    unanswered_asks: AtomicU64,
    status: Mutex<StandbyStatus>,
    /// Notified when the standby failed, so that it is checked before it serves again.
    failed: Notify,
}

/// The state of the standby, as it was last found.
#[derive(Default)]
struct StandbyStatus {
    serves: bool,
    /// Set while the log says that the standby does not serve.
    logged: Latch,
    /// The time since which its answers do not count.
    unfit_since: Option<Instant>,
    /// The end of the feed on the standby, and the time when it was read.
    end: Option<(Instant, FeedPosition)>,
}

/// The reason why the primary is asked instead.
enum Fallback {
    /// The standby lacks the requested data.
    Behind,
    Unfit(Unfit),
    /// All connections to the standby are in use.
    Busy,
    Failed(PgFailure),
}

impl Fallback {
    fn reason(&self) -> &str {
        match self {
            Fallback::Behind => "it lacks the requested data",
            Fallback::Unfit(unfit) => unfit.reason(),
            Fallback::Busy => "all connections to it are in use",
            Fallback::Failed(failure) => failure.text(),
        }
    }
}

impl From<PgFailure> for Fallback {
    fn from(failure: PgFailure) -> Fallback {
        Fallback::Failed(failure)
    }
}

impl From<Unfit> for Fallback {
    fn from(unfit: Unfit) -> Fallback {
        match unfit {
            Unfit::Unclear => Fallback::Behind,
            Unfit::OtherHistory | Unfit::Lags => Fallback::Unfit(unfit),
        }
    }
}

/// Reads a page of orders from the standby, or from the primary.
pub(super) async fn orders(
    reader: Option<&StandbyReader>,
    lists: &ClassPool,
    shared: &Shared,
    query: &OrderQuery,
) -> Result<OrderPage, PgFailure> {
    let Some(reader) = reader else {
        return query::orders(lists, shared, query, false).await;
    };
    if let Some(page) = reader.orders(query).await {
        shared.metrics.read(ReadKind::list, ReadServer::standby);
        return Ok(page);
    }
    // Cursors need the place in the log only if a standby may read them later.
    let with_place = reader.status().serves;
    let page = query::orders(lists, shared, query, with_place).await?;
    shared.metrics.read(ReadKind::list, ReadServer::primary);
    Ok(page)
}

/// Reads a page of the feed from the standby, or from the primary.
pub(super) async fn events_after(
    reader: Option<&StandbyReader>,
    feed: &Feed,
    after: Option<FeedPosition>,
    limit: usize,
) -> Result<FeedPage, PgFailure> {
    let Some(reader) = reader else {
        return feed.events_after(after, limit).await;
    };
    let metrics = &reader.shared.metrics;
    if let Some(page) = reader.events_after(after, limit).await {
        metrics.read(ReadKind::feed, ReadServer::standby);
        return Ok(page);
    }
    let asked_at = Instant::now();
    let page = feed.events_after(after, limit).await?;
    metrics.read(ReadKind::feed, ReadServer::primary);
    reader.note(page.bounds.clone(), asked_at);
    Ok(page)
}

impl StandbyReader {
    /// Starts the reader, with a task that checks the standby; `None` without a URL.
    pub fn start(
        url: Option<&PostgresUrl>,
        shared: &Arc<Shared>,
        primary: &ClassPool,
        tasks: &TaskTracker,
    ) -> Result<Option<Arc<StandbyReader>>, OpenError> {
        let Some(url) = url else {
            return Ok(None);
        };
        let reader = Arc::new(StandbyReader {
            sessions: Sessions::new(url)?,
            primary: primary.clone(),
            shared: shared.clone(),
            latest_feed: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            unanswered_asks: AtomicU64::new(0),
            status: Mutex::default(),
            failed: Notify::new(),
        });
        tasks.spawn(reader.clone().keep_checking());
        Ok(Some(reader))
    }

    /// Reads a page of orders from the standby, with the end of its feed: whatever the page does not show yet comes
    /// after that end. A page that continues another is at least as new as that one. `None` when the primary must
    /// answer.
    async fn orders(&self, query: &OrderQuery) -> Option<OrderPage> {
        if !self.status().serves || (query.before.is_some() && query.as_of.is_none()) {
            return None;
        }
        let primary = self.primary_feed().await?;
        let read = async {
            let session = self.sessions.checkout().await?.ok_or(Fallback::Busy)?;
            let found = session.begin(STATEMENT_TIME_MAX, END_AND_PLACE, &[]).await?;
            let end = end_of(&found)?;
            primary.check(&end, true)?;
            if query.as_of > end.place {
                return Err(Fallback::Behind);
            }
            let (orders, next) = query::orders_of(&session, query).await?;
            session.end().await?;
            Ok(OrderPage {
                orders,
                next,
                as_of: query.as_of.or(end.place),
                // A standby may replay a commit before the primary shows it.
                at: primary.bounds.cursor(end.last.min(primary.bounds.last)),
            })
        };
        self.within_limit(read).await
    }

    /// Reads a page of the feed that is full and ends below the primary's end of the feed, where positions are final.
    /// `None` when the primary must answer.
    async fn events_after(&self, after: Option<FeedPosition>, limit: usize) -> Option<FeedPage> {
        let limit = limit.min(FEED_EVENTS_MAX);
        let (after, rows_max) = (after.map_or(0, |after| after.0), rows::limit(limit));
        let last = FeedPosition(after.saturating_add(rows_max));
        if limit == 0 || !self.may_have(last) {
            return None;
        }
        let primary = self.primary_feed().await?;
        if last > primary.bounds.last {
            return None;
        }
        let read = async {
            let session = self.sessions.checkout().await?.ok_or(Fallback::Busy)?;
            let found = session
                .begin(
                    STATEMENT_TIME_MAX,
                    feed::PAGE,
                    &[(&after, Type::INT8), (&rows_max, Type::INT8)],
                )
                .await?;
            session.end().await?;
            let first = found.first().ok_or(PgFailure::undecodable("a page", "nothing"))?;
            let newest = rows::identity(first, 0)?;
            let mut page = feed::page_of(&found, primary.bounds.epochs.clone())?;
            let FeedBounds {
                complete_after, last, ..
            } = page.bounds;
            self.status().end = Some((Instant::now(), last));
            let end = End {
                newest,
                complete_after,
                last,
                place: None,
            };
            primary.check(&end, true)?;
            let is_below_end = page
                .events
                .last()
                .is_some_and(|event| event.position <= primary.bounds.last);
            if page.events.len() < limit || !is_below_end {
                return Err(Fallback::Behind);
            }
            page.bounds = FeedBounds {
                // If the standby is ahead of what is known of the primary, events may have been removed since.
                complete_after: complete_after.max(primary.bounds.complete_after),
                ..primary.bounds.clone()
            };
            Ok(page)
        };
        self.within_limit(read).await
    }

    /// Reports whether both servers may have the events up to a position, by what is known at the moment, however
    /// old.
    fn may_have(&self, last: FeedPosition) -> bool {
        let status = self.status();
        let lacks = |(read_at, end): (Instant, FeedPosition)| last > end && read_at.elapsed() < END_KNOWN_FOR;
        status.serves
            && !status.end.is_some_and(lacks)
            && self
                .latest_feed()
                .as_ref()
                .is_none_or(|primary| last <= primary.bounds.last)
    }

    async fn within_limit<T>(&self, read: impl Future<Output = Result<T, Fallback>>) -> Option<T> {
        let read = timeout(READ_TIME_MAX, read).await;
        let late = || Fallback::Failed(PgFailure::Hung(no_answer_text(READ_TIME_MAX).into()));
        match read.unwrap_or_else(|_| Err(late())) {
            Ok(answer) => {
                self.status().unfit_since = None;
                return Some(answer);
            }
            // Replay cancelled the statement, the statement is slow, or the store closes.
            Err(
                Fallback::Behind
                | Fallback::Busy
                | Fallback::Failed(PgFailure::Again(_) | PgFailure::TimedOut(_) | PgFailure::Closed),
            ) => {}
            Err(fallback @ Fallback::Unfit(_)) => {
                let since = *self.status().unfit_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= UNFIT_MAX {
                    self.record_failure(fallback.reason());
                }
            }
            Err(fallback @ Fallback::Failed(_)) => self.record_failure(fallback.reason()),
        }
        None
    }

    /// Returns the primary's feed as it was a moment ago; `None` while the primary does not answer.
    async fn primary_feed(&self) -> Option<PrimaryFeed> {
        if let Some(primary) = self.fresh() {
            return Some(primary);
        }
        let before = self.unanswered_asks.load(Ordering::SeqCst);
        let _asking = self.asking.lock().await;
        if let Some(primary) = self.fresh() {
            return Some(primary);
        }
        if self.unanswered_asks.load(Ordering::SeqCst) != before {
            return None;
        }
        let asked_at = Instant::now();
        let asked = timeout(READ_TIME_MAX, query::feed_end(&self.primary, &self.shared));
        let Ok(Ok(bounds)) = asked.await else {
            self.unanswered_asks.fetch_add(1, Ordering::SeqCst);
            return None;
        };
        self.note(bounds, asked_at);
        self.latest_feed().clone()
    }

    fn fresh(&self) -> Option<PrimaryFeed> {
        self.latest_feed().clone().filter(PrimaryFeed::is_fresh)
    }

    fn note(&self, bounds: FeedBounds, asked_at: Instant) {
        let mut latest = self.latest_feed();
        *latest = Some(PrimaryFeed::updated(latest.take(), bounds, asked_at));
    }

    fn latest_feed(&self) -> MutexGuard<'_, Option<PrimaryFeed>> {
        self.latest_feed
            .lock()
            .expect("no code panics while it holds this lock")
    }

    fn status(&self) -> MutexGuard<'_, StandbyStatus> {
        self.status
            .lock()
            .expect("no code panics while it holds this lock")
    }
}
