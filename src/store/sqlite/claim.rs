//! Handing out due orders: the first line in order of acceptance, the second by due time.

use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Row;

use super::group::{CallError, Change, Group};
use super::{rows, turns};
use crate::event::EventKind;
use crate::lease::Lease;
use crate::order::{Order, OrderId, OrderStatus};
use crate::store::columns::{ORDER_COLUMNS, order_columns};
use crate::store::{CLAIM_ORDERS_MAX, ClaimRequest, Claimed, SUSPECT_CRASHES};
use crate::time::Timestamp;

/// `second_line_first` says which line gets the odd place when both have work; it turns whenever it was asked.
pub(super) fn claim(
    group: &mut Group<'_>,
    request: &ClaimRequest,
    second_line_first: &AtomicBool,
) -> Result<Claimed, CallError> {
    if group.totals.paused {
        return Ok(Claimed {
            idle: group.totals.counters.open() == 0,
            paused: true,
            ..Claimed::default()
        });
    }
    let places = request.orders_max.min(CLAIM_ORDERS_MAX);
    let first_line = first_line(group, places)?;
    let second_line = second_line(group, places, request.suspect)?;
    let tied = places > 0 && !first_line.is_empty() && !second_line.is_empty();
    let second_line_first = tied && second_line_first.fetch_not(Ordering::Relaxed);
    let (from_first, from_second) = share(places, first_line.len(), second_line.len(), second_line_first);
    let chosen = first_line[..from_first].iter().chain(&second_line[..from_second]);
    let leases = chosen
        .map(|order_id| start(group, *order_id, request))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Claimed {
        leases,
        next_due_in: next_due(group, request.suspect)?.map(|due| due.since(group.now)),
        idle: group.totals.counters.open() == 0,
        paused: false,
    })
}

/// How many of each line fill the places: while both have work, half each.
fn share(places: usize, first: usize, second: usize, second_line_first: bool) -> (usize, usize) {
    let half = if second_line_first {
        places.div_ceil(2)
    } else {
        places / 2
    };
    let from_second = second.min(half.max(places.saturating_sub(first)));
    (first.min(places - from_second), from_second)
}

fn first_line(group: &Group<'_>, limit: usize) -> Result<Vec<OrderId>, rusqlite::Error> {
    group
        .connection
        .prepare_cached(&turns::in_turn(
            include_str!("first_line.sql"),
            group.totals.ordering,
        ))?
        .query_map([limit], |row| row.get(0))?
        .collect()
}

fn second_line(group: &Group<'_>, limit: usize, suspect: bool) -> Result<Vec<OrderId>, rusqlite::Error> {
    let due = |row: &Row<'_>| Ok((row.get::<_, Timestamp>(0)?, row.get::<_, OrderId>(1)?));
    let mut line = group
        .connection
        .prepare_cached(&turns::in_turn(
            include_str!("second_line.sql"),
            group.totals.ordering,
        ))?
        .query_map((group.now, limit), due)?
        .collect::<Result<Vec<_>, _>>()?;
    if suspect {
        let mut statement = group.connection.prepare_cached(&turns::in_turn(
            include_str!("second_line_suspect.sql"),
            group.totals.ordering,
        ))?;
        for found in statement.query_map([group.now], due)? {
            line.push(found?);
        }
        line.sort_unstable();
    }
    Ok(line.into_iter().map(|(_, order_id)| order_id).collect())
}

fn start(group: &mut Group<'_>, order_id: OrderId, request: &ClaimRequest) -> Result<Lease, rusqlite::Error> {
    let lease = group
        .connection
        .prepare_cached(concat!(
            "select ",
            order_columns!(),
            ", token, crashes from orders where order_id = ?1"
        ))?
        .query_row([order_id], |row| {
            let waiting = rows::order(row)?;
            Ok(Lease {
                token: row.get::<_, u64>(ORDER_COLUMNS)? + 1,
                node: request.node,
                suspect: row.get::<_, u32>(ORDER_COLUMNS + 1)? >= SUSPECT_CRASHES,
                order: Order {
                    status: OrderStatus::Processing,
                    version: waiting.version + 1,
                    attempts: waiting.attempts + 1,
                    processing_at: Some(group.now),
                    next_attempt_at: None,
                    ..waiting
                },
            })
        })?;
    // Two plain statements cost half of one `update … returning`; the transaction makes them one.
    group
        .connection
        .prepare_cached(
            "update orders set status = 1, version = ?2, attempts = ?3, token = ?4, node = ?5,
                    lease_expires_at = ?6, processing_at = ?7, outside = ?8
             where order_id = ?1 and status = 0",
        )?
        .execute((
            order_id,
            lease.order.version,
            lease.order.attempts,
            lease.token,
            request.node,
            group.now.plus(request.lease),
            group.now,
            request.outside,
        ))?;
    group.record(Change {
        order_id,
        version: lease.order.version,
        kind: EventKind::Started,
        from: Some(OrderStatus::Pending),
        attempt: lease.order.attempts,
        node: Some(request.node),
        error: None,
    })?;
    Ok(lease)
}

/// When the next order of the second line that this node may take is due; past when it was left for lack of places.
fn next_due(group: &Group<'_>, suspect: bool) -> Result<Option<Timestamp>, rusqlite::Error> {
    group
        .connection
        .prepare_cached(&turns::in_turn(
            include_str!("next_due.sql"),
            group.totals.ordering,
        ))?
        .query_row([suspect], |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_move_while_both_have_work() {
        for places in 2..20 {
            for tie in [false, true] {
                let (first, second) = share(places, 100, 100, tie);
                assert_eq!(first + second, places);
                assert!(first > 0 && second > 0);
            }
        }
        assert_eq!(share(1, 5, 5, false), (1, 0));
        assert_eq!(share(1, 5, 5, true), (0, 1));
    }

    #[test]
    fn a_short_line_leaves_its_places_to_the_other() {
        for tie in [false, true] {
            assert_eq!(share(10, 2, 100, tie), (2, 8));
            assert_eq!(share(10, 100, 2, tie), (8, 2));
            assert_eq!(share(10, 0, 3, tie), (0, 3));
            assert_eq!(share(1, 0, 3, tie), (0, 1));
            assert_eq!(share(1, 3, 0, tie), (1, 0));
            assert_eq!(share(0, 3, 3, tie), (0, 0));
        }
    }
}
