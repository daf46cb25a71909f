//! Reads whether orders flow, and what holds them up: few rows each, whatever the number of orders.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::class_pool::{ClassPool, ReadSource};
use super::failure::PgFailure;
use super::lock_holders::lock_holders;
use super::lower_bound::LowerBound;
use super::query;
use super::rows;
use super::settle::micros;
use crate::lease::NodeId;
use crate::order::OrderId;
use crate::store::vitals::{
    ACTIVITY_KEPT, ACTIVITY_WINDOW, Activity, BLOCKS_OTHERS, Blocking, FAILURES_LOOKED_AT_MAX, Failed,
    HEADS_LOOKED_AT_FROM, LongTransaction, NAMED_MAX, NAMED_TRANSACTION, RETRYING_LOOKED_AT_MAX, Retrying,
    Running, Vitals, group_failures, unanswered,
};
use crate::store::{BLOCKED_MAX, LockHolder, QueueState};

pub(super) async fn record_activity(
    pool: &ClassPool,
    node: NodeId,
    number: u64,
    activity: Activity,
) -> Result<(), PgFailure> {
    let code = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let counts = activity.to_array().map(code);
    let [
        accepted,
        started,
        completed,
        retried,
        failed,
        leases_lost,
        leases_refused,
    ] = &counts;
    pool.execute_idempotent(
        include_str!("record_activity.sql"),
        &[
            (&rows::node_code(node), Type::INT8),
            (&code(number), Type::INT8),
            (accepted, Type::INT8),
            (started, Type::INT8),
            (completed, Type::INT8),
            (retried, Type::INT8),
            (failed, Type::INT8),
            (leases_lost, Type::INT8),
            (leases_refused, Type::INT8),
            (&micros(ACTIVITY_KEPT), Type::INT8),
        ],
    )
    .await
    .map(drop)
}

/// Reads one after the other, not at one instant.
pub(super) async fn vitals(source: &impl ReadSource, lower_bound: &LowerBound) -> Result<Vitals, PgFailure> {
    let blocked_max = i64::try_from(BLOCKED_MAX).unwrap_or(i64::MAX);
    let queue = query::queue(source, lower_bound).await?;
    let found = source
        .read(
            include_str!("recent_activity.sql"),
            &[(&micros(ACTIVITY_WINDOW), Type::INT8), (&blocked_max, Type::INT8)],
        )
        .await?;
    let row = rows::only(&found)?;
    let activity = Activity {
        accepted: rows::large_count(row, 1)?,
        started: rows::large_count(row, 2)?,
        completed: rows::large_count(row, 3)?,
        retried: rows::large_count(row, 4)?,
        failed: rows::large_count(row, 5)?,
        leases_lost: rows::large_count(row, 6)?,
        leases_refused: rows::large_count(row, 7)?,
    };
    let failures = source
        .read(
            include_str!("latest_failures.sql"),
            &[(&rows::limit(FAILURES_LOOKED_AT_MAX), Type::INT8)],
        )
        .await?;
    let failures = failures.iter().map(failed).collect::<Result<Vec<_>, _>>()?;
    let read_at = rows::column(row, 0)?;
    Ok(Vitals {
        read_at,
        activity,
        oldest_running: running(row)?,
        running_outside: rows::large_count(row, 12)?,
        failures: group_failures(failures, read_at),
        blocking: if queue.blocked.orders > 0 {
            blocking(source, blocked_max).await?
        } else {
            Vec::new()
        },
        suspects: suspects(source).await?,
        unanswered: unanswered(retrying(source).await?),
        locked_orders: locked_heads(source, &queue).await?,
        transactions: transactions(source).await?,
        full_slots: full_slots(source).await?,
        queue,
    })
}

fn running(row: &Row) -> Result<Option<Running>, PgFailure> {
    let Some(order_id) = rows::column::<Option<i64>>(row, 8)? else {
        return Ok(None);
    };
    let age: i64 = rows::column(row, 10)?;
    Ok(Some(Running {
        order_id: OrderId(order_id),
        node: rows::node_of(rows::column(row, 9)?),
        age: Duration::from_micros(age.max(0).cast_unsigned()),
        outside: rows::column(row, 11)?,
    }))
}

fn failed(row: &Row) -> Result<Failed, PgFailure> {
    Ok(Failed {
        order_id: OrderId(rows::column(row, 0)?),
        error: rows::column::<Option<String>>(row, 1)?.unwrap_or_default(),
        at: rows::column(row, 2)?,
    })
}

async fn blocking(source: &impl ReadSource, blocked_max: i64) -> Result<Vec<Blocking>, PgFailure> {
    let found = source
        .read(
            include_str!("blocking.sql"),
            &[(&blocked_max, Type::INT8), (&rows::limit(NAMED_MAX), Type::INT8)],
        )
        .await?;
    let blocking = |row| {
        Ok(Blocking {
            order_id: OrderId(rows::column(row, 0)?),
            status: rows::status(row, 1)?,
            orders: rows::large_count(row, 2)?,
            backing_off: rows::column(row, 3)?,
            set_aside: rows::column(row, 4)?,
        })
    };
    found.iter().map(blocking).collect()
}

async fn retrying(source: &impl ReadSource) -> Result<Vec<Retrying>, PgFailure> {
    let found = source
        .read(
            "select o.order_id, o.attempts, o.last_error
             from (select order_id from orderly.second_line where not suspect order by due_at, order_id limit $1) as next
             join orderly.orders as o on o.order_id = next.order_id
             where o.last_error is not null",
            &[(&rows::limit(RETRYING_LOOKED_AT_MAX), Type::INT8)],
        )
        .await?;
    let retrying = |row| {
        Ok(Retrying {
            order_id: OrderId(rows::column(row, 0)?),
            attempts: rows::count(row, 1)?,
            error: rows::column(row, 2)?,
        })
    };
    found.iter().map(retrying).collect()
}

async fn suspects(source: &impl ReadSource) -> Result<Vec<OrderId>, PgFailure> {
    let found = source
        .read(
            "select order_id from orderly.second_line where suspect order by due_at, order_id limit $1",
            &[(&rows::limit(NAMED_MAX), Type::INT8)],
        )
        .await?;
    let id = |row| rows::column(row, 0).map(OrderId);
    found.iter().map(id).collect()
}

pub(super) async fn transactions(source: &impl ReadSource) -> Result<Vec<LongTransaction>, PgFailure> {
    let found = source
        .read(
            include_str!("long_transactions.sql"),
            &[
                (&micros(NAMED_TRANSACTION), Type::INT8),
                (&micros(BLOCKS_OTHERS), Type::INT8),
                (&rows::limit(NAMED_MAX), Type::INT8),
            ],
        )
        .await?;
    let transaction = |row| {
        let age: Option<i64> = rows::column(row, 3)?;
        Ok(LongTransaction {
            session: LockHolder {
                pid: rows::column(row, 0)?,
                user: rows::column(row, 1)?,
                application: rows::column(row, 2)?,
                open_for: age.map(|seconds| Duration::from_secs(seconds.max(0).cast_unsigned())),
            },
            idle: rows::column::<Option<bool>>(row, 4)?.unwrap_or_default(),
            blocks: rows::large_count(row, 5)?,
        })
    };
    found.iter().map(transaction).collect()
}

/// Finds the sessions that have locked the orders that should start next.
async fn locked_heads(
    source: &impl ReadSource,
    queue: &QueueState,
) -> Result<Vec<(OrderId, LockHolder)>, PgFailure> {
    if queue.oldest_waiting.is_none_or(|age| age < HEADS_LOOKED_AT_FROM) {
        return Ok(Vec::new());
    }
    let found = source
        .read(
            "select order_id from (select order_id from orderly.first_line order by order_id limit $1) as first
             union all
             select order_id from (
                 select order_id from orderly.second_line
                 where not suspect and due_at <= (select clock_timestamp()) order by due_at, order_id limit $1) as second",
            &[(&rows::limit(NAMED_MAX), Type::INT8)],
        )
        .await?;
    let ids: Vec<OrderId> = found
        .iter()
        .map(|row| rows::column(row, 0).map(OrderId))
        .collect::<Result<_, _>>()?;
    let locked = lock_holders(source, &ids).await?;
    Ok(locked
        .into_iter()
        .map(|locked| (locked.order, locked.holder))
        .collect())
}

/// Names replication slots without a client for which the server keeps more of its log than it would otherwise.
async fn full_slots(source: &impl ReadSource) -> Result<Vec<String>, PgFailure> {
    let found = source
        .read(
            "select slot_name::text from pg_replication_slots
             where not active and wal_status in ('extended', 'unreserved') order by slot_name limit $1",
            &[(&rows::limit(NAMED_MAX), Type::INT8)],
        )
        .await?;
    found.iter().map(|row| rows::column(row, 0)).collect()
}
