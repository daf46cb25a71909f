//! Removes orders that ended long ago, with their events.

use tokio_postgres::types::Type;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::advisory_locks::PRUNE_LOCK;
use super::class_pool::ClassPool;
use super::failure::PgFailure;
use super::id_range::ACCEPT_TIME_MAX;
use super::message::with_numbers;
use super::rows;
use super::settle::micros;
use super::shared::Shared;
use crate::order::OrderId;
use crate::store::{PRUNE_EVENTS_MAX, PRUNE_ORDERS_MAX, Prune, Pruned};

/// Removes the orders of one step. When the database refuses it and one order may be to blame, the step is halved
/// until it succeeds or is a single order, which is stepped around.
pub(super) async fn prune(pool: &ClassPool, request: &Prune) -> Result<Pruned, PgFailure> {
    let mut orders_max = PRUNE_ORDERS_MAX;
    loop {
        let failure = match step(pool, request, orders_max).await {
            Err(failure) if failure.may_concern_one_call() => failure,
            pruned => return pruned,
        };
        if orders_max == PRUNE_ORDERS_MAX {
            // When the database refuses even an empty step, no order is to blame.
            step(pool, request, 0).await?;
        }
        if orders_max == 1 {
            return step_around(pool, request, &failure).await;
        }
        orders_max /= 2;
    }
}

/// Skips the next order.
async fn step_around(pool: &ClassPool, request: &Prune, failure: &PgFailure) -> Result<Pruned, PgFailure> {
    let after = request.after.map_or(0, |after| after.0);
    let next = pool
        .read(
            "select order_id from orderly.orders where order_id > $1 order by order_id limit 1",
            &[(&after, Type::INT8)],
        )
        .await?;
    let Some(row) = next.first() else {
        return Ok(Pruned::default());
    };
    let order_id = OrderId(rows::column(row, 0)?);
    Ok(Pruned {
        orders: 0,
        next: Some(order_id),
        refused: vec![failure.refusal_of_order(order_id, "remove an order")],
    })
}

/// Runs a step. Running twice does no harm: the second run finds what the first left.
async fn step(pool: &ClassPool, request: &Prune, orders_max: usize) -> Result<Pruned, PgFailure> {
    let numbers = [
        (":lock", PRUNE_LOCK),
        (":after", request.after.map_or(0, |after| after.0)),
        (":older_micros", micros(request.older_than).min(OLDEST_MICROS)),
        (":accept_micros", micros(ACCEPT_TIME_MAX)),
        (":orders_max", rows::limit(orders_max)),
        (":events_max", rows::limit(PRUNE_EVENTS_MAX)),
        (":slot", Shared::random_counter_slot().into()),
    ];
    let message = with_numbers(include_str!("prune.sql"), &numbers);
    let answer = pool.send_message(&message).await?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) if row.columns().iter().any(|column| column.name() == "pruned") => {
            Some(row)
        }
        _ => None,
    });
    let row = row.ok_or_else(|| PgFailure::undecodable("a step of retention", "no row"))?;
    let orders = number(row, "pruned")?.unwrap_or(0);
    Ok(Pruned {
        orders: usize::try_from(orders)
            .map_err(|_| PgFailure::undecodable("the number of removed orders", orders))?,
        next: number(row, "next")?.map(OrderId),
        refused: Vec::new(),
    })
}

/// The greatest age in microseconds: a thousand years, within the range of the server's times.
const OLDEST_MICROS: i64 = 1_000 * 365 * 24 * 3_600 * 1_000_000;

fn number(row: &SimpleQueryRow, name: &str) -> Result<Option<i64>, PgFailure> {
    let text = row
        .try_get(name)
        .map_err(|error| PgFailure::undecodable("a step of retention", error))?;
    let number = |text: &str| {
        text.parse()
            .map_err(|_| PgFailure::undecodable("a number of a step of retention", text))
    };
    text.map(number).transpose()
}
