//! Dispatch of requests to their routes. The two most frequent, accepting and reading an order, bypass the router,
//! which allocates several times per request. The answers are the same.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context as Waking, Poll};

use axum::Router;
use axum::body::HttpBody;
use axum::extract::{Path, Request, State};
use axum::http::header::{ACCEPT, CONTENT_LENGTH};
use axum::http::{HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use tower::Service;

use super::request::{Context, answered};
use super::{ORDERS, Shared, accept, negotiation, orders};

/// Maximum digits of an order id.
const ID_DIGITS_MAX: usize = 19;

/// All routes, and the answer to requests without one. Cheap to clone.
#[derive(Clone)]
pub struct Routes(pub(super) Arc<Dispatch>);

pub(super) struct Dispatch {
    pub shared: Arc<Shared>,
    /// Context of [`ORDERS`].
    pub orders: Context,
    /// Context of [`super::ORDER`].
    pub order: Context,
    pub router: Router,
}

impl Dispatch {
    async fn answer(&self, request: Request) -> Response {
        let path = request.uri().path();
        let state = || State(self.shared.clone());
        let response = match *request.method() {
            Method::POST if path == ORDERS => {
                let accept = async |request| sized(accept::one(state(), request).await.into_response());
                answered(&self.orders, request, accept).await
            }
            Method::GET => match number(path) {
                Some(id) => {
                    let id = Ok(Path(id.to_owned()));
                    let read = async |request: Request| {
                        let (head, _body) = request.into_parts();
                        sized(orders::read(state(), id, head.headers).await.into_response())
                    };
                    answered(&self.order, request, read).await
                }
                None => return self.route(request).await,
            },
            _ => return self.route(request).await,
        };
        sized(response)
    }

    async fn route(&self, request: Request) -> Response {
        let Ok(response) = self.router.clone().call(request).await;
        response
    }
}

/// Returns the digits of an order id in a path. Other forms are left to the router.
fn number(path: &str) -> Option<&str> {
    let id = path.strip_prefix(ORDERS)?.strip_prefix('/')?;
    let is_number = (1..=ID_DIGITS_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(id)
}

/// Reports whether the server may wait for something before it answers. The client then listens all the time: if it
/// closes its side of the connection, it is gone and must not be handed an order.
pub fn may_wait<B>(request: &axum::http::Request<B>) -> bool {
    let headers = request.headers();
    let accept = headers.get_all(ACCEPT).iter();
    request.uri().path() == "/leases"
        || orders::preferred_wait(headers).is_some()
        || negotiation::wants_event_stream(accept.filter_map(|value| value.to_str().ok()))
}

/// Adds the content length, as the router does.
fn sized(mut response: Response) -> Response {
    if let Some(length) = response.body().size_hint().exact() {
        let headers = response.headers_mut();
        headers
            .entry(CONTENT_LENGTH)
            .or_insert_with(|| HeaderValue::from(length));
    }
    response
}

impl Service<Request> for Routes {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Waking<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let dispatch = self.0.clone();
        Box::pin(async move { Ok(dispatch.answer(request).await) })
    }
}
