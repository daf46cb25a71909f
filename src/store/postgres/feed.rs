//! The feed: numbering committed events and reading them. Why events are numbered after the commit is in
//! docs/decisions/0007-the-feed-is-numbered-after-the-commit.md.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, SimpleQueryMessage};

use super::advisory_locks::FEED_LOCK;
use super::class_pool::ClassPool;
use super::classes::Class;
use super::failure::PgFailure;
use super::functions::named;
use super::message::with_numbers;
use super::pool::Pool;
use super::query;
use super::rows::{self, EVENT_COLUMNS, EVENT_COLUMNS_COUNT};
use super::shared::Shared;
use crate::log_lines::Latch;
use crate::order::{OrderId, UserId};
use crate::store::{
    Epochs, FEED_EVENTS_MAX, FeedBounds, FeedEvent, FeedPage, FeedPosition, HISTORY_EVENTS_MAX, History,
};

/// The most batches numbered by one message.
const NUMBERED_BATCHES_MAX: u64 = 5_000;
/// The numbering message, with its numbers left open.
static NUMBER_FEED: LazyLock<String> = LazyLock::new(|| named(include_str!("number_feed.sql")));
/// The longest time that committed events stay unnumbered when no subscriber reads the feed. A subscriber that starts
/// from the read of an order begins that much further back.
const NUMBERING_INTERVAL: Duration = Duration::from_secs(1);
/// The longest such time after failures; the time doubles with each.
const NUMBERING_INTERVAL_MAX: Duration = Duration::from_secs(30);
/// The limit for numbering when the store closes: another node, or the next start, numbers the rest.
const LAST_NUMBERING_TIME_MAX: Duration = Duration::from_secs(1);

/// The feed as this node knows it.
pub(super) struct Feed {
    /// Serves pages of the feed.
    pages: ClassPool,
    /// Serves histories, which are read like lists.
    lists: ClassPool,
    /// Serves the numbering.
    control: ClassPool,
    shared: Arc<Shared>,
    /// Held by the call that numbers, so that of the calls that wait for another node's numbering only one takes a
    /// connection.
    numbering: Mutex<()>,
    /// The value of `Shared::commits` up to which all events are numbered.
    numbered: AtomicU64,
    /// The last position given out, as the latest page showed it.
    end: AtomicI64,
}

/// The reaction to another numbering under way, on this node or another: wait for it, or leave the events to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IfBusy {
    Wait,
    Leave,
}

/// The extent of a numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbered {
    /// Everything that was committed before it.
    All,
    /// Only as many batches as one message numbers.
    Some,
    /// Whatever another numbering, which is under way, has seen.
    ByAnother,
}

/// The oldest commit known to this node that may be unnumbered.
#[derive(Clone, Copy)]
struct PendingNumbering {
    /// The value of `Shared::commits`.
    commit: u64,
    since: Instant,
}

impl Feed {
    pub fn new(pool: &Arc<Pool>, shared: Arc<Shared>) -> Feed {
        Feed {
            pages: ClassPool::new(pool, Class::Feed),
            lists: ClassPool::new(pool, Class::List),
            control: ClassPool::new(pool, Class::Control),
            shared,
            numbering: Mutex::new(()),
            numbered: AtomicU64::new(0),
            end: AtomicI64::new(0),
        }
    }

    /// Reads a page of the feed, in one view of the database: a page that is not full holds every event up to the
    /// last position given out. Events that are not numbered yet are numbered first only if the page would not be
    /// full without them.
    pub async fn events_after(
        &self,
        after: Option<FeedPosition>,
        limit: usize,
    ) -> Result<FeedPage, PgFailure> {
        let after = after.map_or(0, |position| position.0);
        let limit = limit.min(FEED_EVENTS_MAX);
        // A subscriber at the end that was woken comes for unnumbered events, so numbering first saves a read in
        // vain.
        let at_end = limit > 0 && after >= self.end.load(Ordering::Relaxed);
        let has_news = at_end && self.shared.unread_events.swap(false, Ordering::SeqCst);
        let mut failed = None;
        if has_news {
            failed = self.number(IfBusy::Leave).await.err();
        }
        let mut read = self.page(after, limit).await?;
        if !has_news && read.unplaced && read.events.len() < limit {
            match self.number(IfBusy::Leave).await {
                Ok(_) => read = self.page(after, limit).await?,
                Err(failure) => failed = Some(failure),
            }
        }
        match failed {
            // Numbered events are read whatever keeps the rest from being numbered, such as a full disk.
            Some(failure) if read.unplaced && read.events.is_empty() => Err(failure),
            Some(_) | None => Ok(read),
        }
    }

    async fn page(&self, after: i64, limit: usize) -> Result<FeedPage, PgFailure> {
        let commits = *self.shared.commits.borrow();
        let limit = rows::limit(limit);
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&after, Type::INT8), (&limit, Type::INT8)];
        let mut connection = self.pages.connection();
        let found = connection.read(PAGE, &parameters).await?;
        let newest = rows::identity(rows::only(&found)?, 0)?;
        let epochs = self.shared.epochs.up_to(newest, &mut connection).await?;
        let read = page_of(&found, epochs)?;
        self.end.store(read.bounds.last.0, Ordering::Relaxed);
        if !read.unplaced {
            self.numbered.fetch_max(commits, Ordering::SeqCst);
        }
        Ok(read)
    }

    /// Reads an order's events with their positions; unnumbered ones are numbered first. Fails when that is
    /// impossible, because the disk is full or another node takes too long: an answer without the latest event would
    /// claim that nothing happened since.
    pub async fn history(&self, id: OrderId, after: u32) -> Result<Option<History>, PgFailure> {
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
                match feed_event(row, &order.request.user_id)? {
                    Some(event) => events.push(event),
                    None => {
                        unplaced.get_or_insert(rows::column::<i32>(row, 1)?);
                    }
                }
            }
            let Some(version) = unplaced else {
                // Every order has events, so this one was removed since it was read.
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
                return Err(PgFailure::undecodable(
                    "the place of an event in the feed",
                    "none",
                ));
            }
            // Another node may have committed it. A numbering that begins now sees it.
            self.shared.note_unnumbered_events();
            if self.number(IfBusy::Wait).await? == Numbered::All {
                missing = Some(version);
            }
        }
    }

    /// Numbers committed events, the oldest first.
    async fn number(&self, if_busy: IfBusy) -> Result<Numbered, PgFailure> {
        let numbering = match if_busy {
            IfBusy::Wait => {
                let before = *self.shared.commits.borrow();
                let numbering = self.numbering.lock().await;
                if self.numbered.load(Ordering::SeqCst) >= before {
                    return Ok(Numbered::All);
                }
                numbering
            }
            IfBusy::Leave => match self.numbering.try_lock() {
                Ok(numbering) => numbering,
                Err(_) => return Ok(Numbered::ByAnother),
            },
        };
        self.number_now(if_busy, &numbering).await
    }

    async fn number_now(
        &self,
        if_busy: IfBusy,
        _numbering: &MutexGuard<'_, ()>,
    ) -> Result<Numbered, PgFailure> {
        let message = with_numbers(
            &NUMBER_FEED,
            &[
                (":waits", (if_busy == IfBusy::Wait).into()),
                (":lock", FEED_LOCK),
                (":batches_max", NUMBERED_BATCHES_MAX.cast_signed()),
            ],
        );
        let commits = *self.shared.commits.borrow();
        let numbered = numbered_by(&self.control.send_message(&message).await?)?;
        if numbered == Numbered::All {
            self.numbered.fetch_max(commits, Ordering::SeqCst);
        }
        Ok(numbered)
    }

    /// Numbers the events that this node commits or finds unnumbered, at intervals, until the store closes: a read of
    /// an order returns the last position given out, which should not be far behind. Has nothing to do while readers
    /// number. Reports the lag in the metrics.
    pub async fn keep_numbered(self: Arc<Self>) {
        let closing = &self.shared.closing;
        let mut pause = NUMBERING_INTERVAL;
        let failing = Latch::default();
        let mut pending = None;
        loop {
            let due = async {
                self.wait_for_unnumbered().await;
                pending.get_or_insert_with(|| PendingNumbering {
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
                match self.number(IfBusy::Leave).await {
                    Ok(Numbered::Some) => continue,
                    // Another numbering may have begun before our commit; then this runs once more.
                    Ok(Numbered::All | Numbered::ByAnother) => {
                        pause = NUMBERING_INTERVAL;
                        failing.clear();
                    }
                    Err(failure) => {
                        pause = (pause * 2).min(NUMBERING_INTERVAL_MAX);
                        if failing.set() {
                            let error = failure.to_error("number the feed");
                            tracing::warn!(%error, "cannot number the feed; trying again. If it goes on, `orderly doctor` says why");
                        }
                    }
                }
                break;
            }
            pending = pending.filter(|pending| pending.commit > self.numbered.load(Ordering::SeqCst));
            let waited = pending.map_or(Duration::ZERO, |pending| pending.since.elapsed());
            self.shared.metrics.feed_lag.unplaced(waited);
        }
    }

    /// Numbers what is left when the store closes. Called after the last commit of this node.
    pub async fn number_rest(&self) {
        if self.is_unnumbered() {
            let last = async {
                // A numbering under way may have begun before the last commit.
                let numbering = self.numbering.lock().await;
                self.number_now(IfBusy::Leave, &numbering).await
            };
            // The statement runs or not, whether or not its answer is awaited.
            let _ = timeout(LAST_NUMBERING_TIME_MAX, last).await;
        }
    }

    fn is_unnumbered(&self) -> bool {
        *self.shared.commits.borrow() > self.numbered.load(Ordering::SeqCst)
    }

    async fn wait_for_unnumbered(&self) {
        let mut commits = self.shared.commits.subscribe();
        let left = commits.wait_for(|commits| *commits > self.numbered.load(Ordering::SeqCst));
        left.await.expect("the sender lives as long as the feed");
    }
}

/// The statement of a page. Parameters: the position after which it begins, and the most events.
pub(super) const PAGE: &str = include_str!("feed.sql");

/// The index of the event's first column in a row of a page.
const PAGE_EVENT: usize = 5;

/// Reads the answer to feed.sql.
pub(super) fn page_of(found: &[Row], epochs: Epochs) -> Result<FeedPage, PgFailure> {
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
        // Without events, there is a single row with the columns of the queue.
        if let Some(position) = rows::column::<Option<i64>>(row, PAGE_EVENT + EVENT_COLUMNS_COUNT)? {
            read.events.push(FeedEvent {
                position: FeedPosition(position),
                user_id: rows::user((
                    rows::column(row, PAGE_EVENT + EVENT_COLUMNS_COUNT + 1)?,
                    rows::column(row, PAGE_EVENT + EVENT_COLUMNS_COUNT + 2)?,
                ))?,
                event: rows::event(row, PAGE_EVENT)?,
            });
        }
    }
    Ok(read)
}

/// The position of an event of `order_events`; null while it is unnumbered.
pub(super) const POSITION: &str = "(select b.first_position + array_position(b.order_ids, order_events.order_id) - 1 \
    from orderly.batches as b where b.batch = order_events.batch)";

async fn history_rows(pool: &ClassPool, id: OrderId, after: u32) -> Result<Vec<Row>, PgFailure> {
    let statement = format!(
        "select {EVENT_COLUMNS}, {POSITION}
         from orderly.order_events where order_id = $1 and version > $2 order by version limit $3"
    );
    let after = i32::try_from(after).unwrap_or(i32::MAX);
    let limit = rows::limit(HISTORY_EVENTS_MAX);
    pool.read(
        &statement,
        &[(&id.0, Type::INT8), (&after, Type::INT4), (&limit, Type::INT8)],
    )
    .await
}

/// Reads an event with its position; `None` while it is unnumbered.
fn feed_event(row: &Row, user_id: &UserId) -> Result<Option<FeedEvent>, PgFailure> {
    let Some(position) = rows::column(row, EVENT_COLUMNS_COUNT)? else {
        return Ok(None);
    };
    Ok(Some(FeedEvent {
        position: FeedPosition(position),
        user_id: user_id.clone(),
        event: rows::event(row, 0)?,
    }))
}

/// Reads the answer to the numbering message: the epoch, whether the lock was taken, and the number of batches.
fn numbered_by(messages: &[SimpleQueryMessage]) -> Result<Numbered, PgFailure> {
    let mut columns = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    columns.next();
    match columns.next() {
        Some("true") => {}
        Some("false") => return Ok(Numbered::ByAnother),
        other => {
            return Err(PgFailure::undecodable(
                "the state of the numbering lock",
                other.unwrap_or("nothing"),
            ));
        }
    }
    let batches = columns.next().unwrap_or("0");
    match batches.parse::<u64>() {
        Ok(NUMBERED_BATCHES_MAX..) => Ok(Numbered::Some),
        Ok(_) => Ok(Numbered::All),
        Err(_) => Err(PgFailure::undecodable("a number of batches", batches)),
    }
}
