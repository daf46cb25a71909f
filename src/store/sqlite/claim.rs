//! Handing out due orders, those that `choose` finds: around orders whose start the database refuses.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rusqlite::Row;

use super::choose::{self, Care, Chosen, Line, array};
use super::failure::State;
use super::group::{CallError, Change, Group, Run, require_changed};
use super::statements::Hot;
use super::writer::Writer;
use super::{epochs, rows, turns};
use crate::event::EventKind;
use crate::lease::Lease;
use crate::order::{Order, OrderId, OrderStatus};
use crate::store::columns::ORDER_COLUMNS;
use crate::store::refusals::Refusals;
use crate::store::{
    CLAIM_ORDERS_MAX, ClaimRequest, Claimed, Epochs, RefusedOrder, SUSPECT_CRASHES, StoreError,
};
use crate::time::Timestamp;

/// The choice of the orders that a claim may start.
#[derive(Clone)]
pub(super) enum Choice {
    /// The store's, with the line that gets the odd place of a claim while both have work.
    Next(Arc<AtomicBool>),
    /// The caller's, each order once.
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

/// Claims, or starts given orders.
pub(super) async fn claim_of(
    choice: &Choice,
    request: ClaimRequest,
    writer: &Writer,
    state: &State,
    refusals: &Refusals,
) -> Result<Claimed, StoreError> {
    // Attempts that started might have no end.
    if let Some(reason) = state.refuses_to_store() {
        return Err(StoreError::Unavailable {
            attempted: choice.attempted(),
            source: anyhow::Error::msg(reason),
        });
    }
    claim_around_refused(writer, refusals, request, choice).await
}

/// Claims around the orders known to be refused. Where the database refuses the claim for what may be one order's fault, starts
/// them one by one and claims around those that are refused.
async fn claim_around_refused(
    writer: &Writer,
    refusals: &Refusals,
    request: ClaimRequest,
    choice: &Choice,
) -> Result<Claimed, StoreError> {
    let stepped_around = refusals.to_step_around();
    let given = match choice {
        Choice::Next(_) => None,
        Choice::Given(ids) => Some(ids.as_ref()),
    };
    let claim = async |one_by_one| {
        let chosen_by = choice.clone();
        let care = Care {
            stepped_around: stepped_around.clone(),
            one_by_one,
        };
        let claim = writer.call(choice.attempted(), move |group| {
            claim(group, &request, &chosen_by, &care)
        });
        claim.await
    };
    let (mut claimed, refused) = match claim(false).await {
        Err(StoreError::Refused { .. }) => claim(true).await?,
        claimed => claimed?,
    };
    // A claim that looked at no order says nothing of any.
    if request.orders_max > 0 && !claimed.paused {
        let found = !refused.is_empty();
        let all_remembered = refusals.claimed(&stepped_around, given, refused);
        claimed.next_due_in = if found && all_remembered {
            Some(Duration::ZERO)
        } else {
            refusals.sooner(claimed.next_due_in)
        };
    }
    Ok(claimed)
}

/// Returns also the orders that the database refused to start or to give their turn.
pub(super) fn claim(
    group: &mut Group<'_>,
    request: &ClaimRequest,
    choice: &Choice,
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
    let chosen = match choice {
        Choice::Next(second_line_first) => choose::next(group, request, places, second_line_first, care)?,
        Choice::Given(ids) => choose::pick(group, ids, request, places, care)?,
    };
    let mut starts = Starts {
        request,
        epochs: epochs::read(group.connection)?,
        one_by_one: care.one_by_one,
        leases: Vec::with_capacity(chosen.orders.len()),
        refused: Vec::new(),
    };
    starts.all(group, chosen)?;
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

/// The orders that a claim starts.
struct Starts<'r> {
    request: &'r ClaimRequest,
    epochs: Epochs,
    one_by_one: bool,
    leases: Vec<Lease>,
    refused: Vec<RefusedOrder>,
}

impl Starts<'_> {
    fn all(&mut self, group: &mut Group<'_>, chosen: Chosen) -> Result<(), rusqlite::Error> {
        let Chosen {
            orders,
            mut passed_over,
        } = chosen;
        for part in orders.chunk_by(|one, next| one.0 == next.0) {
            let ids: Vec<OrderId> = part.iter().map(|(_, id)| *id).collect();
            match part[0].0 {
                Line::First => self.first_line(group, &ids, &mut passed_over)?,
                Line::Second => self.one_after_another(group, &ids)?,
            }
        }
        Ok(())
    }

    fn first_line(
        &mut self,
        group: &mut Group<'_>,
        ids: &[OrderId],
        passed_over: &mut Vec<OrderId>,
    ) -> Result<(), rusqlite::Error> {
        let position = group.totals.last_position;
        if self.one_by_one {
            let before = self.refused.len();
            self.one_after_another(group, ids)?;
            passed_over.extend(self.refused[before..].iter().map(|refused| refused.order_id));
        } else {
            for run in runs(ids) {
                start_run(group, run, self.request, &self.epochs, &mut self.leases)?;
            }
        }
        record_passed_over(group, position, passed_over)
    }

    fn one_after_another(&mut self, group: &mut Group<'_>, ids: &[OrderId]) -> Result<(), rusqlite::Error> {
        for id in ids {
            if self.one_by_one {
                match group.part(|group| start(group, *id, self.request, &self.epochs))? {
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
    epochs: &Epochs,
    leases: &mut Vec<Lease>,
) -> Result<(), rusqlite::Error> {
    let now = group.now;
    let waiting = group.statements.get(Hot::ReadWaitingRun)?;
    for lease in waiting.query_map((run.first, run.last), |row| granted(row, request, epochs, now))? {
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
        epochs.fence_floor(),
    ))?;
    require_changed(started, run.len())?;
    group.record_run(run, EventKind::Started, OrderStatus::Pending, request.node)
}

/// The lease on an order that waits.
fn granted(
    row: &Row<'_>,
    request: &ClaimRequest,
    epochs: &Epochs,
    now: Timestamp,
) -> Result<Lease, rusqlite::Error> {
    let waiting = rows::order(row)?;
    let fence = row.get::<_, u64>(ORDER_COLUMNS)?.max(epochs.fence_floor()) + 1;
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
        .get(Hot::ReadWaiting)?
        .query_row([order_id], |row| granted(row, request, epochs, now))?;
    // Two plain statements cost half of one `update … returning`; the transaction makes them one.
    let started = group.statements.get(Hot::Start)?.execute((
        order_id,
        lease.order.version,
        lease.order.attempts,
        lease.fence,
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
        .prepare_cached(include_str!("next_due.sql"))?
        .query_row((suspect, array(except)), |row| row.get(0))
}
