//! Cancelling an order.

use super::failure::Failure;
use super::links::Links;
use super::locked::Patience;
use super::shared::Shared;
use super::{held, query};
use crate::event::EventKind;
use crate::order::OrderId;
use crate::store::Acted;
use crate::store::cancel::changes;
use crate::store::columns::order_columns;

const CANCEL: &str = concat!(
    include_str!("held.sql"),
    include_str!("cancel.sql"),
    "select ",
    order_columns!(),
    " from changed"
);

pub(super) async fn cancel(links: &Links, shared: &Shared, id: OrderId) -> Result<Acted, Failure> {
    let mut patience = Patience::new();
    loop {
        if let Some(order) = held::change_one(links, shared, CANCEL, id, changes).await? {
            shared.changed();
            shared.ended([id]);
            return Ok(Acted::Done(order));
        }
        match query::order(links, id).await? {
            None => return Ok(Acted::Unknown),
            Some(order) if changes(order.status) => patience.wait(id, &shared.locked).await?,
            Some(order) => {
                links.confirmed().await?;
                return Ok(Acted::unchanged(order, EventKind::Cancelled));
            }
        }
    }
}
