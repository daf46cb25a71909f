//! Taking out orders that ended long ago, with their events.

use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::failure::Failure;
use super::links::Links;
use super::message::with_numbers;
use super::rows;
use super::settle::micros;
use super::shared::Shared;
use super::{ACCEPT_TIME_MAX, PRUNE_LOCK};
use crate::order::OrderId;
use crate::store::{PRUNE_EVENTS_MAX, PRUNE_ORDERS_MAX, Prune, Pruned};

/// A step that is sent twice, because its answer was lost, does no harm: the second finds what the first left.
pub(super) async fn prune(links: &Links, request: &Prune) -> Result<Pruned, Failure> {
    let numbers = [
        (":lock", PRUNE_LOCK),
        (":after", request.after.map_or(0, |after| after.0)),
        (":older_micros", micros(request.older_than).min(OLDEST_MICROS)),
        (":accept_micros", micros(ACCEPT_TIME_MAX)),
        (":orders_max", rows::limit(PRUNE_ORDERS_MAX)),
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
