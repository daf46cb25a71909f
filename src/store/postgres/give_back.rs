//! Taking back orders whose leases ran out.

use std::sync::LazyLock;
use std::sync::atomic::Ordering;

use tokio_postgres::types::Type;

use super::failure::Failure;
use super::functions::named;
use super::halves::Halves;
use super::link::Link;
use super::rows;
use super::settle::Columns;
use super::shared::Shared;
use crate::lease::LeaseKey;
use crate::order::OrderId;
use crate::store::give_back::LostLease;
use crate::store::settle::End;
use crate::store::{GiveBack, GivenBack, SWEEP_ORDERS_MAX};

/// Forgotten with every sweep, so that what a node that is gone stored goes as well.
const KEYS_FORGOTTEN_MIN: usize = 100;
/// Stored ones that one sweep makes up for: what failed for a while does not become too much for one statement.
const KEYS_MATCHED_MAX: usize = 20_000;

static GIVE_BACK: LazyLock<String> = LazyLock::new(|| named(include_str!("give_back.sql")));

/// Gives back expired orders. When the database refuses them all for what may be one order's fault, halving finds it.
pub(super) async fn give_back_expired(
    link: &mut Link,
    shared: &Shared,
    request: &GiveBack,
) -> Result<GivenBack, Failure> {
    let Expired { leases, server } = expired(link, request).await?;
    let mut expired = leases;
    if !expired.is_empty() {
        link.state().server_answers_again(&server);
        if link.state().leases_may_be_held() {
            return Ok(GivenBack::default());
        }
    }
    let more = expired.len() > SWEEP_ORDERS_MAX;
    expired.truncate(SWEEP_ORDERS_MAX);
    let mut total = GivenBack {
        next: expired.last().map(|last| last.key.order_id).filter(|_| more),
        ..GivenBack::default()
    };
    let mut halves = Halves::of(expired);
    while let Some(some) = halves.next() {
        match give_back(link, shared, &some, &server, request.crashes_max).await {
            Ok(given_back) => {
                total.pending += given_back.pending;
                total.poisoned += given_back.poisoned;
            }
            Err(failure) => {
                if failure.may_be_of_one() && halves.is_whole() {
                    // Where the database refuses to take back no order, none of them is to blame.
                    give_back(link, shared, &[], &server, request.crashes_max).await?;
                }
                halves.failed(some, failure)?;
            }
        }
    }
    total.refused = halves.refused("give back an expired lease");
    shared.refusals.not_taken_back(&total.refused);
    forget(link, shared).await;
    Ok(total)
}

/// Leases that ran out by the clock of a server.
struct Expired {
    leases: Vec<LostLease>,
    /// The run of that server; empty where no lease ran out.
    server: String,
}

/// Reads the leases that ran out, by rising order id: one more than [`SWEEP_ORDERS_MAX`], to tell whether there are more.
async fn expired(link: &mut Link, request: &GiveBack) -> Result<Expired, Failure> {
    let orders_max = rows::limit(SWEEP_ORDERS_MAX + 1);
    let after = request.after.map_or(0, |after| after.0);
    let node = rows::node_code(request.node);
    let found = link
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
            outside: rows::column(row, 3)?,
            crashes: rows::count(row, 4)?,
            node_died: rows::column(row, 5)?,
        })
    };
    let server = found
        .first()
        .map_or(Ok(String::new()), |row| rows::column(row, 6))?;
    let leases = found.iter().map(expired).collect::<Result<_, Failure>>()?;
    Ok(Expired { leases, server })
}

/// Ends the attempts of these leases, but for those that were renewed since they were read or that another session has locked.
async fn give_back(
    link: &mut Link,
    shared: &Shared,
    expired: &[LostLease],
    server: &str,
    crashes_max: u32,
) -> Result<GivenBack, Failure> {
    let ends: Vec<End> = expired.iter().map(|lease| lease.end(crashes_max)).collect();
    let attempts = expired.iter().map(|lease| lease.key.into());
    let columns = Columns::of(attempts.zip(&ends));
    let last_errors: Vec<Option<&str>> = ends.iter().map(End::last_error).collect();
    let crashed: Vec<bool> = ends.iter().map(|end| end.crashed).collect();
    let slot = Shared::any_slot();
    let mut parameters = columns.parameters();
    parameters.push((&last_errors, Type::TEXT_ARRAY));
    parameters.push((&crashed, Type::BOOL_ARRAY));
    parameters.push((&slot, Type::INT2));
    parameters.push((&server, Type::TEXT));
    let ended = link.repeatable(&GIVE_BACK, &parameters).await;
    if link.was_repeated() {
        shared.changed_with_work();
    }
    let ended = ended.inspect_err(|failure| shared.unsure(failure))?;
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
        shared.changed_with_work();
    } else if !poisoned.is_empty() {
        shared.changed();
    }
    shared.ended(poisoned);
    Ok(given_back)
}

/// Forgets nodes that died long ago, and idempotency keys past their retention: more than were stored since the last time, so
/// that their number falls. A failure is made up for the next time.
async fn forget(link: &mut Link, shared: &Shared) {
    let stored = shared.keys_stored.swap(0, Ordering::Relaxed);
    let matched = stored.min(KEYS_MATCHED_MAX);
    let limit = rows::limit(2 * matched + KEYS_FORGOTTEN_MIN);
    let forgotten = link
        .repeatable(include_str!("forget.sql"), &[(&limit, Type::INT8)])
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
