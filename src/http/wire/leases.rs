//! Bodies of the requests of external workers and of their answers: requests for leases and results in, leases out.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::OrderBody;
use super::description::{
    Optional, Required, Value, body, boolean, integer, required_string, seconds, string, value,
};
use crate::epoch::Token;
use crate::lease::{Lease, REASON_BYTES_MAX};
use crate::order::RESULT_BYTES_MAX;
use crate::order_json::Time;
use crate::portable_json::JsonText;
use crate::pull::{LEASE_MAX, LEASES_MAX, RETRY_AFTER_MAX, WAIT_MAX};
use crate::time::Timestamp;

body! {
    /// Body of `POST /leases`.
    pub struct Take {
        max: Option<u64> = Optional(integer(1..=LEASES_MAX as u64, "Maximum number of leases; 1 by default")),
        wait: Option<Duration> = Optional(seconds(
            0..=WAIT_MAX.as_secs(),
            "Seconds to wait for the first one; 0 by default",
        )),
        lease: Option<Duration> = Optional(lease()),
    }
}

body! {
    /// Body of `POST /leases/{id}/renew`.
    pub struct Renew {
        token: Token = Required(token()),
        lease: Option<Duration> = Optional(lease()),
    }
}

body! {
    /// Body of `POST /leases/{id}/complete`.
    pub struct Complete {
        token: Token = Required(token()),
        result: Option<JsonText> = Optional(result()),
    }
}

body! {
    /// Body of `POST /leases/{id}/fail`.
    pub struct Fail {
        token: Token = Required(token()),
        error: String = Required(reason()),
        permanent: Option<bool> = Optional(boolean("Another attempt would fail as well")),
        retry_after: Option<Duration> = Optional(seconds(
            0..=RETRY_AFTER_MAX.as_secs(),
            "Minimum number of seconds until the next attempt",
        )),
    }
}

body! {
    /// Body of `POST /leases/{id}/release`.
    pub struct Release {
        token: Token = Required(token()),
    }
}

fn token() -> impl Value<Read = Token> {
    let parse = |text: &str| {
        let token = string(text).and_then(|text| Token::parse(&text));
        token.ok_or("must be the token of a lease")
    };
    value(
        parse,
        || json!({ "description": "Token of the lease, as issued", "type": "string", "pattern": "^[A-Za-z0-9_-]{32}$" }),
    )
}

fn lease() -> impl Value<Read = Duration> {
    seconds(
        1..=LEASE_MAX.as_secs(),
        "Seconds the lease lasts; ORDERLY_LEASE by default",
    )
}

fn result() -> impl Value<Read = JsonText> {
    let parse = |text: &str| {
        if text.len() > RESULT_BYTES_MAX {
            return Err(format!("must not exceed {RESULT_BYTES_MAX} bytes"));
        }
        JsonText::parse(text).map_err(|error| error.to_string())
    };
    value(parse, || {
        json!({
            "$ref": "#/components/schemas/Json",
            "description": "Any JSON, kept byte for byte; at most 8,192 bytes and 32 levels, no repeated key",
        })
    })
}

fn reason() -> impl Value<Read = String> {
    let parse = |text: &str| {
        let text = required_string(text)?;
        if text.is_empty() || text.len() > REASON_BYTES_MAX {
            return Err(format!("must have 1 to {REASON_BYTES_MAX} bytes"));
        }
        if text.contains('\0') {
            return Err("must not contain the NUL character".to_owned());
        }
        Ok(text.into_owned())
    };
    value(parse, || {
        json!({
            "description": "Kept as the order's `last_error`; at most 1,024 bytes",
            "type": "string", "minLength": 1, "maxLength": REASON_BYTES_MAX, "pattern": "^[^\\u0000]*$",
        })
    })
}

/// Leases granted to a worker.
#[derive(Serialize, ToSchema)]
#[schema(as = Leases)]
pub struct LeasesBody<'a> {
    /// Empty if no order was free in time.
    pub leases: Vec<LeaseBody<'a>>,
}

/// The right to process an order once.
#[derive(Serialize, ToSchema)]
#[schema(as = Lease)]
pub struct LeaseBody<'a> {
    order: OrderBody<'a>,
    /// Sent with every call about this lease. Opaque and secret.
    #[schema(example = "AAAAAQAAAAG0dD3CFOLHXYGPYFkxm4a7")]
    token: String,
    /// Rises with each lease of the order: a service that remembers the highest can refuse calls with a lower one.
    #[schema(example = 4_294_967_297_u64)]
    fence: u64,
    /// Counts attempts from 1.
    attempt: u32,
    /// Opaque key for calls that the worker makes to other services. All attempts share it; a retry of a Failed or
    /// Cancelled order gets a new one.
    #[schema(example = "7f3a9c0d5e1b2846-45-0")]
    idempotency_key: String,
    /// Expiry of the lease, unless it is renewed.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Time,
}

impl<'a> LeaseBody<'a> {
    /// Renders a lease just granted for `time`.
    pub fn granted(lease: &'a Lease, time: Duration) -> LeaseBody<'a> {
        let order = &lease.order;
        let started = order.processing_at.unwrap_or(order.created_at);
        LeaseBody {
            order: OrderBody::from(order),
            token: lease.token.to_string(),
            fence: lease.fence,
            attempt: order.attempts,
            idempotency_key: lease.attempt_key.to_string(),
            expires_at: Time(started.plus(time)),
        }
    }
}

/// End of a renewed lease.
#[derive(Serialize, ToSchema)]
#[schema(as = Renewal)]
pub struct RenewalBody {
    #[schema(value_type = String, format = DateTime)]
    expires_at: Time,
}

impl RenewalBody {
    pub fn until(expires_at: Timestamp) -> RenewalBody {
        RenewalBody {
            expires_at: Time(expires_at),
        }
    }
}
