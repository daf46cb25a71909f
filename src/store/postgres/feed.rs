//! The feed: giving places to what is committed, and reading it. Why the places are given after the commit is in
//! docs/decisions/0007-the-feed-is-numbered-after-the-commit.md.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, SimpleQueryMessage};

use super::classes::Class;
use super::failure::Failure;
use super::functions::named;
use super::links::Links;
use super::locks::FEED_LOCK;
use super::message::with_numbers;
use super::pool::Pool;
use super::query;
use super::rows::{self, EVENT_COLUMNS, EVENT_COLUMNS_COUNT};
use super::shared::Shared;
use crate::order::OrderId;
use crate::store::{
    Epochs, FEED_EVENTS_MAX, FeedBounds, FeedEvent, FeedPage, FeedPosition, HISTORY_EVENTS_MAX, History,
};

/// Batches that get their places in one message.
const NUMBERED_BATCHES_MAX: u64 = 5_000;
/// The message, numbers left open.
static NUMBER_FEED: LazyLock<String> = LazyLock::new(|| named(include_str!("number_feed.sql")));
/// How long what is committed may go without its places when nobody reads the feed: so much further back than need be
/// begins whoever follows an order from where it was read.
const NUMBERING_INTERVAL: Duration = Duration::from_secs(1);
/// The same after failures: doubles up to this.
const NUMBERING_INTERVAL_MAX: Duration = Duration::from_secs(30);
/// For the last time, when the store closes: what is left is found by another node, or at the next start.
const LAST_NUMBERING_TIME_MAX: Duration = Duration::from_secs(1);

/// What this node knows about the feed.
pub(super) struct Feed {
    /// The links for the feed's pages.
    pages: Links,
    /// The links for histories, which are read as lists are.
    lists: Links,
    /// The links for giving out places.
    control: Links,
    shared: Arc<Shared>,
    /// Held by whoever gives places: of those who wait for another node only one takes a connection for it.
    numbering: Mutex<()>,
    /// Of `Shared::commits`, those whose events have their places.
    numbered: AtomicU64,
    /// The last place given out, as the latest page showed.
    end: AtomicI64,
}

/// Whether to wait for whoever gives places at the moment, on this node or another, or to leave it to that one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Wait,
    Leave,
}

/// What has its place now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbered {
    /// Everything that was committed before.
    All,
    /// As much as one message takes.
    Some,
    /// What somebody else, who is at it, has seen.
    ByAnother,
}

/// The oldest commit this node knows of that may have no place yet.
#[derive(Clone, Copy)]
struct Waiting {
    /// Of `Shared::commits`.
    commit: u64,
    since: Instant,
}

impl Feed {
    pub fn new(pool: &Arc<Pool>, shared: Arc<Shared>) -> Feed {
        Feed {
            pages: Links::new(pool, Class::Feed),
            lists: Links::new(pool, Class::List),
            control: Links::new(pool, Class::Control),
            shared,
            numbering: Mutex::new(()),
            numbered: AtomicU64::new(0),
            end: AtomicI64::new(0),
        }
    }

    /// Of one view of the database: a page that is not full holds everything up to the last place given out. What was
    /// committed since the last numbering is numbered first only when the page would not be full without it.
    pub async fn events_after(&self, after: Option<FeedPosition>, limit: usize) -> Result<FeedPage, Failure> {
        let after = after.map_or(0, |position| position.0);
        let limit = limit.min(FEED_EVENTS_MAX);
        // Whoever stands at the end and is told of news comes for what has no place yet: to look before would be in vain.
        let at_end = limit > 0 && after >= self.end.load(Ordering::Relaxed);
        let is_told = at_end && self.shared.unread.swap(false, Ordering::SeqCst);
        let mut failed = None;
        if is_told {
            failed = self.number(Turn::Leave).await.err();
        }
        let mut read = self.page(after, limit).await?;
        if !is_told && read.unplaced && read.events.len() < limit {
            match self.number(Turn::Leave).await {
                Ok(_) => read = self.page(after, limit).await?,
                Err(failure) => failed = Some(failure),
            }
        }
        match failed {
            // What has its place is read whatever keeps the rest from getting one, such as a full disk.
            Some(failure) if read.unplaced && read.events.is_empty() => Err(failure),
            Some(_) | None => Ok(read),
        }
    }

    async fn page(&self, after: i64, limit: usize) -> Result<FeedPage, Failure> {
        let commits = *self.shared.commits.borrow();
        let limit = rows::limit(limit);
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&after, Type::INT8), (&limit, Type::INT8)];
        let mut link = self.pages.link();
        let found = link.read(PAGE, &parameters).await?;
        let newest = rows::identity(rows::only(&found)?, 0)?;
        let epochs = self.shared.epochs.up_to(newest, &mut link).await?;
        let read = page_of(&found, epochs)?;
        self.end.store(read.bounds.last.0, Ordering::Relaxed);
        if !read.unplaced {
            self.numbered.fetch_max(commits, Ordering::SeqCst);
        }
        Ok(read)
    }

    /// With the places of all of the events: what has none yet is numbered first. Where that cannot be done, because the
    /// disk is full or another node takes too long over it, there is no answer: one without the latest event would claim
    /// that nothing happened since.
    pub async fn history(&self, id: OrderId, after: u32) -> Result<Option<History>, Failure> {
        let Some(order) = query::order(&self.lists, id).await? else {
            return Ok(None);
        };
        let FeedBounds { epochs, last, .. } = query::feed_end(&self.lists, &self.shared).await?;
        let mut missing = None;
        loop {
            let found = history_rows(&self.lists, id, after).await?;
            let mut events = Vec::new();
            let mut unplaced = None;
            for row in &found {
                match feed_event(row, order.request.user_id)? {
                    Some(event) => events.push(event),
                    None => {
                        unplaced.get_or_insert(rows::column::<i32>(row, 1)?);
                    }
                }
            }
            let Some(version) = unplaced else {
                // Every order has events: this one was taken out since it was read.
                if events.is_empty() && after == 0 {
                    return Ok(None);
                }
                return Ok(Some(History {
                    at: epochs.cursor(last),
                    epochs,
                    events,
                }));
            };
            if missing == Some(version) {
                return Err(Failure::undecodable("the place of an event in the feed", "none"));
            }
            // Another node may have committed it: whoever begins to number from now on sees it.
            self.shared.found_unplaced();
            if self.number(Turn::Wait).await? == Numbered::All {
                missing = Some(version);
            }
        }
    }

    /// Gives places in the feed to what is committed, the oldest first.
    async fn number(&self, turn: Turn) -> Result<Numbered, Failure> {
        let numbering = match turn {
            Turn::Wait => {
                let before = *self.shared.commits.borrow();
                let numbering = self.numbering.lock().await;
                if self.numbered.load(Ordering::SeqCst) >= before {
                    return Ok(Numbered::All);
                }
                numbering
            }
            Turn::Leave => match self.numbering.try_lock() {
                Ok(numbering) => numbering,
                Err(_) => return Ok(Numbered::ByAnother),
            },
        };
        self.number_now(turn, &numbering).await
    }

    async fn number_now(&self, turn: Turn, _numbering: &MutexGuard<'_, ()>) -> Result<Numbered, Failure> {
        let message = with_numbers(
            &NUMBER_FEED,
            &[
                (":waits", (turn == Turn::Wait).into()),
                (":lock", FEED_LOCK),
                (":batches_max", NUMBERED_BATCHES_MAX.cast_signed()),
            ],
        );
        let commits = *self.shared.commits.borrow();
        let numbered = numbered(&self.control.flight(&message).await?)?;
        if numbered == Numbered::All {
            self.numbered.fetch_max(commits, Ordering::SeqCst);
        }
        Ok(numbered)
    }

    /// Numbers from time to time what this node commits or finds without a place, until the store closes: orders are
    /// read with the last place given out, which should not be far behind. Where a reader does it there is nothing to do.
    /// Tells how long that is overdue.
    pub async fn keep_numbered(self: Arc<Self>) {
        let closing = &self.shared.closing;
        let mut pause = NUMBERING_INTERVAL;
        let mut failing = false;
        let mut waiting = None;
        loop {
            let due = async {
                self.left_to_number().await;
                waiting.get_or_insert_with(|| Waiting {
                    commit: *self.shared.commits.borrow(),
                    since: Instant::now(),
                });
                sleep(pause).await;
            };
            tokio::select! {
                () = closing.cancelled() => return,
                () = due => {}
            }
            while self.is_unnumbered() && !closing.is_cancelled() {
                match self.number(Turn::Leave).await {
                    Ok(Numbered::Some) => continue,
                    // Another may have begun before our commit: then once more.
                    Ok(Numbered::All | Numbered::ByAnother) => {
                        pause = NUMBERING_INTERVAL;
                        failing = false;
                    }
                    Err(failure) => {
                        pause = (pause * 2).min(NUMBERING_INTERVAL_MAX);
                        if !failing {
                            let error = failure.to_error("number the feed");
                            tracing::warn!(%error, "cannot give what is committed its place in the feed, trying again");
                            failing = true;
                        }
                    }
                }
                break;
            }
            waiting = waiting.filter(|waiting| waiting.commit > self.numbered.load(Ordering::SeqCst));
            let waited = waiting.map_or(Duration::ZERO, |waiting| waiting.since.elapsed());
            self.shared.metrics.feed_lag.unplaced(waited);
        }
    }

    /// When everything is committed that this node was to commit.
    pub async fn number_rest(&self) {
        if self.is_unnumbered() {
            let last = async {
                // Whoever is at it began before the last commit, perhaps.
                let numbering = self.numbering.lock().await;
                self.number_now(Turn::Leave, &numbering).await
            };
            // The statement is carried out or not, whether or not its answer is waited for.
            let _ = timeout(LAST_NUMBERING_TIME_MAX, last).await;
        }
    }

    fn is_unnumbered(&self) -> bool {
        *self.shared.commits.borrow() > self.numbered.load(Ordering::SeqCst)
    }

    async fn left_to_number(&self) {
        let mut commits = self.shared.commits.subscribe();
        let left = commits.wait_for(|commits| *commits > self.numbered.load(Ordering::SeqCst));
        left.await.expect("the sender lives as long as the feed");
    }
}

/// The statement of a page, of a place and a number of events.
pub(super) const PAGE: &str = include_str!("feed.sql");

/// Where the columns of the event begin in a row of a page.
const PAGE_EVENT: usize = 5;

/// Reads the answer to feed.sql.
pub(super) fn page_of(found: &[Row], epochs: Epochs) -> Result<FeedPage, Failure> {
    let first = rows::only(found)?;
    let mut read = FeedPage {
        events: Vec::new(),
        bounds: FeedBounds {
            epochs,
            complete_after: FeedPosition(rows::column(first, 1)?),
            last: FeedPosition(rows::column(first, 2)?),
        },
        read_at: rows::column(first, 3)?,
        unplaced: rows::column(first, 4)?,
    };
    for row in found {
        // Without an event there is one row, of the queue alone.
        if let Some(position) = rows::column::<Option<i64>>(row, PAGE_EVENT + EVENT_COLUMNS_COUNT)? {
            read.events.push(FeedEvent {
                position: FeedPosition(position),
                user_id: rows::column(row, PAGE_EVENT + EVENT_COLUMNS_COUNT + 1)?,
                event: rows::event(row, PAGE_EVENT)?,
            });
        }
    }
    Ok(read)
}

/// The place in the feed of an event of `order_events`; null while it has none.
pub(super) const POSITION: &str = "(select b.first_position + array_position(b.order_ids, order_events.order_id) - 1 \
    from orderly.batches as b where b.batch = order_events.batch)";

async fn history_rows(links: &Links, id: OrderId, after: u32) -> Result<Vec<Row>, Failure> {
    let statement = format!(
        "select {EVENT_COLUMNS}, {POSITION}
         from orderly.order_events where order_id = $1 and version > $2 order by version limit $3"
    );
    let after = i32::try_from(after).unwrap_or(i32::MAX);
    let limit = rows::limit(HISTORY_EVENTS_MAX);
    links
        .read(
            &statement,
            &[(&id.0, Type::INT8), (&after, Type::INT4), (&limit, Type::INT8)],
        )
        .await
}

/// `None` for one that has no place yet.
fn feed_event(row: &Row, user_id: i64) -> Result<Option<FeedEvent>, Failure> {
    let Some(position) = rows::column(row, EVENT_COLUMNS_COUNT)? else {
        return Ok(None);
    };
    Ok(Some(FeedEvent {
        position: FeedPosition(position),
        user_id,
        event: rows::event(row, 0)?,
    }))
}

/// From the rows of the message's statements, of which the first is the epoch's: whether the lock was taken, and how many batches it was.
fn numbered(messages: &[SimpleQueryMessage]) -> Result<Numbered, Failure> {
    let mut columns = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    columns.next();
    match columns.next() {
        Some("true") => {}
        Some("false") => return Ok(Numbered::ByAnother),
        other => return Err(Failure::undecodable("a turn", other.unwrap_or("nothing"))),
    }
    let batches = columns.next().unwrap_or("0");
    match batches.parse::<u64>() {
        Ok(NUMBERED_BATCHES_MAX..) => Ok(Numbered::Some),
        Ok(_) => Ok(Numbered::All),
        Err(_) => Err(Failure::undecodable("a number of batches", batches)),
    }
}
