//! Ending attempts: by their result, or because their lease ran out.

use std::time::Duration;

use rusqlite::OptionalExtension;

use super::group::{CallError, Change, Group, Run, require_changed};
use super::statements::Hot;
use super::turns;
use crate::event::EventKind;
use crate::lease::{LeaseKey, NodeId, Outcome};
use crate::order::{OrderId, OrderStatus, Ordering};
use crate::portable_json::JsonText;
use crate::store::ending::End;
use crate::store::{GiveBack, GivenBack, SWEEP_ORDERS_MAX, Settled};
use crate::time::Timestamp;

pub(super) fn settle(
    group: &mut Group<'_>,
    key: LeaseKey,
    outcome: &Outcome,
) -> Result<Settled, rusqlite::Error> {
    let end = End::of(outcome);
    let status = end.status();
    if end_attempt(group, key, end, 0)? {
        Ok(Settled::Done(status))
    } else {
        group.effects.stale_results += 1;
        Ok(Settled::Stale)
    }
}

/// Completes attempts without a result as [`settle`] would one after another, and answers what became of each. Those at orders
/// with consecutive ids, as a claim hands them out, are done together, where each of them has its lease: that costs less than
/// half.
pub(super) fn complete(group: &mut Group<'_>, keys: &[LeaseKey]) -> Result<Vec<Settled>, rusqlite::Error> {
    // Each key with the place of its answer.
    let mut sorted: Vec<(LeaseKey, usize)> = keys.iter().copied().zip(0..).collect();
    sorted.sort_by_key(|(key, _)| key.order_id);
    let mut settled = vec![Settled::Stale; keys.len()];
    let together = |one: &(LeaseKey, usize), next: &(LeaseKey, usize)| {
        let (one, next) = (one.0, next.0);
        next.order_id.0 == one.order_id.0 + 1 && next.token == one.token && next.node == one.node
    };
    for run in sorted.chunk_by(together) {
        let done = run.len() > 1 && complete_run(group, run[0].0, run.len())?;
        for (key, place) in run {
            settled[*place] = if done {
                Settled::Done(OrderStatus::Completed)
            } else {
                settle(group, *key, &Outcome::COMPLETED)?
            };
        }
    }
    Ok(settled)
}

/// From the order of this lease on so many. Changes nothing and answers `false` when one of them has lost its lease, or the
/// orders of a user wait for each other.
fn complete_run(group: &mut Group<'_>, first: LeaseKey, orders: usize) -> Result<bool, rusqlite::Error> {
    match group.totals.ordering {
        Ordering::None => {}
        Ordering::User(_) => return Ok(false),
    }
    let run = Run::of_length(first.order_id, orders);
    let (now, token) = (group.now, first.token);
    let (held, took): (usize, u64) = group
        .statements
        .get(Hot::ReadAttempts)?
        .query_row((run.first, run.last, token, now), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    if held < orders {
        return Ok(false);
    }
    let completed = group
        .statements
        .get(Hot::CompleteRun)?
        .execute((run.first, run.last, token, now))?;
    require_changed(completed, orders)?;
    group.totals.counters.processing_micros += took;
    group.record_run(run, EventKind::Completed, OrderStatus::Processing, first.node)?;
    Ok(true)
}

/// The end of an attempt whose lease ran out or whose node died.
fn lost(held: &Held, holder_died: bool) -> End {
    let node = held.key.node;
    End {
        kind: EventKind::LeaseLost,
        given_back: true,
        due_in: Some(Duration::ZERO),
        error: Some(if held.outside {
            "no result came from outside before the lease ran out".to_owned()
        } else if holder_died {
            format!("node {node} died while it held the lease")
        } else {
            format!("node {node} let the lease run out")
        }),
        result: None,
    }
}

/// The end of an order that so many nodes did not survive.
fn poison(crashes: u32) -> End {
    End {
        kind: EventKind::Failed,
        given_back: false,
        due_in: None,
        error: Some(format!(
            "poison: {crashes} nodes or workers fell silent while they processed this order"
        )),
        result: None,
    }
}

/// What the end of an attempt needs to know of the order.
struct Attempted {
    version: u32,
    attempts: u32,
    processing_at: Timestamp,
    user_id: i64,
}

/// Adds to the leases lost to dead nodes. Changes nothing and answers `false` when the lease is no longer the order's.
fn end_attempt(
    group: &mut Group<'_>,
    key: LeaseKey,
    end: End,
    crashes: u32,
) -> Result<bool, rusqlite::Error> {
    let Some(attempted) = attempted(group, key)? else {
        return Ok(false);
    };
    let status = end.status();
    let version = attempted.version + 1;
    let attempts = attempted.attempts - u32::from(end.given_back);
    // What the last attempt said stays, unless it is known why this one was given back. A lost lease says nothing.
    let keeps_error = end.given_back && (end.kind == EventKind::LeaseLost || end.error.is_none());
    let turn = turns::of_returning(group);
    let changed = group.statements.get(Hot::EndAttempt)?.execute((
        key.order_id,
        key.token,
        status,
        version,
        attempts,
        crashes,
        end.due_in.map(|delay| group.now.plus(delay)),
        status.is_final().then_some(group.now),
        keeps_error,
        end.error.as_deref(),
        end.result.as_ref().map(JsonText::as_str),
        turn,
    ))?;
    require_changed(changed, 1)?;
    if status == OrderStatus::Completed {
        group.totals.counters.processing_micros += micros(group.now.since(attempted.processing_at));
    }
    group.record(Change {
        order_id: key.order_id,
        version,
        kind: end.kind,
        from: Some(OrderStatus::Processing),
        attempt: attempts,
        node: Some(key.node),
        error: end.error,
    })?;
    turns::pass(group, attempted.user_id)?;
    Ok(true)
}

fn attempted(group: &mut Group<'_>, key: LeaseKey) -> Result<Option<Attempted>, rusqlite::Error> {
    group
        .statements
        .get(Hot::ReadAttempt)?
        .query_row((key.order_id, key.token), |row| {
            Ok(Attempted {
                version: row.get(0)?,
                attempts: row.get(1)?,
                processing_at: row.get(2)?,
                user_id: row.get(3)?,
            })
        })
        .optional()
}

pub(super) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn give_back_expired(group: &mut Group<'_>, request: &GiveBack) -> Result<GivenBack, CallError> {
    let mut expired = held(
        group,
        include_str!("expired_leases.sql"),
        Some(group.now),
        request.after,
    )?;
    let more = expired.len() > SWEEP_ORDERS_MAX;
    expired.truncate(SWEEP_ORDERS_MAX);
    let mut given_back = give_back(group, &expired, request.crashes_max, |group, held| {
        // Nobody knows whether a worker outside lives; one that says nothing counts as dead.
        let node = held.key.node;
        Ok(held.outside || (node != request.node && !lives(group, node)?))
    })?;
    given_back.next = expired.last().map(|last| last.key.order_id).filter(|_| more);
    Ok(given_back)
}

/// Everything that nodes hold: only right where no other node can live.
pub(super) fn give_back_all(group: &mut Group<'_>, crashes_max: u32) -> Result<GivenBack, CallError> {
    let mut total = GivenBack::default();
    let mut after = None;
    loop {
        let held = held(group, include_str!("all_leases.sql"), None, after)?;
        let Some(last) = held.last() else {
            return Ok(total);
        };
        after = Some(last.key.order_id);
        let given_back = give_back(group, &held, crashes_max, |_, _| Ok(true))?;
        total.pending += given_back.pending;
        total.poisoned += given_back.poisoned;
        total.refused.extend(given_back.refused);
    }
}

struct Held {
    key: LeaseKey,
    crashes: u32,
    /// By a worker outside.
    outside: bool,
}

/// One more than [`SWEEP_ORDERS_MAX`], to tell whether there are more.
fn held(
    group: &Group<'_>,
    statement: &str,
    at: Option<Timestamp>,
    after: Option<OrderId>,
) -> Result<Vec<Held>, rusqlite::Error> {
    let after = after.unwrap_or(OrderId(0));
    group
        .connection
        .prepare_cached(statement)?
        .query_map((at, SWEEP_ORDERS_MAX + 1, after), |row| {
            Ok(Held {
                key: LeaseKey {
                    order_id: row.get(0)?,
                    token: row.get(1)?,
                    node: row.get(2)?,
                },
                crashes: row.get(3)?,
                outside: row.get(4)?,
            })
        })?
        .collect()
}

fn give_back(
    group: &mut Group<'_>,
    held: &[Held],
    crashes_max: u32,
    died: impl Fn(&Group<'_>, &Held) -> Result<bool, rusqlite::Error>,
) -> Result<GivenBack, CallError> {
    let mut given_back = GivenBack::default();
    for lease in held {
        let holder_died = died(group, lease)?;
        let crashes = u32::from(holder_died);
        let crashes_so_far = lease.crashes + crashes;
        let is_poison = holder_died && crashes_so_far >= crashes_max;
        let end = if is_poison {
            poison(crashes_so_far)
        } else {
            lost(lease, holder_died)
        };
        match group.part(|group| end_attempt(group, lease.key, end, crashes))? {
            Ok(_) if is_poison => given_back.poisoned += 1,
            Ok(_) => given_back.pending += 1,
            Err(refusal) => given_back.refused.push(refusal.of_order(lease.key.order_id)),
        }
    }
    group.effects.leases_lost += (given_back.pending + given_back.poisoned) as u64;
    Ok(given_back)
}

fn lives(group: &Group<'_>, node: NodeId) -> Result<bool, rusqlite::Error> {
    group
        .connection
        .prepare_cached("select expires_at >= ?2 from nodes where node = ?1")?
        .query_row((node, group.now), |row| row.get(0))
        .optional()
        .map(|lives| lives.unwrap_or(false))
}
