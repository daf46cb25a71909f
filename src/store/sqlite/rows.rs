//! Converts between rows and domain types.

use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, Type, ValueRef};

use crate::event::{Event, EventDetail, EventKind};
use crate::lease::{NodeId, ProcessorKind};
use crate::money::{Currency, Money};
use crate::order::{
    BATCH_ORDERS_MAX, Hold, Items, MilestoneName, NewOrder, Order, OrderId, OrderStatus, Ordering, Reason,
    Reference, UserId,
};
use crate::portable_json::JsonText;
use crate::store::{Breaker, codes};
use crate::time::Timestamp;

/// Reads an order from the columns [`crate::store::columns::order_columns`].
pub(super) fn order(row: &Row<'_>) -> Result<Order, rusqlite::Error> {
    let status: OrderStatus = row.get(1)?;
    let due_at: Option<Timestamp> = row.get(8)?;
    let held_at: Option<Timestamp> = row.get(20)?;
    Ok(Order {
        order_id: row.get(0)?,
        status,
        version: row.get(2)?,
        attempts: row.get(3)?,
        generation: row.get(4)?,
        created_at: row.get(5)?,
        processing_at: row.get(6)?,
        finished_at: row.get(7)?,
        next_attempt_at: due_at.filter(|_| status == OrderStatus::Pending && held_at.is_none()),
        request: request(row)?,
        held_at,
        milestone: row.get(22)?,
        overdue: row.get(24)?,
        last_error: row.get(13)?,
        result: row.get::<_, Option<String>>(15)?.map(JsonText::from_stored),
    })
}

fn request(row: &Row<'_>) -> Result<NewOrder, rusqlite::Error> {
    let currency: Option<Currency> = row.get(17)?;
    let minor_units: i64 = row.get(10)?;
    let amount = Money::from_minor_units(minor_units, Currency::decimals_of(currency));
    let codes = row.get_ref(11)?.as_str()?;
    let lines = row.get_ref(18)?.as_str_or_null()?;
    let items = Items::from_stored(codes, lines);
    Ok(NewOrder {
        user_id: user(row, 9, 16)?,
        total_amount: amount.ok_or(rusqlite::Error::IntegralValueOutOfRange(10, minor_units))?,
        currency,
        items: items.ok_or_else(|| undecodable(11, "not a list of items"))?,
        reference: row.get(12)?,
        metadata: row.get(14)?,
        start_after: row.get(19)?,
        deadline: row.get(23)?,
        hold: hold(row)?,
    })
}

fn hold(row: &Row<'_>) -> Result<Option<Hold>, rusqlite::Error> {
    let held_at: Option<Timestamp> = row.get(20)?;
    let reason = row.get(21)?;
    Ok(held_at.map(|_| Hold { reason }))
}

/// Reads a user from the columns of the key and the name.
pub(super) fn user(row: &Row<'_>, key: usize, name: usize) -> Result<UserId, rusqlite::Error> {
    let user = UserId::from_stored(row.get(key)?, row.get_ref(name)?.as_str_or_null()?);
    user.ok_or_else(|| undecodable(key, "not a user"))
}

fn undecodable(column: usize, reason: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, reason.into())
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
        detail: EventDetail::from_stored(row.get_ref(8)?.as_str_or_null()?)
            .ok_or_else(|| undecodable(8, "not the detail of an event"))?,
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

impl FromSql for Currency {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Currency> {
        Currency::parse(value.as_str()?).map_err(FromSqlError::other)
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

impl FromSql for MilestoneName {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<MilestoneName> {
        MilestoneName::parse(value.as_str()?).map_err(FromSqlError::other)
    }
}
