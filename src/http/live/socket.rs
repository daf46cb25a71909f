//! `GET /ws`: several subscriptions to the feed over one WebSocket (RFC 6455). Does the handshake; `conversation`
//! handles the messages, and `auth` decides which clients may connect.

use axum::body::Body;
use axum::response::Response;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::server::create_response;

use crate::http::auth;
use crate::http::call::Call;
use crate::http::listener::Takeover;
use crate::http::problem::{Problem, ProblemBody, ProblemType};

mod allowance;
mod conversation;
mod meter;
mod subscriptions;

/// Follow orders over a WebSocket
///
/// Messages are JSON texts. The client sends `{"type":"subscribe","id":"a","user_id":42,"after":"…"}`, with any of
/// `order_id`, `user_id` and `status`, or `"all":true`, and `{"type":"unsubscribe","id":"a"}`. The server answers with
/// the same `id`: `subscribed` (`cursor`; repeated with a newer one when no event brought it), `event` (`event`, in its
/// usual form), `resync` (`cursor`), `error` (`detail`, and `cursor` if it ends a subscription).
#[utoipa::path(
    get, operation_id = "openSocket", path = "/ws", tag = "live",
    responses(
        (status = 101, description = "The connection becomes a WebSocket"),
        (status = 400, description = "Not a WebSocket handshake", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "A page of another site sent the request", body = ProblemBody, content_type = "application/problem+json"),
        (status = 426, description = "Not a request for a WebSocket, or not for version 13", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn open(call: Call) -> Result<Response, Problem> {
    let Call {
        shared, head, body, ..
    } = call;
    auth::require_own_origin(&head.headers)?;
    let head = axum::http::Request::from_parts(head, ());
    let response = create_response(&head).map_err(|error| refusal(&error))?;
    let mut request = head.map(|()| body);
    let switched = hyper::upgrade::on(&mut request);
    let (feed, heartbeat) = (shared.live.clone(), shared.heartbeat);
    let takeover = Takeover::new(switched, move |stream| {
        conversation::hold(stream, feed, heartbeat)
    });
    let mut response = response.map(|()| Body::empty());
    response.extensions_mut().insert(takeover);
    Ok(response)
}

fn refusal(error: &Error) -> Problem {
    match error {
        Error::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) => Problem::new(
            ProblemType::UpgradeRequired,
            "only version 13 of the WebSocket protocol is supported",
        ),
        Error::Protocol(
            ProtocolError::WrongHttpMethod
            | ProtocolError::WrongHttpVersion
            | ProtocolError::MissingConnectionUpgradeHeader
            | ProtocolError::MissingUpgradeWebSocketHeader,
        ) => Problem::new(
            ProblemType::UpgradeRequired,
            "this path is a WebSocket; request it with Upgrade: websocket over HTTP/1.1",
        ),
        _ => Problem::bad_request("Sec-WebSocket-Key must be 16 bytes in base64"),
    }
}
