//! Redrives orders: one, or all that match a query.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::types::{ToSql, Type};

use super::bisection::Bisection;
use super::class_pool::ClassPool;
use super::failure::PgFailure;
use super::id_range::{self, Created};
use super::locked_change::{Change, Open};
use super::locked_orders::LockRetry;
use super::shared::Shared;
use super::{listing, locked_change, query, rows};
use crate::event::EventKind;
use crate::order::{OrderId, OrderStatus};
use crate::store::columns::order_columns;
use crate::store::redrive::changes;
use crate::store::{
    Acted, RedriveOptions, RedriveQuery, Redriven, RefusedChange, SWEEP_ORDERS_MAX, log_refused,
};

const REDRIVE: &str = concat!(
    include_str!("lock_orders.sql"),
    include_str!("redrive.sql"),
    "select ",
    order_columns!(),
    " from changed"
);
const REDRIVE_MANY: &str = concat!(
    include_str!("lock_orders.sql"),
    include_str!("redrive.sql"),
    "select order_id from changed"
);

pub(super) async fn redrive(
    pool: &ClassPool,
    shared: &Shared,
    id: OrderId,
    options: &RedriveOptions,
) -> Result<Acted, PgFailure> {
    let detail = options.detail();
    let change = Change {
        statement: REDRIVE,
        statuses: &OrderStatus::ALL
            .into_iter()
            .filter(|status| changes(*status, true))
            .collect::<Vec<_>>(),
        open: Open::WaitForTime,
        detail: &detail,
        text: None,
    };
    let mut retry = LockRetry::new();
    loop {
        if let Some(order) = locked_change::change_one(pool, shared, &change, id).await? {
            shared.work_committed();
            if order.request.deadline.is_some() {
                shared.wakeups.notify_timers();
            }
            return Ok(Acted::Done(order));
        }
        let Some(order) = query::order(pool, id).await? else {
            return Ok(Acted::Unknown);
        };
        if !changes(order.status, waits_for_time(pool, id).await?) {
            pool.confirm_reads().await?;
            return Ok(Acted::unchanged(order, EventKind::Redriven));
        }
        retry.wait(id, &shared.locked).await?;
    }
}

/// Reports whether an order is in backoff, by the database's clock, or scheduled.
async fn waits_for_time(pool: &ClassPool, id: OrderId) -> Result<bool, PgFailure> {
    let statement = "select from orderly.order_state
         where order_id = $1 and status = 0 and (due_at > clock_timestamp() or set_aside and held_at is null)";
    let found = pool.read(statement, &[(&id.0, Type::INT8)]).await?;
    Ok(!found.is_empty())
}

/// The tries for orders that a bulk redrive finds locked: a claim of a node locks them only for a moment.
const REDRIVE_TRIES: usize = 3;
/// The pause between two such tries.
const REDRIVE_PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn redrive_matching(
    pool: &ClassPool,
    shared: &Shared,
    query: &RedriveQuery,
) -> Result<Redriven, PgFailure> {
    let mut left = matching(pool, query).await?;
    let mut redriven = Redriven::of_matching(&mut left);
    if query.dry_run {
        return Ok(redriven);
    }
    let mut refused = Vec::new();
    for attempt in 0..REDRIVE_TRIES {
        if left.is_empty() {
            break;
        }
        if attempt > 0 {
            sleep(REDRIVE_PAUSE).await;
        }
        let mut bisection = Bisection::of(std::mem::take(&mut left));
        while let Some(part) = bisection.next_part() {
            let failed = match redrive_some(pool, shared, &part, query).await {
                Ok(changed) => {
                    redriven.retried += changed.len();
                    left.extend(part.into_iter().filter(|id| !changed.contains(id)));
                    continue;
                }
                // When the database refuses even an empty set, none of the orders is to blame.
                Err(failure) if failure.may_concern_one_call() && bisection.is_whole() => {
                    let without_orders = redrive_some(pool, shared, &[], query).await;
                    without_orders.and_then(|_| bisection.split_refused(part, failure))
                }
                Err(failure) => bisection.split_refused(part, failure),
            };
            match failed {
                Ok(()) => {}
                Err(failure) if redriven.retried == 0 => return Err(failure),
                // Earlier parts are stored and make up the answer.
                Err(_) => return Ok(redriven),
            }
        }
        refused.extend(bisection.refused("redrive an order"));
    }
    log_refused(RefusedChange::Redrive, &refused);
    Ok(redriven)
}

/// Redrives the orders that still have the status, and returns their ids.
async fn redrive_some(
    pool: &ClassPool,
    shared: &Shared,
    ids: &[i64],
    query: &RedriveQuery,
) -> Result<HashSet<i64>, PgFailure> {
    let detail = query.options.detail();
    let change = Change {
        statement: REDRIVE_MANY,
        statuses: &[query.status],
        open: Open::WaitForTime,
        detail: &detail,
        text: None,
    };
    let found = locked_change::change(pool, shared, &change, ids).await?;
    let changed = found.iter().map(|row| rows::column(row, 0));
    let changed = changed.collect::<Result<HashSet<i64>, _>>()?;
    if !changed.is_empty() {
        shared.work_committed();
        // Some may have deadlines.
        shared.wakeups.notify_timers();
    }
    Ok(changed)
}

/// Finds the oldest matching orders, one more than a call takes.
async fn matching(pool: &ClassPool, query: &RedriveQuery) -> Result<Vec<i64>, PgFailure> {
    let below = match query.created_before {
        Some(time) => id_range::first_id_created(pool, Created::NotBefore(time)).await?,
        None => None,
    };
    let below = below.unwrap_or(i64::MAX);
    let table = listing::table_of(query.status);
    let limit = rows::limit(SWEEP_ORDERS_MAX + 1);
    let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&below, Type::INT8),
        (&query.created_before, Type::TIMESTAMPTZ),
        (&limit, Type::INT8),
    ];
    // Compared as rows, so that no other index provides the order.
    let (range, oldest_first) = match &query.user_id {
        None => ("order_id < $1", "order_id"),
        Some(user_id) => {
            parameters.push((user_id, Type::INT8));
            parameters.push((&query.user_name, Type::TEXT));
            (
                "(user_id, order_id) >= ($4, 0) and (user_id, order_id) < ($4, $1) and (
                     select user_name is not distinct from $5 from orderly.orders where orders.order_id = ended.order_id)",
                "user_id, order_id",
            )
        }
    };
    let statement = format!(
        "select order_id from {table} as ended
         where {range} and ($2::timestamptz is null or (
             select created_at from orderly.orders where orders.order_id = ended.order_id) < $2)
         order by {oldest_first} limit $3"
    );
    let found = pool.read(&statement, &parameters).await?;
    found.iter().map(|row| rows::column(row, 0)).collect()
}
