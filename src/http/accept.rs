//! `POST /orders` and `POST /orders/batch`: 201 only once the orders are durable; a repeated request gets the same 201.

use std::sync::Arc;

use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;

use super::Shared;
use super::body::{self, BATCH_BODY_BYTES_MAX, MediaType, NEW_ORDER_BODY_BYTES_MAX};
use super::call::Call;
use super::fields::{FieldErrors, Pointer};
use super::idempotency::Key;
use super::openapi::{InvalidFields, KeyInFlight};
use super::orders::{awaited, preferred_wait};
use super::problem::{Problem, ProblemType};
use super::wire::{self, DEADLINE_PASSED, NewOrders, OrderBody, OrdersBody};
use crate::order::{NewOrder, OrderDefaults, OrderId};
use crate::store::{Accepted, IdempotencyKey, StoreError};

/// Upper bound of the memory an order of a batch needs besides its text, including its part of the answer.
const BATCH_ORDER_BYTES: usize = 1024;
const REPLAYED: &str = "idempotent-replayed";

/// Accept an order
#[utoipa::path(
    post, operation_id = "acceptOrder", path = "/orders", tag = "orders",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "Repeated requests with this key get the first answer"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer once the order is final, after N seconds at the latest (60 at most)"),
    ),
    request_body(content = NewOrder),
    responses(
        (status = 201, description = "Stored durably; the order as accepted, or with `Prefer: wait` as it is after the wait", body = OrderBody,
            headers(("Location" = String), ("Idempotent-Replayed" = String), ("Preference-Applied" = String), ("Orderly-Cursor" = String, description = "With `Prefer: wait`: cursor after which the feed has every change that this answer does not show"))),
        KeyInFlight,
        InvalidFields,
    )
)]
pub async fn one(call: Call) -> Result<Response, Problem> {
    let key = Key::read(call.headers())?;
    body::require_json(call.headers())?;
    let body = body::read(call.body, NEW_ORDER_BODY_BYTES_MAX).await?;
    let defaults = &call.shared.order_defaults;
    let orders: Arc<[NewOrder]> = Arc::new([wire::read_order(body::text(&body)?, defaults)?]);
    let key = key.map(|key| key.bind(call.caller, "orders", &body));
    let accepted = store(&call.shared, orders.clone(), key, false).await?;
    let Some(id) = accepted.order_ids.first().copied() else {
        return Err(Problem::unexpected(WrongCount));
    };
    let read_again = match defaults_of(&call.shared, &orders, &accepted).await? {
        None => None,
        Some(defaults) => Some(wire::read_order(body::text(&body)?, &defaults)?),
    };
    drop(body);
    let awaited = match preferred_wait(&call.head.headers) {
        Some(seconds) => awaited(&call.shared, id, seconds, StatusCode::CREATED)
            .await
            .map(Some),
        None => Ok(None),
    };
    let answer = match awaited {
        Ok(Some(answer)) => answer,
        // The order is stored, whatever keeps it from being read.
        not_read => {
            if let Err(problem) = not_read {
                tracing::warn!(
                    order_id = id.0,
                    cause = problem.cause(),
                    "cannot read an accepted order for a client that waits"
                );
            }
            let order = read_again.as_ref().unwrap_or(&orders[0]);
            body::order(
                StatusCode::CREATED,
                &OrderBody::accepted(order, id, accepted.created_at),
            )?
        }
    };
    let mut response = marked(answer, &accepted);
    let location = HeaderValue::try_from(format!("/orders/{id}")).map_err(Problem::unexpected)?;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// Accept up to 1,000 orders, all or none
#[utoipa::path(
    post, operation_id = "acceptOrders", path = "/orders/batch", tag = "orders",
    params(("Idempotency-Key" = Option<String>, Header, description = "Repeated requests with this key get the first answer")),
    request_body(content(
        (NewOrders = "application/json"),
        (String = "application/x-ndjson"),
    )),
    responses(
        (status = 201, description = "All stored durably, in the order given", body = OrdersBody,
            headers(("Idempotent-Replayed" = String))),
        KeyInFlight,
        InvalidFields,
    )
)]
pub async fn batch(call: Call) -> Result<Response, Problem> {
    let key = Key::read(call.headers())?;
    let media_type = body::media_type(call.headers())?;
    let mut share = call.shared.batch_memory.share();
    let body = body::read_in_share(call.body, BATCH_BODY_BYTES_MAX, &mut share).await?;
    let text = body::text(&body)?;
    let defaults = &call.shared.order_defaults;
    let read = |defaults: &OrderDefaults| match media_type {
        MediaType::Json => wire::read_batch(text, defaults),
        MediaType::JsonLines => wire::read_batch_lines(text, defaults),
        MediaType::MergePatch => Err(not_for_batches()),
    };
    let orders: Arc<[NewOrder]> = read(defaults)?.into();

    // The orders hold no more text than the body, and so does the answer; both have the codes of lines once more. Reserved while
    // the batch can still be refused.
    let lines: usize = orders
        .iter()
        .filter_map(|order| order.items.lines())
        .map(str::len)
        .sum();
    share.grow_to(2 * (body.len() + lines) + orders.len() * BATCH_ORDER_BYTES)?;
    let key = key.map(|key| key.bind(call.caller, "orders/batch", &body));
    let accepted = store(&call.shared, orders.clone(), key, true).await?;
    let orders = match defaults_of(&call.shared, &orders, &accepted).await? {
        None => orders,
        Some(defaults) => read(&defaults)?.into(),
    };
    drop(body);
    let ids = &accepted.order_ids;
    let answer = OrdersBody {
        orders: orders
            .iter()
            .zip(ids)
            .map(|(order, id)| OrderBody::accepted(order, *id, accepted.created_at))
            .collect(),
    };
    let text = answer.text().map_err(Problem::unexpected)?;
    let response = body::text_in_share(StatusCode::CREATED, text, share);
    Ok(marked(response, &accepted))
}

/// Returns the defaults by which the first request stored its orders, if this repeated one reads them by other ones: the settings
/// may have changed. The key proves that both have the same bytes.
async fn defaults_of(
    shared: &Shared,
    orders: &[NewOrder],
    accepted: &Accepted,
) -> Result<Option<OrderDefaults>, Problem> {
    if !accepted.replayed {
        return Ok(None);
    }
    // Only these may have their currency from the settings.
    let by_default = |(order, _): &(&NewOrder, &OrderId)| order.currency == shared.order_defaults.currency;
    for (order, id) in orders.iter().zip(&accepted.order_ids).filter(by_default) {
        // Retention may have removed the order.
        let Some(stored) = shared.store.order_view(*id).await? else {
            continue;
        };
        let currency = stored.order.request.currency;
        if currency != order.currency {
            return Ok(Some(OrderDefaults { currency }));
        }
    }
    Ok(None)
}

/// Stores the orders. A repeated key returns the first answer; a key in flight is refused.
async fn store(
    shared: &Shared,
    orders: Arc<[NewOrder]>,
    key: Option<IdempotencyKey>,
    is_batch: bool,
) -> Result<Accepted, Problem> {
    let count = orders.len();
    let _guard = key.as_ref().map(|key| shared.in_flight.enter(key)).transpose()?;
    let accepted = shared.store.accept(orders, key).await;
    let accepted = accepted.map_err(|error| match error {
        StoreError::DeadlinePassed { places } => late(&places, is_batch),
        other => other.into(),
    })?;
    if accepted.order_ids.len() == count {
        Ok(accepted)
    } else {
        Err(Problem::unexpected(WrongCount))
    }
}

/// Names the deadlines that have passed, by the places of their orders.
fn late(places: &[usize], is_batch: bool) -> Problem {
    let mut errors = FieldErrors::default();
    let root = Pointer::Root;
    let orders = root.member("orders");
    for place in places {
        let order = if is_batch { orders.element(*place) } else { root };
        errors.add(&order.member("deadline"), DEADLINE_PASSED);
    }
    Problem::invalid(ProblemType::InvalidFields, errors)
}

fn not_for_batches() -> Problem {
    Problem::new(
        ProblemType::UnsupportedMediaType,
        "a batch must be application/json or application/x-ndjson",
    )
}

#[derive(Debug, thiserror::Error)]
#[error("the store returned a different number of orders than it was given")]
struct WrongCount;

/// Adds the header that marks a repeated answer.
fn marked(mut response: Response, accepted: &Accepted) -> Response {
    if accepted.replayed {
        let replayed = HeaderValue::from_static("true");
        response.headers_mut().insert(REPLAYED, replayed);
    }
    response
}
