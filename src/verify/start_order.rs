//! First-in first-out start: first attempts begin in the order of acceptance, as far as a store tells it.
//!
//! Where one writer stores all orders, ids rise in the order of acceptance. Where many do, an id is drawn before its
//! order is accepted, so of two orders that were under way at the same time either may be the earlier one; but an order
//! that was created so long before another that it must have been accepted by then was the earlier one for certain.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Promise, Report};
use crate::event::EventKind;
use crate::order::OrderId;
use crate::store::snapshot::OrderRecord;
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
}

impl StartOrder {
    pub fn new(accept_time_max: Duration) -> StartOrder {
        StartOrder {
            accept_time_max,
            earlier: Starts::default(),
            recent: BTreeMap::new(),
            newest: Timestamp::from_micros(0),
        }
    }

    pub fn check(&mut self, record: &OrderRecord, report: &mut Report) {
        let start = FirstStart::of(record);
        let created_at = record.order.created_at;
        if let FirstStart::At(position) = start {
            self.judge(record.order.order_id, created_at, position, report);
        }
        self.remember(record.order.order_id, created_at, start);
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
