//! Reads from the standby of `DATABASE_READ_URL`: lists of orders, and full pages of the feed. Its answer counts where it is of
//! the primary's history and not older than what the caller has seen; otherwise, and whenever it fails or is slow, the primary
//! answers. Nothing here says anything about whether the node is ready. Why that is enough is in
//! docs/decisions/0022-reads-from-a-standby.md.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_postgres::types::Type;
use tokio_util::task::TaskTracker;

use super::answered::hung_text;
use super::failure::Failure;
use super::feed::{self, Feed};
use super::links::Links;
use super::query::{self, END_AND_PLACE, End, end_of};
use super::rows;
use super::shared::Shared;
use crate::config::PostgresUrl;
use crate::metrics::reads::{ReadKind, ReadServer};
use crate::store::opening::OpenError;
use crate::store::{FEED_EVENTS_MAX, FeedBounds, FeedPage, FeedPosition, OrderPage, OrderQuery};

mod known;
mod looks;
mod sessions;

use known::{Known, Unfit};
use sessions::Sessions;

/// The time for one read from the standby, with connecting to it; then the primary is asked.
const READ_TIME_MAX: Duration = Duration::from_secs(3);
/// The server's limit for one of its statements.
const STATEMENT_TIME_MAX: Duration = Duration::from_millis(2_500);
/// The time for which a standby may be of another history before it is asked no more: it has to replay a new epoch as well.
const UNFIT_MAX: Duration = Duration::from_secs(5);
/// The time for which a standby that did not have a place in the feed is not asked for it again.
const END_KNOWN_FOR: Duration = Duration::from_millis(250);

pub(super) struct Reader {
    sessions: Sessions,
    /// The links to the primary.
    primary: Links,
    shared: Arc<Shared>,
    known: Mutex<Option<Known>>,
    /// Held while the primary is asked; the others wait for what that one finds.
    asking: tokio::sync::Mutex<()>,
    /// The number of times that it did not answer.
    asked_in_vain: AtomicU64,
    standing: Mutex<Standing>,
    /// The standby is asked no more until it was looked at.
    failed: Notify,
}

/// The standby as it was last found.
#[derive(Default)]
struct Standing {
    serves: bool,
    /// The log says that it does not serve.
    told: bool,
    /// The time since when its answers do not count.
    unfit_since: Option<Instant>,
    /// The end of the feed there, and when that was read.
    end: Option<(Instant, FeedPosition)>,
}

/// The reason why the primary is asked.
enum Unserved {
    /// It lacks what was asked for.
    Behind,
    Unfit(Unfit),
    /// All connections to it are in use.
    Busy,
    Failed(Failure),
}

impl Unserved {
    fn reason(&self) -> &str {
        match self {
            Unserved::Behind => "it lacks what was asked for",
            Unserved::Unfit(unfit) => unfit.reason(),
            Unserved::Busy => "all connections to it are in use",
            Unserved::Failed(failure) => failure.text(),
        }
    }
}

impl From<Failure> for Unserved {
    fn from(failure: Failure) -> Unserved {
        Unserved::Failed(failure)
    }
}

impl From<Unfit> for Unserved {
    fn from(unfit: Unfit) -> Unserved {
        match unfit {
            Unfit::Unclear => Unserved::Behind,
            Unfit::OtherHistory | Unfit::Lags => Unserved::Unfit(unfit),
        }
    }
}

/// A page of orders, of the standby or of the primary.
pub(super) async fn orders(
    reader: Option<&Reader>,
    lists: &Links,
    shared: &Shared,
    query: &OrderQuery,
) -> Result<OrderPage, Failure> {
    let Some(reader) = reader else {
        return query::orders(lists, shared, query, false).await;
    };
    if let Some(page) = reader.orders(query).await {
        shared.metrics.reads.served(ReadKind::list, ReadServer::standby);
        return Ok(page);
    }
    // Cursors need a place in the log only where a standby may get them back.
    let with_place = reader.standing().serves;
    let page = query::orders(lists, shared, query, with_place).await?;
    shared.metrics.reads.served(ReadKind::list, ReadServer::primary);
    Ok(page)
}

/// A page of the feed, of the standby or of the primary.
pub(super) async fn events_after(
    reader: Option<&Reader>,
    feed: &Feed,
    after: Option<FeedPosition>,
    limit: usize,
) -> Result<FeedPage, Failure> {
    let Some(reader) = reader else {
        return feed.events_after(after, limit).await;
    };
    let reads = &reader.shared.metrics.reads;
    if let Some(page) = reader.events_after(after, limit).await {
        reads.served(ReadKind::feed, ReadServer::standby);
        return Ok(page);
    }
    let asked_at = Instant::now();
    let page = feed.events_after(after, limit).await?;
    reads.served(ReadKind::feed, ReadServer::primary);
    reader.note(page.bounds.clone(), asked_at);
    Ok(page)
}

impl Reader {
    /// Starts it with a task that looks at the standby; `None` without a URL.
    pub fn start(
        url: Option<&PostgresUrl>,
        shared: &Arc<Shared>,
        primary: &Links,
        tasks: &TaskTracker,
    ) -> Result<Option<Arc<Reader>>, OpenError> {
        let Some(url) = url else {
            return Ok(None);
        };
        let reader = Arc::new(Reader {
            sessions: Sessions::new(url)?,
            primary: primary.clone(),
            shared: shared.clone(),
            known: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            asked_in_vain: AtomicU64::new(0),
            standing: Mutex::default(),
            failed: Notify::new(),
        });
        tasks.spawn(reader.clone().look_after());
        Ok(Some(reader))
    }

    /// A page of orders with the standby's own end of the feed: what the page does not show lies behind it. A page that goes on
    /// from another is at least as new as that one.
    async fn orders(&self, query: &OrderQuery) -> Option<OrderPage> {
        if !self.standing().serves || (query.before.is_some() && query.as_of.is_none()) {
            return None;
        }
        let known = self.known().await?;
        let read = async {
            let session = self.sessions.lend().await?.ok_or(Unserved::Busy)?;
            let found = session.begin(STATEMENT_TIME_MAX, END_AND_PLACE, &[]).await?;
            let end = end_of(&found)?;
            known.check(&end, true)?;
            if query.as_of > end.place {
                return Err(Unserved::Behind);
            }
            let (orders, next) = query::orders_of(&session, query).await?;
            session.end().await?;
            Ok(OrderPage {
                orders,
                next,
                as_of: query.as_of.or(end.place),
                // A standby may replay a commit before the primary shows it.
                at: known.bounds.cursor(end.last.min(known.bounds.last)),
            })
        };
        self.within_limit(read).await
    }

    /// A page that is full and lies below the primary's end of the feed: the places there are given out for good.
    async fn events_after(&self, after: Option<FeedPosition>, limit: usize) -> Option<FeedPage> {
        let limit = limit.min(FEED_EVENTS_MAX);
        let (after, rows_max) = (after.map_or(0, |after| after.0), rows::limit(limit));
        let last = FeedPosition(after.saturating_add(rows_max));
        if limit == 0 || !self.may_have(last) {
            return None;
        }
        let known = self.known().await?;
        if last > known.bounds.last {
            return None;
        }
        let read = async {
            let session = self.sessions.lend().await?.ok_or(Unserved::Busy)?;
            let found = session
                .begin(
                    STATEMENT_TIME_MAX,
                    feed::PAGE,
                    &[(&after, Type::INT8), (&rows_max, Type::INT8)],
                )
                .await?;
            session.end().await?;
            let first = found.first().ok_or(Failure::undecodable("a page", "nothing"))?;
            let newest = rows::identity(first, 0)?;
            let mut page = feed::page_of(&found, known.bounds.epochs.clone())?;
            let FeedBounds {
                complete_after, last, ..
            } = page.bounds;
            self.standing().end = Some((Instant::now(), last));
            let end = End {
                newest,
                complete_after,
                last,
                place: None,
            };
            known.check(&end, true)?;
            let is_below_end = page
                .events
                .last()
                .is_some_and(|event| event.position <= known.bounds.last);
            if page.events.len() < limit || !is_below_end {
                return Err(Unserved::Behind);
            }
            page.bounds = FeedBounds {
                // Where the standby is ahead of what is known of the primary, it may lack what was taken out since.
                complete_after: complete_after.max(known.bounds.complete_after),
                ..known.bounds.clone()
            };
            Ok(page)
        };
        self.within_limit(read).await
    }

    /// Reports whether it is worth asking for events up to a place: by what is known at the moment, however old, both have it.
    fn may_have(&self, last: FeedPosition) -> bool {
        let standing = self.standing();
        let lacks = |(read_at, end): (Instant, FeedPosition)| last > end && read_at.elapsed() < END_KNOWN_FOR;
        standing.serves
            && !standing.end.is_some_and(lacks)
            && self
                .known_now()
                .as_ref()
                .is_none_or(|known| last <= known.bounds.last)
    }

    async fn within_limit<T>(&self, read: impl Future<Output = Result<T, Unserved>>) -> Option<T> {
        let read = timeout(READ_TIME_MAX, read).await;
        let late = || Unserved::Failed(Failure::Hung(hung_text(READ_TIME_MAX).into()));
        match read.unwrap_or_else(|_| Err(late())) {
            Ok(answer) => {
                self.standing().unfit_since = None;
                return Some(answer);
            }
            // Replay went before the statement, the statement is a slow one, or the store closes.
            Err(
                Unserved::Behind
                | Unserved::Busy
                | Unserved::Failed(Failure::Again(_) | Failure::TimedOut(_) | Failure::Closed),
            ) => {}
            Err(unserved @ Unserved::Unfit(_)) => {
                let since = *self.standing().unfit_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= UNFIT_MAX {
                    self.fails(unserved.reason());
                }
            }
            Err(unserved @ Unserved::Failed(_)) => self.fails(unserved.reason()),
        }
        None
    }

    /// The primary's feed as it was a moment ago; `None` while it does not answer.
    async fn known(&self) -> Option<Known> {
        if let Some(known) = self.fresh() {
            return Some(known);
        }
        let in_vain = self.asked_in_vain.load(Ordering::SeqCst);
        let _asking = self.asking.lock().await;
        if let Some(known) = self.fresh() {
            return Some(known);
        }
        if self.asked_in_vain.load(Ordering::SeqCst) != in_vain {
            return None;
        }
        let asked_at = Instant::now();
        let asked = timeout(READ_TIME_MAX, query::feed_end(&self.primary, &self.shared));
        let Ok(Ok(bounds)) = asked.await else {
            self.asked_in_vain.fetch_add(1, Ordering::SeqCst);
            return None;
        };
        self.note(bounds, asked_at);
        self.known_now().clone()
    }

    fn fresh(&self) -> Option<Known> {
        self.known_now().clone().filter(Known::is_fresh)
    }

    fn note(&self, bounds: FeedBounds, asked_at: Instant) {
        let mut known = self.known_now();
        *known = Some(Known::with(known.take(), bounds, asked_at));
    }

    fn known_now(&self) -> MutexGuard<'_, Option<Known>> {
        self.known
            .lock()
            .expect("no code panics while it holds this lock")
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing
            .lock()
            .expect("no code panics while it holds this lock")
    }
}
