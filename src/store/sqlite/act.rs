//! What people do to orders and to the queue: cancel, redrive, pause.

use rusqlite::Connection;

use super::group::{CallError, Change, Group};
use super::listing;
use super::query;
use super::rows;
use super::turns;
use crate::event::EventKind;
use crate::order::{Order, OrderId, OrderStatus};
use crate::store::columns::order_columns;
use crate::store::{Acted, RedriveQuery, Redriven, RefusedOrder, SWEEP_ORDERS_MAX};

pub(super) fn cancel(group: &mut Group<'_>, order_id: OrderId) -> Result<Acted, CallError> {
    let Some(order) = query::order(group.connection, order_id)? else {
        return Ok(Acted::Unknown);
    };
    match order.status {
        OrderStatus::Pending | OrderStatus::Processing | OrderStatus::Failed => {}
        OrderStatus::Cancelled => return Ok(Acted::Done(order)),
        OrderStatus::Completed => return Ok(Acted::Refused(order)),
    }
    let cancelled = group
        .connection
        .prepare_cached(concat!(
            "update orders set status = 4, version = version + 1, lease_expires_at = null, outside = 0, due_at = null,
                    finished_at = ?2
             where order_id = ?1 returning ",
            order_columns!()
        ))?
        .query_row((order_id, group.now), rows::order)?;
    record(group, EventKind::Cancelled, order.status, &cancelled)?;
    turns::pass(group, cancelled.request.user_id)?;
    Ok(Acted::Done(cancelled))
}

pub(super) fn redrive(group: &mut Group<'_>, order_id: OrderId) -> Result<Acted, rusqlite::Error> {
    let Some(order) = query::order(group.connection, order_id)? else {
        return Ok(Acted::Unknown);
    };
    match order.status {
        OrderStatus::Failed | OrderStatus::Cancelled => {}
        OrderStatus::Pending => return Ok(Acted::Done(end_back_off(group, order)?)),
        OrderStatus::Processing | OrderStatus::Completed => return Ok(Acted::Refused(order)),
    }
    let redriven = group
        .connection
        .prepare_cached(concat!(
            "update orders set status = 0, version = version + 1, attempts = 0, crashes = 0,
                    generation = generation + 1, finished_at = null, due_at = ?2, last_error = null, turn = ?3
             where order_id = ?1 returning ",
            order_columns!()
        ))?
        .query_row((order_id, group.now, turns::of_returning(group)), rows::order)?;
    record(group, EventKind::Redriven, order.status, &redriven)?;
    turns::pass(group, redriven.request.user_id)?;
    Ok(Acted::Done(redriven))
}

/// Makes a Pending order due now, unless it is.
fn end_back_off(group: &mut Group<'_>, order: Order) -> Result<Order, rusqlite::Error> {
    if order.next_attempt_at.is_none_or(|due_at| due_at <= group.now) {
        return Ok(order);
    }
    let due = group
        .connection
        .prepare_cached(concat!(
            "update orders set version = version + 1, due_at = ?2 where order_id = ?1 returning ",
            order_columns!()
        ))?
        .query_row((order.order_id, group.now), rows::order)?;
    record(group, EventKind::Redriven, order.status, &due)?;
    Ok(due)
}

fn record(
    group: &mut Group<'_>,
    kind: EventKind,
    from: OrderStatus,
    order: &Order,
) -> Result<(), rusqlite::Error> {
    group.record(Change {
        order_id: order.order_id,
        version: order.version,
        kind,
        from: Some(from),
        attempt: order.attempts,
        node: None,
        error: None,
    })
}

/// Answers also which orders were refused among the others.
pub(super) fn redrive_matching(
    group: &mut Group<'_>,
    query: &RedriveQuery,
) -> Result<(Redriven, Vec<RefusedOrder>), CallError> {
    let (matching, more) = matching(group.connection, query)?;
    let mut retried = 0;
    let mut refused = Vec::new();
    for order_id in &matching {
        match group.part(|group| redrive(group, *order_id))? {
            Ok(Acted::Done(_)) => retried += 1,
            Ok(Acted::Refused(_) | Acted::Unknown) => {}
            Err(refusal) => refused.push(refusal.of_order(*order_id)),
        }
    }
    let redriven = Redriven {
        matched: matching.len(),
        retried,
        more,
    };
    Ok((redriven, refused))
}

/// What `redrive_matching` would take.
pub(super) fn count_matching(
    connection: &Connection,
    query: &RedriveQuery,
) -> Result<Redriven, rusqlite::Error> {
    let (matching, more) = matching(connection, query)?;
    Ok(Redriven {
        matched: matching.len(),
        retried: 0,
        more,
    })
}

/// The oldest [`SWEEP_ORDERS_MAX`], and whether there are more.
fn matching(connection: &Connection, query: &RedriveQuery) -> Result<(Vec<OrderId>, bool), rusqlite::Error> {
    let mut matching = one_more_than_matching(connection, query)?;
    let more = matching.len() > SWEEP_ORDERS_MAX;
    matching.truncate(SWEEP_ORDERS_MAX);
    Ok((matching, more))
}

fn one_more_than_matching(
    connection: &Connection,
    query: &RedriveQuery,
) -> Result<Vec<OrderId>, rusqlite::Error> {
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
                "select order_id from orders indexed by orders_ended
                 where finished_at is not null and status = ?1 and order_id < ?2 order by order_id limit ?3",
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

pub(super) fn set_paused(group: &mut Group<'_>, paused: bool) {
    group.totals.paused = paused;
    group.effects.work |= !paused;
}
