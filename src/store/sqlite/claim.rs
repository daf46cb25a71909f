//! Handing out due orders: the first line in order of acceptance, the second by due time; around orders whose start the
//! database refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::Row;

use super::group::{CallError, Change, Group, Run, require_changed};
use super::statements::Hot;
use super::writer::Writer;
use super::{rows, turns};
use crate::event::EventKind;
use crate::lease::Lease;
use crate::order::{Order, OrderId, OrderStatus};
use crate::store::columns::ORDER_COLUMNS;
use crate::store::refusals::Refusals;
use crate::store::{CLAIM_ORDERS_MAX, ClaimRequest, Claimed, RefusedOrder, SUSPECT_CRASHES, StoreError};
use crate::time::Timestamp;

/// The way a claim treats orders that the database may refuse to start.
#[derive(Default)]
pub(super) struct Care {
    /// Orders to step around, by rising id.
    pub stepped_around: Vec<OrderId>,
    /// Starts each order alone, so that a refusal is that order's.
    pub one_by_one: bool,
}

impl Care {
    fn steps_around(&self, id: OrderId) -> bool {
        self.stepped_around.binary_search(&id).is_ok()
    }
}

/// Claims around the orders known to be refused. Where the database refuses the claim for what may be one order's fault, starts
/// them one by one and claims around those that are refused.
pub(super) async fn claim_around_refused(
    writer: &Writer,
    refusals: &Refusals,
    request: ClaimRequest,
    second_line_first: &Arc<AtomicBool>,
) -> Result<Claimed, StoreError> {
    let stepped_around = refusals.to_step_around();
    let claim = async |one_by_one| {
        let turn = second_line_first.clone();
        let care = Care {
            stepped_around: stepped_around.clone(),
            one_by_one,
        };
        let claim = writer.call("claim orders", move |group| claim(group, &request, &turn, &care));
        claim.await
    };
    let (mut claimed, refused) = match claim(false).await {
        Err(StoreError::Refused { .. }) => claim(true).await?,
        claimed => claimed?,
    };
    // A claim that looked at no order says nothing of any.
    if request.orders_max > 0 && !claimed.paused {
        let found = !refused.is_empty();
        let all_remembered = refusals.claimed(&stepped_around, refused);
        claimed.next_due_in = if found && all_remembered {
            Some(Duration::ZERO)
        } else {
            refusals.sooner(claimed.next_due_in)
        };
    }
    Ok(claimed)
}

/// `second_line_first` says which line gets the odd place when both have work; it turns whenever it was asked. Returns also
/// the orders that the database refused to start or to give their turn.
pub(super) fn claim(
    group: &mut Group<'_>,
    request: &ClaimRequest,
    second_line_first: &AtomicBool,
    care: &Care,
) -> Result<(Claimed, Vec<RefusedOrder>), CallError> {
    if group.totals.paused {
        let paused = Claimed {
            idle: group.totals.counters.open() == 0,
            paused: true,
            ..Claimed::default()
        };
        return Ok((paused, Vec::new()));
    }
    let places = request.orders_max.min(CLAIM_ORDERS_MAX);
    let owed = if places > 0 && care.stepped_around.is_empty() {
        turns::pass_owed(group)?
    } else {
        Vec::new()
    };
    let first_line = first_line(group, places + care.stepped_around.len())?;
    let (mut passed_over, first_line): (Vec<OrderId>, Vec<OrderId>) =
        first_line.into_iter().partition(|id| care.steps_around(*id));
    let second_line = second_line(group, places, request.suspect, care)?;
    let tied = places > 0 && !first_line.is_empty() && !second_line.is_empty();
    let second_line_first = tied && second_line_first.fetch_not(Ordering::Relaxed);
    let (from_first, from_second) = share(places, first_line.len(), second_line.len(), second_line_first);
    let mut starts = Starts {
        request,
        one_by_one: care.one_by_one,
        leases: Vec::with_capacity(from_first + from_second),
        refused: Vec::new(),
    };
    let position = group.totals.last_position;
    starts.first_line(group, &first_line[..from_first])?;
    passed_over.extend(starts.refused.iter().map(|refused| refused.order_id));
    record_passed_over(group, position, &passed_over)?;
    starts.second_line(group, &second_line[..from_second])?;
    // Refused starts go first: where there is no room for all of them, those keep others waiting.
    let mut refused = starts.refused;
    refused.extend(owed);
    let not_due = refused.iter().map(|refused| refused.order_id);
    let not_due: Vec<OrderId> = not_due.chain(care.stepped_around.iter().copied()).collect();
    let claimed = Claimed {
        leases: starts.leases,
        next_due_in: next_due(group, request.suspect, &not_due)?.map(|due| due.since(group.now)),
        idle: group.totals.counters.open() == 0,
        paused: false,
    };
    Ok((claimed, refused))
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

fn second_line(
    group: &Group<'_>,
    places: usize,
    suspect: bool,
    care: &Care,
) -> Result<Vec<OrderId>, rusqlite::Error> {
    let due = |row: &Row<'_>| Ok((row.get::<_, Timestamp>(0)?, row.get::<_, OrderId>(1)?));
    let is_free = |found: &(Timestamp, OrderId)| !care.steps_around(found.1);
    let spare = care.stepped_around.len();
    let mut line = group
        .connection
        .prepare_cached(&turns::in_turn(
            include_str!("second_line.sql"),
            group.totals.ordering,
        ))?
        .query_map((group.now, places + spare), due)?
        .collect::<Result<Vec<_>, _>>()?;
    line.retain(is_free);
    if suspect {
        let suspects = group
            .connection
            .prepare_cached(&turns::in_turn(
                include_str!("second_line_suspect.sql"),
                group.totals.ordering,
            ))?
            .query_map((group.now, 1 + spare), due)?
            .collect::<Result<Vec<_>, _>>()?;
        line.extend(suspects.into_iter().find(is_free));
        line.sort_unstable();
    }
    Ok(line.into_iter().map(|(_, order_id)| order_id).collect())
}

/// The orders that a claim starts.
struct Starts<'r> {
    request: &'r ClaimRequest,
    one_by_one: bool,
    leases: Vec<Lease>,
    refused: Vec<RefusedOrder>,
}

impl Starts<'_> {
    fn first_line(&mut self, group: &mut Group<'_>, ids: &[OrderId]) -> Result<(), rusqlite::Error> {
        if self.one_by_one {
            return self.second_line(group, ids);
        }
        for run in runs(ids) {
            start_run(group, run, self.request, &mut self.leases)?;
        }
        Ok(())
    }

    fn second_line(&mut self, group: &mut Group<'_>, ids: &[OrderId]) -> Result<(), rusqlite::Error> {
        for id in ids {
            if self.one_by_one {
                match group.part(|group| start(group, *id, self.request))? {
                    Ok(lease) => self.leases.push(lease),
                    Err(refusal) => self.refused.push(refusal.of_order(*id)),
                }
            } else {
                self.leases.push(start(group, *id, self.request)?);
            }
        }
        Ok(())
    }
}

/// Records which earlier orders the starts of the first line behind this position passed over.
fn record_passed_over(
    group: &Group<'_>,
    position: i64,
    passed_over: &[OrderId],
) -> Result<(), rusqlite::Error> {
    if passed_over.is_empty() || group.totals.last_position == position {
        return Ok(());
    }
    group
        .connection
        .prepare_cached(
            "update events set passed_over = (
                 select nullif(json_group_array(value), '[]') from json_each(?3) where value < order_id)
             where position > ?1 and position <= ?2",
        )?
        .execute((position, group.totals.last_position, array(passed_over)))?;
    Ok(())
}

/// The ids as an array of JSON.
fn array(ids: &[OrderId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    format!("[{}]", ids.join(","))
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
    require_changed(started, run.len())?;
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
    let started = group.statements.get(Hot::Start)?.execute((
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
    require_changed(started, 1)?;
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
fn next_due(
    group: &Group<'_>,
    suspect: bool,
    except: &[OrderId],
) -> Result<Option<Timestamp>, rusqlite::Error> {
    group
        .connection
        .prepare_cached(&turns::in_turn(
            include_str!("next_due.sql"),
            group.totals.ordering,
        ))?
        .query_row((suspect, array(except)), |row| row.get(0))
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
