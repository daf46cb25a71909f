//! Routes of external workers: take orders, renew leases, post results.

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use bytes::Bytes;

use super::body::{self, ACTION_BODY_BYTES_MAX};
use super::call::Call;
use super::openapi::{InvalidFields, LeaseLost, UnknownOrder};
use super::orders::answer;
use super::problem::{Problem, ProblemBody, ProblemType};
use super::wire::{
    self, Complete, Fail, LeaseBody, LeasesBody, OrderBody, Release, Renew, RenewalBody, Take,
};
use crate::order::Order;
use crate::pull::{Failure, ResultError, Wanted};

/// Take orders to process
#[utoipa::path(
    post, operation_id = "takeLeases", path = "/leases", tag = "workers",
    request_body(content = Take, description = "May be empty"),
    responses(
        (status = 200, description = "Leases, as soon as an order is free; none when the wait ends", body = LeasesBody),
        (status = 409, description = "This node processes its orders itself; nothing changed", body = ProblemBody, content_type = "application/problem+json"),
        InvalidFields,
    )
)]
pub async fn take(call: Call) -> Result<Response, Problem> {
    let shared = call.shared.clone();
    let outside = &shared.outside;
    let body = read(call, Emptiness::MeansDefaults).await?;
    let asked: Take = wire::read(if body.is_empty() { "{}" } else { body::text(&body)? })?;
    let wanted = Wanted {
        orders_max: asked.max.and_then(|max| usize::try_from(max).ok()).unwrap_or(1),
        wait: asked.wait.unwrap_or_default(),
        lease: asked.lease.unwrap_or(outside.settings.lease),
    };
    let requests = outside.lease_requests.as_ref().ok_or_else(|| {
        Problem::new(
            ProblemType::PullDisabled,
            "this server processes its orders itself; start it with ORDERLY_PROCESSOR=pull for external workers",
        )
    })?;
    // From here on the worker owns the leases; if the answer does not arrive, they expire.
    let leases = requests.take(wanted).await?.into_leases();
    let time = wanted.lease.min(outside.settings.attempt_timeout);
    let leases = leases
        .iter()
        .map(|lease| LeaseBody::granted(lease, time))
        .collect();
    // The orders have started, whatever fails from here on.
    body::json(StatusCode::OK, &LeasesBody { leases })
}

/// Renew a lease
#[utoipa::path(
    post, operation_id = "renewLease", path = "/leases/{id}/renew", tag = "workers",
    params(("id" = i64, Path, description = "The order's id")),
    request_body(content = Renew),
    responses(
        (status = 200, description = "The lease lasts that long from now, or to the end of the attempt's time", body = RenewalBody),
        UnknownOrder,
        LeaseLost,
        InvalidFields,
    )
)]
pub async fn renew(call: Call) -> Result<Response, Problem> {
    let (id, shared) = (call.order_id()?, call.shared.clone());
    let outside = &shared.outside;
    let body = read(call, Emptiness::IsMalformed).await?;
    let Renew { token, lease } = wire::read(body::text(&body)?)?;
    let lease = lease.unwrap_or(outside.settings.lease);
    let expires = outside.renew(id, token, lease).await?;
    body::json(StatusCode::OK, &RenewalBody::until(expires))
}

/// Complete an order
#[utoipa::path(
    post, operation_id = "completeLease", path = "/leases/{id}/complete", tag = "workers",
    params(("id" = i64, Path, description = "The order's id")),
    request_body(content = Complete),
    responses(
        (status = 200, description = "Completed, now or by an earlier call with the same content", body = OrderBody),
        UnknownOrder,
        LeaseLost,
        InvalidFields,
    )
)]
pub async fn complete(call: Call) -> Result<Response, Problem> {
    let (id, shared) = (call.order_id()?, call.shared.clone());
    let body = read(call, Emptiness::IsMalformed).await?;
    let Complete { token, result } = wire::read(body::text(&body)?)?;
    settled(shared.outside.complete(id, token, result).await)
}

/// Report that an attempt failed
#[utoipa::path(
    post, operation_id = "failLease", path = "/leases/{id}/fail", tag = "workers",
    params(("id" = i64, Path, description = "The order's id")),
    request_body(content = Fail),
    responses(
        (status = 200, description = "Pending again until its next attempt, or Failed", body = OrderBody),
        UnknownOrder,
        LeaseLost,
        InvalidFields,
    )
)]
pub async fn fail(call: Call) -> Result<Response, Problem> {
    let (id, shared) = (call.order_id()?, call.shared.clone());
    let body = read(call, Emptiness::IsMalformed).await?;
    let told: Fail = wire::read(body::text(&body)?)?;
    let failure = Failure {
        error: told.error,
        permanent: told.permanent.unwrap_or(false),
        retry_after: told.retry_after,
    };
    settled(shared.outside.fail(id, told.token, failure).await)
}

/// Give an order back unfinished
#[utoipa::path(
    post, operation_id = "releaseLease", path = "/leases/{id}/release", tag = "workers",
    params(("id" = i64, Path, description = "The order's id")),
    request_body(content = Release),
    responses(
        (status = 200, description = "Pending again; the attempt does not count", body = OrderBody),
        UnknownOrder,
        LeaseLost,
        InvalidFields,
    )
)]
pub async fn release(call: Call) -> Result<Response, Problem> {
    let (id, shared) = (call.order_id()?, call.shared.clone());
    let body = read(call, Emptiness::IsMalformed).await?;
    let Release { token } = wire::read(body::text(&body)?)?;
    settled(shared.outside.release(id, token).await)
}

/// Meaning of an empty body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Emptiness {
    /// A `Content-Type` is not needed either.
    MeansDefaults,
    IsMalformed,
}

async fn read(call: Call, emptiness: Emptiness) -> Result<Bytes, Problem> {
    let Call { head, body, .. } = call;
    if emptiness == Emptiness::IsMalformed || head.headers.contains_key(CONTENT_TYPE) {
        body::require_json(&head.headers)?;
        return body::read(body, ACTION_BODY_BYTES_MAX).await;
    }
    let body = body::read(body, ACTION_BODY_BYTES_MAX).await?;
    if !body.is_empty() {
        body::require_json(&head.headers)?;
    }
    Ok(body)
}

fn settled(settled: Result<Order, ResultError>) -> Result<Response, Problem> {
    answer(&settled?)
}
