//! Cancels an order.

use super::group::{CallError, Group, StatusChange};
use super::{hold, query, rows, turns};
use crate::event::{EventDetail, EventKind};
use crate::order::{OrderId, Reason};
use crate::store::Acted;
use crate::store::cancel::changes;
use crate::store::columns::order_columns;

pub(super) fn cancel(
    group: &mut Group<'_>,
    order_id: OrderId,
    reason: Option<&Reason>,
) -> Result<Acted, CallError> {
    let Some(order) = query::order(group.connection, order_id)? else {
        return Ok(Acted::Unknown);
    };
    if !changes(order.status) {
        return Ok(Acted::unchanged(order, EventKind::Cancelled));
    }
    hold::count_out(group, &order)?;
    let cancelled = group
        .connection
        .prepare_cached(concat!(include_str!("cancel.sql"), order_columns!()))?
        .query_row((order_id, group.now), rows::order)?;
    group.record(StatusChange {
        detail: EventDetail::of_reason(reason.cloned()),
        ..StatusChange::of_order(EventKind::Cancelled, order.status, &cancelled)
    })?;
    turns::pass(group, cancelled.request.user_id.key())?;
    Ok(Acted::Done(cancelled))
}
