//! Holds and releases orders.

use super::class_pool::ClassPool;
use super::failure::PgFailure;
use super::locked_change::{Change, Open};
use super::locked_orders::LockRetry;
use super::shared::Shared;
use super::{locked_change, query};
use crate::event::EventDetail;
use crate::order::{Order, OrderId, OrderStatus, Reason};
use crate::store::Acted;
use crate::store::columns::order_columns;
use crate::store::hold::{holds, releases, unchanged};

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
