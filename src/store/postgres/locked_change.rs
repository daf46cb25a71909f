//! Changes orders for an operator: one statement locks them (its head is `lock_orders.sql`) and changes them.

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::class_pool::ClassPool;
use super::failure::PgFailure;
use super::shared::Shared;
use super::{probe, rows};
use crate::event::EventDetail;
use crate::order::{Order, OrderId, OrderStatus};
use crate::store::codes;

/// Changes the orders whose status allows it. Orders that another session has locked have no row in the answer.
pub(super) async fn change(
    pool: &ClassPool,
    shared: &Shared,
    statement: &str,
    ids: &[i64],
    detail: &EventDetail,
    changes: impl Fn(OrderStatus) -> bool,
) -> Result<Vec<Row>, PgFailure> {
    let slot = Shared::random_counter_slot();
    // A change that applies to running orders applies to every open order; the other one only to orders in backoff.
    let all_open = changes(OrderStatus::Processing);
    let statuses = OrderStatus::ALL.into_iter().filter(|status| changes(*status));
    let statuses: Vec<i16> = statuses.map(codes::stored_status_code).collect();
    let stored_detail = detail.to_stored();
    let parameters: [(&(dyn ToSql + Sync), Type); 6] = [
        (&ids, Type::INT8_ARRAY),
        (&slot, Type::INT2),
        (&statuses, Type::INT2_ARRAY),
        (&all_open, Type::BOOL),
        (&stored_detail, Type::TEXT),
        (&detail.same_key, Type::BOOL),
    ];
    let answer = pool.execute_once(statement, &parameters).await;
    answer.inspect_err(|failure| shared.note_possible_commit(failure))
}

/// Changes one order with a statement that returns its columns. `None` when nothing changed.
pub(super) async fn change_one(
    pool: &ClassPool,
    shared: &Shared,
    statement: &str,
    id: OrderId,
    detail: &EventDetail,
    changes: impl Fn(OrderStatus) -> bool,
) -> Result<Option<Order>, PgFailure> {
    match change(pool, shared, statement, &[id.0], detail, changes).await {
        Ok(found) => found.first().map(rows::order).transpose(),
        Err(failure) => Err(probe::refusal_if_store_works(failure, &mut pool.connection()).await),
    }
}
