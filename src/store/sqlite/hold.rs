//! Orders that are set aside, in neither line: held ones, and those that wait for their `start_after`.

use super::group::{CallError, Group, StatusChange};
use super::{query, rows, turns};
use crate::event::{EventDetail, EventKind};
use crate::order::{NewOrder, Order, OrderId, OrderStatus, Reason};
use crate::store::Acted;
use crate::store::columns::order_columns;
use crate::store::hold::{holds, releases, unchanged};

/// Counts a new order.
pub(super) fn count_accepted(group: &mut Group<'_>, order: &NewOrder) {
    let counters = &mut group.totals.counters;
    if order.hold.is_some() {
        counters.held += 1;
    } else if order.is_set_aside(group.now) {
        counters.scheduled += 1;
        group.effects.timers = true;
    }
}

/// Counts an order that is set aside no more.
pub(super) fn count_out(group: &mut Group<'_>, order: &Order) -> Result<(), rusqlite::Error> {
    let scheduled = is_scheduled(group, order)?;
    let counters = &mut group.totals.counters;
    counters.held -= u64::from(order.held_at.is_some());
    counters.scheduled -= u64::from(scheduled);
    Ok(())
}

/// Reports whether the order is set aside until its `start_after`.
pub(super) fn is_scheduled(group: &Group<'_>, order: &Order) -> Result<bool, rusqlite::Error> {
    if order.status != OrderStatus::Pending || order.held_at.is_some() || order.request.start_after.is_none()
    {
        return Ok(false);
    }
    group
        .connection
        .prepare_cached("select turn is ?2 from orders where order_id = ?1")?
        .query_row((order.order_id, turns::SET_ASIDE), |row| row.get(0))
}

pub(super) fn hold(
    group: &mut Group<'_>,
    order_id: OrderId,
    reason: Option<&Reason>,
) -> Result<Acted, CallError> {
    let Some(order) = query::order(group.connection, order_id)? else {
        return Ok(Acted::Unknown);
    };
    if !holds(&order) {
        return Ok(unchanged(order));
    }
    group.totals.counters.scheduled -= u64::from(is_scheduled(group, &order)?);
    group.totals.counters.held += 1;
    let held = group
        .connection
        .prepare_cached(concat!(include_str!("hold.sql"), order_columns!()))?
        .query_row((order_id, group.now, reason.map(Reason::as_str)), rows::order)?;
    record(group, EventKind::Held, held, reason)
}

pub(super) fn release(
    group: &mut Group<'_>,
    order_id: OrderId,
    reason: Option<&Reason>,
) -> Result<Acted, CallError> {
    let Some(order) = query::order(group.connection, order_id)? else {
        return Ok(Acted::Unknown);
    };
    if !releases(&order) {
        return Ok(unchanged(order));
    }
    let scheduled = order.request.start_after.is_some_and(|time| time > group.now);
    group.totals.counters.held -= 1;
    group.totals.counters.scheduled += u64::from(scheduled);
    group.effects.timers |= scheduled;
    let released = group
        .connection
        .prepare_cached(concat!(include_str!("release.sql"), order_columns!()))?
        .query_row(
            (order_id, scheduled, turns::for_returning_order(group)),
            rows::order,
        )?;
    record(group, EventKind::Unheld, released, reason)
}

fn record(
    group: &mut Group<'_>,
    kind: EventKind,
    order: Order,
    reason: Option<&Reason>,
) -> Result<Acted, CallError> {
    group.record(StatusChange {
        detail: EventDetail::of_reason(reason.cloned()),
        ..StatusChange::of_order(kind, OrderStatus::Pending, &order)
    })?;
    turns::pass(group, order.request.user_id.key())?;
    Ok(Acted::Done(order))
}
