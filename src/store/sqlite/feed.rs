//! Reads events: pages of the feed and histories of orders.

use rusqlite::{Connection, OptionalExtension, Row};

use super::{epochs, rows};
use crate::order::{OrderId, UserId};
use crate::store::columns::{EVENT_COLUMNS, EVENT_COLUMNS_COUNT};
use crate::store::{
    FEED_EVENTS_MAX, FeedBounds, FeedCursor, FeedEvent, FeedPage, FeedPosition, HISTORY_EVENTS_MAX, History,
};
use crate::time::Timestamp;

pub(super) fn history(
    connection: &Connection,
    order_id: OrderId,
    after: u32,
) -> Result<Option<History>, rusqlite::Error> {
    let user = connection
        .prepare_cached("select user_id, user_name from orders where order_id = ?1")?
        .query_row([order_id], |row| rows::user(row, 0, 1))
        .optional()?;
    let Some(user) = user else {
        return Ok(None);
    };
    let bounds = bounds(connection)?;
    let events = connection
        .prepare_cached(&format!(
            "select {EVENT_COLUMNS}, position from events indexed by events_order
             where order_id = ?1 and version > ?2 order by version limit ?3"
        ))?
        .query_map((order_id, after, HISTORY_EVENTS_MAX), |row| {
            event(row, user.clone())
        })?
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Some(History {
        events,
        at: bounds.cursor(bounds.last),
        epochs: bounds.epochs,
    }))
}

fn event(row: &Row<'_>, user_id: UserId) -> Result<FeedEvent, rusqlite::Error> {
    Ok(FeedEvent {
        position: FeedPosition(row.get(EVENT_COLUMNS_COUNT)?),
        user_id,
        event: rows::event(row)?,
    })
}

/// The cursor of the last event that this read transaction sees. Later changes have higher positions.
pub(super) fn end_cursor(connection: &Connection) -> Result<FeedCursor, rusqlite::Error> {
    let bounds = bounds(connection)?;
    Ok(bounds.cursor(bounds.last))
}

pub(super) fn bounds(connection: &Connection) -> Result<FeedBounds, rusqlite::Error> {
    connection
        .prepare_cached("select complete_after, last_position from counters where id = 1")?
        .query_row([], |row| {
            Ok(FeedBounds {
                epochs: epochs::read(connection)?,
                complete_after: FeedPosition(row.get(0)?),
                last: FeedPosition(row.get(1)?),
            })
        })
}

/// Reads a page of the feed. The only writer assigns positions, so they rise in the order of commits.
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
                 (select user_id from orders where orders.order_id = events.order_id),
                 (select user_name from orders where orders.order_id = events.order_id)
             from events where position > ?1 order by position limit ?2"
        ))?
        .query_map((after, limit.min(FEED_EVENTS_MAX)), |row| {
            event(
                row,
                rows::user(row, EVENT_COLUMNS_COUNT + 1, EVENT_COLUMNS_COUNT + 2)?,
            )
        })?
        .collect::<Result<Vec<_>, _>>()?;
    Ok(FeedPage {
        events,
        bounds: bounds(connection)?,
        read_at,
        unplaced: false,
    })
}
