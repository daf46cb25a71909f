//! Checks every promise about stored orders against one instant of a store, page by page. It only reads and reports.
//! `verify/order_rules.rs` has the rules for one order, `verify/epoch_rules.rs` those for epochs,
//! `verify/start_rule.rs` and `verify/start_order.rs` those for the order of first starts.

use std::collections::BTreeMap;
use std::fmt;

use crate::order::{BATCH_ORDERS_MAX, OrderId, OrderStatus};
use crate::store::snapshot::{KeyRecord, OrderRecord};
use crate::store::{Counters, Epochs, FeedBounds, IDEMPOTENCY_RETENTION, Snapshot, StoreError};
use start_rule::Starts;

mod deadline_rule;
mod epoch_rules;
mod order_rules;
mod start_order;
mod start_rule;
#[cfg(test)]
mod tests;

/// Number of orders in memory at once, with their events.
const PAGE_ORDERS: usize = 500;
const PAGE_KEYS: usize = 500;
/// At most this many breaches are described; the rest are counted. A broken store has either few breaches or the same
/// one often.
pub const BREACHES_SHOWN_MAX: usize = 100;

/// Numbers of checked records, and the breaches found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub orders: u64,
    pub events: u64,
    pub keys: u64,
    /// The first [`BREACHES_SHOWN_MAX`].
    pub breaches: Vec<Breach>,
    pub breaches_total: u64,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    pub promise: Promise,
    /// `None` if it is not about one order.
    pub order_id: Option<OrderId>,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Promise {
    /// The database's files are intact.
    SoundFiles,
    /// The stored counters equal a recount of the table.
    Counters,
    /// An order's events count from 1 without gaps, and their positions in the feed rise.
    DenseEvents,
    /// Every change of status is a legal transition.
    LegalSteps,
    /// An order ends once; only a redrive reopens it.
    OneEnd,
    /// An order matches its last event.
    LastEvent,
    /// Attempts count the starts since the last redrive that were not given back.
    Attempts,
    /// An order's times are those of its events, which do not run backwards.
    Times,
    /// Exactly the Processing orders have a lease.
    Leases,
    /// Only the node that started an attempt ends it.
    Fenced,
    /// Orders in the second line have a due time, and no others do.
    SecondLine,
    /// The last error is that of the last failed attempt since the last redrive.
    LastError,
    /// An order becomes overdue once at most, and not before its deadline.
    Deadlines,
    /// First attempts start in the order of acceptance; per user if the orders of a user wait for each other.
    FifoStart,
    /// If the orders of a user wait for each other, at most one of them is Processing.
    UserTurns,
    /// An idempotency key that is still answered names the orders it created.
    IdempotencyKeys,
    /// Epochs follow each other, and every claim belongs to an epoch of the store.
    Epochs,
}

impl Promise {
    pub fn name(self) -> &'static str {
        match self {
            Promise::SoundFiles => "sound_files",
            Promise::Counters => "counters",
            Promise::DenseEvents => "dense_events",
            Promise::LegalSteps => "legal_steps",
            Promise::OneEnd => "one_end",
            Promise::LastEvent => "last_event",
            Promise::Attempts => "attempts",
            Promise::Times => "times",
            Promise::Leases => "leases",
            Promise::Fenced => "fenced",
            Promise::SecondLine => "second_line",
            Promise::LastError => "last_error",
            Promise::Deadlines => "deadlines",
            Promise::FifoStart => "fifo_start",
            Promise::UserTurns => "user_turns",
            Promise::IdempotencyKeys => "idempotency_keys",
            Promise::Epochs => "epochs",
        }
    }
}

/// Checks everything. Fails only if a store that seems sound cannot be read.
pub async fn verify(snapshot: &mut dyn Snapshot) -> Result<Report, StoreError> {
    let mut report = Report::default();
    for damage in snapshot.damage().await? {
        report.breach(Promise::SoundFiles, None, damage);
    }
    let damaged = !report.is_sound();
    match check_content(snapshot, &mut report).await {
        // Expected after damage; the findings so far are what the operator needs.
        Err(error) if damaged => {
            let detail = format!("the rest cannot be read: {error}");
            report.breach(Promise::SoundFiles, None, detail);
            Ok(report)
        }
        checked => checked.map(|()| report),
    }
}

async fn check_content(snapshot: &mut dyn Snapshot, report: &mut Report) -> Result<(), StoreError> {
    let FeedBounds { epochs, last, .. } = snapshot.feed().await?.bounds;
    epoch_rules::check(&epochs, last, snapshot.last_order_id().await?, report);
    let counted = check_orders(snapshot, &epochs, report).await?;
    check_counters(&snapshot.counters().await?, &counted, report);
    check_keys(snapshot, report).await
}

impl Report {
    pub fn is_sound(&self) -> bool {
        self.breaches_total == 0
    }

    fn breach(&mut self, promise: Promise, order_id: Option<OrderId>, detail: String) {
        self.breaches_total += 1;
        if self.breaches.len() < BREACHES_SHOWN_MAX {
            self.breaches.push(Breach {
                promise,
                order_id,
                detail,
            });
        }
    }

    fn key_breach(&mut self, record: &KeyRecord, problem: &str) {
        let detail = format!("key {:?} of {:?} {problem}", record.key, record.scope);
        self.breach(
            Promise::IdempotencyKeys,
            record.order_ids.first().copied(),
            detail,
        );
    }
}

/// Checks order by order and returns the recounted counters.
async fn check_orders(
    snapshot: &mut dyn Snapshot,
    epochs: &Epochs,
    report: &mut Report,
) -> Result<Counters, StoreError> {
    let mut counted = Counters::default();
    let mut starts = Starts::new(
        snapshot.start_rule().await?,
        snapshot.accept_time_max(),
        snapshot.passed_over().await?,
    );
    let mut after = None;
    loop {
        let page = snapshot.orders_after(after, PAGE_ORDERS).await?;
        let Some(last) = page.last() else {
            return Ok(counted);
        };
        after = Some(last.order.order_id);
        for record in &page {
            report.orders += 1;
            report.events += record.events.len() as u64;
            count(record, &mut counted);
            starts.check(record, report);
            order_rules::check(record, report);
            deadline_rule::check(record, report);
            epoch_rules::check_fence(record, epochs, report);
        }
    }
}

fn count(record: &OrderRecord, counted: &mut Counters) {
    let order = &record.order;
    let number = match order.status {
        OrderStatus::Pending => &mut counted.pending,
        OrderStatus::Processing => &mut counted.processing,
        OrderStatus::Completed => &mut counted.completed,
        OrderStatus::Failed => &mut counted.failed,
        OrderStatus::Cancelled => &mut counted.cancelled,
    };
    *number += 1;
    counted.held += u64::from(order.held_at.is_some());
    counted.scheduled += u64::from(record.set_aside && order.held_at.is_none());
    if let (OrderStatus::Completed, Some(started), Some(finished)) =
        (order.status, order.processing_at, order.finished_at)
    {
        let micros = finished.since(started).as_micros();
        counted.processing_micros += u64::try_from(micros).unwrap_or(u64::MAX);
    }
}

fn check_counters(stored: &Counters, counted: &Counters, report: &mut Report) {
    let statuses = OrderStatus::ALL.map(|status| {
        (
            format!("{} orders", status.name()),
            stored.of(status),
            counted.of(status),
        )
    });
    let time = (
        "processing_micros".to_owned(),
        stored.processing_micros,
        counted.processing_micros,
    );
    let set_aside = [
        ("held orders".to_owned(), stored.held, counted.held),
        ("scheduled orders".to_owned(), stored.scheduled, counted.scheduled),
    ];
    for (name, stored, counted) in statuses.into_iter().chain(set_aside).chain([time]) {
        if stored != counted {
            let detail = format!("{name}: {stored} stored, {counted} in the table");
            report.breach(Promise::Counters, None, detail);
        }
    }
}

async fn check_keys(snapshot: &mut dyn Snapshot, report: &mut Report) -> Result<(), StoreError> {
    let one_writer = snapshot.accept_time_max().is_zero();
    let kept_since = snapshot.read_at().await?.minus(IDEMPOTENCY_RETENTION);
    let mut after = None;
    loop {
        let page = snapshot.keys_after(after, PAGE_KEYS).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some((last.scope.clone(), last.key.clone()));
        report.keys += page.len() as u64;
        let mut answered = Vec::new();
        for record in &page {
            match misnaming(record, one_writer) {
                Some(problem) => report.key_breach(record, &problem),
                // The key is past its retention, so its orders may be past theirs.
                None if record.created_at <= kept_since => {}
                None => answered.push(record),
            }
        }
        check_named_orders(snapshot, &answered, report).await?;
    }
}

/// Returns the problem with the named ids alone, if any.
fn misnaming(record: &KeyRecord, one_writer: bool) -> Option<String> {
    let ids = &record.order_ids;
    let Some(first) = ids.first() else {
        return Some("names no order".to_owned());
    };
    if first.0 < 1 || ids.len() > BATCH_ORDERS_MAX {
        return Some(format!("names {} orders from {first}", ids.len()));
    }
    // With many writers, ids of other requests may lie between those of one request.
    let follows = |pair: &[OrderId]| pair[1] > pair[0] && (!one_writer || pair[1].0 - pair[0].0 == 1);
    let in_turn = ids.windows(2).all(follows);
    (!in_turn).then(|| "names orders that were not accepted one after another".to_owned())
}

/// Checks each key alone only if an order is missing.
async fn check_named_orders(
    snapshot: &mut dyn Snapshot,
    records: &[&KeyRecord],
    report: &mut Report,
) -> Result<(), StoreError> {
    let all: Vec<OrderId> = records
        .iter()
        .flat_map(|record| record.order_ids.iter().copied())
        .collect();
    if snapshot.has_orders(&all).await? {
        return Ok(());
    }
    for record in records {
        if !snapshot.has_orders(&record.order_ids).await? {
            report.key_breach(record, "names orders that do not exist");
        }
    }
    Ok(())
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            orders, events, keys, ..
        } = self;
        write!(
            formatter,
            "{orders} orders, {events} events, {keys} idempotency keys: "
        )?;
        if self.is_sound() {
            return formatter.write_str("all promises kept");
        }
        let noun = if self.breaches_total == 1 {
            "breach"
        } else {
            "breaches"
        };
        write!(formatter, "{} {noun}", self.breaches_total)?;
        let mut by_promise: BTreeMap<Promise, Vec<&Breach>> = BTreeMap::new();
        for breach in &self.breaches {
            by_promise.entry(breach.promise).or_default().push(breach);
        }
        for (promise, breaches) in by_promise {
            write!(formatter, "\n{}", promise.name())?;
            for breach in breaches {
                write!(formatter, "\n  {breach}")?;
            }
        }
        let unshown = self.breaches_total - self.breaches.len() as u64;
        if unshown > 0 {
            write!(formatter, "\nand {unshown} more")?;
        }
        Ok(())
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.order_id {
            Some(id) => write!(formatter, "order {id}: {}", self.detail),
            None => formatter.write_str(&self.detail),
        }
    }
}
