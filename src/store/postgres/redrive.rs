//! Redriving orders: one, or many that match.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::types::{ToSql, Type};

use super::created::{self, Created};
use super::failure::Failure;
use super::halves::Halves;
use super::links::Links;
use super::locked::Patience;
use super::shared::Shared;
use super::{held, listing, query, rows};
use crate::event::EventKind;
use crate::order::{OrderId, OrderStatus};
use crate::store::columns::order_columns;
use crate::store::redrive::changes;
use crate::store::{Acted, RedriveQuery, Redriven, RefusedChange, SWEEP_ORDERS_MAX, tell_refused};

const REDRIVE: &str = concat!(
    include_str!("held.sql"),
    include_str!("redrive.sql"),
    "select ",
    order_columns!(),
    " from changed"
);
const REDRIVE_MANY: &str = concat!(
    include_str!("held.sql"),
    include_str!("redrive.sql"),
    "select order_id from changed"
);

pub(super) async fn redrive(links: &Links, shared: &Shared, id: OrderId) -> Result<Acted, Failure> {
    let mut patience = Patience::new();
    loop {
        let redriven = held::change_one(links, shared, REDRIVE, id, |status| changes(status, true));
        if let Some(order) = redriven.await? {
            shared.changed_with_work();
            return Ok(Acted::Done(order));
        }
        let Some(order) = query::order(links, id).await? else {
            return Ok(Acted::Unknown);
        };
        if !changes(order.status, backs_off(links, id).await?) {
            links.confirmed().await?;
            return Ok(Acted::unchanged(order, EventKind::Redriven));
        }
        patience.wait(id, &shared.locked).await?;
    }
}

/// Reports whether an order waits for a time to come, by the database's clock.
async fn backs_off(links: &Links, id: OrderId) -> Result<bool, Failure> {
    let statement =
        "select from orderly.order_state where order_id = $1 and status = 0 and due_at > clock_timestamp()";
    let found = links.read(statement, &[(&id.0, Type::INT8)]).await?;
    Ok(!found.is_empty())
}

/// Looks at orders that a redrive of many found locked: a claim of a node holds them for a moment only.
const REDRIVE_LOOKS: usize = 3;
const REDRIVE_PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn redrive_matching(
    links: &Links,
    shared: &Shared,
    query: &RedriveQuery,
) -> Result<Redriven, Failure> {
    let mut left = matching(links, query).await?;
    let mut redriven = Redriven::of_matching(&mut left);
    if query.dry_run {
        return Ok(redriven);
    }
    let mut refused = Vec::new();
    for look in 0..REDRIVE_LOOKS {
        if left.is_empty() {
            break;
        }
        if look > 0 {
            sleep(REDRIVE_PAUSE).await;
        }
        let mut halves = Halves::of(std::mem::take(&mut left));
        while let Some(some) = halves.next() {
            let failed = match redrive_some(links, shared, &some, query.status).await {
                Ok(changed) => {
                    redriven.retried += changed.len();
                    left.extend(some.into_iter().filter(|id| !changed.contains(id)));
                    continue;
                }
                // Where the database refuses to redrive no order, none of them is to blame.
                Err(failure) if failure.may_be_of_one() && halves.is_whole() => {
                    let without_orders = redrive_some(links, shared, &[], query.status).await;
                    without_orders.and_then(|_| halves.failed(some, failure))
                }
                Err(failure) => halves.failed(some, failure),
            };
            match failed {
                Ok(()) => {}
                Err(failure) if redriven.retried == 0 => return Err(failure),
                // The parts before are stored, and are the answer.
                Err(_) => return Ok(redriven),
            }
        }
        refused.extend(halves.refused("redrive an order"));
    }
    tell_refused(RefusedChange::Redrive, &refused);
    Ok(redriven)
}

/// Redrives those that still have the status, and answers with them.
async fn redrive_some(
    links: &Links,
    shared: &Shared,
    ids: &[i64],
    status: OrderStatus,
) -> Result<HashSet<i64>, Failure> {
    let afresh = |found| found == status && changes(found, false);
    let found = held::change(links, shared, REDRIVE_MANY, ids, afresh).await?;
    let changed = found.iter().map(|row| rows::column(row, 0));
    let changed = changed.collect::<Result<HashSet<i64>, _>>()?;
    if !changed.is_empty() {
        shared.changed_with_work();
    }
    Ok(changed)
}

/// The oldest matching orders, one more than a call takes.
async fn matching(links: &Links, query: &RedriveQuery) -> Result<Vec<i64>, Failure> {
    let below = match query.created_before {
        Some(time) => created::first_created(links, Created::NotBefore(time)).await?,
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
    // Compared as rows, so that no other index gives the order.
    let (range, oldest_first) = match &query.user_id {
        None => ("order_id < $1", "order_id"),
        Some(user_id) => {
            parameters.push((user_id, Type::INT8));
            (
                "(user_id, order_id) >= ($4, 0) and (user_id, order_id) < ($4, $1)",
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
    let found = links.read(&statement, &parameters).await?;
    found.iter().map(|row| rows::column(row, 0)).collect()
}
