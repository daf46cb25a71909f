//! The rule for an order's deadline and its event `overdue`.

use super::{Promise, Report};
use crate::event::{Event, EventKind};
use crate::store::snapshot::OrderRecord;

pub fn check(record: &OrderRecord, report: &mut Report) {
    let order = &record.order;
    let events = record.events.iter().map(|stored| &stored.event);
    let marks: Vec<&Event> = events.filter(|event| event.kind == EventKind::Overdue).collect();
    let deadline = order.request.deadline;
    let detail = match &marks[..] {
        [] if order.overdue => "is overdue without an event that says so",
        [_] if !order.overdue => "has an event overdue and is not",
        [mark] if deadline.is_none_or(|deadline| mark.at < deadline) => "became overdue before its deadline",
        [] | [_] => return,
        [_, _, ..] => "became overdue more than once",
    };
    report.breach(Promise::Deadlines, Some(order.order_id), detail.to_owned());
}
