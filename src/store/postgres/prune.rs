//! Taking out orders that ended long ago, with their events.

use tokio_postgres::types::Type;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::created::ACCEPT_TIME_MAX;
use super::failure::Failure;
use super::links::Links;
use super::locks::PRUNE_LOCK;
use super::message::with_numbers;
use super::rows;
use super::settle::micros;
use super::shared::Shared;
use crate::order::OrderId;
use crate::store::{PRUNE_EVENTS_MAX, PRUNE_ORDERS_MAX, Prune, Pruned};

/// One step. Where the database refuses it for what may be one order's fault, the step is halved until it is stored or is one
/// order alone, which is then stepped around.
pub(super) async fn prune(links: &Links, request: &Prune) -> Result<Pruned, Failure> {
    let mut orders_max = PRUNE_ORDERS_MAX;
    loop {
        let failure = match step(links, request, orders_max).await {
            Err(failure) if failure.may_be_of_one() => failure,
            pruned => return pruned,
        };
        if orders_max == PRUNE_ORDERS_MAX {
            // Where the database refuses to take out no order, none of them is to blame.
            step(links, request, 0).await?;
        }
        if orders_max == 1 {
            return step_around(links, request, &failure).await;
        }
        orders_max /= 2;
    }
}

/// Leaves the next order where it is.
async fn step_around(links: &Links, request: &Prune, failure: &Failure) -> Result<Pruned, Failure> {
    let after = request.after.map_or(0, |after| after.0);
    let next = links
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
        refused: vec![failure.of_order(order_id, "take out an order")],
    })
}

/// A step that is sent twice, because its answer was lost, does no harm: the second finds what the first left.
async fn step(links: &Links, request: &Prune, orders_max: usize) -> Result<Pruned, Failure> {
    let numbers = [
        (":lock", PRUNE_LOCK),
        (":after", request.after.map_or(0, |after| after.0)),
        (":older_micros", micros(request.older_than).min(OLDEST_MICROS)),
        (":accept_micros", micros(ACCEPT_TIME_MAX)),
        (":orders_max", rows::limit(orders_max)),
        (":events_max", rows::limit(PRUNE_EVENTS_MAX)),
        (":slot", Shared::any_slot().into()),
    ];
    let message = with_numbers(include_str!("prune.sql"), &numbers);
    let answer = links.flight(&message).await?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) if row.columns().iter().any(|column| column.name() == "pruned") => {
            Some(row)
        }
        _ => None,
    });
    let row = row.ok_or_else(|| Failure::undecodable("a step of retention", "no row"))?;
    let orders = number(row, "pruned")?.unwrap_or(0);
    Ok(Pruned {
        orders: usize::try_from(orders).map_err(|_| Failure::undecodable("orders taken out", orders))?,
        next: number(row, "next")?.map(OrderId),
        refused: Vec::new(),
    })
}

/// A thousand years: still a time that the server knows.
const OLDEST_MICROS: i64 = 1_000 * 365 * 24 * 3_600 * 1_000_000;

fn number(row: &SimpleQueryRow, name: &str) -> Result<Option<i64>, Failure> {
    let text = row
        .try_get(name)
        .map_err(|error| Failure::undecodable("a step of retention", error))?;
    let number = |text: &str| {
        text.parse()
            .map_err(|_| Failure::undecodable("a number of a step of retention", text))
    };
    text.map(number).transpose()
}
