//! Moves scheduled orders into their line, and marks orders whose deadline has passed.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::bisection::Bisection;
use super::class_pool::ClassPool;
use super::failure::PgFailure;
use super::locked_change::{Change, Open};
use super::shared::Shared;
use super::{locked_change, rows};
use crate::event::EventDetail;
use crate::order::{OrderId, OrderStatus};
use crate::store::RefusedOrder;
use crate::store::timers::{Fired, TIMERS_FIRED_MAX};

const OVERDUE: &str = concat!(include_str!("lock_orders.sql"), include_str!("overdue.sql"));

/// A kind of timers.
#[derive(Clone, Copy)]
enum Timers {
    Scheduled,
    Deadlines,
}

impl Timers {
    /// The orders whose time has come, and then the time until the next one, in microseconds; $1: ids to leave out.
    fn statements(self) -> (&'static str, &'static str) {
        match self {
            Timers::Scheduled => (
                "select order_id from orderly.set_aside
                 where held_at is null and start_after <= (select clock_timestamp()) and order_id <> all ($1)
                 order by start_after, order_id limit $2",
                "select (extract(epoch from start_after - clock_timestamp()) * 1000000)::int8 from orderly.set_aside
                 where held_at is null and order_id <> all ($1)
                 order by start_after, order_id limit 1",
            ),
            Timers::Deadlines => (
                "select order_id from orderly.deadlines
                 where deadline <= (select clock_timestamp()) and order_id <> all ($1)
                 order by deadline, order_id limit $2",
                "select (extract(epoch from deadline - clock_timestamp()) * 1000000)::int8 from orderly.deadlines
                 where order_id <> all ($1)
                 order by deadline, order_id limit 1",
            ),
        }
    }

    /// Changes those of the orders that are due, and returns their number.
    async fn fire(self, pool: &ClassPool, shared: &Shared, ids: &[i64]) -> Result<usize, PgFailure> {
        match self {
            Timers::Scheduled => enter_lines(pool, shared, ids).await,
            Timers::Deadlines => mark_overdue(pool, shared, ids).await,
        }
    }

    fn attempted(self) -> &'static str {
        match self {
            Timers::Scheduled => "move a scheduled order",
            Timers::Deadlines => "mark an overdue order",
        }
    }
}

/// Changes the orders whose time has come.
pub(super) async fn fire(pool: &ClassPool, shared: &Shared, except: &[OrderId]) -> Result<Fired, PgFailure> {
    let except: Vec<i64> = except.iter().map(|id| id.0).collect();
    let scheduled = fire_some(Timers::Scheduled, pool, shared, except.clone()).await?;
    let deadlines = fire_some(Timers::Deadlines, pool, shared, except).await?;
    shared.metrics.orders_overdue.inc_by(deadlines.changed as u64);
    Ok(Fired {
        entered: scheduled.changed,
        overdue: deadlines.changed,
        refused: [scheduled.refused, deadlines.refused].concat(),
        next_in: scheduled.next_in.into_iter().chain(deadlines.next_in).min(),
    })
}

/// The orders of one kind whose time had come.
struct FiredKind {
    changed: usize,
    refused: Vec<RefusedOrder>,
    next_in: Option<Duration>,
}

async fn fire_some(
    timers: Timers,
    pool: &ClassPool,
    shared: &Shared,
    mut except: Vec<i64>,
) -> Result<FiredKind, PgFailure> {
    let (due, next) = timers.statements();
    let limit = rows::limit(TIMERS_FIRED_MAX);
    let found = pool
        .read(due, &[(&except, Type::INT8_ARRAY), (&limit, Type::INT8)])
        .await?;
    let due = found.iter().map(|row| rows::column(row, 0));
    let due: Vec<i64> = due.collect::<Result<_, _>>()?;
    let mut changed = 0;
    let mut bisection = Bisection::of(due);
    while let Some(part) = bisection.next_part() {
        match timers.fire(pool, shared, &part).await {
            Ok(some) => changed += some,
            // When the database refuses even an empty set, none of the orders is to blame.
            Err(failure) if failure.may_concern_one_call() && bisection.is_whole() => {
                timers.fire(pool, shared, &[]).await?;
                bisection.split_refused(part, failure)?;
            }
            Err(failure) => bisection.split_refused(part, failure)?,
        }
    }
    let refused = bisection.refused(timers.attempted());
    except.extend(refused.iter().map(|order| order.order_id.0));
    // An order that is due and still there was locked by another session, or fell due meanwhile.
    let next = pool.read(next, &[(&except, Type::INT8_ARRAY)]).await?;
    let next = next.first().map(|row| rows::column::<i64>(row, 0)).transpose()?;
    Ok(FiredKind {
        changed,
        refused,
        next_in: next.map(|micros| Duration::from_micros(micros.max(0).cast_unsigned())),
    })
}

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

async fn mark_overdue(pool: &ClassPool, shared: &Shared, ids: &[i64]) -> Result<usize, PgFailure> {
    let change = Change {
        statement: OVERDUE,
        statuses: &[OrderStatus::Pending, OrderStatus::Processing],
        open: Open::Late,
        detail: &EventDetail::default(),
        text: None,
    };
    let marked = locked_change::change(pool, shared, &change, ids).await?;
    if !marked.is_empty() {
        shared.events_committed();
    }
    if marked.len() < ids.len() {
        pool.execute_once(include_str!("forget_deadlines.sql"), &[(&ids, Type::INT8_ARRAY)])
            .await?;
    }
    Ok(marked.len())
}
