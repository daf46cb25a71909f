//! Ends attempts by their results.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use tokio_postgres::types::{ToSql, Type};

use super::class_connection::ClassConnection;
use super::classes::Class;
use super::failure::PgFailure;
use super::functions::named;
use super::group::{Call, Groups};
use super::locked_orders::LockRetry;
use super::lost_answers::Attempt;
use super::rows;
use super::shared::Shared;
use crate::lease::Outcome;
use crate::order::{OrderId, OrderStatus};
use crate::portable_json::JsonText;
use crate::store::settle::End;
use crate::store::{Settled, StoreError, codes};

/// Ends attempts of nodes and external workers: the error of the event becomes the last error of the order.
static SETTLE: LazyLock<String> = LazyLock::new(|| {
    named(
        "select ended_place, ended_order_id, ended_status
         from :settle($1, $2, $3, $4, $5, $6, $7, $8, $8, $9, null, $10)",
    )
});

pub(super) struct Settle {
    pub attempt: Attempt,
    pub outcome: Outcome,
}

/// The answer to one result.
pub(super) enum Ending {
    Settled(Settled),
    /// Nothing changed, because another session has locked the order.
    Locked,
}

/// Settles an attempt. Tries again while another session has locked the order; meanwhile the other results of the
/// group are settled and no connection is held.
pub(super) async fn settle(
    settles: &Groups<Settle>,
    shared: &Shared,
    attempt: Attempt,
    outcome: Outcome,
) -> Result<Settled, StoreError> {
    let mut retry = LockRetry::new();
    loop {
        let outcome = outcome.clone();
        let ending = settles.call(Settle { attempt, outcome }).await;
        shared.refusals.record_end(attempt.order_id, &ending);
        match ending? {
            Ending::Settled(settled) => return Ok(settled),
            Ending::Locked => {
                let waited = retry.wait(attempt.order_id, &shared.locked).await;
                waited.map_err(|failure| failure.to_error(Settle::ATTEMPTED))?;
            }
        }
    }
}

/// The longest delay of a retry: a thousand years, well below the latest time that the server knows.
const DELAY_MAX: Duration = Duration::from_hours(24 * 365 * 1_000);

/// Converts a duration to microseconds. Longer ones than fit do not occur.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Attempts and their ends, column by column.
pub(super) struct Columns<'e> {
    order_ids: Vec<i64>,
    fences: Vec<i64>,
    nodes: Vec<Option<i64>>,
    kinds: Vec<i16>,
    statuses: Vec<i16>,
    given_back: Vec<bool>,
    due_in_micros: Vec<Option<i64>>,
    errors: Vec<Option<&'e str>>,
    results: Vec<Option<&'e str>>,
}

impl<'e> Columns<'e> {
    pub fn of(ended: impl Iterator<Item = (Attempt, &'e End)>) -> Columns<'e> {
        let (attempts, ends): (Vec<Attempt>, Vec<&End>) = ended.unzip();
        let due_in = |end: &&End| end.due_in.map(|delay| micros(delay.min(DELAY_MAX)));
        Columns {
            order_ids: attempts.iter().map(|attempt| attempt.order_id.0).collect(),
            fences: attempts
                .iter()
                .map(|attempt| rows::fence_code(attempt.fence))
                .collect(),
            nodes: attempts
                .iter()
                .map(|attempt| attempt.node.map(rows::node_code))
                .collect(),
            kinds: ends.iter().map(|end| codes::kind_code(end.kind)).collect(),
            statuses: ends.iter().map(|end| codes::status_code(end.status())).collect(),
            given_back: ends.iter().map(|end| end.given_back).collect(),
            due_in_micros: ends.iter().map(due_in).collect(),
            errors: ends.iter().map(|end| end.error.as_deref()).collect(),
            results: ends
                .iter()
                .map(|end| end.result.as_ref().map(JsonText::as_str))
                .collect(),
        }
    }

    /// Returns the columns in the order of the fields.
    pub fn parameters(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        vec![
            (&self.order_ids, Type::INT8_ARRAY),
            (&self.fences, Type::INT8_ARRAY),
            (&self.nodes, Type::INT8_ARRAY),
            (&self.kinds, Type::INT2_ARRAY),
            (&self.statuses, Type::INT2_ARRAY),
            (&self.given_back, Type::BOOL_ARRAY),
            (&self.due_in_micros, Type::INT8_ARRAY),
            (&self.errors, Type::TEXT_ARRAY),
            (&self.results, Type::TEXT_ARRAY),
        ]
    }
}

impl Call for Settle {
    type Answer = Ending;
    /// One statement ends an attempt of an order at most once.
    type Subject = OrderId;
    const ATTEMPTED: &'static str = "settle an attempt";
    const CLASS: Class = Class::Settle;
    /// The slot of an attempt is free before its result is stored, so results can wait for a large group.
    const FAVORS_LATENCY: bool = false;

    fn subject(&self) -> Option<OrderId> {
        Some(self.attempt.order_id)
    }

    fn rows(&self) -> usize {
        1
    }

    async fn run_group(
        calls: &[&Settle],
        connection: &mut ClassConnection,
        shared: &Shared,
    ) -> Result<Vec<Result<Ending, StoreError>>, PgFailure> {
        let mut numbers: Vec<usize> = (0..calls.len()).collect();
        numbers.sort_unstable_by_key(|number| calls[*number].attempt.order_id);
        let ends: Vec<End> = numbers
            .iter()
            .map(|number| End::of(&calls[*number].outcome))
            .collect();
        let attempts = numbers.iter().map(|number| calls[*number].attempt);
        let columns = Columns::of(attempts.zip(&ends));
        let slot = Shared::random_counter_slot();
        let mut parameters = columns.parameters();
        parameters.push((&slot, Type::INT2));
        let ended = connection
            .execute_once(&SETTLE, &parameters)
            .await
            .inspect_err(|failure| {
                if failure.may_be_stored() {
                    shared
                        .lost_answers
                        .remember(calls.iter().map(|call| call.attempt));
                }
            })?;
        let mut answers: Vec<Result<Settled, StoreError>> =
            calls.iter().map(|_| Ok(Settled::Stale)).collect();
        let mut finals = Vec::new();
        let mut locked = Vec::new();
        let mut work = false;
        for row in &ended {
            let place: i64 = rows::column(row, 0)?;
            let number = usize::try_from(place - 1)
                .ok()
                .and_then(|place| numbers.get(place))
                .ok_or_else(|| PgFailure::undecodable("the index of a result", place))?;
            if rows::column::<Option<i16>>(row, 2)?.is_none() {
                locked.push(*number);
                continue;
            }
            let status = rows::status(row, 2)?;
            if status.is_final() {
                finals.push(OrderId(rows::column(row, 1)?));
            }
            work |= status == OrderStatus::Pending;
            answers[*number] = Ok(Settled::Done(status));
        }
        let sent_before = calls.iter().map(|call| shared.lost_answers.take(call.attempt));
        let sent_before: Vec<usize> = (0..calls.len())
            .zip(sent_before)
            .filter(|(number, sent_before)| *sent_before && matches!(answers[*number], Ok(Settled::Stale)))
            .map(|(number, _)| number)
            .collect();
        // The earlier send may be what holds the lock.
        let (sent_before, sent_and_locked): (Vec<usize>, Vec<usize>) = sent_before
            .into_iter()
            .partition(|number| !locked.contains(number));
        shared
            .lost_answers
            .remember(sent_and_locked.iter().map(|number| calls[*number].attempt));
        if !sent_before.is_empty() {
            let earlier = sent_before
                .iter()
                .map(|number| calls[*number])
                .collect::<Vec<_>>();
            let found = stored_earlier(&earlier, connection, shared).await;
            for ((number, call), answer) in sent_before.into_iter().zip(earlier).zip(found) {
                if let Ok(Settled::Done(status)) = answer
                    && status.is_final()
                {
                    finals.push(call.attempt.order_id);
                }
                answers[number] = answer;
            }
        }
        // Results of external workers are counted where they come in.
        let is_stale = |number: &usize| {
            matches!(answers[*number], Ok(Settled::Stale))
                && calls[*number].attempt.node.is_some()
                && !locked.contains(number)
        };
        let stale = (0..calls.len()).filter(is_stale).count();
        shared.metrics.stale_results_rejected.inc_by(stale as u64);
        if work {
            shared.work_committed();
        } else if ended.len() > locked.len() {
            shared.events_committed();
        }
        shared.orders_ended(finals);
        let mut endings: Vec<Result<Ending, StoreError>> = answers
            .into_iter()
            .map(|answer| answer.map(Ending::Settled))
            .collect();
        for number in locked {
            endings[number] = Ok(Ending::Locked);
        }
        Ok(endings)
    }
}

/// Finds out whether results that find no lease were stored when they were sent before, without an answer.
async fn stored_earlier(
    calls: &[&Settle],
    connection: &mut ClassConnection,
    shared: &Shared,
) -> Vec<Result<Settled, StoreError>> {
    let ends: Vec<End> = calls.iter().map(|call| End::of(&call.outcome)).collect();
    let columns = Columns::of(calls.iter().map(|call| call.attempt).zip(&ends));
    let attempts = &columns.parameters()[..4];
    let found = connection
        .read_confirmed(include_str!("find_stored_results.sql"), attempts)
        .await;
    let not_an_end = || PgFailure::undecodable("the end of an attempt", "");
    let statuses = found.and_then(|found| {
        let status = |row| {
            Ok((
                rows::column::<i64>(row, 0)?,
                rows::kind(row, 1)?.leads_to().ok_or_else(not_an_end)?,
            ))
        };
        found
            .iter()
            .map(status)
            .collect::<Result<HashMap<_, _>, PgFailure>>()
    });
    match statuses {
        Ok(statuses) => (1..)
            .zip(calls)
            .map(|(place, _)| {
                Ok(statuses
                    .get(&place)
                    .map_or(Settled::Stale, |status| Settled::Done(*status)))
            })
            .collect(),
        // The outcome is still unknown. The others of the group have their answers.
        Err(failure) => {
            shared
                .lost_answers
                .remember(calls.iter().map(|call| call.attempt));
            calls
                .iter()
                .map(|_| Err(failure.to_error(Settle::ATTEMPTED)))
                .collect()
        }
    }
}
