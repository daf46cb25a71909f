//! Cancels an order.

use super::class_pool::ClassPool;
use super::failure::PgFailure;
use super::locked_change::{Change, Open};
use super::locked_orders::LockRetry;
use super::shared::Shared;
use super::{locked_change, query};
use crate::event::{EventDetail, EventKind};
use crate::order::{OrderId, OrderStatus, Reason};
use crate::store::Acted;
use crate::store::cancel::changes;
use crate::store::columns::order_columns;

const CANCEL: &str = concat!(
    include_str!("lock_orders.sql"),
    include_str!("cancel.sql"),
    "select ",
    order_columns!(),
    " from changed"
);

pub(super) async fn cancel(
    pool: &ClassPool,
    shared: &Shared,
    id: OrderId,
    reason: Option<Reason>,
) -> Result<Acted, PgFailure> {
    let detail = EventDetail::of_reason(reason);
    let change = Change {
        statement: CANCEL,
        statuses: &OrderStatus::ALL
            .into_iter()
            .filter(|status| changes(*status))
            .collect::<Vec<_>>(),
        open: Open::All,
        detail: &detail,
        text: None,
    };
    let mut retry = LockRetry::new();
    loop {
        if let Some(order) = locked_change::change_one(pool, shared, &change, id).await? {
            shared.events_committed();
            shared.orders_ended([id]);
            return Ok(Acted::Done(order));
        }
        match query::order(pool, id).await? {
            None => return Ok(Acted::Unknown),
            Some(order) if changes(order.status) => retry.wait(id, &shared.locked).await?,
            Some(order) => {
                pool.confirm_reads().await?;
                return Ok(Acted::unchanged(order, EventKind::Cancelled));
            }
        }
    }
}
