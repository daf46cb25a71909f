//! Holds and releases orders, and moves scheduled orders into their line.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::bisection::Bisection;
use super::class_pool::ClassPool;
use super::failure::PgFailure;
use super::locked_change::{Change, Open};
use super::locked_orders::LockRetry;
use super::shared::Shared;
use super::{locked_change, query, rows};
use crate::event::EventDetail;
use crate::order::{Order, OrderId, OrderStatus, Reason};
use crate::store::Acted;
use crate::store::columns::order_columns;
use crate::store::hold::{Fired, TIMERS_FIRED_MAX, holds, releases, unchanged};

const HOLD: &str = concat!(
    include_str!("lock_orders.sql"),
    include_str!("hold.sql"),
    "select ",
    order_columns!(),
    " from changed"
);
const RELEASE: &str = concat!(
    include_str!("lock_orders.sql"),
    include_str!("release.sql"),
    "select ",
    order_columns!(),
    " from changed"
);

pub(super) async fn hold(
    pool: &ClassPool,
    shared: &Shared,
    id: OrderId,
    reason: Option<Reason>,
) -> Result<Acted, PgFailure> {
    change(pool, shared, id, HOLD, Open::NotHeld, reason, holds).await
}

pub(super) async fn release(
    pool: &ClassPool,
    shared: &Shared,
    id: OrderId,
    reason: Option<Reason>,
) -> Result<Acted, PgFailure> {
    change(pool, shared, id, RELEASE, Open::Held, reason, releases).await
}

async fn change(
    pool: &ClassPool,
    shared: &Shared,
    id: OrderId,
    statement: &str,
    open: Open,
    reason: Option<Reason>,
    changes: impl Fn(&Order) -> bool,
) -> Result<Acted, PgFailure> {
    let detail = EventDetail::of_reason(reason);
    let change = Change {
        statement,
        statuses: &[OrderStatus::Pending],
        open,
        detail: &detail,
        text: detail.reason.as_ref().map(Reason::as_str),
    };
    let mut retry = LockRetry::new();
    loop {
        if let Some(order) = locked_change::change_one(pool, shared, &change, id).await? {
            shared.work_committed();
            shared.wakeups.notify_timers();
            return Ok(Acted::Done(order));
        }
        match query::order(pool, id).await? {
            None => return Ok(Acted::Unknown),
            Some(order) if changes(&order) => retry.wait(id, &shared.locked).await?,
            Some(order) => {
                pool.confirm_reads().await?;
                return Ok(unchanged(order));
            }
        }
    }
}

/// Moves the scheduled orders that are due.
pub(super) async fn fire_timers(
    pool: &ClassPool,
    shared: &Shared,
    except: &[OrderId],
) -> Result<Fired, PgFailure> {
    let mut except: Vec<i64> = except.iter().map(|id| id.0).collect();
    let limit = rows::limit(TIMERS_FIRED_MAX);
    let found = pool
        .read(
            "select order_id from orderly.set_aside
             where held_at is null and start_after <= (select clock_timestamp()) and order_id <> all ($1)
             order by start_after, order_id limit $2",
            &[(&except, Type::INT8_ARRAY), (&limit, Type::INT8)],
        )
        .await?;
    let due = found.iter().map(|row| rows::column(row, 0));
    let due: Vec<i64> = due.collect::<Result<_, _>>()?;
    let mut entered = 0;
    let mut bisection = Bisection::of(due);
    while let Some(part) = bisection.next_part() {
        match enter_lines(pool, shared, &part).await {
            Ok(moved) => entered += moved,
            // When the database refuses even an empty set, none of the orders is to blame.
            Err(failure) if failure.may_concern_one_call() && bisection.is_whole() => {
                enter_lines(pool, shared, &[]).await?;
                bisection.split_refused(part, failure)?;
            }
            Err(failure) => bisection.split_refused(part, failure)?,
        }
    }
    let refused = bisection.refused("move a scheduled order");
    except.extend(refused.iter().map(|order| order.order_id.0));
    // An order that is due and still there was locked by another session, or fell due meanwhile.
    let next = pool
        .read(
            "select (extract(epoch from start_after - clock_timestamp()) * 1000000)::int8 from orderly.set_aside
             where held_at is null and order_id <> all ($1)
             order by start_after, order_id limit 1",
            &[(&except, Type::INT8_ARRAY)],
        )
        .await?;
    let next = next.first().map(|row| rows::column::<i64>(row, 0)).transpose()?;
    Ok(Fired {
        entered,
        refused,
        next_in: next.map(|micros| Duration::from_micros(micros.max(0).cast_unsigned())),
    })
}

/// Moves those of the orders that are due, and returns their number.
async fn enter_lines(pool: &ClassPool, shared: &Shared, ids: &[i64]) -> Result<usize, PgFailure> {
    let slot = Shared::random_counter_slot();
    let moved = pool
        .execute_once(
            include_str!("enter_lines.sql"),
            &[(&ids, Type::INT8_ARRAY), (&slot, Type::INT2)],
        )
        .await;
    let moved = moved.inspect_err(|failure| shared.note_possible_commit(failure))?;
    if !moved.is_empty() {
        shared.work_available();
    }
    Ok(moved.len())
}
