//! Adds milestones to orders.

use tokio_postgres::types::Type;

use super::class_pool::ClassPool;
use super::failure::PgFailure;
use super::locked_change::{Change, Open};
use super::locked_orders::LockRetry;
use super::shared::Shared;
use super::{locked_change, probe, query, rows};
use crate::event::EventDetail;
use crate::order::{OrderId, OrderStatus};
use crate::store::{Acted, CLIENT_EVENTS_MAX, NewMilestone};

const MILESTONE: &str = concat!(include_str!("lock_orders.sql"), include_str!("milestone.sql"));

pub(super) async fn add(
    pool: &ClassPool,
    shared: &Shared,
    id: OrderId,
    new: &NewMilestone,
) -> Result<Acted, PgFailure> {
    let detail = EventDetail {
        reason: new.reason.clone(),
        milestone: Some(new.milestone.clone()),
        ..EventDetail::default()
    };
    let change = Change {
        statement: MILESTONE,
        statuses: &OrderStatus::ALL,
        open: Open::All,
        detail: &detail,
        text: Some(new.milestone.name.as_str()),
    };
    let mut retry = LockRetry::new();
    loop {
        let Some(order) = query::order(pool, id).await? else {
            return Ok(Acted::Unknown);
        };
        // Its events are no more than its version.
        if order.version >= CLIENT_EVENTS_MAX && made_by_clients(pool, id).await? >= CLIENT_EVENTS_MAX.into()
        {
            return Ok(Acted::TooManyEvents(order));
        }
        let changed = match locked_change::change(pool, shared, &change, &[id.0]).await {
            Ok(changed) => changed,
            Err(failure) => {
                return Err(probe::refusal_if_store_works(failure, &mut pool.connection()).await);
            }
        };
        if changed.is_empty() {
            retry.wait(id, &shared.locked).await?;
            continue;
        }
        shared.events_committed();
        let order = query::order(pool, id).await.map_err(PgFailure::after_commit)?;
        return Ok(order.map_or(Acted::Unknown, Acted::Done));
    }
}

/// Counts the order's events that clients made.
pub(super) async fn made_by_clients(pool: &ClassPool, id: OrderId) -> Result<u64, PgFailure> {
    let counted = pool
        .read(
            "select count(*)::int8 from orderly.order_events where order_id = $1 and kind in (7, 8, 9, 10, 11, 12)",
            &[(&id.0, Type::INT8)],
        )
        .await?;
    rows::large_count(rows::only(&counted)?, 0)
}
