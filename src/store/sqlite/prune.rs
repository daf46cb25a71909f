//! Retention: removes orders that ended long ago, with their events.

use super::group::{CallError, Group, counter};
use super::settle::micros;
use super::turns;
use crate::order::{OrderId, OrderStatus};
use crate::store::{PRUNE_EVENTS_MAX, PRUNE_ORDERS_MAX, Prune, Pruned};
use crate::time::Timestamp;

/// An order that retention may remove.
struct Candidate {
    order_id: OrderId,
    status: OrderStatus,
    created_at: Timestamp,
    processing_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    user_id: i64,
}

/// Walks up the primary key. An order that ended before the cutoff was created before it, and creation times rise with the ids,
/// so the walk ends at the first order created after the cutoff.
pub(super) fn prune(group: &mut Group<'_>, request: &Prune) -> Result<Pruned, CallError> {
    let cutoff = group.now.minus(request.older_than);
    let page = next_orders(group, request.after)?;
    let mut pruned = Pruned::default();
    let mut events = 0;
    let mut last = None;
    for candidate in &page {
        if candidate.created_at >= cutoff {
            return Ok(pruned);
        }
        if candidate
            .finished_at
            .is_some_and(|finished_at| finished_at < cutoff)
        {
            if events >= PRUNE_EVENTS_MAX {
                pruned.next = last;
                return Ok(pruned);
            }
            match group.in_savepoint(|group| remove(group, candidate))? {
                Ok(removed) => {
                    events += removed;
                    pruned.orders += 1;
                }
                Err(refusal) => pruned.refused.push(refusal.of_order(candidate.order_id)),
            }
        }
        last = Some(candidate.order_id);
    }
    pruned.next = last.filter(|_| page.len() == PRUNE_ORDERS_MAX);
    Ok(pruned)
}

fn next_orders(group: &Group<'_>, after: Option<OrderId>) -> Result<Vec<Candidate>, rusqlite::Error> {
    group
        .connection
        .prepare_cached(
            "select order_id, status, created_at, processing_at, finished_at, user_id from orders
             where order_id > ?1 order by order_id limit ?2",
        )?
        .query_map((after.unwrap_or(OrderId(0)), PRUNE_ORDERS_MAX), |row| {
            Ok(Candidate {
                order_id: row.get(0)?,
                status: row.get(1)?,
                created_at: row.get(2)?,
                processing_at: row.get(3)?,
                finished_at: row.get(4)?,
                user_id: row.get(5)?,
            })
        })?
        .collect()
}

/// Removes an order and its events. Returns the number of events.
fn remove(group: &mut Group<'_>, order: &Candidate) -> Result<usize, rusqlite::Error> {
    let positions: Vec<i64> = group
        .connection
        .prepare_cached("delete from events indexed by events_order where order_id = ?1 returning position")?
        .query_map([order.order_id], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    group
        .connection
        .prepare_cached("delete from orders where order_id = ?1")?
        .execute([order.order_id])?;
    let totals = &mut group.totals;
    let highest = positions.iter().copied().max().unwrap_or(0);
    totals.complete_after = totals.complete_after.max(highest);
    *counter(&mut totals.counters, order.status) -= 1;
    if let (OrderStatus::Completed, Some(started), Some(finished)) =
        (order.status, order.processing_at, order.finished_at)
    {
        totals.counters.processing_micros -= micros(finished.since(started));
    }
    // Other orders of the user may have waited for this one.
    turns::pass(group, order.user_id)?;
    Ok(positions.len())
}
