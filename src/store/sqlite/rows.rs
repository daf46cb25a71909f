//! Converts between rows and domain types.

use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use crate::event::{Event, EventKind};
use crate::lease::{NodeId, ProcessorKind};
use crate::money::Money;
use crate::order::{
    BATCH_ORDERS_MAX, ItemIds, NewOrder, Order, OrderId, OrderStatus, Ordering, Reason, Reference,
};
use crate::portable_json::JsonText;
use crate::store::{Breaker, codes};
use crate::time::Timestamp;

/// Reads an order from the columns [`crate::store::columns::order_columns`].
pub(super) fn order(row: &Row<'_>) -> Result<Order, rusqlite::Error> {
    let status: OrderStatus = row.get(1)?;
    let due_at: Option<Timestamp> = row.get(8)?;
    Ok(Order {
        order_id: row.get(0)?,
        status,
        version: row.get(2)?,
        attempts: row.get(3)?,
        generation: row.get(4)?,
        created_at: row.get(5)?,
        processing_at: row.get(6)?,
        finished_at: row.get(7)?,
        next_attempt_at: due_at.filter(|_| status == OrderStatus::Pending),
        request: NewOrder {
            user_id: row.get(9)?,
            total_amount: row.get(10)?,
            item_ids: row.get(11)?,
            reference: row.get(12)?,
            metadata: row.get(14)?,
        },
        last_error: row.get(13)?,
        result: row.get::<_, Option<String>>(15)?.map(JsonText::from_stored),
    })
}

/// Reads an event from the columns [`crate::store::columns::EVENT_COLUMNS`].
pub(super) fn event(row: &Row<'_>) -> Result<Event, rusqlite::Error> {
    Ok(Event {
        order_id: row.get(0)?,
        version: row.get(1)?,
        kind: row.get(2)?,
        status: row.get(3)?,
        at: row.get(4)?,
        attempt: row.get(5)?,
        node: row.get(6)?,
        error: row.get(7)?,
    })
}

fn decoded<T>(value: ValueRef<'_>, of: impl Fn(i64) -> Option<T>) -> FromSqlResult<T> {
    let code = value.as_i64()?;
    of(code).ok_or(FromSqlError::OutOfRange(code))
}

impl ToSql for OrderStatus {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(codes::status_code(*self)))
    }
}

impl FromSql for OrderStatus {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<OrderStatus> {
        decoded(value, codes::status_of)
    }
}

impl ToSql for EventKind {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(codes::kind_code(*self)))
    }
}

impl FromSql for EventKind {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<EventKind> {
        decoded(value, codes::kind_of)
    }
}

impl FromSql for Ordering {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Ordering> {
        decoded(value, codes::ordering_of)
    }
}

impl FromSql for Breaker {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Breaker> {
        decoded(value, codes::breaker_of)
    }
}

impl FromSql for ProcessorKind {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<ProcessorKind> {
        decoded(value, codes::processor_of)
    }
}

impl ToSql for OrderId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0))
    }
}

impl FromSql for OrderId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<OrderId> {
        value.as_i64().map(OrderId)
    }
}

impl ToSql for NodeId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0.cast_signed()))
    }
}

impl FromSql for NodeId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<NodeId> {
        value.as_i64().map(|bits| NodeId(bits.cast_unsigned()))
    }
}

impl ToSql for Timestamp {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.micros()))
    }
}

impl FromSql for Timestamp {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Timestamp> {
        value.as_i64().map(Timestamp::from_micros)
    }
}

/// The number of orders of an idempotency key: 1 to [`BATCH_ORDERS_MAX`].
pub(super) struct OrderCount(pub i64);

impl OrderCount {
    pub fn is_possible(count: i64) -> bool {
        usize::try_from(count).is_ok_and(|count| (1..=BATCH_ORDERS_MAX).contains(&count))
    }
}

impl FromSql for OrderCount {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<OrderCount> {
        let count = value.as_i64()?;
        let possible = OrderCount::is_possible(count).then_some(OrderCount(count));
        possible.ok_or(FromSqlError::OutOfRange(count))
    }
}

impl FromSql for Money {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Money> {
        let minor_units = value.as_i64()?;
        Money::from_minor_units(minor_units).ok_or(FromSqlError::OutOfRange(minor_units))
    }
}

impl FromSql for ItemIds {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<ItemIds> {
        let text = value.as_str()?;
        ItemIds::from_stored(text).ok_or_else(|| FromSqlError::Other("not a list of item ids".into()))
    }
}

impl FromSql for Reason {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Reason> {
        Reason::parse(value.as_str()?).map_err(FromSqlError::other)
    }
}

impl FromSql for Reference {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Reference> {
        Reference::parse(value.as_str()?).map_err(FromSqlError::other)
    }
}
