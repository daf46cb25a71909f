//! JSON of an order in answers and deliveries: times with six fraction digits, money with two, fields always in the
//! same order. `http/wire.rs` renders lists of orders and all other answers.

use std::borrow::Cow;

use jiff::fmt::temporal::DateTimePrinter;
use serde::ser::Error;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::money::Money;
use crate::order::{NewOrder, Order, OrderId, OrderStatus, Reference};
use crate::time::Timestamp;

mod text;

/// An order.
#[derive(Serialize, ToSchema)]
#[schema(as = Order)]
pub struct OrderBody<'a> {
    order_id: i64,
    user_id: i64,
    /// Comma-separated.
    #[schema(example = "101,102,103", pattern = "^[1-9][0-9]*(,[1-9][0-9]*)*$")]
    item_ids: &'a str,
    /// Always two decimals.
    #[schema(value_type = f64, example = 250.75)]
    total_amount: Amount,
    #[schema(value_type = StatusName)]
    status: &'static str,
    #[schema(required)]
    reference: Option<&'a str>,
    /// Kept byte for byte.
    #[schema(value_type = Option<HashMap<String, Value>>, required)]
    metadata: Option<Verbatim<'a>>,
    /// Number of its events.
    version: u32,
    item_count: usize,
    /// Attempts started and not given back; a redrive resets them to 0.
    attempts: u32,
    #[schema(value_type = String, format = DateTime)]
    created_at: Time,
    /// Time of the latest start.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    processing_at: Option<Time>,
    #[schema(value_type = Option<String>, format = DateTime, required)]
    completed_at: Option<Time>,
    /// Due time of the next attempt, while the order waits for one.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    next_attempt_at: Option<Time>,
    #[schema(required)]
    last_error: Option<&'a str>,
    /// Time from acceptance to completion, once Completed.
    #[schema(required)]
    time_taken_seconds: Option<f64>,
    /// Result from the processor that completed the order, kept byte for byte.
    #[schema(value_type = Option<Value>, required)]
    result: Option<Verbatim<'a>>,
}

impl<'a> OrderBody<'a> {
    /// Renders the order as accepted, whatever happened since: a repeated request gets the same bytes.
    pub fn accepted(request: &'a NewOrder, order_id: OrderId, created_at: Timestamp) -> OrderBody<'a> {
        OrderBody {
            order_id: order_id.0,
            user_id: request.user_id,
            item_ids: request.item_ids.as_str(),
            total_amount: Amount(request.total_amount),
            status: OrderStatus::Pending.name(),
            reference: request.reference.as_ref().map(Reference::as_str),
            metadata: request.metadata.as_deref().map(Verbatim),
            version: 1,
            item_count: request.item_ids.count(),
            attempts: 0,
            created_at: Time(created_at),
            processing_at: None,
            completed_at: None,
            next_attempt_at: None,
            last_error: None,
            time_taken_seconds: None,
            result: None,
        }
    }
}

impl<'a> From<&'a Order> for OrderBody<'a> {
    fn from(order: &'a Order) -> OrderBody<'a> {
        let completed_at = order
            .finished_at
            .filter(|_| order.status == OrderStatus::Completed);
        OrderBody {
            status: order.status.name(),
            version: order.version,
            attempts: order.attempts,
            processing_at: order.processing_at.map(Time),
            completed_at: completed_at.map(Time),
            next_attempt_at: order.next_attempt_at.map(Time),
            last_error: order.last_error.as_deref(),
            time_taken_seconds: completed_at.map(|at| at.since(order.created_at).as_secs_f64()),
            result: order.result.as_ref().map(|result| Verbatim(result.as_str())),
            ..OrderBody::accepted(&order.request, order.order_id, order.created_at)
        }
    }
}

/// Name of an order's status.
pub struct StatusName;

impl ToSchema for StatusName {
    fn name() -> Cow<'static, str> {
        "Status".into()
    }
}

impl PartialSchema for StatusName {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(OrderStatus::ALL.map(OrderStatus::name)))
            .into()
    }
}

/// RFC 3339 in UTC, always with six fraction digits and `Z`.
pub struct Time(pub Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));
        let usual = text::usual(self.0.micros());
        if let Some(text) = usual.as_ref().and_then(|text| std::str::from_utf8(text).ok()) {
            return serializer.serialize_str(text);
        }
        let instant = jiff::Timestamp::from_microsecond(self.0.micros()).map_err(S::Error::custom)?;
        serializer.serialize_str(&PRINTER.timestamp_to_string(&instant))
    }
}

/// A JSON number, always with two decimals, never through a float.
struct Amount(Money);

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.0.to_string())
            .map_err(S::Error::custom)?
            .serialize(serializer)
    }
}

/// JSON text that is passed on unchanged.
struct Verbatim<'a>(&'a str);

impl Serialize for Verbatim<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<&RawValue>(self.0)
            .map_err(S::Error::custom)?
            .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::ItemIds;
    use crate::portable_json::JsonText;

    fn order() -> Order {
        Order {
            order_id: OrderId(45),
            request: NewOrder {
                user_id: 104,
                item_ids: ItemIds::new(&[101, 102, 103]).unwrap(),
                total_amount: Money::parse("250.7").unwrap(),
                reference: Some(Reference::parse("PO-\"7\"").unwrap()),
                metadata: Some("{ \"a\": 1.10 }".into()),
            },
            status: OrderStatus::Completed,
            version: 3,
            attempts: 1,
            generation: 0,
            created_at: Timestamp::from_micros(1_700_000_000_000_000),
            processing_at: Some(Timestamp::from_micros(1_700_000_000_500_000)),
            finished_at: Some(Timestamp::from_micros(1_700_000_002_000_001)),
            next_attempt_at: None,
            last_error: None,
            result: Some(JsonText::parse("{ \"ok\": 1.10 }").unwrap()),
        }
    }

    fn text(body: &impl Serialize) -> String {
        serde_json::to_string(body).unwrap()
    }

    #[test]
    fn an_order_has_all_fields_in_a_fixed_order() {
        assert_eq!(
            text(&OrderBody::from(&order())),
            concat!(
                r#"{"order_id":45,"user_id":104,"item_ids":"101,102,103","total_amount":250.70,"#,
                r#""status":"Completed","reference":"PO-\"7\"","metadata":{ "a": 1.10 },"version":3,"#,
                r#""item_count":3,"attempts":1,"created_at":"2023-11-14T22:13:20.000000Z","#,
                r#""processing_at":"2023-11-14T22:13:20.500000Z","completed_at":"2023-11-14T22:13:22.000001Z","#,
                r#""next_attempt_at":null,"last_error":null,"time_taken_seconds":2.000001,"result":{ "ok": 1.10 }}"#
            )
        );
    }

    #[test]
    fn an_accepted_order_is_rendered_as_pending() {
        let order = order();
        let accepted = text(&OrderBody::accepted(
            &order.request,
            order.order_id,
            order.created_at,
        ));
        assert!(accepted.contains(r#""status":"Pending""#));
        assert!(accepted.contains(r#""version":1,"item_count":3,"attempts":0"#));
        assert!(accepted.contains(r#""processing_at":null,"completed_at":null"#));
    }

    #[test]
    fn only_a_completed_order_has_a_completion() {
        let mut order = order();
        order.status = OrderStatus::Cancelled;
        let body = text(&OrderBody::from(&order));
        assert!(body.contains(r#""completed_at":null"#) && body.contains(r#""time_taken_seconds":null"#));
    }
}
