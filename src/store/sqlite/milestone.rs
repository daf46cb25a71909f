//! Adds milestones to orders.

use super::group::{CallError, Group, StatusChange};
use super::{query, rows};
use crate::event::{EventDetail, EventKind};
use crate::order::OrderId;
use crate::store::columns::order_columns;
use crate::store::{Acted, CLIENT_EVENTS_MAX, NewMilestone};

pub(super) fn add(group: &mut Group<'_>, order_id: OrderId, new: &NewMilestone) -> Result<Acted, CallError> {
    let Some(order) = query::order(group.connection, order_id)? else {
        return Ok(Acted::Unknown);
    };
    // Its events are no more than its version.
    if order.version >= CLIENT_EVENTS_MAX && made_by_clients(group, order_id)? >= CLIENT_EVENTS_MAX {
        return Ok(Acted::TooManyEvents(order));
    }
    let changed = group
        .connection
        .prepare_cached(concat!(include_str!("milestone.sql"), order_columns!()))?
        .query_row((order_id, new.milestone.name.as_str()), rows::order)?;
    group.record(StatusChange {
        detail: EventDetail {
            reason: new.reason.clone(),
            milestone: Some(new.milestone.clone()),
            ..EventDetail::default()
        },
        ..StatusChange::of_order(EventKind::Milestone, order.status, &changed)
    })?;
    Ok(Acted::Done(changed))
}

/// Counts the order's events that clients made.
pub(super) fn made_by_clients(group: &Group<'_>, order_id: OrderId) -> Result<u32, rusqlite::Error> {
    group
        .connection
        .prepare_cached(
            "select count(*) from events indexed by events_order where order_id = ?1 and kind in (7, 8, 9, 10, 11, 12)",
        )?
        .query_row([order_id], |row| row.get(0))
}
