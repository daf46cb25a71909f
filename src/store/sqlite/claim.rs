//! Handing out due orders: the first line in order of acceptance, the second by due time.

use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Row;

use super::group::{CallError, Change, Group, Run};
use super::statements::Hot;
use super::{rows, turns};
use crate::event::EventKind;
use crate::lease::Lease;
use crate::order::{Order, OrderId, OrderStatus};
use crate::store::columns::ORDER_COLUMNS;
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
    let mut leases = Vec::with_capacity(from_first + from_second);
    for run in runs(&first_line[..from_first]) {
        start_run(group, run, request, &mut leases)?;
    }
    for order_id in &second_line[..from_second] {
        leases.push(start(group, *order_id, request)?);
    }
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

/// In the order given.
fn runs(ids: &[OrderId]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for order_id in ids {
        if !runs.last_mut().is_some_and(|run| run.takes(*order_id)) {
            runs.push(Run::of(*order_id));
        }
    }
    runs
}

/// Orders of the first line, whose ids are mostly consecutive: one statement for all of them costs less than half of one for
/// each.
fn start_run(
    group: &mut Group<'_>,
    run: Run,
    request: &ClaimRequest,
    leases: &mut Vec<Lease>,
) -> Result<(), rusqlite::Error> {
    let now = group.now;
    let waiting = group.statements.get(Hot::ReadWaitingRun)?;
    for lease in waiting.query_map((run.first, run.last), |row| granted(row, request, now))? {
        leases.push(lease?);
    }
    let started = group.statements.get(Hot::StartRun)?.execute((
        run.first,
        run.last,
        request.node,
        now.plus(request.lease),
        now,
        request.outside(),
        request.hands_out(),
    ))?;
    assert_eq!(
        started,
        run.len(),
        "nothing writes between two statements of a transaction"
    );
    group.record_run(run, EventKind::Started, OrderStatus::Pending, request.node)
}

/// The lease on an order that waits.
fn granted(row: &Row<'_>, request: &ClaimRequest, now: Timestamp) -> Result<Lease, rusqlite::Error> {
    let waiting = rows::order(row)?;
    Ok(Lease {
        token: row.get::<_, u64>(ORDER_COLUMNS)? + 1,
        node: request.node,
        suspect: row.get::<_, u32>(ORDER_COLUMNS + 1)? >= SUSPECT_CRASHES,
        order: Order {
            status: OrderStatus::Processing,
            version: waiting.version + 1,
            attempts: waiting.attempts + 1,
            processing_at: Some(now),
            next_attempt_at: None,
            ..waiting
        },
    })
}

fn start(group: &mut Group<'_>, order_id: OrderId, request: &ClaimRequest) -> Result<Lease, rusqlite::Error> {
    let now = group.now;
    let lease = group
        .statements
        .get(Hot::ReadWaiting)?
        .query_row([order_id], |row| granted(row, request, now))?;
    // Two plain statements cost half of one `update … returning`; the transaction makes them one.
    group.statements.get(Hot::Start)?.execute((
        order_id,
        lease.order.version,
        lease.order.attempts,
        lease.token,
        request.node,
        now.plus(request.lease),
        now,
        request.outside(),
        request.hands_out(),
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
