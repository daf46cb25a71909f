//! All refusals and failures of the API as problem documents (RFC 9457). `meanings` translates errors into them;
//! `request` adds the request id and writes them out.

use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{
    CONNECTION, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::fields::{FieldError, FieldErrors};
use crate::causes::with_causes;

mod meanings;

/// Type of a problem; each has a page under `/problems`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemType {
    BadRequest,
    MalformedJson,
    InvalidParameters,
    InvalidIdempotencyKey,
    Unauthorized,
    CrossSite,
    NotFound,
    OrderNotFound,
    MethodNotAllowed,
    RequestTimeout,
    ActionRefused,
    VersionMoved,
    VersionRequired,
    LeaseLost,
    PullDisabled,
    CursorGone,
    IdempotencyInFlight,
    BodyTooLarge,
    UriTooLong,
    UnsupportedMediaType,
    InvalidFields,
    UpgradeRequired,
    IdempotencyKeyReused,
    TooManyHeaders,
    TransferCoding,
    Unexpected,
    Busy,
    TooManyConnections,
    QueueFull,
    ShuttingDown,
    DiskFull,
    StoreUnavailable,
    NotReady,
}

/// Constants of a type.
struct Facts {
    status: StatusCode,
    slug: &'static str,
    title: &'static str,
    page: &'static str,
}

macro_rules! facts {
    ($status:ident, $slug:literal, $title:literal) => {
        Facts {
            status: StatusCode::$status,
            slug: $slug,
            title: $title,
            page: include_str!(concat!("../../docs/problems/", $slug, ".md")),
        }
    };
}

impl ProblemType {
    pub const ALL: [ProblemType; 33] = [
        ProblemType::BadRequest,
        ProblemType::MalformedJson,
        ProblemType::InvalidParameters,
        ProblemType::InvalidIdempotencyKey,
        ProblemType::Unauthorized,
        ProblemType::CrossSite,
        ProblemType::NotFound,
        ProblemType::OrderNotFound,
        ProblemType::MethodNotAllowed,
        ProblemType::RequestTimeout,
        ProblemType::ActionRefused,
        ProblemType::VersionMoved,
        ProblemType::VersionRequired,
        ProblemType::LeaseLost,
        ProblemType::PullDisabled,
        ProblemType::CursorGone,
        ProblemType::IdempotencyInFlight,
        ProblemType::BodyTooLarge,
        ProblemType::UriTooLong,
        ProblemType::UnsupportedMediaType,
        ProblemType::InvalidFields,
        ProblemType::UpgradeRequired,
        ProblemType::IdempotencyKeyReused,
        ProblemType::TooManyHeaders,
        ProblemType::TransferCoding,
        ProblemType::Unexpected,
        ProblemType::Busy,
        ProblemType::TooManyConnections,
        ProblemType::QueueFull,
        ProblemType::ShuttingDown,
        ProblemType::DiskFull,
        ProblemType::StoreUnavailable,
        ProblemType::NotReady,
    ];

    #[rustfmt::skip] // one line per type
    fn facts(self) -> Facts {
        match self {
            ProblemType::BadRequest => facts!(BAD_REQUEST, "bad-request", "The request is invalid"),
            ProblemType::MalformedJson => facts!(BAD_REQUEST, "malformed-json", "The body is not JSON"),
            ProblemType::InvalidParameters => facts!(BAD_REQUEST, "invalid-parameters", "Query parameters are invalid"),
            ProblemType::InvalidIdempotencyKey => facts!(BAD_REQUEST, "invalid-idempotency-key", "The Idempotency-Key is invalid"),
            ProblemType::Unauthorized => facts!(UNAUTHORIZED, "unauthorized", "An API key is required"),
            ProblemType::CrossSite => facts!(FORBIDDEN, "cross-site", "A browser sent this for another site"),
            ProblemType::NotFound => facts!(NOT_FOUND, "not-found", "There is nothing here"),
            ProblemType::OrderNotFound => facts!(NOT_FOUND, "order-not-found", "There is no such order"),
            ProblemType::MethodNotAllowed => facts!(METHOD_NOT_ALLOWED, "method-not-allowed", "The method is not allowed here"),
            ProblemType::RequestTimeout => facts!(REQUEST_TIMEOUT, "request-timeout", "The body took too long"),
            ProblemType::ActionRefused => facts!(CONFLICT, "action-refused", "The order does not allow this now"),
            ProblemType::VersionMoved => facts!(PRECONDITION_FAILED, "version-moved", "The order has another version"),
            ProblemType::VersionRequired => facts!(PRECONDITION_REQUIRED, "version-required", "The version of the order is required"),
            ProblemType::LeaseLost => facts!(CONFLICT, "lease-lost", "The lease is lost"),
            ProblemType::PullDisabled => facts!(CONFLICT, "pull-disabled", "The server processes its orders itself"),
            ProblemType::CursorGone => facts!(GONE, "cursor-gone", "The feed cannot be read from this cursor"),
            ProblemType::IdempotencyInFlight => facts!(CONFLICT, "idempotency-in-flight", "The first request with this key is still in flight"),
            ProblemType::BodyTooLarge => facts!(PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large"),
            ProblemType::UriTooLong => facts!(URI_TOO_LONG, "uri-too-long", "The path and query are too long"),
            ProblemType::UnsupportedMediaType => facts!(UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The media type of the body is not supported"),
            ProblemType::InvalidFields => facts!(UNPROCESSABLE_ENTITY, "invalid-fields", "Fields are invalid"),
            ProblemType::UpgradeRequired => facts!(UPGRADE_REQUIRED, "upgrade-required", "The path is a WebSocket"),
            ProblemType::IdempotencyKeyReused => facts!(UNPROCESSABLE_ENTITY, "idempotency-key-reused", "The Idempotency-Key belongs to another request"),
            ProblemType::TooManyHeaders => facts!(REQUEST_HEADER_FIELDS_TOO_LARGE, "too-many-headers", "The request has too many headers"),
            ProblemType::TransferCoding => facts!(NOT_IMPLEMENTED, "transfer-coding", "The transfer coding is not supported"),
            ProblemType::Unexpected => facts!(INTERNAL_SERVER_ERROR, "unexpected", "The server failed"),
            ProblemType::Busy => facts!(SERVICE_UNAVAILABLE, "busy", "Too many requests are waiting"),
            ProblemType::TooManyConnections => facts!(SERVICE_UNAVAILABLE, "too-many-connections", "Too many connections are open"),
            ProblemType::QueueFull => facts!(SERVICE_UNAVAILABLE, "queue-full", "The limit of pending orders is reached"),
            ProblemType::ShuttingDown => facts!(SERVICE_UNAVAILABLE, "shutting-down", "The server is shutting down"),
            ProblemType::DiskFull => facts!(SERVICE_UNAVAILABLE, "disk-full", "The disk is full"),
            ProblemType::StoreUnavailable => facts!(SERVICE_UNAVAILABLE, "store-unavailable", "The store is unavailable"),
            ProblemType::NotReady => facts!(SERVICE_UNAVAILABLE, "not-ready", "The server is not ready"),
        }
    }

    pub fn status(self) -> StatusCode {
        self.facts().status
    }

    /// Returns the last part of the URL path in the problem's `type`.
    pub fn slug(self) -> &'static str {
        self.facts().slug
    }

    pub fn title(self) -> &'static str {
        self.facts().title
    }

    /// Returns the page that explains the type, in Markdown.
    pub fn page(self) -> &'static str {
        self.facts().page
    }

    pub fn of_slug(slug: &str) -> Option<ProblemType> {
        ProblemType::ALL.into_iter().find(|kind| kind.slug() == slug)
    }

    /// Returns the seconds until a retry makes sense; every 503 has them.
    fn retry_after(self) -> Option<HeaderValue> {
        match self {
            ProblemType::Busy | ProblemType::TooManyConnections | ProblemType::IdempotencyInFlight => {
                Some(HeaderValue::from_static("1"))
            }
            ProblemType::QueueFull
            | ProblemType::ShuttingDown
            | ProblemType::StoreUnavailable
            | ProblemType::NotReady => Some(HeaderValue::from_static("5")),
            // Space is not freed by itself.
            ProblemType::DiskFull => Some(HeaderValue::from_static("30")),
            ProblemType::BadRequest
            | ProblemType::MalformedJson
            | ProblemType::InvalidParameters
            | ProblemType::InvalidIdempotencyKey
            | ProblemType::Unauthorized
            | ProblemType::CrossSite
            | ProblemType::NotFound
            | ProblemType::OrderNotFound
            | ProblemType::MethodNotAllowed
            | ProblemType::RequestTimeout
            | ProblemType::ActionRefused
            | ProblemType::VersionMoved
            | ProblemType::VersionRequired
            | ProblemType::LeaseLost
            | ProblemType::PullDisabled
            | ProblemType::CursorGone
            | ProblemType::BodyTooLarge
            | ProblemType::UriTooLong
            | ProblemType::UnsupportedMediaType
            | ProblemType::InvalidFields
            | ProblemType::UpgradeRequired
            | ProblemType::IdempotencyKeyReused
            | ProblemType::TooManyHeaders
            | ProblemType::TransferCoding
            | ProblemType::Unexpected => None,
        }
    }
}

/// A refusal or failure. `request::answered` renders it, with the request's id.
#[derive(Clone, Debug)]
pub struct Problem {
    pub kind: ProblemType,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    checks: Vec<CheckBody>,
    cursor: Option<String>,
    /// Cause for the server's log; not sent to the caller.
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl Problem {
    pub fn new(kind: ProblemType, detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            checks: Vec::new(),
            cursor: None,
            cause: None,
        }
    }

    pub fn bad_request(detail: &'static str) -> Problem {
        Problem::new(ProblemType::BadRequest, detail)
    }

    /// Includes the cursor of the feed's end.
    pub fn cursor_gone(now: String) -> Problem {
        Problem {
            cursor: Some(now),
            ..Problem::new(
                ProblemType::CursorGone,
                "the cursor is too old, of another store, or from the future; read the orders again and continue from there",
            )
        }
    }

    /// Includes the readiness checks that the client asked for.
    pub fn not_ready(detail: String, checks: Vec<CheckBody>) -> Problem {
        Problem {
            checks,
            ..Problem::new(ProblemType::NotReady, detail)
        }
    }

    /// Reports all invalid fields at once.
    pub fn invalid(kind: ProblemType, errors: FieldErrors) -> Problem {
        Problem {
            kind,
            detail: errors.summary().into(),
            errors: errors.into_listed(),
            checks: Vec::new(),
            cursor: None,
            cause: None,
        }
    }

    /// Builds the answer to a request that failed for a reason of the server's own.
    pub fn unexpected(cause: impl Error + Send + Sync + 'static) -> Problem {
        Problem {
            cause: Some(Arc::new(cause)),
            ..Problem::new(
                ProblemType::Unexpected,
                "internal error; it is unknown whether anything was stored",
            )
        }
    }

    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// Returns the failure behind the problem with all its causes, for the log.
    pub fn cause(&self) -> Option<String> {
        let error: &(dyn Error + 'static) = self.cause.as_deref()?;
        Some(with_causes(error))
    }

    /// Returns the document for the request `instance`.
    pub fn document(&self, instance: &str) -> String {
        let document = ProblemBody {
            kind: format!("/problems/{}", self.kind.slug()),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: &self.detail,
            instance,
            errors: self.errors(),
            checks: &self.checks,
            cursor: self.cursor.as_deref(),
        };
        serde_json::to_string(&document).expect("strings and numbers always serialize")
    }

    /// Returns the whole answer for the request `instance`.
    pub fn render(self, instance: &str) -> Response {
        let mut response = Response::new(Body::from(self.document(instance)));
        *response.status_mut() = self.kind.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.kind.retry_after() {
            headers.insert(RETRY_AFTER, seconds);
        }
        if self.kind == ProblemType::Unauthorized {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.kind == ProblemType::TransferCoding {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if self.kind == ProblemType::UpgradeRequired {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    }
}

/// A problem document (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody<'a> {
    /// URL path of the page that explains the problem.
    #[serde(rename = "type")]
    #[schema(example = "/problems/invalid-fields")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    /// The request id, also in the X-Request-Id header.
    instance: &'a str,
    /// All invalid fields, at most 100.
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    #[schema(required = false)]
    errors: &'a [FieldError],
    /// Checks of a server that is not ready, with `?verbose`.
    #[serde(skip_serializing_if = "<[CheckBody]>::is_empty")]
    #[schema(required = false)]
    checks: &'a [CheckBody],
    /// The end of the feed, if it cannot be read from the given cursor.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    cursor: Option<&'a str>,
}

/// A condition of readiness. `durability` is reported only: it does not make a server unready.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Check)]
pub struct CheckBody {
    pub name: &'static str,
    ok: bool,
    /// Reason for the failure, when `ok` is false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

impl CheckBody {
    pub fn new(name: &'static str, ok: bool, reason: &'static str) -> CheckBody {
        CheckBody {
            name,
            ok,
            reason: (!ok).then_some(reason),
        }
    }
}

#[cfg(test)]
mod tests;
