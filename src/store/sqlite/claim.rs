//! Starts the orders that `choose` finds, without those whose start the database refuses.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rusqlite::Row;

use super::choose::{self, Chosen, Line, StartOptions, json_array};
use super::failure::SqliteHealth;
use super::group::{CallError, Group, IdRun, StatusChange, require_changed};
use super::statements::HotStatement;
use super::writer::Writer;
use super::{epochs, rows, turns};
use crate::event::{EventDetail, EventKind};
use crate::lease::Lease;
use crate::order::{Order, OrderId, OrderStatus};
use crate::store::columns::ORDER_COLUMNS;
use crate::store::refusals::Refusals;
use crate::store::{
    CLAIM_ORDERS_MAX, ClaimRequest, Claimed, Epochs, RefusedOrder, SUSPECT_CRASHES, StoreError,
};
use crate::time::Timestamp;

/// The source of the orders that start: the store or the caller.
#[derive(Clone)]
pub(super) enum Choice {
    /// The next orders of both lines. The flag says which line gets the odd place while both have work.
    Next(Arc<AtomicBool>),
    /// These orders, each listed once.
    Given(Arc<[OrderId]>),
}

impl Choice {
    fn attempted(&self) -> &'static str {
        match self {
            Choice::Next(_) => "claim orders",
            Choice::Given(_) => "start orders",
        }
    }
}

/// Carries out `Store::claim` or `Store::start`.
pub(super) async fn run_claim(
    choice: &Choice,
    request: ClaimRequest,
    writer: &Writer,
    health: &SqliteHealth,
    refusals: &Refusals,
) -> Result<Claimed, StoreError> {
    // The results of attempts that start now could not be stored.
    if let Some(reason) = health.refuses_to_store() {
        return Err(StoreError::Unavailable {
            attempted: choice.attempted(),
            source: anyhow::Error::msg(reason),
        });
    }
    claim_around_refused(writer, refusals, request, choice).await
}

/// Claims without the orders whose start is known to be refused. If the database refuses the claim, one order may be the cause:
/// then claims again and starts the orders one by one, so that only the refused ones are left out.
async fn claim_around_refused(
    writer: &Writer,
    refusals: &Refusals,
    request: ClaimRequest,
    choice: &Choice,
) -> Result<Claimed, StoreError> {
    let excluded = refusals.excluded_from_claims();
    let given = match choice {
        Choice::Next(_) => None,
        Choice::Given(ids) => Some(ids.as_ref()),
    };
    let claim = async |one_by_one| {
        let chosen_by = choice.clone();
        let options = StartOptions {
            excluded: excluded.clone(),
            one_by_one,
        };
        let claim = writer.call(choice.attempted(), move |group| {
            claim(group, &request, &chosen_by, &options)
        });
        claim.await
    };
    let (mut claimed, refused) = match claim(false).await {
        Err(StoreError::Refused { .. }) => claim(true).await?,
        claimed => claimed?,
    };
    // A claim that looked at no order proves nothing about any.
    if request.orders_max > 0 && !claimed.paused {
        let found = !refused.is_empty();
        let all_remembered = refusals.record_starts(&excluded, given, refused);
        claimed.next_due_in = if found && all_remembered {
            Some(Duration::ZERO)
        } else {
            refusals.next_claim_in(claimed.next_due_in)
        };
    }
    Ok(claimed)
}

/// Starts the chosen orders. Also returns the orders that the database refused to start or to give their turn.
pub(super) fn claim(
    group: &mut Group<'_>,
    request: &ClaimRequest,
    choice: &Choice,
    options: &StartOptions,
) -> Result<(Claimed, Vec<RefusedOrder>), CallError> {
    if group.totals.paused {
        let paused = Claimed {
            idle: group.totals.counters.active() == 0,
            paused: true,
            ..Claimed::default()
        };
        return Ok((paused, Vec::new()));
    }
    let places = request.orders_max.min(CLAIM_ORDERS_MAX);
    let owed = if places > 0 && options.excluded.is_empty() {
        turns::pass_owed(group)?
    } else {
        Vec::new()
    };
    let chosen = match choice {
        Choice::Next(second_line_first) => choose::next(group, request, places, second_line_first, options)?,
        Choice::Given(ids) => choose::pick(group, ids, request, places, options)?,
    };
    let mut starts = StartBatch {
        request,
        epochs: epochs::read(group.connection)?,
        one_by_one: options.one_by_one,
        leases: Vec::with_capacity(chosen.orders.len()),
        refused: Vec::new(),
    };
    starts.start_chosen(group, chosen)?;
    // Refused starts come first: if not all can be remembered, a forgotten one would delay other orders.
    let mut refused = starts.refused;
    refused.extend(owed);
    let not_due = refused.iter().map(|refused| refused.order_id);
    let not_due: Vec<OrderId> = not_due.chain(options.excluded.iter().copied()).collect();
    let claimed = Claimed {
        leases: starts.leases,
        next_due_in: next_due(group, request.suspect, &not_due)?.map(|due| due.since(group.now)),
        idle: group.totals.counters.active() == 0,
        paused: false,
    };
    Ok((claimed, refused))
}

/// The starts of one claim, and their results so far.
struct StartBatch<'r> {
    request: &'r ClaimRequest,
    epochs: Epochs,
    one_by_one: bool,
    leases: Vec<Lease>,
    refused: Vec<RefusedOrder>,
}

impl StartBatch<'_> {
    fn start_chosen(&mut self, group: &mut Group<'_>, chosen: Chosen) -> Result<(), rusqlite::Error> {
        let Chosen {
            orders,
            mut passed_over,
        } = chosen;
        for part in orders.chunk_by(|one, next| one.0 == next.0) {
            let ids: Vec<OrderId> = part.iter().map(|(_, id)| *id).collect();
            match part[0].0 {
                Line::First => self.start_first_line(group, &ids, &mut passed_over)?,
                Line::Second => self.start_each(group, &ids)?,
            }
        }
        Ok(())
    }

    fn start_first_line(
        &mut self,
        group: &mut Group<'_>,
        ids: &[OrderId],
        passed_over: &mut Vec<OrderId>,
    ) -> Result<(), rusqlite::Error> {
        let position = group.totals.last_position;
        if self.one_by_one {
            let before = self.refused.len();
            self.start_each(group, ids)?;
            passed_over.extend(self.refused[before..].iter().map(|refused| refused.order_id));
        } else {
            for run in consecutive_runs(ids) {
                start_run(group, run, self.request, &self.epochs, &mut self.leases)?;
            }
        }
        record_passed_over(group, position, passed_over)
    }

    fn start_each(&mut self, group: &mut Group<'_>, ids: &[OrderId]) -> Result<(), rusqlite::Error> {
        for id in ids {
            if self.one_by_one {
                match group.in_savepoint(|group| start(group, *id, self.request, &self.epochs))? {
                    Ok(lease) => self.leases.push(lease),
                    Err(refusal) => self.refused.push(refusal.of_order(*id)),
                }
            } else {
                self.leases.push(start(group, *id, self.request, &self.epochs)?);
            }
        }
        Ok(())
    }
}

/// Adds the passed-over orders to the `started` events after `position`, to each event those with a lower id.
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
        .execute((position, group.totals.last_position, json_array(passed_over)))?;
    Ok(())
}

/// Splits the ids into runs of consecutive ids, in the order given.
fn consecutive_runs(ids: &[OrderId]) -> Vec<IdRun> {
    let mut runs: Vec<IdRun> = Vec::new();
    for order_id in ids {
        if !runs.last_mut().is_some_and(|run| run.try_extend(*order_id)) {
            runs.push(IdRun::single(*order_id));
        }
    }
    runs
}

/// Starts a run of the first line, where ids are mostly consecutive. One statement for the run costs less than half of one
/// statement per order.
fn start_run(
    group: &mut Group<'_>,
    run: IdRun,
    request: &ClaimRequest,
    epochs: &Epochs,
    leases: &mut Vec<Lease>,
) -> Result<(), rusqlite::Error> {
    let now = group.now;
    let waiting = group.statements.get(HotStatement::ReadPendingRun)?;
    for lease in waiting.query_map((run.first, run.last), |row| {
        lease_from_row(row, request, epochs, now)
    })? {
        leases.push(lease?);
    }
    let started = group.statements.get(HotStatement::StartRun)?.execute((
        run.first,
        run.last,
        request.node,
        now.plus(request.lease),
        now,
        request.is_external(),
        request.hands_out(),
        epochs.fence_base(),
    ))?;
    require_changed(started, run.len())?;
    group.record_run(run, EventKind::Started, OrderStatus::Pending, request.node)
}

/// The lease that a claim grants on the Pending order in `row`.
fn lease_from_row(
    row: &Row<'_>,
    request: &ClaimRequest,
    epochs: &Epochs,
    now: Timestamp,
) -> Result<Lease, rusqlite::Error> {
    let waiting = rows::order(row)?;
    let fence = row.get::<_, u64>(ORDER_COLUMNS)?.max(epochs.fence_base()) + 1;
    let suspect = row.get::<_, u32>(ORDER_COLUMNS + 1)? >= SUSPECT_CRASHES;
    let order = Order {
        status: OrderStatus::Processing,
        version: waiting.version + 1,
        attempts: waiting.attempts + 1,
        processing_at: Some(now),
        next_attempt_at: None,
        ..waiting
    };
    Ok(epochs.lease(order, fence, request.node, suspect))
}

fn start(
    group: &mut Group<'_>,
    order_id: OrderId,
    request: &ClaimRequest,
    epochs: &Epochs,
) -> Result<Lease, rusqlite::Error> {
    let now = group.now;
    let lease = group
        .statements
        .get(HotStatement::ReadPending)?
        .query_row([order_id], |row| lease_from_row(row, request, epochs, now))?;
    // These two statements cost half of one `update … returning`, and the transaction makes them atomic.
    let started = group.statements.get(HotStatement::Start)?.execute((
        order_id,
        lease.order.version,
        lease.order.attempts,
        lease.fence,
        request.node,
        now.plus(request.lease),
        now,
        request.is_external(),
        request.hands_out(),
    ))?;
    require_changed(started, 1)?;
    group.record(StatusChange {
        order_id,
        version: lease.order.version,
        kind: EventKind::Started,
        from: Some(OrderStatus::Pending),
        attempt: lease.order.attempts,
        node: Some(request.node),
        error: None,
        detail: EventDetail::default(),
    })?;
    Ok(lease)
}

/// Due time of the next order of the second line that this node may start. Past if the claim had no place for it.
fn next_due(
    group: &Group<'_>,
    suspect: bool,
    except: &[OrderId],
) -> Result<Option<Timestamp>, rusqlite::Error> {
    group
        .connection
        .prepare_cached(include_str!("next_due.sql"))?
        .query_row((suspect, json_array(except)), |row| row.get(0))
}
