//! Requests of external workers and their answers: requests for leases and results in, leases out. For optional fields
//! `null` means absent.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::OrderBody;
use super::requests::{
    NOT_UNICODE, UNKNOWN, boolean, complete, malformed_json, object_or_error, optional, required,
};
use crate::epoch::Token;
use crate::http::fields::{FieldErrors, Pointer, REPEATED};
use crate::http::json::{self, Kind};
use crate::http::problem::Problem;
use crate::lease::{Lease, REASON_BYTES_MAX};
use crate::order::{RESULT_BYTES_MAX, parse_integer};
use crate::order_json::Time;
use crate::portable_json::JsonText;
use crate::pull::{Failure, LEASE_MAX, LEASES_MAX, RETRY_AFTER_MAX, WAIT_MAX, Wanted};
use crate::time::Timestamp;

const NOT_A_TOKEN: &str = "must be the token of a lease";

/// Parses the body of `POST /leases`, which may be empty; `lease` is the default duration of a lease.
pub fn read_take(body: &str, lease: Duration) -> Result<Wanted, Problem> {
    let mut errors = FieldErrors::default();
    let body = if body.is_empty() { "{}" } else { body };
    let Some([max, wait, asked]) = fields(body, ["max", "wait", "lease"], &mut errors)? else {
        return complete(None, errors);
    };
    let root = Pointer::Root;
    let max = optional(max, &root.member("max"), &mut errors, |value| {
        integer(value, 1..=LEASES_MAX as u64)
    });
    let wait = optional(wait, &root.member("wait"), &mut errors, |value| {
        seconds(value, 0..=WAIT_MAX.as_secs())
    });
    let asked = self::lease(asked, &mut errors);
    let wanted = Wanted {
        orders_max: max.and_then(|max| usize::try_from(max).ok()).unwrap_or(1),
        wait: wait.unwrap_or(Duration::ZERO),
        lease: asked.unwrap_or(lease),
    };
    complete(Some(wanted), errors)
}

/// Parses the body of `POST /leases/{id}/renew`: the token and the duration, `lease` by default.
pub fn read_renewal(body: &str, lease: Duration) -> Result<(Token, Duration), Problem> {
    let mut errors = FieldErrors::default();
    let Some([token, asked]) = fields(body, ["token", "lease"], &mut errors)? else {
        return complete(None, errors);
    };
    let token = self::token(token, &mut errors);
    let asked = self::lease(asked, &mut errors);
    complete(token.map(|token| (token, asked.unwrap_or(lease))), errors)
}

/// Parses the body of `POST /leases/{id}/complete`: the token and the result.
pub fn read_completion(body: &str) -> Result<(Token, Option<JsonText>), Problem> {
    let mut errors = FieldErrors::default();
    let Some([token, result]) = fields(body, ["token", "result"], &mut errors)? else {
        return complete(None, errors);
    };
    let token = self::token(token, &mut errors);
    let result = optional(result, &Pointer::Root.member("result"), &mut errors, |value| {
        if value.len() > RESULT_BYTES_MAX {
            return Err(format!("must not exceed {RESULT_BYTES_MAX} bytes"));
        }
        JsonText::parse(value).map_err(|error| error.to_string())
    });
    complete(token.map(|token| (token, result)), errors)
}

/// Parses the body of `POST /leases/{id}/fail`: the token and the reason.
pub fn read_failure(body: &str) -> Result<(Token, Failure), Problem> {
    let mut errors = FieldErrors::default();
    let names = ["token", "error", "permanent", "retry_after"];
    let Some([token, error, permanent, retry_after]) = fields(body, names, &mut errors)? else {
        return complete(None, errors);
    };
    let root = Pointer::Root;
    let token = self::token(token, &mut errors);
    let error = required(error, &root.member("error"), &mut errors, error_text);
    let permanent = optional(permanent, &root.member("permanent"), &mut errors, boolean);
    let retry_after = optional(retry_after, &root.member("retry_after"), &mut errors, |value| {
        seconds(value, 0..=RETRY_AFTER_MAX.as_secs())
    });
    let failure = token.zip(error).map(|(token, error)| {
        let failure = Failure {
            error,
            permanent: permanent.unwrap_or(false),
            retry_after,
        };
        (token, failure)
    });
    complete(failure, errors)
}

/// Parses the body of `POST /leases/{id}/release`: the token.
pub fn read_release(body: &str) -> Result<Token, Problem> {
    let mut errors = FieldErrors::default();
    let Some([token]) = fields(body, ["token"], &mut errors)? else {
        return complete(None, errors);
    };
    let token = self::token(token, &mut errors);
    complete(token, errors)
}

/// Returns the texts of an object's fields; `None` if the body is not an object.
fn fields<'b, const N: usize>(
    body: &'b str,
    names: [&str; N],
    errors: &mut FieldErrors,
) -> Result<Option<[Option<&'b str>; N]>, Problem> {
    let root = Pointer::Root;
    let mut given = [None; N];
    let read = json::members(body, |name, value| {
        match names.iter().position(|known| *known == name) {
            None => errors.add(&root.member(name), UNKNOWN),
            Some(place) if given[place].replace(value).is_some() => {
                errors.add(&root.member(name), REPEATED);
            }
            Some(_) => {}
        }
    });
    let is_object = object_or_error(read, &root, errors).map_err(|reason| malformed_json(&reason))?;
    Ok(is_object.then_some(given))
}

fn token(value: Option<&str>, errors: &mut FieldErrors) -> Option<Token> {
    required(value, &Pointer::Root.member("token"), errors, |value| {
        let text = match Kind::of(value) {
            Kind::String => json::string(value),
            _ => None,
        };
        let token = text.and_then(|text| Token::parse(&text));
        token.ok_or_else(|| NOT_A_TOKEN.to_owned())
    })
}

fn lease(value: Option<&str>, errors: &mut FieldErrors) -> Option<Duration> {
    let at = Pointer::Root.member("lease");
    optional(value, &at, errors, |value| {
        seconds(value, 1..=LEASE_MAX.as_secs())
    })
}

fn seconds(value: &str, range: RangeInclusive<u64>) -> Result<Duration, String> {
    integer(value, range).map(Duration::from_secs)
}

fn integer(value: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let integer = if value == "0" {
        Some(0)
    } else {
        parse_integer(value)
            .ok()
            .and_then(|value| u64::try_from(value).ok())
    };
    let in_range = integer.filter(|integer| range.contains(integer));
    in_range.ok_or_else(|| format!("must be an integer from {} to {}", range.start(), range.end()))
}

fn error_text(value: &str) -> Result<String, String> {
    if Kind::of(value) != Kind::String {
        return Err("must be a string".into());
    }
    let text = json::string(value).ok_or(NOT_UNICODE)?;
    if text.is_empty() || text.len() > REASON_BYTES_MAX {
        return Err(format!("must have 1 to {REASON_BYTES_MAX} bytes"));
    }
    if text.contains('\0') {
        return Err("must not contain the NUL character".into());
    }
    Ok(text.into_owned())
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
