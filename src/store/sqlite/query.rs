//! Reading: single orders, listings, histories, numbers. Every listing is a page, served by one index from the
//! place where the page before ended.

use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};

use super::group::Totals;
use super::{rows, turns};
use crate::order::{Order, OrderId, OrderStatus, Ordering};
use crate::store::codes;
use crate::store::columns::{EVENT_COLUMNS, EVENT_COLUMNS_COUNT, order_columns};
use crate::store::{
    FEED_EVENTS_MAX, FeedBounds, FeedCursor, FeedEvent, FeedId, FeedPage, FeedPosition, HISTORY_EVENTS_MAX,
    History, NODES_MAX, Node, OrderPage, OrderQuery, OrderView, PAGE_ORDERS_MAX, QueueState,
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
fn feed_end(connection: &Connection) -> Result<FeedCursor, rusqlite::Error> {
    let bounds = feed_bounds(connection)?;
    Ok(bounds.cursor(bounds.last))
}

pub(super) fn feed_bounds(connection: &Connection) -> Result<FeedBounds, rusqlite::Error> {
    connection
        .prepare_cached("select feed_id, oldest_position, last_position from counters where id = 1")?
        .query_row([], |row| {
            Ok(FeedBounds {
                feed: FeedId(row.get::<_, i64>(0)?.cast_unsigned()),
                oldest: FeedPosition(row.get(1)?),
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

pub(super) fn orders(connection: &Connection, query: &OrderQuery) -> Result<OrderPage, rusqlite::Error> {
    let limit = query.limit.clamp(1, PAGE_ORDERS_MAX);
    let at = feed_end(connection)?;
    let Some(range) = id_range(connection, query)? else {
        return Ok(OrderPage {
            orders: Vec::new(),
            next: None,
            at,
        });
    };
    let (statement, values) = listing(query, range, limit + 1);
    let mut orders = connection
        .prepare_cached(&statement)?
        .query_map(params_from_iter(values), rows::order)?
        .collect::<Result<Vec<_>, _>>()?;
    let more = orders.len() > limit;
    orders.truncate(limit);
    Ok(OrderPage {
        next: orders.last().map(|last| last.order_id).filter(|_| more),
        orders,
        at,
    })
}

/// Ids from the first on and below the second.
type IdRange = (OrderId, OrderId);

/// `created_at` rises with the id, so bounds in time are bounds in ids. `None` when no order can match.
fn id_range(connection: &Connection, query: &OrderQuery) -> Result<Option<IdRange>, rusqlite::Error> {
    let mut range = (OrderId(0), query.before.unwrap_or(OrderId(i64::MAX)));
    if let Some(time) = query.created_before
        && let Some(first) = first_created(connection, Created::NotBefore(time))?
    {
        range.1 = range.1.min(first);
    }
    if let Some(time) = query.created_after {
        match first_created(connection, Created::After(time))? {
            Some(first) => range.0 = first,
            None => return Ok(None),
        }
    }
    Ok(Some(range))
}

#[derive(Clone, Copy)]
pub(super) enum Created {
    NotBefore(Timestamp),
    After(Timestamp),
}

/// The first order created so, by bisection of the primary key; `None` when there is none.
pub(super) fn first_created(
    connection: &Connection,
    bound: Created,
) -> Result<Option<OrderId>, rusqlite::Error> {
    let mut at_or_above = connection.prepare_cached(
        "select order_id, created_at from orders where order_id >= ?1 order by order_id limit 1",
    )?;
    let newest: Option<i64> = connection
        .prepare_cached("select max(order_id) from orders")?
        .query_row([], |row| row.get(0))?;
    let matches = |created_at: Timestamp| match bound {
        Created::NotBefore(time) => created_at >= time,
        Created::After(time) => created_at > time,
    };
    let mut found = None;
    // Every order below `low` was created too early; `high` is the last id that may still be the answer.
    let (mut low, mut high) = (0, newest.unwrap_or(0));
    while low <= high {
        let middle = low + (high - low) / 2;
        let (order_id, created_at) = at_or_above.query_row([middle], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Timestamp>(1)?))
        })?;
        if matches(created_at) {
            found = Some(OrderId(order_id));
            high = middle - 1;
        } else {
            low = order_id + 1;
        }
    }
    Ok(found)
}

/// The statement of a page and its values: by the narrowest index, what it does not cover checked row by row.
fn listing(query: &OrderQuery, range: IdRange, limit: usize) -> (String, Vec<Value>) {
    let mut values = vec![
        Value::Integer(range.0.0),
        Value::Integer(range.1.0),
        Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX)),
    ];
    let mut bind = |value: Value| {
        values.push(value);
        format!("?{}", values.len())
    };
    let status = query.status.map(codes::status_code);
    let user = query.user_id.map(|user_id| bind(Value::Integer(user_id)));
    let reference = query
        .reference
        .clone()
        .map(|reference| bind(Value::Text(reference)));
    let in_range = "order_id >= ?1 and order_id < ?2";
    let newest_first = "order by order_id desc limit ?3";
    let columns = order_columns!();
    let statement = match (reference, user, status) {
        (Some(reference), user, status) => {
            let user = user.map_or(String::new(), |user| format!(" and +user_id = {user}"));
            let status = status.map_or(String::new(), |status| format!(" and +status = {status}"));
            format!(
                "select {columns} from orders indexed by orders_reference
                 where reference = {reference} and {in_range}{user}{status} {newest_first}"
            )
        }
        (None, Some(user), Some(status)) => format!(
            "select {columns} from orders indexed by orders_user
             where user_id = {user} and status = {status} and {in_range} {newest_first}"
        ),
        (None, Some(user), None) => {
            let per_status = OrderStatus::ALL.map(|status| {
                format!(
                    "select * from (select order_id from orders indexed by orders_user
                     where user_id = {user} and status = {} and {in_range} {newest_first})",
                    codes::status_code(status)
                )
            });
            format!(
                "select {columns} from orders where order_id in ({}) {newest_first}",
                per_status.join(" union all ")
            )
        }
        (None, None, Some(status)) => format!(
            "select {columns} from orders indexed by orders_status
             where status = {status} and {in_range} {newest_first}"
        ),
        (None, None, None) => format!("select {columns} from orders where {in_range} {newest_first}"),
    };
    (statement, values)
}

pub(super) fn queue(connection: &Connection, now: Timestamp) -> Result<QueueState, rusqlite::Error> {
    let totals = Totals::read(connection)?;
    Ok(QueueState {
        counters: totals.counters,
        paused: totals.paused,
        oldest_waiting: oldest_waiting(connection, totals.ordering, now)?,
        nodes: nodes(connection, now)?,
    })
}

fn oldest_waiting(
    connection: &Connection,
    ordering: Ordering,
    now: Timestamp,
) -> Result<Option<Duration>, rusqlite::Error> {
    let first_line: Option<Timestamp> = connection
        .prepare_cached(&turns::in_turn(
            "select created_at from orders indexed by orders_first
             where status = 0 and due_at is null order by order_id limit 1",
            ordering,
        ))?
        .query_row([], |row| row.get(0))
        .optional()?;
    let second_line: Option<Timestamp> = connection
        .prepare_cached(&turns::in_turn(include_str!("next_due.sql"), ordering))?
        .query_row([true], |row| row.get(0))?;
    let second_line = second_line.filter(|due_at| *due_at <= now);
    Ok(first_line
        .into_iter()
        .chain(second_line)
        .min()
        .map(|oldest| now.since(oldest)))
}

fn nodes(connection: &Connection, now: Timestamp) -> Result<Vec<Node>, rusqlite::Error> {
    connection
        .prepare_cached(
            "select node, slots, busy, started_at, heartbeat_at, expires_at >= ?1, breaker from nodes
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
            })
        })?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::connection::open_writer;
    use super::super::migrations;
    use super::*;

    fn plan(connection: &Connection, statement: &str, values: Vec<Value>) -> String {
        connection
            .prepare(&format!("explain query plan {statement}"))
            .unwrap()
            .query_map(params_from_iter(values), |row| row.get::<_, String>(3))
            .unwrap()
            .map(|line| line.unwrap() + "\n")
            .collect()
    }

    /// Whatever the filters, a page is a range of one index in its order: nothing is sorted but the at most five
    /// short lists of a user's statuses, and no table is scanned.
    #[test]
    fn every_page_is_served_by_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        let mut connection = open_writer(&path).unwrap();
        migrations::apply(&path, &mut connection).unwrap();
        for status in [None, Some(OrderStatus::Failed)] {
            for user_id in [None, Some(1)] {
                for reference in [None, Some("a".to_owned())] {
                    let query = OrderQuery {
                        status,
                        user_id,
                        reference,
                        ..OrderQuery::default()
                    };
                    let (statement, values) = listing(&query, (OrderId(0), OrderId(9)), 10);
                    let plan = plan(&connection, &statement, values);
                    assert!(!plan.contains("SCAN orders"), "{statement}\n{plan}");
                    let merges_statuses =
                        query.user_id.is_some() && query.status.is_none() && query.reference.is_none();
                    assert!(
                        merges_statuses || !plan.contains("TEMP B-TREE"),
                        "{statement}\n{plan}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_claim_reads_only_the_heads_of_its_indexes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        let mut connection = open_writer(&path).unwrap();
        migrations::apply(&path, &mut connection).unwrap();
        for (statement, index, values) in [
            (include_str!("first_line.sql"), "orders_first", 1),
            (include_str!("second_line.sql"), "orders_due", 2),
            (include_str!("second_line_suspect.sql"), "orders_suspect", 1),
            (include_str!("expired_leases.sql"), "orders_status", 2),
        ] {
            let plan = plan(&connection, statement, vec![Value::Integer(1); values]);
            assert!(plan.contains(&format!("INDEX {index}")), "{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}
