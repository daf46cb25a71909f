//! Ends attempts.

use std::time::Duration;

use rusqlite::OptionalExtension;

use super::group::{Group, IdRun, StatusChange, require_changed};
use super::statements::HotStatement;
use super::turns;
use crate::event::{EventDetail, EventKind};
use crate::lease::{LeaseKey, Outcome};
use crate::order::{OrderStatus, Ordering};
use crate::portable_json::JsonText;
use crate::store::Settled;
use crate::store::settle::End;
use crate::time::Timestamp;

pub(super) fn settle(
    group: &mut Group<'_>,
    key: LeaseKey,
    outcome: &Outcome,
) -> Result<Settled, rusqlite::Error> {
    let end = End::of(outcome);
    let status = end.status();
    if end_attempt(group, key, end)? {
        Ok(Settled::Done(status))
    } else {
        group.effects.stale_results += 1;
        Ok(Settled::Stale)
    }
}

/// Completes attempts without a result document, with the same effect as [`settle`] on each. A run of consecutive ids, as a claim
/// grants them, is completed by one statement if every order in it still has its lease: this costs less than half.
pub(super) fn complete(group: &mut Group<'_>, keys: &[LeaseKey]) -> Result<Vec<Settled>, rusqlite::Error> {
    // Each key with the index of its answer.
    let mut sorted: Vec<(LeaseKey, usize)> = keys.iter().copied().zip(0..).collect();
    sorted.sort_by_key(|(key, _)| key.order_id);
    let mut settled = vec![Settled::Stale; keys.len()];
    let consecutive = |one: &(LeaseKey, usize), next: &(LeaseKey, usize)| {
        let (one, next) = (one.0, next.0);
        next.order_id.0 == one.order_id.0 + 1 && next.fence == one.fence && next.node == one.node
    };
    for run in sorted.chunk_by(consecutive) {
        let done = run.len() > 1 && complete_run(group, run[0].0, run.len())?;
        for (key, index) in run {
            settled[*index] = if done {
                Settled::Done(OrderStatus::Completed)
            } else {
                settle(group, *key, &Outcome::COMPLETED)?
            };
        }
    }
    Ok(settled)
}

/// Completes the attempts of `orders` consecutive orders, beginning with the one of lease `first`. Changes nothing and returns
/// `false` if one of them has lost its lease, or if users have turns.
fn complete_run(group: &mut Group<'_>, first: LeaseKey, orders: usize) -> Result<bool, rusqlite::Error> {
    match group.totals.ordering {
        Ordering::None => {}
        Ordering::User { .. } => return Ok(false),
    }
    let run = IdRun::starting_at(first.order_id, orders);
    let (now, fence) = (group.now, first.fence);
    let (held, took): (usize, u64) = group
        .statements
        .get(HotStatement::ReadAttempts)?
        .query_row((run.first, run.last, fence, now), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    if held < orders {
        return Ok(false);
    }
    let completed = group
        .statements
        .get(HotStatement::CompleteRun)?
        .execute((run.first, run.last, fence, now))?;
    require_changed(completed, orders)?;
    group.totals.counters.processing_micros += took;
    group.record_run(run, EventKind::Completed, OrderStatus::Processing, first.node)?;
    Ok(true)
}

/// The columns of a Processing order that the end of its attempt needs.
struct RunningAttempt {
    version: u32,
    attempts: u32,
    processing_at: Timestamp,
    user_id: i64,
}

/// Ends the attempt. Changes nothing and returns `false` if the lease was lost.
pub(super) fn end_attempt(group: &mut Group<'_>, key: LeaseKey, end: End) -> Result<bool, rusqlite::Error> {
    let Some(attempt) = running_attempt(group, key)? else {
        return Ok(false);
    };
    let status = end.status();
    let version = attempt.version + 1;
    let attempts = attempt.attempts - u32::from(end.given_back);
    let turn = turns::for_returning_order(group);
    let changed = group.statements.get(HotStatement::EndAttempt)?.execute((
        key.order_id,
        key.fence,
        status,
        version,
        attempts,
        end.crashed,
        end.due_in.map(|delay| group.now.plus(delay)),
        status.is_final().then_some(group.now),
        end.given_back,
        end.last_error(),
        end.result.as_ref().map(JsonText::as_str),
        turn,
    ))?;
    require_changed(changed, 1)?;
    if status == OrderStatus::Completed {
        group.totals.counters.processing_micros += micros(group.now.since(attempt.processing_at));
    }
    group.record(StatusChange {
        order_id: key.order_id,
        version,
        kind: end.kind,
        from: Some(OrderStatus::Processing),
        attempt: attempts,
        node: Some(key.node),
        error: end.error,
        detail: EventDetail::default(),
    })?;
    turns::pass(group, attempt.user_id)?;
    Ok(true)
}

fn running_attempt(group: &mut Group<'_>, key: LeaseKey) -> Result<Option<RunningAttempt>, rusqlite::Error> {
    group
        .statements
        .get(HotStatement::ReadAttempt)?
        .query_row((key.order_id, key.fence), |row| {
            Ok(RunningAttempt {
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
