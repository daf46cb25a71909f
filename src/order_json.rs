//! JSON of an order in answers and deliveries: times with six fraction digits, money with all its decimals,
//! fields always in the same order. `http/wire.rs` renders lists of orders and all other answers.

use std::borrow::Cow;

use jiff::fmt::temporal::DateTimePrinter;
use serde::ser::Error;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::openapi::{ObjectBuilder, OneOfBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::money::{Currency, Money};
use crate::order::{
    INTEGER_MAX, MilestoneName, NewOrder, Order, OrderId, OrderStatus, Reason, Reference, USER_ID_CHARS_MAX,
    UserId,
};
use crate::time::Timestamp;

mod text;

/// An order.
#[derive(Serialize, ToSchema)]
#[schema(as = Order)]
pub struct OrderBody<'a> {
    order_id: i64,
    #[schema(value_type = UserIdValue)]
    user_id: &'a UserId,
    /// Ids and codes of the articles, comma-separated.
    #[schema(example = "101,102,103", pattern = "^[A-Za-z0-9._:/-]+(,[A-Za-z0-9._:/-]+)*$")]
    item_ids: &'a str,
    /// Always all decimals of the currency; two without one.
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
    /// Number of pieces.
    item_count: u64,
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
    /// Missing without a currency.
    #[schema(value_type = Option<String>, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<&'a str>,
    /// Missing in an order of `item_ids`.
    #[schema(value_type = Option<Vec<LineValue>>, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Verbatim<'a>>,
    /// The order does not start before this time. Missing without one.
    #[schema(value_type = Option<String>, format = DateTime, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    start_after: Option<Time>,
    /// The time by which the order should be final. Missing without one.
    #[schema(value_type = Option<String>, format = DateTime, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<Time>,
    /// True once the deadline has passed while the order was not final; otherwise missing.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    overdue: Option<bool>,
    /// Missing unless the order is held.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<HeldBody<'a>>,
    /// Name of the latest milestone. Missing without one.
    #[schema(value_type = Option<String>, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    milestone: Option<&'a str>,
}

/// A hold: the order does not start until it is released.
#[derive(Serialize, ToSchema)]
#[schema(as = Held)]
pub struct HeldBody<'a> {
    #[schema(value_type = String, format = DateTime)]
    at: Time,
    /// Null if none was given.
    #[schema(required)]
    reason: Option<&'a str>,
}

impl<'a> HeldBody<'a> {
    fn of(request: &'a NewOrder, at: Timestamp) -> Option<HeldBody<'a>> {
        let hold = request.hold.as_ref()?;
        Some(HeldBody {
            at: Time(at),
            reason: hold.reason.as_ref().map(Reason::as_str),
        })
    }
}

impl<'a> OrderBody<'a> {
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Renders the order as accepted, whatever happened since: a repeated request gets the same bytes.
    pub fn accepted(request: &'a NewOrder, order_id: OrderId, created_at: Timestamp) -> OrderBody<'a> {
        OrderBody {
            order_id: order_id.0,
            user_id: &request.user_id,
            item_ids: request.items.codes(),
            total_amount: Amount(request.total_amount),
            status: OrderStatus::Pending.name(),
            reference: request.reference.as_ref().map(Reference::as_str),
            metadata: request.metadata.as_deref().map(Verbatim),
            version: 1,
            item_count: request.items.count(),
            attempts: 0,
            created_at: Time(created_at),
            processing_at: None,
            completed_at: None,
            next_attempt_at: None,
            last_error: None,
            time_taken_seconds: None,
            result: None,
            currency: request.currency.map(Currency::code),
            items: request.items.lines().map(Verbatim),
            start_after: request.start_after.map(Time),
            deadline: request.deadline.map(Time),
            overdue: None,
            held: HeldBody::of(request, created_at),
            milestone: None,
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
            held: order.held_at.and_then(|at| HeldBody::of(&order.request, at)),
            milestone: order.milestone.as_ref().map(MilestoneName::as_str),
            overdue: order.overdue.then_some(true),
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

/// A user, as answers show it.
pub struct UserIdValue;

impl ToSchema for UserIdValue {
    fn name() -> Cow<'static, str> {
        "UserId".into()
    }
}

impl PartialSchema for UserIdValue {
    fn schema() -> RefOr<Schema> {
        let integer = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .maximum(Some(INTEGER_MAX))
            .build();
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(USER_ID_CHARS_MAX))
            .build();
        OneOfBuilder::new().item(integer).item(text).into()
    }
}

/// Some pieces of an article.
#[derive(ToSchema)]
#[schema(as = Line)]
#[expect(dead_code, reason = "describes the lines, which answers copy from the store")]
struct LineValue {
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._:/-]+$")]
    sku: String,
    #[schema(minimum = 1, maximum = 1_000_000)]
    quantity: u32,
    /// With the decimals of the currency; negative for a discount. Missing if none was given.
    #[schema(required = false)]
    unit_price: Option<f64>,
    #[schema(required = false, min_length = 1, max_length = 200)]
    name: Option<String>,
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

/// A JSON number, always with all its decimals, never through a float.
struct Amount(Money);

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.0.to_string())
            .map_err(S::Error::custom)?
            .serialize(serializer)
    }
}

/// JSON text that is passed on unchanged.
pub struct Verbatim<'a>(pub &'a str);

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
    use crate::order::{Code, Items, Line};
    use crate::portable_json::JsonText;

    fn order() -> Order {
        Order {
            order_id: OrderId(45),
            request: NewOrder {
                user_id: UserId::Number(104),
                items: Items::of_ids(&[101, 102, 103]).unwrap(),
                total_amount: Money::parse("250.7", 2).unwrap(),
                currency: None,
                reference: Some(Reference::parse("PO-\"7\"").unwrap()),
                metadata: Some("{ \"a\": 1.10 }".into()),
                start_after: None,
                deadline: None,
                hold: None,
            },
            status: OrderStatus::Completed,
            version: 3,
            attempts: 1,
            generation: 0,
            created_at: Timestamp::from_micros(1_700_000_000_000_000),
            processing_at: Some(Timestamp::from_micros(1_700_000_000_500_000)),
            finished_at: Some(Timestamp::from_micros(1_700_000_002_000_001)),
            next_attempt_at: None,
            held_at: None,
            milestone: None,
            overdue: false,
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
    fn members_of_shops_follow_where_an_order_has_them() {
        let mut order = order();
        let yen = Currency::parse("JPY").unwrap();
        let line = Line {
            sku: Code::parse("MUG").unwrap(),
            quantity: 3,
            unit_price: Some(Money::parse_signed("-500", 0).unwrap()),
            name: None,
        };
        order.request = NewOrder {
            user_id: UserId::parse("cus_\"1\"").unwrap(),
            items: Items::of_lines(&[line]).unwrap(),
            total_amount: Money::parse("1000", 0).unwrap(),
            currency: Some(yen),
            ..order.request
        };
        let body = text(&OrderBody::from(&order));
        let head = r#"{"order_id":45,"user_id":"cus_\"1\"","item_ids":"MUG","total_amount":1000,"#;
        assert!(body.starts_with(head), "{body}");
        let tail = r#","currency":"JPY","items":[{"sku":"MUG","quantity":3,"unit_price":-500}]}"#;
        assert!(body.ends_with(tail), "{body}");
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
