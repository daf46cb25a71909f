//! Orders that an operator changes: one statement locks them, by its head `held.sql`, and changes them.

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::failure::Failure;
use super::links::Links;
use super::shared::Shared;
use super::{probe, rows};
use crate::order::{Order, OrderId, OrderStatus};
use crate::store::codes;

/// Changes those of the orders that can be changed from their status. Those that another session has locked have no row in the
/// answer.
pub(super) async fn change(
    links: &Links,
    shared: &Shared,
    statement: &str,
    ids: &[i64],
    changes: impl Fn(OrderStatus) -> bool,
) -> Result<Vec<Row>, Failure> {
    let slot = Shared::any_slot();
    // A change of running orders is one of any open order; the other one is of those that back off.
    let all_open = changes(OrderStatus::Processing);
    let statuses = OrderStatus::ALL.into_iter().filter(|status| changes(*status));
    let statuses: Vec<i16> = statuses.map(codes::stored_status_code).collect();
    let parameters: [(&(dyn ToSql + Sync), Type); 4] = [
        (&ids, Type::INT8_ARRAY),
        (&slot, Type::INT2),
        (&statuses, Type::INT2_ARRAY),
        (&all_open, Type::BOOL),
    ];
    let answer = links.once(statement, &parameters).await;
    answer.inspect_err(|failure| shared.unsure(failure))
}

/// Changes one order, for a statement that answers with its columns.
pub(super) async fn change_one(
    links: &Links,
    shared: &Shared,
    statement: &str,
    id: OrderId,
    changes: impl Fn(OrderStatus) -> bool,
) -> Result<Option<Order>, Failure> {
    match change(links, shared, statement, &[id.0], changes).await {
        Ok(found) => found.first().map(rows::order).transpose(),
        Err(failure) => Err(probe::judged(failure, &mut links.link()).await),
    }
}
