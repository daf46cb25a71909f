//! Reading: single orders, histories, the feed, numbers. Pages of orders are left to `listing`.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row};

use super::group::Totals;
use super::rows;
use crate::order::{Order, OrderId};
use crate::store::columns::{EVENT_COLUMNS, EVENT_COLUMNS_COUNT, order_columns};
use crate::store::{
    BLOCKED_MAX, Blocked, FEED_EVENTS_MAX, FeedBounds, FeedCursor, FeedEvent, FeedId, FeedPage, FeedPosition,
    HISTORY_EVENTS_MAX, History, NODES_MAX, Node, OrderView, QueueState,
};
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
    let at = feed_end(connection)?;
    Ok(Some(OrderView { order, at }))
}

pub(super) fn history(
    connection: &Connection,
    order_id: OrderId,
    after: u32,
) -> Result<Option<History>, rusqlite::Error> {
    let Some(OrderView { order, at }) = order_view(connection, order_id)? else {
        return Ok(None);
    };
    let events = connection
        .prepare_cached(&format!(
            "select {EVENT_COLUMNS}, position from events indexed by events_order
             where order_id = ?1 and version > ?2 order by version limit ?3"
        ))?
        .query_map((order_id, after, HISTORY_EVENTS_MAX), |row| {
            feed_event(row, order.request.user_id)
        })?
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Some(History { events, at }))
}

fn feed_event(row: &Row<'_>, user_id: i64) -> Result<FeedEvent, rusqlite::Error> {
    Ok(FeedEvent {
        position: FeedPosition(row.get(EVENT_COLUMNS_COUNT)?),
        user_id,
        event: rows::event(row)?,
    })
}

/// The place behind which everything lies that this view of the database does not show.
pub(super) fn feed_end(connection: &Connection) -> Result<FeedCursor, rusqlite::Error> {
    let bounds = feed_bounds(connection)?;
    Ok(bounds.cursor(bounds.last))
}

pub(super) fn feed_bounds(connection: &Connection) -> Result<FeedBounds, rusqlite::Error> {
    connection
        .prepare_cached("select feed_id, complete_after, last_position from counters where id = 1")?
        .query_row([], |row| {
            Ok(FeedBounds {
                feed: FeedId(row.get::<_, i64>(0)?.cast_unsigned()),
                complete_after: FeedPosition(row.get(1)?),
                last: FeedPosition(row.get(2)?),
            })
        })
}

/// Positions are given out by the one writer, so they follow the commits by themselves.
pub(super) fn events_after(
    connection: &Connection,
    after: Option<FeedPosition>,
    limit: usize,
    read_at: Timestamp,
) -> Result<FeedPage, rusqlite::Error> {
    let after = after.map_or(0, |position| position.0);
    let events = connection
        .prepare_cached(&format!(
            "select {EVENT_COLUMNS}, position,
                 (select user_id from orders where orders.order_id = events.order_id)
             from events where position > ?1 order by position limit ?2"
        ))?
        .query_map((after, limit.min(FEED_EVENTS_MAX)), |row| {
            feed_event(row, row.get(EVENT_COLUMNS_COUNT + 1)?)
        })?
        .collect::<Result<Vec<_>, _>>()?;
    Ok(FeedPage {
        events,
        bounds: feed_bounds(connection)?,
        read_at,
        unplaced: false,
    })
}

pub(super) fn queue(connection: &Connection, now: Timestamp) -> Result<QueueState, rusqlite::Error> {
    let totals = Totals::read(connection)?;
    Ok(QueueState {
        counters: totals.counters,
        paused: totals.paused,
        oldest_waiting: oldest_waiting(connection, now)?,
        blocked: blocked(connection, now)?,
        nodes: nodes(connection, now)?,
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
            "select node, slots, busy, started_at, heartbeat_at, expires_at >= ?1, breaker, processor from nodes
             order by heartbeat_at desc, node limit ?2",
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
            })
        })?
        .collect()
}
