//! Amends orders.

use super::group::{CallError, Group, StatusChange};
use super::{hold, milestone, query, rows, turns};
use crate::event::{EventDetail, EventKind};
use crate::order::{OrderId, OrderStatus, Patch, Reference};
use crate::store::amend::refusal;
use crate::store::columns::order_columns;
use crate::store::{Amended, CLIENT_EVENTS_MAX};

/// Moves of `amend.sql`.
const STAYS: i64 = 0;
const LEAVES_LINE: i64 = 1;
const ENTERS_LINE: i64 = 2;

pub(super) fn amend(
    group: &mut Group<'_>,
    order_id: OrderId,
    version: u32,
    patch: &Patch,
) -> Result<Amended, CallError> {
    let Some(order) = query::order(group.connection, order_id)? else {
        return Ok(Amended::Unknown);
    };
    if let Some(refused) = refusal(&order, version, patch, group.now) {
        return Ok(refused);
    }
    let (request, fields) = patch.clone().apply(&order.request);
    if fields.is_empty() {
        return Ok(Amended::Done(order));
    }
    if order.version >= CLIENT_EVENTS_MAX && milestone::made_by_clients(group, order_id)? >= CLIENT_EVENTS_MAX
    {
        return Ok(Amended::TooManyEvents(order));
    }
    let was_scheduled = hold::is_scheduled(group, &order)?;
    let waits = order.status == OrderStatus::Pending && order.held_at.is_none();
    let is_scheduled = waits && request.start_after.is_some_and(|time| time > group.now);
    let movement = match (was_scheduled, is_scheduled) {
        (false, true) => LEAVES_LINE,
        (true, false) => ENTERS_LINE,
        _ => STAYS,
    };
    let scheduled = &mut group.totals.counters.scheduled;
    *scheduled = *scheduled + u64::from(is_scheduled) - u64::from(was_scheduled);
    group.effects.timers |= is_scheduled || request.deadline.is_some();
    let amended = group
        .connection
        .prepare_cached(concat!(include_str!("amend.sql"), order_columns!()))?
        .query_row(
            (
                order_id,
                request.items.codes(),
                request.items.lines(),
                request.total_amount.minor_units(),
                request.reference.as_ref().map(Reference::as_str),
                request.metadata.as_deref(),
                request.start_after,
                movement,
                turns::for_returning_order(group),
                request.deadline,
            ),
            rows::order,
        )?;
    group.record(StatusChange {
        detail: EventDetail {
            fields,
            ..EventDetail::default()
        },
        ..StatusChange::of_order(EventKind::Amended, order.status, &amended)
    })?;
    group.effects.work |= movement == ENTERS_LINE;
    if movement != STAYS {
        turns::pass(group, amended.request.user_id.key())?;
    }
    Ok(Amended::Done(amended))
}
