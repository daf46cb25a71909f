//! First-in first-out start: first attempts begin in the order of acceptance, as far as a store records it.
//!
//! With one writer, ids rise in the order of acceptance. With many writers, an id is drawn before its order is
//! accepted, so either of two concurrent orders may be the earlier one. An order created so long before another that it
//! must have been accepted by then was certainly earlier.
//!
//! A claim passes over an order that another session of the database has locked, and records that in the events of the
//! orders it starts. Those starts may overtake the order; no others may.
//!
//! A start of given orders (`Store::start`) records in the same way that it passed over every earlier order: its caller
//! owns the order of these starts. Orders that claims start afterwards must not overtake them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::order_rules::amended_time;
use super::{Promise, Report};
use crate::event::EventKind;
use crate::order::OrderId;
use crate::store::snapshot::{EVERY_EARLIER, EventRecord, OrderRecord};
use crate::time::Timestamp;

/// Number of spans in an `accept_time_max`. Orders of one span are remembered together and count as accepted when the
/// last of them was, so that memory is bounded for any number of orders.
const SPANS: u32 = 60;

/// Checks orders by rising id.
pub(super) struct StartOrder {
    /// Maximum time between an order's creation and its commit; zero if ids alone give the order.
    accept_time_max: Duration,
    /// Orders accepted before any that follow.
    earlier: Starts,
    /// Other orders, by the end of the span in which they were created.
    recent: BTreeMap<Timestamp, Starts>,
    newest: Timestamp,
    /// Orders that some claim passed over; they are in neither of the above.
    passed_over: Arc<HashSet<OrderId>>,
    /// Creation of the passed-over orders seen so far, by start and id; orders that wait come last.
    excused: BTreeMap<(i64, OrderId), Timestamp>,
}

/// The start of an order that still waits for its first: after all others.
const NOT_YET: i64 = i64::MAX;

impl StartOrder {
    pub fn new(accept_time_max: Duration, passed_over: Arc<HashSet<OrderId>>) -> StartOrder {
        StartOrder {
            accept_time_max,
            passed_over,
            excused: BTreeMap::new(),
            earlier: Starts::default(),
            recent: BTreeMap::new(),
            newest: Timestamp::from_micros(0),
        }
    }

    pub fn check(&mut self, record: &OrderRecord, report: &mut Report) {
        let start = FirstStart::of(record);
        let created_at = record.order.created_at;
        if let FirstStart::At(position) = start
            && !start_was_given(record)
        {
            self.judge(record.order.order_id, created_at, position, report);
            self.judge_passes(record, position, report);
        }
        if self.passed_over.contains(&record.order.order_id) {
            let position = match start {
                FirstStart::At(position) => position,
                FirstStart::Waiting => NOT_YET,
                FirstStart::Never => return,
            };
            self.excused.insert((position, record.order.order_id), created_at);
        } else {
            self.remember(record.order.order_id, created_at, start);
        }
    }

    /// Checks the start against earlier orders that some claim passed over: if they started later, this order's claim
    /// must have passed over them too.
    fn judge_passes(&self, record: &OrderRecord, position: i64, report: &mut Report) {
        let accepted_by = record.order.created_at.minus(self.accept_time_max);
        let passed_over = first_change(record).map(|started| &started.passed_over);
        let later = self.excused.range((position, OrderId(0))..);
        let overtaken = later.filter(|((_, id), created_at)| {
            let was_accepted = self.accept_time_max.is_zero() || **created_at < accepted_by;
            was_accepted && !passed_over.is_some_and(|passed_over| passed_over.contains(id))
        });
        for ((_, earlier), _) in overtaken.take(1) {
            let detail = format!(
                "started before order {earlier}, which was accepted earlier and which its claim did not pass over"
            );
            report.breach(Promise::FifoStart, Some(record.order.order_id), detail);
        }
    }

    fn judge(&self, id: OrderId, created_at: Timestamp, position: i64, report: &mut Report) {
        let accepted_by = created_at.minus(self.accept_time_max);
        let mut before = self.earlier;
        for starts in self.recent.range(..accepted_by).map(|(_, starts)| *starts) {
            before.add(starts);
        }
        if let Some(waiting) = before.waiting {
            let detail = format!("started although order {waiting} still waits for its first start");
            report.breach(Promise::FifoStart, Some(id), detail);
        }
        if let Some((latest, earlier)) = before.latest
            && latest >= position
        {
            let detail = format!("started before order {earlier}, which was accepted earlier");
            report.breach(Promise::FifoStart, Some(id), detail);
        }
    }

    fn remember(&mut self, id: OrderId, created_at: Timestamp, start: FirstStart) {
        let starts = Starts::of(id, start);
        if self.accept_time_max.is_zero() {
            self.earlier.add(starts);
            return;
        }
        let span_end = span_end(created_at, self.accept_time_max / SPANS);
        self.recent.entry(span_end).or_default().add(starts);
        self.newest = self.newest.max(created_at);
        // Later records drew their ids after the newest one, so they were created at most that long before it; orders
        // accepted by then are earlier than all of them.
        let followers_from = self.newest.minus(self.accept_time_max);
        let accepted_by = followers_from.minus(self.accept_time_max);
        while let Some(oldest) = self
            .recent
            .first_entry()
            .filter(|oldest| *oldest.key() < accepted_by)
        {
            self.earlier.add(oldest.remove());
        }
    }
}

/// Returns the end of the span of this length that contains `time`.
fn span_end(time: Timestamp, span: Duration) -> Timestamp {
    let span = i64::try_from(span.as_micros()).unwrap_or(i64::MAX).max(1);
    Timestamp::from_micros(
        time.micros()
            .div_euclid(span)
            .saturating_add(1)
            .saturating_mul(span),
    )
}

/// The first event after the acceptance that changed the status or the line of the order.
fn first_change(record: &OrderRecord) -> Option<&EventRecord> {
    let mut later = record.events.iter().skip(1);
    later.find(|stored| stored.event.kind.leads_to().is_some())
}

/// Reports whether the store's caller owned the order of starts.
fn start_was_given(record: &OrderRecord) -> bool {
    let started = first_change(record);
    started.is_some_and(|started| started.passed_over.contains(&EVERY_EARLIER))
}

#[derive(Clone, Copy)]
enum FirstStart {
    /// Position of the start in the feed.
    At(i64),
    Waiting,
    /// It left the first line before its first start, or never was in it: cancelled, held or scheduled.
    Never,
}

impl FirstStart {
    fn of(record: &OrderRecord) -> FirstStart {
        let order = &record.order;
        let scheduled = order
            .request
            .start_after
            .is_some_and(|time| time > order.created_at);
        if record.set_aside || scheduled || amended_time(record).is_some() {
            return FirstStart::Never;
        }
        match first_change(record) {
            None => FirstStart::Waiting,
            Some(second) if second.event.kind == EventKind::Started => FirstStart::At(second.position),
            Some(_) => FirstStart::Never,
        }
    }
}

/// Summary of some orders' first starts.
#[derive(Clone, Copy, Default)]
struct Starts {
    /// The latest first start: its position in the feed and its order.
    latest: Option<(i64, OrderId)>,
    /// The first order that still waits for its first start.
    waiting: Option<OrderId>,
}

impl Starts {
    fn of(id: OrderId, start: FirstStart) -> Starts {
        match start {
            FirstStart::At(position) => Starts {
                latest: Some((position, id)),
                waiting: None,
            },
            FirstStart::Waiting => Starts {
                latest: None,
                waiting: Some(id),
            },
            FirstStart::Never => Starts::default(),
        }
    }

    fn add(&mut self, others: Starts) {
        self.latest = self.latest.max(others.latest);
        self.waiting = match (self.waiting, others.waiting) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
}
