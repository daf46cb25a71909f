//! Reads single orders, counters and the state of the queue. `listing` reads pages of orders; `feed` reads events.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::group::Totals;
use super::{feed, rows};
use crate::order::{Order, OrderId};
use crate::store::columns::order_columns;
use crate::store::{BLOCKED_MAX, Blocked, NODES_MAX, Node, OrderView, Pause, QueueState};
use crate::time::Timestamp;

pub(super) fn order(connection: &Connection, order_id: OrderId) -> Result<Option<Order>, rusqlite::Error> {
    connection
        .prepare_cached(concat!(
            "select ",
            order_columns!(),
            " from orders where order_id = ?1"
        ))?
        .query_row([order_id], rows::order)
        .optional()
}

pub(super) fn order_view(
    connection: &Connection,
    order_id: OrderId,
) -> Result<Option<OrderView>, rusqlite::Error> {
    let Some(order) = order(connection, order_id)? else {
        return Ok(None);
    };
    let at = feed::end_cursor(connection)?;
    Ok(Some(OrderView { order, at }))
}

pub(super) fn queue(connection: &Connection, now: Timestamp) -> Result<QueueState, rusqlite::Error> {
    let totals = Totals::read(connection)?;
    Ok(QueueState {
        counters: totals.counters,
        pause: if totals.paused {
            Some(pause(connection)?)
        } else {
            None
        },
        oldest_waiting: oldest_waiting(connection, now)?,
        blocked: blocked(connection, now)?,
        handout: None,
        nodes: nodes(connection, now)?,
    })
}

fn pause(connection: &Connection) -> Result<Pause, rusqlite::Error> {
    connection
        .prepare_cached("select paused_at, pause_reason from counters where id = 1")?
        .query_row([], |row| {
            Ok(Pause {
                at: row.get(0)?,
                reason: row.get(1)?,
            })
        })
}

fn oldest_waiting(connection: &Connection, now: Timestamp) -> Result<Option<Duration>, rusqlite::Error> {
    let first_line: Option<Timestamp> = connection
        .prepare_cached(
            "select created_at from orders indexed by orders_first
             where status = 0 and due_at is null and coalesce(turn, 0) = 0 order by order_id limit 1",
        )?
        .query_row([], |row| row.get(0))
        .optional()?;
    let second_line: Option<Timestamp> = connection
        .prepare_cached(include_str!("next_due.sql"))?
        .query_row((true, "[]"), |row| row.get(0))?;
    let second_line = second_line.filter(|due_at| *due_at <= now);
    Ok(first_line
        .into_iter()
        .chain(second_line)
        .min()
        .map(|oldest| now.since(oldest)))
}

fn blocked(connection: &Connection, now: Timestamp) -> Result<Blocked, rusqlite::Error> {
    connection
        .prepare_cached(
            "select count(*), min(since) from (
                 select coalesce(due_at, created_at) as since from orders indexed by orders_blocked
                 where status = 0 and turn = 1 order by coalesce(due_at, created_at) limit ?1)",
        )?
        .query_row([BLOCKED_MAX], |row| {
            Ok(Blocked {
                orders: row.get(0)?,
                oldest_age: row.get::<_, Option<Timestamp>>(1)?.map(|since| now.since(since)),
            })
        })
}

fn nodes(connection: &Connection, now: Timestamp) -> Result<Vec<Node>, rusqlite::Error> {
    connection
        .prepare_cached(
            "select node, slots, busy, started_at, heartbeat_at, expires_at >= ?1, breaker, processor, name, version,
                 last_start_at
             from nodes order by heartbeat_at desc, node limit ?2",
        )?
        .query_map((now, NODES_MAX), |row| {
            Ok(Node {
                node: row.get(0)?,
                slots: row.get(1)?,
                busy: row.get(2)?,
                started_at: row.get(3)?,
                heartbeat_at: row.get(4)?,
                alive: row.get(5)?,
                breaker: row.get(6)?,
                processor: row.get(7)?,
                // A file has one server.
                agrees: true,
                name: row.get(8)?,
                version: row.get(9)?,
                // The store's clock is this node's.
                clock_ahead_micros: None,
                last_start_at: row.get(10)?,
            })
        })?
        .collect()
}
