//! Takes back orders whose leases expired.

use std::sync::LazyLock;
use std::sync::atomic::Ordering;

use tokio_postgres::types::Type;

use super::bisection::Bisection;
use super::class_connection::ClassConnection;
use super::failure::PgFailure;
use super::functions::named;
use super::rows;
use super::settle::Columns;
use super::shared::Shared;
use crate::lease::LeaseKey;
use crate::order::OrderId;
use crate::store::give_back::LostLease;
use crate::store::settle::End;
use crate::store::{GiveBack, GivenBack, SWEEP_ORDERS_MAX};

/// The fewest expired keys that a sweep forgets, so that keys stored by a dead node go as well.
const KEYS_FORGOTTEN_MIN: usize = 100;
/// The most newly stored keys that a sweep compensates for, so that a backlog after failures does not overload one
/// statement.
const KEYS_MATCHED_MAX: usize = 20_000;

static GIVE_BACK: LazyLock<String> = LazyLock::new(|| named(include_str!("give_back.sql")));

/// Gives back the orders of expired leases. When the database refuses the set and one order may be to blame,
/// bisection finds it.
pub(super) async fn give_back_expired(
    connection: &mut ClassConnection,
    shared: &Shared,
    request: &GiveBack,
) -> Result<GivenBack, PgFailure> {
    let Expired { leases, server } = expired(connection, request).await?;
    let mut expired = leases;
    if !expired.is_empty() {
        connection.state().server_answers_again(&server);
        if connection.state().leases_may_be_held() {
            return Ok(GivenBack::default());
        }
    }
    let more = expired.len() > SWEEP_ORDERS_MAX;
    expired.truncate(SWEEP_ORDERS_MAX);
    let mut total = GivenBack {
        next: expired.last().map(|last| last.key.order_id).filter(|_| more),
        ..GivenBack::default()
    };
    let mut bisection = Bisection::of(expired);
    while let Some(part) = bisection.next_part() {
        match give_back(connection, shared, &part, &server, request.crashes_max).await {
            Ok(given_back) => {
                total.pending += given_back.pending;
                total.poisoned += given_back.poisoned;
            }
            Err(failure) => {
                if failure.may_concern_one_call() && bisection.is_whole() {
                    // When the database refuses even an empty set, none of the orders is to blame.
                    give_back(connection, shared, &[], &server, request.crashes_max).await?;
                }
                bisection.split_refused(part, failure)?;
            }
        }
    }
    total.refused = bisection.refused("give back an expired lease");
    shared.refusals.record_not_taken_back(&total.refused);
    forget(connection, shared).await;
    Ok(total)
}

/// Leases that expired by the clock of a server.
struct Expired {
    leases: Vec<LostLease>,
    /// The run of that server; empty when no lease expired.
    server: String,
}

/// Reads the expired leases by rising order id: one more than [`SWEEP_ORDERS_MAX`], which tells whether there are
/// more.
async fn expired(connection: &mut ClassConnection, request: &GiveBack) -> Result<Expired, PgFailure> {
    let orders_max = rows::limit(SWEEP_ORDERS_MAX + 1);
    let after = request.after.map_or(0, |after| after.0);
    let node = rows::node_code(request.node);
    let found = connection
        .read(
            include_str!("expired.sql"),
            &[
                (&orders_max, Type::INT8),
                (&after, Type::INT8),
                (&node, Type::INT8),
            ],
        )
        .await?;
    let expired = |row| {
        Ok(LostLease {
            key: LeaseKey {
                order_id: OrderId(rows::column(row, 0)?),
                fence: rows::large_count(row, 1)?,
                node: rows::node_of(rows::column(row, 2)?),
            },
            external: rows::column(row, 3)?,
            crashes: rows::count(row, 4)?,
            node_died: rows::column(row, 5)?,
        })
    };
    let server = found
        .first()
        .map_or(Ok(String::new()), |row| rows::column(row, 6))?;
    let leases = found.iter().map(expired).collect::<Result<_, PgFailure>>()?;
    Ok(Expired { leases, server })
}

/// Ends the attempts of these leases, except for those that were renewed since they were read and those that another
/// session has locked.
async fn give_back(
    connection: &mut ClassConnection,
    shared: &Shared,
    expired: &[LostLease],
    server: &str,
    crashes_max: u32,
) -> Result<GivenBack, PgFailure> {
    let ends: Vec<End> = expired.iter().map(|lease| lease.end(crashes_max)).collect();
    let attempts = expired.iter().map(|lease| lease.key.into());
    let columns = Columns::of(attempts.zip(&ends));
    let last_errors: Vec<Option<&str>> = ends.iter().map(End::last_error).collect();
    let crashed: Vec<bool> = ends.iter().map(|end| end.crashed).collect();
    let slot = Shared::random_counter_slot();
    let mut parameters = columns.parameters();
    parameters.push((&last_errors, Type::TEXT_ARRAY));
    parameters.push((&crashed, Type::BOOL_ARRAY));
    parameters.push((&slot, Type::INT2));
    parameters.push((&server, Type::TEXT));
    let ended = connection.execute_idempotent(&GIVE_BACK, &parameters).await;
    if connection.was_repeated() {
        shared.work_committed();
    }
    let ended = ended.inspect_err(|failure| shared.note_possible_commit(failure))?;
    let mut given_back = GivenBack::default();
    let mut poisoned = Vec::new();
    let mut order_ids = Vec::new();
    for row in &ended {
        let order_id = OrderId(rows::column(row, 0)?);
        order_ids.push(order_id);
        if rows::status(row, 1)?.is_final() {
            poisoned.push(order_id);
        } else {
            given_back.pending += 1;
        }
    }
    given_back.poisoned = poisoned.len();
    shared.metrics.leases_lost.inc_by(order_ids.len() as u64);
    shared.refusals.ended(order_ids);
    if given_back.pending > 0 {
        shared.work_committed();
    } else if !poisoned.is_empty() {
        shared.events_committed();
    }
    shared.orders_ended(poisoned);
    Ok(given_back)
}

/// Forgets nodes that died long ago and expired idempotency keys: more keys than were stored since the last time, so
/// that their number falls. The next sweep makes up for a failure.
async fn forget(connection: &mut ClassConnection, shared: &Shared) {
    let stored = shared.keys_stored.swap(0, Ordering::Relaxed);
    let matched = stored.min(KEYS_MATCHED_MAX);
    let limit = rows::limit(2 * matched + KEYS_FORGOTTEN_MIN);
    let forgotten = connection
        .execute_idempotent(include_str!("forget.sql"), &[(&limit, Type::INT8)])
        .await;
    let left = match forgotten {
        Ok(_) => stored - matched,
        Err(failure) => {
            tracing::warn!(
                error = ?failure,
                "cannot forget old idempotency keys and dead nodes; the next sweep tries again"
            );
            stored
        }
    };
    shared.keys_stored.fetch_add(left, Ordering::Relaxed);
}
