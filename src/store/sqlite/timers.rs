//! Moves scheduled orders into their line, and marks orders whose deadline has passed.

use std::time::Duration;

use super::choose::json_array;
use super::group::{CallError, Group, StatusChange, require_changed};
use super::{rows, turns};
use crate::event::EventKind;
use crate::order::OrderId;
use crate::store::columns::order_columns;
use crate::store::timers::{Fired, TIMERS_FIRED_MAX};
use crate::time::Timestamp;

pub(super) fn fire(group: &mut Group<'_>, except: &[OrderId]) -> Result<Fired, CallError> {
    let except = json_array(except);
    let due: Vec<(OrderId, i64)> = group
        .connection
        .prepare_cached(
            "select order_id, user_id from orders indexed by orders_scheduled
             where status = 0 and turn = 2 and held_at is null and start_after <= ?1
                 and order_id not in (select value from json_each(?3))
             order by start_after, order_id limit ?2",
        )?
        .query_map((group.now, TIMERS_FIRED_MAX, &except), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?
        .collect::<Result<_, _>>()?;
    let late: Vec<OrderId> = group
        .connection
        .prepare_cached(
            "select order_id from orders indexed by orders_deadline
             where deadline is not null and status < 2 and overdue = 0 and deadline <= ?1
                 and order_id not in (select value from json_each(?3))
             order by deadline, order_id limit ?2",
        )?
        .query_map((group.now, TIMERS_FIRED_MAX, &except), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let left_some = due.len() == TIMERS_FIRED_MAX || late.len() == TIMERS_FIRED_MAX;
    let mut fired = Fired::default();
    for (order_id, user_id) in due {
        match group.in_savepoint(|group| enter_line(group, order_id, user_id))? {
            Ok(()) => fired.entered += 1,
            Err(refusal) => fired.refused.push(refusal.of_order(order_id)),
        }
    }
    for order_id in late {
        match group.in_savepoint(|group| mark_overdue(group, order_id))? {
            Ok(()) => fired.overdue += 1,
            Err(refusal) => fired.refused.push(refusal.of_order(order_id)),
        }
    }
    fired.next_in = if left_some {
        Some(Duration::ZERO)
    } else {
        next(group)?.map(|at| at.since(group.now))
    };
    Ok(fired)
}

/// The next time that an order waits for.
fn next(group: &Group<'_>) -> Result<Option<Timestamp>, rusqlite::Error> {
    group
        .connection
        .prepare_cached(
            "select min(time) from (
                 select min(start_after) as time from orders indexed by orders_scheduled
                 where status = 0 and turn = 2 and held_at is null and start_after > ?1
                 union all
                 select min(deadline) from orders indexed by orders_deadline
                 where deadline is not null and status < 2 and overdue = 0 and deadline > ?1)",
        )?
        .query_row([group.now], |row| row.get(0))
}

fn enter_line(group: &mut Group<'_>, order_id: OrderId, user_id: i64) -> Result<(), rusqlite::Error> {
    let changed = group
        .connection
        .prepare_cached(
            "update orders set turn = ?2, due_at = coalesce(due_at, created_at) where order_id = ?1",
        )?
        .execute((order_id, turns::for_returning_order(group)))?;
    require_changed(changed, 1)?;
    group.totals.counters.scheduled -= 1;
    group.effects.work = true;
    turns::pass(group, user_id)
}

fn mark_overdue(group: &mut Group<'_>, order_id: OrderId) -> Result<(), rusqlite::Error> {
    let marked = group
        .connection
        .prepare_cached(concat!(
            "update orders set version = version + 1, overdue = 1 where order_id = ?1 returning ",
            order_columns!()
        ))?
        .query_row([order_id], rows::order)?;
    group.record(StatusChange::of_order(EventKind::Overdue, marked.status, &marked))?;
    group.effects.overdue += 1;
    Ok(())
}
