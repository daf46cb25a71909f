//! Converts between rows and domain types: columns, codes and times.

use bytes::BytesMut;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use super::failure::PgFailure;
use crate::epoch::EpochIdentity;
use crate::event::{Event, EventDetail, EventKind};
use crate::lease::{NodeId, ProcessorKind};
use crate::money::{Currency, Money};
use crate::order::{
    Hold, Items, MilestoneName, NewOrder, Order, OrderId, OrderStatus, Ordering, Reason, Reference, UserId,
};
use crate::portable_json::JsonText;
use crate::store::{Breaker, codes};
use crate::time::Timestamp;

/// Reads an order from [`crate::store::columns::order_columns`].
pub(super) fn order(row: &Row) -> Result<Order, PgFailure> {
    let status = status(row, 1)?;
    let due_at: Option<Timestamp> = column(row, 8)?;
    let held_at: Option<Timestamp> = column(row, 20)?;
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
        request: request(StoredRequest {
            user: (column(row, 9)?, column(row, 16)?),
            amount: (column(row, 10)?, column(row, 17)?),
            items: (column(row, 11)?, column(row, 18)?),
            reference: column(row, 12)?,
            metadata: column(row, 14)?,
            start_after: column(row, 19)?,
            deadline: column(row, 23)?,
            held: held_at.is_some(),
            hold_reason: column(row, 21)?,
        })?,
        held_at,
        milestone: milestone(column(row, 22)?)?,
        overdue: column(row, 24)?,
        last_error: column(row, 13)?,
        result: column::<Option<String>>(row, 15)?.map(JsonText::from_stored),
    })
}

/// The columns of an order's request.
pub(super) struct StoredRequest<'r> {
    /// Key and name.
    pub user: (i64, Option<&'r str>),
    /// Minor units and currency.
    pub amount: (i64, Option<&'r str>),
    /// Codes and lines.
    pub items: (&'r str, Option<&'r str>),
    pub reference: Option<&'r str>,
    pub metadata: Option<String>,
    pub start_after: Option<Timestamp>,
    pub deadline: Option<Timestamp>,
    pub held: bool,
    pub hold_reason: Option<&'r str>,
}

/// Puts together the request of an order.
pub(super) fn request(stored: StoredRequest<'_>) -> Result<NewOrder, PgFailure> {
    let StoredRequest {
        user,
        amount: (minor_units, currency),
        items: (codes, lines),
        reference,
        metadata,
        start_after,
        deadline,
        held,
        hold_reason,
    } = stored;
    let hold_reason = hold_reason.map(Reason::parse).transpose();
    let reason = hold_reason.map_err(|error| PgFailure::undecodable("a reason", error))?;
    let currency = currency
        .map(Currency::parse)
        .transpose()
        .map_err(|error| PgFailure::undecodable("a currency", error))?;
    Ok(NewOrder {
        user_id: self::user(user)?,
        total_amount: Money::from_minor_units(minor_units, Currency::decimals_of(currency))
            .ok_or_else(|| PgFailure::undecodable("an amount", minor_units))?,
        currency,
        items: Items::from_stored(codes, lines)
            .ok_or_else(|| PgFailure::undecodable("a list of items", ""))?,
        reference: reference
            .map(Reference::parse)
            .transpose()
            .map_err(|error| PgFailure::undecodable("a reference", error))?,
        metadata: metadata.map(Into::into),
        start_after,
        deadline,
        hold: held.then_some(Hold { reason }),
    })
}

/// Returns the detail of an event as it is stored. It has the status after an event whose kind does not tell it.
pub(super) fn stored_detail(event: &Event) -> Option<String> {
    let stored = event.detail.to_stored();
    if event.kind.leads_to().is_some() {
        return stored;
    }
    let status = codes::status_code(event.status);
    let rest = stored
        .as_deref()
        .map_or("}".to_owned(), |stored| format!(",{}", &stored[1..]));
    Some(format!("{{\"status\":{status}{rest}"))
}

/// Reads the name of a milestone.
pub(super) fn milestone(name: Option<&str>) -> Result<Option<MilestoneName>, PgFailure> {
    let name = name.map(MilestoneName::parse).transpose();
    name.map_err(|error| PgFailure::undecodable("a milestone", error))
}

/// Reads the key and the name of a user.
pub(super) fn user((key, name): (i64, Option<&str>)) -> Result<UserId, PgFailure> {
    UserId::from_stored(key, name).ok_or_else(|| PgFailure::undecodable("a user", key))
}

/// The columns of an event. The kind determines the status.
pub(super) const EVENT_COLUMNS: &str = "order_id, version, kind, at, attempt, node, error, detail";
/// The number of [`EVENT_COLUMNS`], which is the index of the next column.
pub(super) const EVENT_COLUMNS_COUNT: usize = 8;

/// Reads [`EVENT_COLUMNS`], which begin at `first`.
pub(super) fn event(row: &Row, first: usize) -> Result<Event, PgFailure> {
    let kind = kind(row, first + 2)?;
    let detail: Option<&str> = column(row, first + 7)?;
    let kept_status = || EventDetail::stored_status(detail).and_then(codes::status_of);
    let status = kind.leads_to().or_else(kept_status);
    Ok(Event {
        order_id: OrderId(column(row, first)?),
        version: count(row, first + 1)?,
        kind,
        status: status.ok_or_else(|| PgFailure::undecodable("the status of an event", ""))?,
        at: column(row, first + 3)?,
        attempt: count(row, first + 4)?,
        node: column::<Option<i64>>(row, first + 5)?.map(node_of),
        error: column(row, first + 6)?,
        detail: EventDetail::from_stored(detail)
            .ok_or_else(|| PgFailure::undecodable("the detail of an event", ""))?,
    })
}

pub(super) fn kind(row: &Row, index: usize) -> Result<EventKind, PgFailure> {
    let code: i16 = column(row, index)?;
    codes::kind_of(code.into()).ok_or_else(|| PgFailure::undecodable("a kind of event", code))
}

/// Reads the identity of an epoch.
pub(super) fn identity(row: &Row, index: usize) -> Result<EpochIdentity, PgFailure> {
    column(row, index).map(|bits: i64| EpochIdentity(bits.cast_unsigned()))
}

pub(super) fn column<'r, T: FromSql<'r>>(row: &'r Row, index: usize) -> Result<T, PgFailure> {
    row.try_get(index)
        .map_err(|error| PgFailure::undecodable("a column", error))
}

/// Returns the row of an answer that always has one.
pub(super) fn only(found: &[Row]) -> Result<&Row, PgFailure> {
    found
        .first()
        .ok_or_else(|| PgFailure::undecodable("a row", "nothing"))
}

pub(super) fn status(row: &Row, index: usize) -> Result<OrderStatus, PgFailure> {
    let code: i16 = column(row, index)?;
    codes::status_of(code.into()).ok_or_else(|| PgFailure::undecodable("a status", code))
}

pub(super) fn breaker(row: &Row, index: usize) -> Result<Breaker, PgFailure> {
    let code: i16 = column(row, index)?;
    codes::breaker_of(code.into()).ok_or_else(|| PgFailure::undecodable("the state of a breaker", code))
}

pub(super) fn ordering(row: &Row, index: usize) -> Result<Ordering, PgFailure> {
    let code: i16 = column(row, index)?;
    codes::ordering_of(code.into()).ok_or_else(|| PgFailure::undecodable("an ordering", code))
}

pub(super) fn processor(row: &Row, index: usize) -> Result<Option<ProcessorKind>, PgFailure> {
    let code: Option<i16> = column(row, index)?;
    code.map(|code| {
        codes::processor_of(code.into()).ok_or_else(|| PgFailure::undecodable("a kind of processor", code))
    })
    .transpose()
}

/// Reads a number that is never negative.
pub(super) fn count(row: &Row, index: usize) -> Result<u32, PgFailure> {
    let number: i32 = column(row, index)?;
    u32::try_from(number).map_err(|_| PgFailure::undecodable("a count", number))
}

/// Reads a 64-bit number that is never negative.
pub(super) fn large_count(row: &Row, index: usize) -> Result<u64, PgFailure> {
    let number: i64 = column(row, index)?;
    u64::try_from(number).map_err(|_| PgFailure::undecodable("a count", number))
}

pub(super) fn node_code(node: NodeId) -> i64 {
    node.0.cast_signed()
}

pub(super) fn node_of(bits: i64) -> NodeId {
    NodeId(bits.cast_unsigned())
}

/// Converts a fence to its stored form.
pub(super) fn fence_code(fence: u64) -> i64 {
    i64::try_from(fence).unwrap_or(i64::MAX)
}

/// Converts a limit for a statement. No store holds more than fits.
pub(super) fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The Unix time in microseconds from which PostgreSQL counts: 2000-01-01T00:00:00Z.
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
