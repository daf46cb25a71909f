//! `POST /orders` and `POST /orders/batch`: 201 only once the orders are durable; a repeated request gets the same 201.

use std::sync::Arc;

use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;

use super::Shared;
use super::body::{self, BATCH_BODY_BYTES_MAX, MediaType, ORDER_BODY_BYTES_MAX};
use super::call::Call;
use super::idempotency::Key;
use super::problem::{Problem, ProblemBody};
use super::wire::{self, OrderBody, OrdersBody};
use crate::order::NewOrder;
use crate::store::{Accepted, IdempotencyKey};

/// Upper bound of the memory an order of a batch needs besides its text, including its part of the answer.
const BATCH_ORDER_BYTES: usize = 1024;
const REPLAYED: &str = "idempotent-replayed";

/// Accept an order
#[utoipa::path(
    post, operation_id = "acceptOrder", path = "/orders", tag = "orders",
    params(("Idempotency-Key" = Option<String>, Header, description = "Repeated requests with this key get the first answer")),
    request_body(content = super::openapi::NewOrderSchema),
    responses(
        (status = 201, description = "Stored durably; the order as accepted", body = OrderBody,
            headers(("Location" = String), ("Idempotent-Replayed" = String))),
        (status = 409, description = "The first request with this key is in flight", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "Invalid fields, listed in the answer", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn one(call: Call) -> Result<Response, Problem> {
    let Call {
        shared,
        caller,
        head,
        body,
        ..
    } = call;
    let key = Key::read(&head.headers)?;
    body::require_json(&head.headers)?;
    let body = body::read(body, ORDER_BODY_BYTES_MAX).await?;
    let order = wire::read_order(body::text(&body)?)?;

    let orders: Arc<[NewOrder]> = Arc::new([order]);
    let key = key.map(|key| key.bind(caller, "orders", &body));
    let accepted = store(&shared, orders.clone(), key).await?;
    let (Some(order), Some(id)) = (orders.first(), accepted.order_ids.first()) else {
        return Err(Problem::unexpected(WrongCount));
    };
    let answer = OrderBody::accepted(order, *id, accepted.created_at);
    let mut response = marked(body::order(StatusCode::CREATED, &answer)?, &accepted);
    let location = HeaderValue::try_from(format!("/orders/{id}")).map_err(Problem::unexpected)?;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// Accept up to 1,000 orders, all or none
#[utoipa::path(
    post, operation_id = "acceptOrders", path = "/orders/batch", tag = "orders",
    params(("Idempotency-Key" = Option<String>, Header, description = "Repeated requests with this key get the first answer")),
    request_body(content(
        (super::openapi::NewOrdersSchema = "application/json"),
        (String = "application/x-ndjson"),
    )),
    responses(
        (status = 201, description = "All stored durably, in the order given", body = OrdersBody,
            headers(("Idempotent-Replayed" = String))),
        (status = 409, description = "The first request with this key is in flight", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "Invalid fields, listed in the answer; nothing was stored", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn batch(call: Call) -> Result<Response, Problem> {
    let Call {
        shared,
        caller,
        head,
        body,
        ..
    } = call;
    let key = Key::read(&head.headers)?;
    let media_type = body::media_type(&head.headers)?;
    let mut share = shared.batch_memory.share();
    let body = body::read_in_share(body, BATCH_BODY_BYTES_MAX, &mut share).await?;
    let text = body::text(&body)?;
    let orders: Arc<[NewOrder]> = match media_type {
        MediaType::Json => wire::read_batch(text)?,
        MediaType::JsonLines => wire::read_batch_lines(text)?,
    }
    .into();

    // The orders hold no more text than the body, and so does the answer. Reserved while the batch can still be
    // refused.
    share.grow_to(2 * body.len() + orders.len() * BATCH_ORDER_BYTES)?;
    let key = key.map(|key| key.bind(caller, "orders/batch", &body));
    drop(body);

    let accepted = store(&shared, orders.clone(), key).await?;
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

/// Stores the orders. A repeated key returns the first answer; a key in flight is refused.
async fn store(
    shared: &Shared,
    orders: Arc<[NewOrder]>,
    key: Option<IdempotencyKey>,
) -> Result<Accepted, Problem> {
    let count = orders.len();
    let _guard = key.as_ref().map(|key| shared.in_flight.enter(key)).transpose()?;
    let accepted = shared.store.accept(orders, key).await?;
    if accepted.order_ids.len() == count {
        Ok(accepted)
    } else {
        Err(Problem::unexpected(WrongCount))
    }
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
