//! Acts on orders: cancel, hold, release, milestones and retry.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::IF_MATCH;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::Shared;
use super::body::{self, ACTION_BODY_BYTES_MAX, NEW_ORDER_BODY_BYTES_MAX};
use super::call::{Call, unknown_order};
use super::fields::{FieldErrors, Pointer};
use super::openapi::{InvalidFields, UnknownOrder};
use super::orders::answer;
use super::problem::{Problem, ProblemBody, ProblemType};
use super::wire::{
    self, Action, AddMilestone, Amendment, DEADLINE_PASSED, OrderBody, Redrive, RedrivenBody, Retry,
};
use crate::order::{Milestone, Order, OrderId, Reason, UserId, parse_integer};
use crate::store::{Acted, Amended, CLIENT_EVENTS_MAX, NewMilestone, RedriveOptions, RedriveQuery};

/// Amend an order
///
/// A JSON merge patch (RFC 7396) of a Pending or Failed order. It keeps its place in the line unless its `start_after` changes.
#[utoipa::path(
    patch, operation_id = "amendOrder", path = "/orders/{id}", tag = "orders",
    params(
        ("id" = i64, Path, description = "The order's id"),
        ("If-Match" = Option<String>, Header, description = "The order's version in quotes, as its `ETag` has it"),
    ),
    request_body(content(
        (Amendment = "application/merge-patch+json"),
        (Amendment = "application/json"),
    )),
    responses(
        (status = 200, description = "Amended, or the same as before", body = OrderBody),
        (status = 400, description = "If-Match is not one version in quotes; nothing changed", body = ProblemBody, content_type = "application/problem+json"),
        UnknownOrder,
        (status = 409, description = "Neither Pending nor Failed, overdue with another deadline, or 1,000 events of clients; nothing changed", body = ProblemBody, content_type = "application/problem+json"),
        (status = 412, description = "The order has another version; nothing changed", body = ProblemBody, content_type = "application/problem+json"),
        InvalidFields,
        (status = 428, description = "No If-Match; nothing changed", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn amend(call: Call) -> Result<Response, Problem> {
    let id = call.order_id()?;
    let version = version_of(call.headers())?;
    let Call {
        shared, head, body, ..
    } = call;
    body::require_patch(&head.headers)?;
    let body = body::read(body, NEW_ORDER_BODY_BYTES_MAX).await?;
    let view = shared.store.order_view(id).await?.ok_or_else(unknown_order)?;
    if view.order.version != version {
        return Err(moved(&view.order, version));
    }
    let patch = wire::read_patch(body::text(&body)?, &view.order)?;
    match shared.store.amend(id, version, patch).await? {
        Amended::Done(order) => answer(&order),
        Amended::Moved(order) => Err(moved(&order, version)),
        Amended::Overdue(_) => Err(Problem::new(
            ProblemType::ActionRefused,
            format!("order {id} is overdue and its deadline cannot change; nothing changed"),
        )),
        Amended::DeadlinePassed => {
            let mut errors = FieldErrors::default();
            errors.add(&Pointer::Root.member("deadline"), DEADLINE_PASSED);
            Err(Problem::invalid(ProblemType::InvalidFields, errors))
        }
        Amended::Refused(order) => acted(Acted::Refused(order), "amended"),
        Amended::TooManyEvents(order) => acted(Acted::TooManyEvents(order), "amended"),
        Amended::Unknown => Err(unknown_order()),
    }
}

fn moved(order: &Order, version: u32) -> Problem {
    let Order {
        order_id,
        version: now,
        ..
    } = order;
    Problem::new(
        ProblemType::VersionMoved,
        format!("order {order_id} has version {now}, not {version}; nothing changed"),
    )
}

/// Returns the version in `If-Match`: one strong tag.
fn version_of(headers: &HeaderMap) -> Result<u32, Problem> {
    let mut given = headers.get_all(IF_MATCH).iter();
    let Some(tag) = given.next() else {
        return Err(Problem::new(
            ProblemType::VersionRequired,
            "send the version that you read: If-Match: \"3\"",
        ));
    };
    let refuse = || {
        Problem::new(
            ProblemType::BadRequest,
            "If-Match must be one version in quotes, such as \"3\"; neither * nor a weak tag",
        )
    };
    if given.next().is_some() {
        return Err(refuse());
    }
    let tag = tag.to_str().map_err(|_| refuse())?.trim();
    let version = tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let version = version.and_then(|digits| parse_integer(digits).ok());
    version
        .and_then(|number| u32::try_from(number).ok())
        .ok_or_else(refuse)
}

/// Cancel an order
#[utoipa::path(
    post, operation_id = "cancelOrder", path = "/orders/{id}/cancel", tag = "orders",
    params(("id" = i64, Path, description = "The order's id")),
    request_body(content = Action),
    responses(
        (status = 200, description = "Cancelled, now or before", body = OrderBody),
        UnknownOrder,
        (status = 409, description = "Already Completed; nothing changed", body = ProblemBody, content_type = "application/problem+json"),
        InvalidFields,
    )
)]
pub async fn cancel(call: Call) -> Result<Response, Problem> {
    let (id, shared, reason) = read_reasoned(call).await?;
    acted(shared.store.cancel(id, reason).await?, "cancelled")
}

/// Hold an order
///
/// A Pending order does not start until it is released.
#[utoipa::path(
    post, operation_id = "holdOrder", path = "/orders/{id}/hold", tag = "orders",
    params(("id" = i64, Path, description = "The order's id")),
    request_body(content = Action),
    responses(
        (status = 200, description = "Held, now or before", body = OrderBody),
        UnknownOrder,
        (status = 409, description = "Not Pending; nothing changed", body = ProblemBody, content_type = "application/problem+json"),
        InvalidFields,
    )
)]
pub async fn hold(call: Call) -> Result<Response, Problem> {
    let (id, shared, reason) = read_reasoned(call).await?;
    acted(shared.store.hold(id, reason).await?, "held")
}

/// Release a held order
///
/// The order starts soon: it counts as waiting since it was accepted. Before its `start_after` or in backoff it waits for its time.
#[utoipa::path(
    post, operation_id = "releaseOrder", path = "/orders/{id}/release", tag = "orders",
    params(("id" = i64, Path, description = "The order's id")),
    request_body(content = Action),
    responses(
        (status = 200, description = "Pending and not held, now or before", body = OrderBody),
        UnknownOrder,
        (status = 409, description = "Not Pending; nothing changed", body = ProblemBody, content_type = "application/problem+json"),
        InvalidFields,
    )
)]
pub async fn release(call: Call) -> Result<Response, Problem> {
    let (id, shared, reason) = read_reasoned(call).await?;
    acted(shared.store.release(id, reason).await?, "released")
}

/// Add a milestone to an order
///
/// The order may have any status. It shows the latest milestone; its history has all of them.
#[utoipa::path(
    post, operation_id = "addMilestone", path = "/orders/{id}/milestones", tag = "orders",
    params(("id" = i64, Path, description = "The order's id")),
    request_body(content = AddMilestone),
    responses(
        (status = 200, description = "Added", body = OrderBody),
        UnknownOrder,
        (status = 409, description = "Clients have made 1,000 events of the order; nothing changed", body = ProblemBody, content_type = "application/problem+json"),
        InvalidFields,
    )
)]
pub async fn add_milestone(call: Call) -> Result<Response, Problem> {
    let id = call.order_id()?;
    let Call {
        shared, head, body, ..
    } = call;
    body::require_json(&head.headers)?;
    let body = body::read(body, ACTION_BODY_BYTES_MAX).await?;
    let AddMilestone { name, data, reason } = wire::read(body::text(&body)?)?;
    let new = NewMilestone {
        milestone: Milestone { name, data },
        reason,
    };
    acted(shared.store.add_milestone(id, new).await?, "given a milestone")
}

/// Retry an order
///
/// A Failed or Cancelled order starts again, under a new idempotency key unless `same_key` is true. A Pending order in its
/// backoff, or before its `start_after`, becomes due now and keeps its attempts; any other Pending order stays unchanged.
#[utoipa::path(
    post, operation_id = "retryOrder", path = "/orders/{id}/retry", tag = "orders",
    params(("id" = i64, Path, description = "The order's id")),
    request_body(content = Retry),
    responses(
        (status = 200, description = "Pending", body = OrderBody),
        UnknownOrder,
        (status = 409, description = "Processing or Completed; nothing changed", body = ProblemBody, content_type = "application/problem+json"),
        InvalidFields,
    )
)]
pub async fn retry(call: Call) -> Result<Response, Problem> {
    let id = call.order_id()?;
    let (shared, action) = read_action::<Retry>(call).await?;
    let options = action.map_or_else(RedriveOptions::default, |action| RedriveOptions {
        reason: action.reason,
        same_key: action.same_key.unwrap_or(false),
    });
    acted(shared.store.redrive(id, options).await?, "retried")
}

/// Retry many orders, oldest first
#[utoipa::path(
    post, operation_id = "retryOrders", path = "/orders/retry", tag = "orders",
    request_body(content = Redrive),
    responses(
        (status = 200, description = "Numbers of orders that matched and that were retried; at most 1,000 per call", body = RedrivenBody),
        InvalidFields,
    )
)]
pub async fn retry_matching(call: Call) -> Result<Response, Problem> {
    let Call {
        shared, head, body, ..
    } = call;
    body::require_json(&head.headers)?;
    let body = body::read(body, ACTION_BODY_BYTES_MAX).await?;
    let asked: Redrive = wire::read(body::text(&body)?)?;
    let query = RedriveQuery {
        status: asked.status,
        user_id: asked.user_id.as_ref().map(UserId::key),
        user_name: asked.user_id.as_ref().and_then(|user| Some(user.name()?.into())),
        created_before: asked.created_before,
        options: RedriveOptions {
            reason: asked.reason,
            same_key: asked.same_key.unwrap_or(false),
        },
        dry_run: asked.dry_run.unwrap_or(false),
    };
    let redriven = shared.store.redrive_matching(query).await?;
    body::json(StatusCode::OK, &RedrivenBody::from(redriven))
}

/// Reads the order of an action, and the reason in its body, if any.
async fn read_reasoned(call: Call) -> Result<(OrderId, Arc<Shared>, Option<Reason>), Problem> {
    let id = call.order_id()?;
    let (shared, action) = read_action::<Action>(call).await?;
    Ok((id, shared, action.and_then(|action| action.reason)))
}

/// Reads the body of an action, which may be missing.
async fn read_action<A: wire::Body>(call: Call) -> Result<(Arc<Shared>, Option<A>), Problem> {
    let action = read_if_any(call.body, &call.head.headers, wire::read).await?;
    Ok((call.shared, action))
}

/// Reads the body of an action unless it is empty.
pub(super) async fn read_if_any<T>(
    body: Body,
    headers: &HeaderMap,
    read: impl FnOnce(&str) -> Result<T, Problem>,
) -> Result<Option<T>, Problem> {
    let body = body::read(body, ACTION_BODY_BYTES_MAX).await?;
    if body.is_empty() {
        return Ok(None);
    }
    body::require_json(headers)?;
    read(body::text(&body)?).map(Some)
}

fn acted(acted: Acted, participle: &'static str) -> Result<Response, Problem> {
    match acted {
        Acted::Done(order) => answer(&order),
        Acted::Refused(order) => Err(Problem::new(
            ProblemType::ActionRefused,
            format!(
                "order {} is {} and cannot be {participle}; nothing changed",
                order.order_id,
                order.status.name()
            ),
        )),
        Acted::TooManyEvents(order) => Err(Problem::new(
            ProblemType::ActionRefused,
            format!(
                "clients have made {CLIENT_EVENTS_MAX} events of order {}, the maximum; nothing changed",
                order.order_id
            ),
        )),
        Acted::Unknown => Err(unknown_order()),
    }
}
