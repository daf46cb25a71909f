//! The feed over HTTP: in pages, as server-sent events, over a WebSocket. `live` follows the log.

use axum::http::header::ACCEPT;
use axum::response::Response;
use bytes::Bytes;

use super::call::Call;
use super::openapi::InvalidParameters;
use super::problem::{Problem, ProblemBody};
use super::wire::{EventBody, FeedBody};
use super::{cursor, negotiation};
use crate::live::Change;

mod page;
pub mod socket;
mod sse;

/// Follow all orders
///
/// Answers one page, or server-sent events with `Accept: text/event-stream`.
#[utoipa::path(
    get, operation_id = "readFeed", path = "/events", tag = "live",
    params(
        ("after" = Option<String>, Query, description = "A cursor. Without one a page starts with the oldest event kept, a stream with the next event"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "Events per page, 100 by default; not for streams"),
        ("order_id" = Option<i64>, Query),
        ("user_id" = Option<String>, Query),
        ("status" = Option<super::openapi::StatusName>, Query, description = "Status after the event"),
        ("Last-Event-ID" = Option<String>, Header, description = "Cursor of the last event received, sent by a client that reconnects; overrides `after`"),
    ),
    responses(
        (status = 200, description = "Events in the order of the feed. A page may be short or empty before the end; at the end `next_cursor` is the cursor that was passed", content(
            (FeedBody = "application/json"),
            (String = "text/event-stream"),
        )),
        InvalidParameters,
        (status = 410, description = "The cursor is too old, of another store, of a lost epoch, or from the future; `cursor` is the current one", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn events(call: Call) -> Result<Response, Problem> {
    let accept = call.headers().get_all(ACCEPT).iter();
    if negotiation::wants_event_stream(accept.filter_map(|value| value.to_str().ok())) {
        sse::stream(&call.shared, call.headers(), call.query()).await
    } else {
        page::read(&call.shared, call.query()).await
    }
}

/// Parts of a [`frame`] before, between and after the cursor and the event's JSON.
const FRAME_HEAD: &[u8] = b"event: order\nid: ";
const FRAME_DATA: &[u8] = b"\ndata: ";
const FRAME_END: &[u8] = b"\n\n";

/// Renders a change as one server-sent event (WHATWG HTML section 9.2), once for all subscribers.
fn frame(change: &Change) -> Bytes {
    change.text(|change| {
        let cursor = cursor::text(change.cursor());
        let body = EventBody::new(&change.event, change.epoch);
        let json = serde_json::to_vec(&body).expect("an event always serializes");
        [FRAME_HEAD, cursor.as_bytes(), FRAME_DATA, &json, FRAME_END]
            .concat()
            .into()
    })
}

/// Returns the event's JSON out of its [`frame`].
fn event_json(change: &Change) -> Bytes {
    let frame = frame(change);
    let begin = FRAME_HEAD.len() + cursor::CHARS + FRAME_DATA.len();
    frame.slice(begin..frame.len() - FRAME_END.len())
}
