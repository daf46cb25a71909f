//! Redrives one order, or many that match a query.

use rusqlite::Connection;

use super::group::{CallError, Group, StatusChange};
use super::{hold, listing, query, rows, turns};
use crate::event::EventKind;
use crate::order::OrderId;
use crate::store::columns::order_columns;
use crate::store::redrive::changes;
use crate::store::{Acted, RedriveOptions, RedriveQuery, Redriven, RefusedOrder, SWEEP_ORDERS_MAX};

pub(super) fn redrive(
    group: &mut Group<'_>,
    order_id: OrderId,
    options: &RedriveOptions,
) -> Result<Acted, rusqlite::Error> {
    let Some(order) = query::order(group.connection, order_id)? else {
        return Ok(Acted::Unknown);
    };
    let backs_off = order.next_attempt_at.is_some_and(|due_at| due_at > group.now);
    let scheduled = hold::is_scheduled(group, &order)?;
    if !changes(order.status, backs_off || scheduled) {
        return Ok(Acted::unchanged(order, EventKind::Redriven));
    }
    let redriven = group
        .connection
        .prepare_cached(concat!(include_str!("redrive.sql"), order_columns!()))?
        .query_row(
            (
                order_id,
                group.now,
                turns::for_returning_order(group),
                options.same_key,
            ),
            rows::order,
        )?;
    group.totals.counters.scheduled -= u64::from(scheduled);
    group.effects.timers |= redriven.request.deadline.is_some();
    group.record(StatusChange {
        detail: options.detail(),
        ..StatusChange::of_order(EventKind::Redriven, order.status, &redriven)
    })?;
    turns::pass(group, redriven.request.user_id.key())?;
    Ok(Acted::Done(redriven))
}

/// Redrives the oldest matching orders. Also returns the orders that the database refused to change.
pub(super) fn redrive_matching(
    group: &mut Group<'_>,
    query: &RedriveQuery,
) -> Result<(Redriven, Vec<RefusedOrder>), CallError> {
    let mut matching = matching(group.connection, query)?;
    let mut redriven = Redriven::of_matching(&mut matching);
    let mut refused = Vec::new();
    for order_id in matching {
        match group.in_savepoint(|group| redrive(group, order_id, &query.options))? {
            Ok(Acted::Done(_)) => redriven.retried += 1,
            Ok(Acted::Refused(_) | Acted::TooManyEvents(_) | Acted::Unknown) => {}
            Err(refusal) => refused.push(refusal.of_order(order_id)),
        }
    }
    Ok((redriven, refused))
}

/// Counts the orders that `redrive_matching` would redrive.
pub(super) fn count_matching(
    connection: &Connection,
    query: &RedriveQuery,
) -> Result<Redriven, rusqlite::Error> {
    Ok(Redriven::of_matching(&mut matching(connection, query)?))
}

/// The oldest matching orders, at most one more than a call redrives.
fn matching(connection: &Connection, query: &RedriveQuery) -> Result<Vec<OrderId>, rusqlite::Error> {
    let below = match query.created_before {
        Some(time) => listing::first_created(connection, listing::Created::NotBefore(time))?,
        None => None,
    };
    // If no order was created at or after the time, all were created before it.
    let below = below.unwrap_or(OrderId(i64::MAX));
    let limit = SWEEP_ORDERS_MAX + 1;
    match query.user_id {
        None => connection
            .prepare_cached(
                "select order_id from orders indexed by orders_unsuccessful
                 where status > 2 and status = ?1 and order_id < ?2 order by order_id limit ?3",
            )?
            .query_map((query.status, below, limit), |row| row.get(0))?
            .collect(),
        Some(user_id) => connection
            .prepare_cached(
                "select order_id from orders indexed by orders_user_unsuccessful
                 where status > 2 and status = ?1 and order_id < ?2 and user_id = ?4 and user_name is ?5
                 order by order_id limit ?3",
            )?
            .query_map((query.status, below, limit, user_id, &query.user_name), |row| {
                row.get(0)
            })?
            .collect(),
    }
}
