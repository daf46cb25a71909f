//! Redriving orders: one, or many that match.

use rusqlite::Connection;

use super::group::{CallError, Change, Group};
use super::{listing, query, rows, turns};
use crate::event::EventKind;
use crate::order::OrderId;
use crate::store::columns::order_columns;
use crate::store::redrive::changes;
use crate::store::{Acted, RedriveQuery, Redriven, RefusedOrder, SWEEP_ORDERS_MAX};

pub(super) fn redrive(group: &mut Group<'_>, order_id: OrderId) -> Result<Acted, rusqlite::Error> {
    let Some(order) = query::order(group.connection, order_id)? else {
        return Ok(Acted::Unknown);
    };
    let backs_off = order.next_attempt_at.is_some_and(|due_at| due_at > group.now);
    if !changes(order.status, backs_off) {
        return Ok(Acted::unchanged(order, EventKind::Redriven));
    }
    let redriven = group
        .connection
        .prepare_cached(concat!(include_str!("redrive.sql"), order_columns!()))?
        .query_row((order_id, group.now, turns::of_returning(group)), rows::order)?;
    group.record(Change::of_order(EventKind::Redriven, order.status, &redriven))?;
    turns::pass(group, redriven.request.user_id)?;
    Ok(Acted::Done(redriven))
}

/// Answers also which orders were refused among the others.
pub(super) fn redrive_matching(
    group: &mut Group<'_>,
    query: &RedriveQuery,
) -> Result<(Redriven, Vec<RefusedOrder>), CallError> {
    let mut matching = matching(group.connection, query)?;
    let mut redriven = Redriven::of_matching(&mut matching);
    let mut refused = Vec::new();
    for order_id in matching {
        match group.part(|group| redrive(group, order_id))? {
            Ok(Acted::Done(_)) => redriven.retried += 1,
            Ok(Acted::Refused(_) | Acted::Unknown) => {}
            Err(refusal) => refused.push(refusal.of_order(order_id)),
        }
    }
    Ok((redriven, refused))
}

/// Counts the orders that `redrive_matching` would take.
pub(super) fn count_matching(
    connection: &Connection,
    query: &RedriveQuery,
) -> Result<Redriven, rusqlite::Error> {
    Ok(Redriven::of_matching(&mut matching(connection, query)?))
}

/// The oldest matching orders, one more than a call takes.
fn matching(connection: &Connection, query: &RedriveQuery) -> Result<Vec<OrderId>, rusqlite::Error> {
    let below = match query.created_before {
        Some(time) => listing::first_created(connection, listing::Created::NotBefore(time))?,
        None => None,
    };
    // Without an order at or after the time, all orders are before it.
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
                 where status > 2 and status = ?1 and order_id < ?2 and user_id = ?4
                 order by order_id limit ?3",
            )?
            .query_map((query.status, below, limit, user_id), |row| row.get(0))?
            .collect(),
    }
}
