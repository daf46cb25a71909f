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

/// A change of orders.
pub(super) struct Change<'c> {
    pub statement: &'c str,
    /// The statuses that allow it.
    pub statuses: &'c [OrderStatus],
    /// The open orders that it changes, if their statuses are among these.
    pub open: Open,
    pub detail: &'c EventDetail,
    /// The reason of a hold, or the name of a milestone.
    pub text: Option<&'c str>,
}

/// Some of the open orders; the numbers are those of `lock_orders.sql`.
#[derive(Clone, Copy)]
pub(super) enum Open {
    /// Pending ones in backoff or scheduled.
    WaitForTime = 0,
    All = 1,
    /// Pending ones that are not held.
    NotHeld = 2,
    Held = 3,
    /// Pending ones, held or not.
    Waiting = 4,
    /// Those whose deadline has passed.
    Late = 5,
}

/// Changes the orders whose status allows it. Orders that another session has locked have no row in the answer.
pub(super) async fn change(
    pool: &ClassPool,
    shared: &Shared,
    change: &Change<'_>,
    ids: &[i64],
) -> Result<Vec<Row>, PgFailure> {
    let slot = Shared::random_counter_slot();
    let statuses: Vec<i16> = change
        .statuses
        .iter()
        .map(|status| codes::stored_status_code(*status))
        .collect();
    let open = change.open as i16;
    let stored_detail = change.detail.to_stored();
    let parameters: [(&(dyn ToSql + Sync), Type); 8] = [
        (&ids, Type::INT8_ARRAY),
        (&slot, Type::INT2),
        (&statuses, Type::INT2_ARRAY),
        (&open, Type::INT2),
        (&stored_detail, Type::TEXT),
        (&change.detail.same_key, Type::BOOL),
        (&change.text, Type::TEXT),
        // Only amendments ask for a version.
        (&None::<i32>, Type::INT4),
    ];
    let answer = pool.execute_once(change.statement, &parameters).await;
    answer.inspect_err(|failure| shared.note_possible_commit(failure))
}

/// Changes one order with a statement that returns its columns. `None` when nothing changed.
pub(super) async fn change_one(
    pool: &ClassPool,
    shared: &Shared,
    one: &Change<'_>,
    id: OrderId,
) -> Result<Option<Order>, PgFailure> {
    match change(pool, shared, one, &[id.0]).await {
        Ok(found) => found.first().map(rows::order).transpose(),
        Err(failure) => Err(probe::refusal_if_store_works(failure, &mut pool.connection()).await),
    }
}
