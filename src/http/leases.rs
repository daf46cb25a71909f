//! Workers outside: taking orders, keeping them, and bringing back what became of them.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use bytes::Bytes;

use super::Shared;
use super::body::{self, ORDER_BODY_BYTES_MAX};
use super::openapi::{CompletionSchema, FailureSchema, ReleaseSchema, RenewalSchema, TakeSchema};
use super::orders::{PathId, answer, order_id};
use super::problem::{Problem, ProblemBody, ProblemType};
use super::wire::{self, LeaseBody, LeasesBody, OrderBody, RenewalBody};
use crate::order::Order;
use crate::pull::ResultError;

/// Take orders to process
#[utoipa::path(
    post, operation_id = "takeLeases", path = "/leases", tag = "workers",
    request_body(content = TakeSchema, description = "May be empty"),
    responses(
        (status = 200, description = "Leases, as soon as there is one; none when the wait is over", body = LeasesBody),
        (status = 409, description = "This node processes by itself; nothing changed", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "Bad fields, all of them named", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn take(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let outside = &shared.outside;
    let body = read(request, Emptiness::MeansDefaults).await?;
    let wanted = wire::read_take(body::text(&body)?, outside.settings.lease)?;
    let requests = outside.lease_requests.as_ref().ok_or_else(|| {
        Problem::new(
            ProblemType::PullDisabled,
            "this server processes its orders by itself: start it with ORDERLY_PROCESSOR=pull to give them to workers",
        )
    })?;
    // From here on the leases are the worker's: should the answer not arrive, they run out.
    let leases = requests.take(wanted).await?.into_leases();
    let time = wanted.lease.min(outside.settings.attempt_timeout);
    let leases = leases
        .iter()
        .map(|lease| LeaseBody::granted(lease, time))
        .collect();
    // Whatever goes wrong now, orders have started.
    body::json(StatusCode::OK, &LeasesBody { leases })
}

/// Keep a lease for longer
#[utoipa::path(
    post, operation_id = "renewLease", path = "/leases/{id}/renew", tag = "workers",
    params(("id" = i64, Path, description = "The order's number")),
    request_body(content = RenewalSchema),
    responses(
        (status = 200, description = "Lasts that long from now on, or less where the attempt's time ends before", body = RenewalBody),
        (status = 404, description = "No such order", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The lease is lost; nothing changed", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "Bad fields, all of them named", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn renew(
    State(shared): State<Arc<Shared>>,
    id: PathId,
    request: Request,
) -> Result<Response, Problem> {
    let id = order_id(id)?;
    let outside = &shared.outside;
    let body = read(request, Emptiness::IsMalformed).await?;
    let (token, lease) = wire::read_renewal(body::text(&body)?, outside.settings.lease)?;
    let expires = outside.renew(id, token, lease).await?;
    body::json(StatusCode::OK, &RenewalBody::until(expires))
}

/// Complete an order
#[utoipa::path(
    post, operation_id = "completeLease", path = "/leases/{id}/complete", tag = "workers",
    params(("id" = i64, Path, description = "The order's number")),
    request_body(content = CompletionSchema),
    responses(
        (status = 200, description = "Completed, now or by the same call before", body = OrderBody),
        (status = 404, description = "No such order", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The lease is lost; nothing changed", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "Bad fields, all of them named", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn complete(
    State(shared): State<Arc<Shared>>,
    id: PathId,
    request: Request,
) -> Result<Response, Problem> {
    let id = order_id(id)?;
    let body = read(request, Emptiness::IsMalformed).await?;
    let (token, result) = wire::read_completion(body::text(&body)?)?;
    settled(shared.outside.complete(id, token, result).await)
}

/// Say that an attempt failed
#[utoipa::path(
    post, operation_id = "failLease", path = "/leases/{id}/fail", tag = "workers",
    params(("id" = i64, Path, description = "The order's number")),
    request_body(content = FailureSchema),
    responses(
        (status = 200, description = "Pending again until its next attempt, or Failed", body = OrderBody),
        (status = 404, description = "No such order", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The lease is lost; nothing changed", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "Bad fields, all of them named", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn fail(
    State(shared): State<Arc<Shared>>,
    id: PathId,
    request: Request,
) -> Result<Response, Problem> {
    let id = order_id(id)?;
    let body = read(request, Emptiness::IsMalformed).await?;
    let (token, failure) = wire::read_failure(body::text(&body)?)?;
    settled(shared.outside.fail(id, token, failure).await)
}

/// Hand an order back unfinished
#[utoipa::path(
    post, operation_id = "releaseLease", path = "/leases/{id}/release", tag = "workers",
    params(("id" = i64, Path, description = "The order's number")),
    request_body(content = ReleaseSchema),
    responses(
        (status = 200, description = "Pending again, without an attempt used up", body = OrderBody),
        (status = 404, description = "No such order", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The lease is lost; nothing changed", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "Bad fields, all of them named", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn release(
    State(shared): State<Arc<Shared>>,
    id: PathId,
    request: Request,
) -> Result<Response, Problem> {
    let id = order_id(id)?;
    let body = read(request, Emptiness::IsMalformed).await?;
    let token = wire::read_release(body::text(&body)?)?;
    settled(shared.outside.release(id, token).await)
}

/// What a body of no bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Emptiness {
    /// It needs no type either.
    MeansDefaults,
    IsMalformed,
}

async fn read(request: Request, emptiness: Emptiness) -> Result<Bytes, Problem> {
    let (head, body) = request.into_parts();
    if emptiness == Emptiness::IsMalformed || head.headers.contains_key(CONTENT_TYPE) {
        body::require_json(&head.headers)?;
        return body::read(body, ORDER_BODY_BYTES_MAX).await;
    }
    let body = body::read(body, ORDER_BODY_BYTES_MAX).await?;
    if !body.is_empty() {
        body::require_json(&head.headers)?;
    }
    Ok(body)
}

fn settled(settled: Result<Order, ResultError>) -> Result<Response, Problem> {
    answer(&settled?)
}
