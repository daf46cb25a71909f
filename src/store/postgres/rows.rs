//! Between rows and domain types: columns, codes and times.

use bytes::BytesMut;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use super::failure::Failure;
use crate::epoch::EpochIdentity;
use crate::event::{Event, EventKind};
use crate::lease::{NodeId, ProcessorKind};
use crate::money::Money;
use crate::order::{ItemIds, NewOrder, Order, OrderId, OrderStatus, Ordering, Reference};
use crate::portable_json::JsonText;
use crate::store::{Breaker, codes};
use crate::time::Timestamp;

/// Of [`crate::store::columns::order_columns`].
pub(super) fn order(row: &Row) -> Result<Order, Failure> {
    let status = status(row, 1)?;
    let due_at: Option<Timestamp> = column(row, 8)?;
    Ok(Order {
        order_id: OrderId(column(row, 0)?),
        status,
        version: count(row, 2)?,
        attempts: count(row, 3)?,
        generation: count(row, 4)?,
        created_at: column(row, 5)?,
        processing_at: column(row, 6)?,
        finished_at: column(row, 7)?,
        next_attempt_at: due_at.filter(|_| status == OrderStatus::Pending),
        request: request(
            column(row, 9)?,
            column(row, 10)?,
            column(row, 11)?,
            column(row, 12)?,
            column(row, 14)?,
        )?,
        last_error: column(row, 13)?,
        result: column::<Option<String>>(row, 15)?.map(JsonText::from_stored),
    })
}

/// Puts together what was asked for.
pub(super) fn request(
    user_id: i64,
    minor_units: i64,
    items: &str,
    reference: Option<&str>,
    metadata: Option<String>,
) -> Result<NewOrder, Failure> {
    Ok(NewOrder {
        user_id,
        total_amount: Money::from_minor_units(minor_units)
            .ok_or_else(|| Failure::undecodable("an amount", minor_units))?,
        item_ids: ItemIds::from_stored(items)
            .ok_or_else(|| Failure::undecodable("a list of item ids", ""))?,
        reference: reference
            .map(Reference::parse)
            .transpose()
            .map_err(|error| Failure::undecodable("a reference", error))?,
        metadata: metadata.map(Into::into),
    })
}

/// The columns of an event, whose kind tells the status.
pub(super) const EVENT_COLUMNS: &str = "order_id, version, kind, at, attempt, node, error";
/// Their number: the index where further ones begin.
pub(super) const EVENT_COLUMNS_COUNT: usize = 7;

/// Reads [`EVENT_COLUMNS`], which begin at `first`.
pub(super) fn event(row: &Row, first: usize) -> Result<Event, Failure> {
    let kind = kind(row, first + 2)?;
    Ok(Event {
        order_id: OrderId(column(row, first)?),
        version: count(row, first + 1)?,
        kind,
        status: kind.leads_to(),
        at: column(row, first + 3)?,
        attempt: count(row, first + 4)?,
        node: column::<Option<i64>>(row, first + 5)?.map(node_of),
        error: column(row, first + 6)?,
    })
}

pub(super) fn kind(row: &Row, index: usize) -> Result<EventKind, Failure> {
    let code: i16 = column(row, index)?;
    codes::kind_of(code.into()).ok_or_else(|| Failure::undecodable("a kind of event", code))
}

/// The identity of an epoch.
pub(super) fn identity(row: &Row, index: usize) -> Result<EpochIdentity, Failure> {
    column(row, index).map(|bits: i64| EpochIdentity(bits.cast_unsigned()))
}

pub(super) fn column<'r, T: FromSql<'r>>(row: &'r Row, index: usize) -> Result<T, Failure> {
    row.try_get(index)
        .map_err(|error| Failure::undecodable("a column", error))
}

/// The row of an answer that always has one.
pub(super) fn only(found: &[Row]) -> Result<&Row, Failure> {
    found
        .first()
        .ok_or_else(|| Failure::undecodable("a row", "nothing"))
}

pub(super) fn status(row: &Row, index: usize) -> Result<OrderStatus, Failure> {
    let code: i16 = column(row, index)?;
    codes::status_of(code.into()).ok_or_else(|| Failure::undecodable("a status", code))
}

pub(super) fn breaker(row: &Row, index: usize) -> Result<Breaker, Failure> {
    let code: i16 = column(row, index)?;
    codes::breaker_of(code.into()).ok_or_else(|| Failure::undecodable("the state of a breaker", code))
}

pub(super) fn ordering(row: &Row, index: usize) -> Result<Ordering, Failure> {
    let code: i16 = column(row, index)?;
    codes::ordering_of(code.into()).ok_or_else(|| Failure::undecodable("an ordering", code))
}

pub(super) fn processor(row: &Row, index: usize) -> Result<Option<ProcessorKind>, Failure> {
    let code: Option<i16> = column(row, index)?;
    code.map(|code| {
        codes::processor_of(code.into()).ok_or_else(|| Failure::undecodable("a kind of processor", code))
    })
    .transpose()
}

/// A number that is never negative.
pub(super) fn count(row: &Row, index: usize) -> Result<u32, Failure> {
    let number: i32 = column(row, index)?;
    u32::try_from(number).map_err(|_| Failure::undecodable("a count", number))
}

/// The same for 64 bits.
pub(super) fn large_count(row: &Row, index: usize) -> Result<u64, Failure> {
    let number: i64 = column(row, index)?;
    u64::try_from(number).map_err(|_| Failure::undecodable("a count", number))
}

pub(super) fn node_code(node: NodeId) -> i64 {
    node.0.cast_signed()
}

pub(super) fn node_of(bits: i64) -> NodeId {
    NodeId(bits.cast_unsigned())
}

/// A fence as it is stored.
pub(super) fn fence_code(fence: u64) -> i64 {
    i64::try_from(fence).unwrap_or(i64::MAX)
}

/// Counts given to a statement; what does not fit does not exist.
pub(super) fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// PostgreSQL counts microseconds from 2000-01-01T00:00:00Z.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

impl ToSql for Timestamp {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        (self.micros() - EPOCH_MICROS).to_sql(ty, out)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Timestamp {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Timestamp, Box<dyn std::error::Error + Sync + Send>> {
        let micros = i64::from_sql(ty, raw)?;
        let micros = micros
            .checked_add(EPOCH_MICROS)
            .ok_or("a time outside of what can be stored")?;
        Ok(Timestamp::from_micros(micros))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}
