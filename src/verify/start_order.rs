//! First-in first-out start: first attempts begin in the order of acceptance, as far as a store tells it.
//!
//! Where one writer stores all orders, ids rise in the order of acceptance. Where many do, an id is drawn before its
//! order is accepted, so of two orders that were under way at the same time either may be the earlier one; but an order
//! that was created so long before another that it must have been accepted by then was the earlier one for certain.
//!
//! An order that another session of the database has locked is passed over. The claim that does so says it in the events of
//! what it starts, so the order may be overtaken by those starts and by no others.
//!
//! A start of given orders (`Store::start`) says in the same way that it passed over every earlier order: its caller owns the
//! order of these starts. Orders that claims start afterwards must not overtake them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Promise, Report};
use crate::event::EventKind;
use crate::order::OrderId;
use crate::store::snapshot::{EVERY_EARLIER, OrderRecord};
use crate::time::Timestamp;

/// Into how many spans an `accept_time_max` is divided: orders of one span are remembered together and count as accepted
/// when the last of them was, so that the memory is bounded, whatever the number of orders.
const SPANS: u32 = 60;

/// Follows the orders by rising id.
pub(super) struct StartOrder {
    /// The longest time between an order's creation and its commit; zero where ids alone tell the order.
    accept_time_max: Duration,
    /// Orders that were accepted before any that follow.
    earlier: Starts,
    /// The others, by the end of the span in which they were created.
    recent: BTreeMap<Timestamp, Starts>,
    newest: Timestamp,
    /// Orders that any claim passed over. They are in neither of the above.
    passed_over: Arc<HashSet<OrderId>>,
    /// Those of them that came by, with their creation, by their start and their number: at the end those that wait.
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

    /// Judges the start against earlier orders that some claim passed over: this order's claim had to pass over them
    /// too, if it did not wait for them to start.
    fn judge_passes(&self, record: &OrderRecord, position: i64, report: &mut Report) {
        let accepted_by = record.order.created_at.minus(self.accept_time_max);
        let passed_over = record.events.get(1).map(|started| &started.passed_over);
        let later = self.excused.range((position, OrderId(0))..);
        let overtaken = later.filter(|((_, id), created_at)| {
            let was_accepted = self.accept_time_max.is_zero() || **created_at < accepted_by;
            was_accepted && !passed_over.is_some_and(|passed_over| passed_over.contains(id))
        });
        for ((_, earlier), _) in overtaken.take(1) {
            let detail = format!(
                "started before order {earlier}, which was accepted earlier, and which its claim did not pass over"
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
        // Whatever follows drew its id later than the newest, so it was created at most so long before it; what was
        // accepted by then is earlier than all of it.
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

/// The end of the span of this length in which a time lies.
fn span_end(time: Timestamp, span: Duration) -> Timestamp {
    let span = i64::try_from(span.as_micros()).unwrap_or(i64::MAX).max(1);
    Timestamp::from_micros(
        time.micros()
            .div_euclid(span)
            .saturating_add(1)
            .saturating_mul(span),
    )
}

/// Reports whether the caller of the store owned the order of starts.
fn start_was_given(record: &OrderRecord) -> bool {
    let started = record.events.get(1);
    started.is_some_and(|started| started.passed_over.contains(&EVERY_EARLIER))
}

#[derive(Clone, Copy)]
enum FirstStart {
    /// Its place in the feed.
    At(i64),
    Waiting,
    /// Cancelled before it ever started: it left the line.
    Never,
}

impl FirstStart {
    fn of(record: &OrderRecord) -> FirstStart {
        match record.events.get(1) {
            None => FirstStart::Waiting,
            Some(second) if second.event.kind == EventKind::Started => FirstStart::At(second.position),
            Some(_) => FirstStart::Never,
        }
    }
}

/// What is remembered of some orders.
#[derive(Clone, Copy, Default)]
struct Starts {
    /// The latest first start: its place in the feed and its order.
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
