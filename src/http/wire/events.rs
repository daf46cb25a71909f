//! Renders events for histories, pages and streams.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::epoch::EpochIdentity;
use crate::http::cursor;
use crate::http::openapi::EventKindName;
use crate::order::{Reason, UserId};
use crate::order_json::{StatusName, Time, UserIdValue, Verbatim};
use crate::store::{FeedCursor, FeedEvent};

/// A change of an order.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub struct EventBody<'a> {
    /// Its position in the feed; later events are read after it.
    cursor: String,
    order_id: i64,
    #[schema(value_type = UserIdValue)]
    user_id: &'a UserId,
    /// Counts the events of an order from 1, without gaps.
    version: u32,
    #[schema(value_type = EventKindName)]
    kind: &'static str,
    /// The status after the event.
    #[schema(value_type = StatusName)]
    status: &'static str,
    #[schema(value_type = String, format = DateTime)]
    at: Time,
    attempt: u32,
    #[schema(required)]
    node: Option<String>,
    #[schema(required)]
    error: Option<&'a str>,
    /// The reason of a person's action. Missing if none was given.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// True for a redrive whose client asked to keep the idempotency key; otherwise missing.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    same_key: Option<bool>,
    /// Name of a milestone.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    milestone: Option<&'a str>,
    /// Data of a milestone, kept byte for byte. Missing if none was given.
    #[schema(value_type = Option<HashMap<String, Value>>, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Verbatim<'a>>,
    /// Names of the members that an amendment changed. Missing in other events.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<&'static str>,
}

impl<'a> EventBody<'a> {
    pub fn new(placed: &'a FeedEvent, epoch: EpochIdentity) -> EventBody<'a> {
        let FeedEvent {
            position,
            user_id,
            event,
        } = placed;
        let position = *position;
        let milestone = event.detail.milestone.as_ref();
        EventBody {
            cursor: cursor::text(FeedCursor { epoch, position }),
            order_id: event.order_id.0,
            user_id,
            version: event.version,
            kind: event.kind.name(),
            status: event.status.name(),
            at: Time(event.at),
            attempt: event.attempt,
            node: event.node.map(|node| node.to_string()),
            error: event.error.as_deref(),
            reason: event.detail.reason.as_ref().map(Reason::as_str),
            same_key: event.detail.same_key.then_some(true),
            fields: event.detail.fields.iter().map(|field| field.name()).collect(),
            milestone: milestone.map(|milestone| milestone.name.as_str()),
            data: milestone
                .and_then(|milestone| milestone.data.as_deref())
                .map(Verbatim),
        }
    }
}

/// Events of an order, oldest first.
#[derive(Serialize, ToSchema)]
#[schema(as = History)]
pub struct EventsBody<'a> {
    pub events: Vec<EventBody<'a>>,
}

/// Events of all orders, in the order of the feed.
#[derive(Serialize, ToSchema)]
#[schema(as = FeedPage)]
pub struct FeedBody {
    /// Rendered one by one, since a page ends before it becomes too long.
    #[schema(value_type = Vec<EventBody<'static>>)]
    pub events: Vec<Box<RawValue>>,
    /// Pass as `after` for the next events, now or later.
    pub next_cursor: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventDetail, EventKind};
    use crate::lease::NodeId;
    use crate::order::{OrderId, OrderStatus, UserId};
    use crate::store::FeedPosition;
    use crate::time::Timestamp;

    #[test]
    fn an_event_names_its_node() {
        let event = FeedEvent {
            position: FeedPosition(7),
            user_id: UserId::Number(104),
            event: Event {
                order_id: OrderId(45),
                version: 2,
                kind: EventKind::RetryScheduled,
                status: OrderStatus::Pending,
                at: Timestamp::from_micros(0),
                attempt: 1,
                node: Some(NodeId(255)),
                error: Some("no".into()),
                detail: EventDetail::default(),
            },
        };
        assert_eq!(
            serde_json::to_string(&EventBody::new(&event, EpochIdentity(0))).unwrap(),
            concat!(
                r#"{"cursor":"AgAAAAAAAAAAAAAAAAAAAAc","order_id":45,"user_id":104,"version":2,"kind":"retry_scheduled","status":"Pending","#,
                r#""at":"1970-01-01T00:00:00.000000Z","attempt":1,"node":"00000000000000ff","error":"no"}"#
            )
        );
    }
}
