//! Renders orders, events and nodes: times with six fraction digits, money with two, fields always in one order.

use jiff::fmt::temporal::DateTimePrinter;
use serde::ser::Error;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::http::openapi::StatusName;
use crate::money::Money;
use crate::order::{NewOrder, Order, OrderId, OrderStatus, Reference};
use crate::store::{Node, QueueState, Redriven};
use crate::time::Timestamp;

/// An order.
#[derive(Serialize, ToSchema)]
#[schema(as = Order)]
pub struct OrderBody<'a> {
    order_id: i64,
    user_id: i64,
    /// Comma-separated.
    #[schema(example = "101,102,103")]
    item_ids: &'a str,
    /// Always two decimals.
    #[schema(value_type = f64, example = 250.75)]
    total_amount: Amount,
    #[schema(value_type = StatusName)]
    status: &'static str,
    #[schema(required)]
    reference: Option<&'a str>,
    /// As it was given, byte for byte.
    #[schema(value_type = Option<Object>, required)]
    metadata: Option<Verbatim<'a>>,
    /// Number of its events.
    version: u32,
    item_count: usize,
    /// Started and not given back; a redrive starts again at 0.
    attempts: u32,
    #[schema(value_type = String, format = DateTime)]
    created_at: Time,
    /// Latest start.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    processing_at: Option<Time>,
    #[schema(value_type = Option<String>, format = DateTime, required)]
    completed_at: Option<Time>,
    /// While it waits for another attempt.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    next_attempt_at: Option<Time>,
    #[schema(required)]
    last_error: Option<&'a str>,
    /// Acceptance to completion, once Completed.
    #[schema(required)]
    time_taken_seconds: Option<f64>,
    /// What the processor gave when it completed the order, byte for byte.
    #[schema(value_type = Option<Value>, required)]
    result: Option<Verbatim<'a>>,
}

impl<'a> OrderBody<'a> {
    /// As it was accepted, whatever happened since: a repeated request gets the same bytes.
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

/// The orders of a batch, in the order given.
#[derive(Serialize, ToSchema)]
#[schema(as = Orders)]
pub struct OrdersBody<'a> {
    pub orders: Vec<OrderBody<'a>>,
}

/// Orders, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = OrderPage)]
pub struct PageBody {
    /// Rendered one by one, since a page ends where it becomes too long.
    #[schema(value_type = Vec<OrderBody<'static>>)]
    pub orders: Vec<Box<RawValue>>,
    /// Pass as `cursor` for the next page, which there may be after a short one too; null at the end.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// What a mass retry did.
#[derive(Serialize, ToSchema)]
#[schema(as = Redriven)]
pub struct RedrivenBody {
    matched: usize,
    retried: usize,
    /// More orders match than one call takes.
    more: bool,
}

impl From<Redriven> for RedrivenBody {
    fn from(redriven: Redriven) -> RedrivenBody {
        RedrivenBody {
            matched: redriven.matched,
            retried: redriven.retried,
            more: redriven.more,
        }
    }
}

/// The queue and who works on it.
#[derive(Serialize, ToSchema)]
#[schema(as = Queue)]
pub struct QueueBody {
    pending: u64,
    processing: u64,
    completed: u64,
    failed: u64,
    cancelled: u64,
    /// Age of the order that has waited longest for a start it could have had; null when none waits.
    #[schema(required)]
    oldest_waiting_seconds: Option<f64>,
    paused: bool,
    nodes: Vec<NodeBody>,
}

impl From<&QueueState> for QueueBody {
    fn from(state: &QueueState) -> QueueBody {
        QueueBody {
            pending: state.counters.pending,
            processing: state.counters.processing,
            completed: state.counters.completed,
            failed: state.counters.failed,
            cancelled: state.counters.cancelled,
            oldest_waiting_seconds: state.oldest_waiting.map(|age| age.as_secs_f64()),
            paused: state.paused,
            nodes: state.nodes.iter().map(NodeBody::from).collect(),
        }
    }
}

/// A process that works on orders.
#[derive(Serialize, ToSchema)]
#[schema(as = Node)]
pub struct NodeBody {
    node: String,
    /// Orders it processes at once at most.
    slots: u32,
    busy: u32,
    #[schema(value_type = String, format = DateTime)]
    started_at: Time,
    #[schema(value_type = String, format = DateTime)]
    heartbeat_at: Time,
    alive: bool,
}

impl From<&Node> for NodeBody {
    fn from(node: &Node) -> NodeBody {
        NodeBody {
            node: node.node.to_string(),
            slots: node.slots,
            busy: node.busy,
            started_at: Time(node.started_at),
            heartbeat_at: Time(node.heartbeat_at),
            alive: node.alive,
        }
    }
}

/// RFC 3339 UTC with always six fraction digits and `Z`.
pub struct Time(pub Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));
        let instant = jiff::Timestamp::from_microsecond(self.0.micros()).map_err(S::Error::custom)?;
        serializer.serialize_str(&PRINTER.timestamp_to_string(&instant))
    }
}

/// Why [`parse_time`] gave `None`.
pub const TIME_EXPECTED: &str =
    "must be an RFC 3339 time with at most six fraction digits, such as 2030-01-31T12:00:00Z";

/// Reads an RFC 3339 time with any offset. Finer than a microsecond is refused: rounding it would move the edge
/// of a range.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    // jiff also reads a zone in brackets (RFC 9557) and a space or lower case between date and time.
    let plain = text.is_ascii() && text.as_bytes().get(10) == Some(&b'T') && !text.contains('[');
    let instant: jiff::Timestamp = text.parse().ok().filter(|_| plain)?;
    let nanos = instant.as_nanosecond();
    let micros = i64::try_from(nanos / 1_000).ok()?;
    (nanos % 1_000 == 0).then_some(Timestamp::from_micros(micros))
}

/// A JSON number with always two decimals, never through a float.
struct Amount(Money);

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.0.to_string())
            .map_err(S::Error::custom)?
            .serialize(serializer)
    }
}

/// JSON text that goes out as it came.
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
    fn an_order_is_answered_with_all_fields_in_their_order() {
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
    fn an_accepted_order_is_pending_whatever_happened_since() {
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

    #[test]
    fn times_are_read_exactly_with_any_offset() {
        let micros = |text: &str| parse_time(text).map(Timestamp::micros);
        assert_eq!(micros("1970-01-01T00:00:01Z"), Some(1_000_000));
        assert_eq!(micros("1970-01-01T01:00:01.5+01:00"), Some(1_500_000));
        assert_eq!(micros("1969-12-31T23:59:59.999999Z"), Some(-1));
        for text in [
            "",
            "1970-01-01",
            "1970-01-01T00:00:00",
            "1970-01-01 00:00:00Z",
            "1970-01-01T00:00:00Z[UTC]",
            "1970-01-01T00:00:00.0000001Z",
            "today",
            "0",
        ] {
            assert_eq!(micros(text), None, "{text}");
        }
    }
}
