//! Reads orders; `accept` accepts them, and `actions` acts on them.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use tokio::time::Instant;

use super::Shared;
use super::body;
use super::call::{Call, unknown_order};
use super::cursor::{self, ORDERLY_CURSOR};
use super::openapi::{InvalidParameters, UnknownOrder};
use super::problem::Problem;
use super::query;
use super::wire::{EventBody, EventsBody, OrderBody, PageBody};
use crate::live::{Filter, Next, Subscription};
use crate::order::{Order, OrderId};
use crate::store::{FeedCursor, OrderPage, OrderView, StoreError};

/// Maximum wait of `Prefer: wait`; many proxies give up after a minute.
const WAIT_SECONDS_MAX: u64 = 60;
/// Pause before a long poll asks a store again that cannot answer at the moment.
const LONG_POLL_RETRY: Duration = Duration::from_millis(500);
const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Read an order
#[utoipa::path(
    get, operation_id = "readOrder", path = "/orders/{id}", tag = "orders",
    params(
        ("id" = i64, Path, description = "The order's id"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer once the order is final, after N seconds at the latest (60 at most)"),
    ),
    responses(
        (status = 200, description = "The whole order", body = OrderBody, headers(("Preference-Applied" = String), ("Orderly-Cursor" = String, description = "Cursor after which the feed has every change that this answer does not show"))),
        UnknownOrder,
    )
)]
pub async fn read(call: Call) -> Result<Response, Problem> {
    let shared = &call.shared;
    let id = call.order_id()?;
    let Some(seconds) = preferred_wait(call.headers()) else {
        let view = shared.store.order_view(id).await?.ok_or_else(unknown_order)?;
        return viewed(&view);
    };
    awaited(shared, id, seconds, StatusCode::OK).await
}

/// Answers with the order once it is final, or as it is after so many seconds.
pub(super) async fn awaited(
    shared: &Shared,
    id: OrderId,
    seconds: u64,
    status: StatusCode,
) -> Result<Response, Problem> {
    let view = final_or_latest(shared, id, Duration::from_secs(seconds)).await?;
    let mut response = with_cursor(body::order(status, &OrderBody::from(&view.order))?, view.at);
    let applied = HeaderValue::try_from(format!("wait={seconds}")).map_err(Problem::unexpected)?;
    response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    Ok(response)
}

/// List orders, newest first
#[utoipa::path(
    get, operation_id = "listOrders", path = "/orders", tag = "orders",
    params(
        ("status" = Option<Vec<super::openapi::StatusName>>, Query, description = "May be repeated: any of these"),
        ("user_id" = Option<String>, Query),
        ("reference" = Option<String>, Query),
        ("held" = Option<bool>, Query, description = "`true`: only held orders"),
        ("overdue" = Option<bool>, Query, description = "`true`: only overdue orders"),
        ("milestone" = Option<String>, Query, description = "Name of the latest milestone"),
        ("created_after" = Option<String>, Query, description = "RFC 3339; strictly after"),
        ("created_before" = Option<String>, Query, description = "RFC 3339; strictly before"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 500, description = "Orders per page, 50 by default"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the previous page"),
    ),
    responses(
        (status = 200, description = "A page of orders. It may be short or empty before the end; continue until `next_cursor` is null", body = PageBody),
        InvalidParameters,
    )
)]
pub async fn list(call: Call) -> Result<Response, Problem> {
    let (query, user) = query::order_query(call.query())?;
    let mut page = call.shared.store.orders(query).await?;
    if let Some(user) = user {
        // Names may share the number under which a store keeps them.
        page.orders.retain(|order| order.request.user_id == user);
    }
    let response = body::json(StatusCode::OK, &rendered(&page)?)?;
    Ok(with_cursor(response, page.at))
}

/// Read an order's history
#[utoipa::path(
    get, operation_id = "readHistory", path = "/orders/{id}/events", tag = "orders",
    params(
        ("id" = i64, Path, description = "The order's id"),
        ("after" = Option<u32>, Query, description = "Only events with a higher version"),
    ),
    responses(
        (status = 200, description = "The order's events, oldest first, at most 1,000", body = EventsBody),
        UnknownOrder,
    )
)]
pub async fn history(call: Call) -> Result<Response, Problem> {
    let id = call.order_id()?;
    let after = query::history_query(call.query())?;
    let history = call
        .shared
        .store
        .history(id, after)
        .await?
        .ok_or_else(unknown_order)?;
    let answer = EventsBody {
        events: history
            .events
            .iter()
            .map(|event| EventBody::new(event, history.epochs.cursor(event.position).epoch))
            .collect(),
    };
    Ok(with_cursor(body::json(StatusCode::OK, &answer)?, history.at))
}

/// Returns the order once it is final, or as it is when the time is over or the server stops.
async fn final_or_latest(shared: &Shared, id: OrderId, wait: Duration) -> Result<OrderView, Problem> {
    let deadline = Instant::now() + wait;
    let mut subscription = None;
    loop {
        let over = Instant::now() >= deadline || shared.draining.is_cancelled();
        let retry_pause = match shared.store.order_view(id).await {
            Ok(view) => {
                let view = view.ok_or_else(unknown_order)?;
                if over || view.order.status.is_final() {
                    return Ok(view);
                }
                None
            }
            // The client asked to wait, and these errors pass: they mean "not yet".
            Err(StoreError::Busy | StoreError::Unavailable { .. }) if !over => Some(LONG_POLL_RETRY),
            Err(error) => return Err(error.into()),
        };
        let wake_at = deadline.min(retry_pause.map_or(deadline, |pause| Instant::now() + pause));
        tokio::select! {
            () = until_final(shared, id, &mut subscription) => {}
            () = tokio::time::sleep_until(wake_at) => {}
            () = shared.draining.cancelled() => {}
        }
    }
}

/// Resolves at once after subscribing, since earlier changes are visible only in the order.
async fn until_final(shared: &Shared, id: OrderId, subscription: &mut Option<Subscription>) {
    let Some(subscription) = subscription else {
        let filter = Filter {
            order_id: Some(id),
            ..Filter::default()
        };
        match shared.live.subscribe(filter, None).await {
            Ok(begun) => *subscription = Some(begun),
            // Retried, as above.
            Err(_) => tokio::time::sleep(LONG_POLL_RETRY).await,
        }
        return;
    };
    loop {
        match subscription.next().await {
            Next::Change(change) if change.event.event.status.is_final() => return,
            Next::Change(_) => {}
            Next::Resync(_) => return,
        }
    }
}

fn rendered(page: &OrderPage) -> Result<PageBody, Problem> {
    let (orders, cut_after) = body::page_items(&page.orders, OrderBody::from)?;
    let next = cut_after.map_or(page.next, |last| Some(last.order_id));
    Ok(PageBody {
        orders,
        next_cursor: next.map(|last| query::cursor(last, page.as_of)),
    })
}

/// Returns the seconds of the first `wait` preference (RFC 7240 section 4.3), at most [`WAIT_SECONDS_MAX`]. Malformed
/// preferences are ignored.
pub(super) fn preferred_wait(headers: &HeaderMap) -> Option<u64> {
    let values = headers
        .get_all(PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split(','));
    let wait = preferences.find_map(|preference| {
        let preference = preference.split(';').next().unwrap_or(preference);
        let (name, value) = preference.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("wait")
            .then(|| value.trim().trim_matches('"'))
    })?;
    let digits = !wait.is_empty() && wait.bytes().all(|byte| byte.is_ascii_digit());
    // A number too large for an integer also exceeds the maximum.
    digits.then(|| wait.parse().unwrap_or(u64::MAX).min(WAIT_SECONDS_MAX))
}

pub(super) fn answer(order: &Order) -> Result<Response, Problem> {
    body::order(StatusCode::OK, &OrderBody::from(order))
}

fn viewed(view: &OrderView) -> Result<Response, Problem> {
    Ok(with_cursor(answer(&view.order)?, view.at))
}

fn with_cursor(mut response: Response, at: FeedCursor) -> Response {
    response.headers_mut().insert(ORDERLY_CURSOR, cursor::header(at));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(values: &[&'static str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(PREFER, HeaderValue::from_static(value));
        }
        preferred_wait(&headers)
    }

    #[test]
    fn the_first_wait_preference_counts_up_to_a_minute() {
        assert_eq!(wait(&["wait=10"]), Some(10));
        assert_eq!(wait(&["respond-async", "Wait = \"5\"; x=1, wait=7"]), Some(5));
        assert_eq!(wait(&["wait=61"]), Some(60));
        assert_eq!(wait(&["wait=99999999999999999999999"]), Some(60));
        assert_eq!(wait(&["wait=0"]), Some(0));
        for ignored in [&[][..], &["wait"], &["wait=-1"], &["wait="], &["waiting=3"]] {
            assert_eq!(wait(ignored), None, "{ignored:?}");
        }
    }
}
