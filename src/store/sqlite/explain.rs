//! Explains why an order waits: its lease, the order of its user that it waits for, and its place in the line.

use rusqlite::{Connection, OptionalExtension};

use super::group::Totals;
use super::{query, rows, turns};
use crate::lease::NodeId;
use crate::order::{Order, OrderId, OrderStatus, Ordering};
use crate::store::columns::{ORDER_COLUMNS, order_columns};
use crate::store::{AHEAD_MAX, CurrentLease, Explanation, Place, Predecessor, SUSPECT_CRASHES};
use crate::time::Timestamp;

/// Orders ahead of a given order in its line, nearest first.
const FIRST_LINE: &str = "select order_id from orders indexed by orders_first
    where status = 0 and due_at is null and coalesce(turn, 0) = 0 and order_id < ?1
    order by order_id desc limit ?2";
const SECOND_LINE: &str = "select order_id from orders indexed by orders_due
    where status = 0 and due_at is not null and coalesce(turn, 0) = 0 and crashes < 2 and (due_at, order_id) < (?1, ?2)
    order by due_at desc, order_id desc limit ?3";

pub(super) fn explain(
    connection: &Connection,
    id: OrderId,
    now: Timestamp,
) -> Result<Option<Explanation>, rusqlite::Error> {
    let found = connection
        .prepare_cached(concat!(
            "select ",
            order_columns!(),
            ", crashes, node, lease_expires_at, outside, status = 0 and turn is 2 from orders where order_id = ?1"
        ))?
        .query_row([id], |row| {
            let node: Option<NodeId> = row.get(ORDER_COLUMNS + 1)?;
            let expires_at: Option<Timestamp> = row.get(ORDER_COLUMNS + 2)?;
            let external = row.get(ORDER_COLUMNS + 3)?;
            let lease = |(node, expires_at)| CurrentLease {
                node,
                expires_at,
                external,
            };
            Ok((
                rows::order(row)?,
                row.get::<_, u32>(ORDER_COLUMNS)? >= SUSPECT_CRASHES,
                Option::zip(node, expires_at).map(lease),
                row.get::<_, bool>(ORDER_COLUMNS + 4)?,
            ))
        })
        .optional()?;
    let Some((order, suspect, lease, set_aside)) = found else {
        return Ok(None);
    };
    let ordering = Totals::read(connection)?.ordering;
    let waits_for = waits_for(connection, &order, ordering)?;
    let mut queue = query::queue(connection, now)?;
    for node in &mut queue.nodes {
        node.busy = busy(connection, node.node)?;
    }
    let place = match waits_for {
        None if !set_aside => place(connection, &order, now)?,
        _ => None,
    };
    Ok(Some(Explanation {
        queue,
        order,
        lease,
        suspect,
        set_aside,
        waits_for,
        place,
        locked_by: None,
        refused: None,
        read_at: now,
    }))
}

/// Number of orders that the node is processing itself.
fn busy(connection: &Connection, node: NodeId) -> Result<u32, rusqlite::Error> {
    connection
        .prepare_cached(
            "select count(*) from (
                 select node, outside from orders indexed by orders_processing where status = 1 limit ?2)
             where node = ?1 and outside = 0",
        )?
        .query_row((node, AHEAD_MAX), |row| row.get(0))
}

fn waits_for(
    connection: &Connection,
    order: &Order,
    ordering: Ordering,
) -> Result<Option<Predecessor>, rusqlite::Error> {
    let Ordering::User { on_failure, on_hold } = ordering else {
        return Ok(None);
    };
    if order.status != OrderStatus::Pending {
        return Ok(None);
    }
    let user_id = order.request.user_id.key();
    let earlier = turns::first_open(connection, user_id, on_failure, on_hold)?
        .filter(|first| first.order_id < order.order_id);
    let found = match earlier {
        None => turns::running(connection, user_id)?,
        earlier => earlier,
    };
    Ok(found.map(|first| Predecessor {
        order_id: first.order_id,
        status: first.status,
        set_aside: first.set_aside,
    }))
}

fn place(connection: &Connection, order: &Order, now: Timestamp) -> Result<Option<Place>, rusqlite::Error> {
    if order.status != OrderStatus::Pending {
        return Ok(None);
    }
    let first_line = |below: OrderId| {
        connection
            .prepare_cached(FIRST_LINE)?
            .query_map((below, AHEAD_MAX), |row| row.get(0))?
            .collect::<Result<Vec<OrderId>, _>>()
    };
    let second_line = |due_at: Timestamp, below: OrderId| {
        connection
            .prepare_cached(SECOND_LINE)?
            .query_map((due_at, below, AHEAD_MAX), |row| row.get(0))?
            .collect::<Result<Vec<OrderId>, _>>()
    };
    let all = OrderId(i64::MAX);
    let (ahead, other_line) = match order.next_attempt_at {
        None => (first_line(order.order_id)?, second_line(now, all)?),
        Some(due_at) if due_at <= now => (second_line(due_at, order.order_id)?, first_line(all)?),
        Some(_) => return Ok(None),
    };
    Ok(Some(Place {
        ahead: ahead.len() as u64,
        behind: ahead.first().copied(),
        other_line: other_line.len() as u64,
    }))
}
