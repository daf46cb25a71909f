//! Dispatch of requests to the handlers in the table of routes.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context as Waking, Poll};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header::{ACCEPT, ALLOW, CONTENT_LENGTH};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;
use futures_util::future::BoxFuture;
use percent_encoding::percent_decode_str;
use tower::Service;
use utoipa::openapi::path::HttpMethod;

use super::call::Call;
use super::problem::{Problem, ProblemType};
use super::request::{Context, NO_ROUTE, answered};
use super::routes::{Access, Route};
use super::{Shared, negotiation, orders};

/// All routes, and the answer to requests without one. Cheap to clone.
#[derive(Clone)]
pub struct Routes(Arc<Dispatch>);

struct Dispatch {
    shared: Arc<Shared>,
    paths: matchit::Router<Methods>,
    no_path: Context,
}

/// The routes of one path.
struct Methods {
    context: Context,
    get: Option<&'static Route>,
    post: Option<&'static Route>,
    patch: Option<&'static Route>,
    allow: &'static str,
}

impl Routes {
    pub(super) fn new(shared: &Arc<Shared>, table: &'static [Route]) -> Routes {
        let mut dispatch = matchit::Router::new();
        let paths: BTreeSet<&'static str> = table.iter().map(|route| &*route.path).collect();
        for path in paths {
            let of = |method| {
                table
                    .iter()
                    .find(|route| route.path == path && route.method == method)
            };
            let (get, post) = (of(HttpMethod::Get), of(HttpMethod::Post));
            let patch = of(HttpMethod::Patch);
            let first = get.or(post).or(patch).expect("a route has one of these methods");
            assert!(
                [get, post, patch]
                    .into_iter()
                    .flatten()
                    .all(|route| route.access == first.access),
                "the routes of a path have one access: {path}"
            );
            let methods = Methods {
                context: Context::new(shared.clone(), path, first.access),
                get,
                post,
                patch,
                allow: match (get, post, patch) {
                    (Some(_), Some(_), Some(_)) => "GET,HEAD,POST,PATCH",
                    (Some(_), Some(_), None) => "GET,HEAD,POST",
                    (Some(_), None, Some(_)) => "GET,HEAD,PATCH",
                    (Some(_), None, None) => "GET,HEAD",
                    (None, Some(_), Some(_)) => "POST,PATCH",
                    (None, None, Some(_)) => "PATCH",
                    (None, _, None) => "POST",
                },
            };
            let inserted = dispatch.insert(path, methods);
            inserted.expect("the paths of the table differ");
        }
        Routes(Arc::new(Dispatch {
            shared: shared.clone(),
            paths: dispatch,
            no_path: Context::new(shared.clone(), NO_ROUTE, Access::Keyed),
        }))
    }
}

impl Dispatch {
    async fn answer(&self, request: Request) -> Response {
        let is_head = *request.method() == Method::HEAD;
        let mut response = match self.paths.at(request.uri().path()) {
            Ok(found) => {
                let parameter = found.params.iter().next().and_then(|(_, value)| decoded(value));
                self.answer_at(found.value, parameter, request).await
            }
            Err(_) => answered(&self.no_path, request, async |_, _, _| Err(no_route())).await,
        };
        if let Some(length) = response.body().size_hint().exact() {
            let length_header = response.headers_mut().entry(CONTENT_LENGTH);
            length_header.or_insert_with(|| HeaderValue::from(length));
        }
        if is_head {
            *response.body_mut() = Body::empty();
        }
        response
    }

    async fn answer_at(&self, methods: &Methods, parameter: Option<String>, request: Request) -> Response {
        let route = match *request.method() {
            Method::GET | Method::HEAD => methods.get,
            Method::POST => methods.post,
            Method::PATCH => methods.patch,
            _ => None,
        };
        let Some(route) = route else {
            let mut refused = answered(&methods.context, request, async |_, _, _| Err(not_allowed())).await;
            if refused.status() == StatusCode::METHOD_NOT_ALLOWED {
                let allow = HeaderValue::from_static(methods.allow);
                refused.headers_mut().insert(ALLOW, allow);
            }
            return refused;
        };
        let shared = self.shared.clone();
        let handle =
            move |caller, id, request| (route.handler)(Call::new(shared, caller, id, request, parameter));
        answered(&methods.context, request, handle).await
    }
}

fn decoded(value: &str) -> Option<String> {
    let text = percent_decode_str(value).decode_utf8().ok()?;
    Some(text.into_owned())
}

fn no_route() -> Problem {
    Problem::new(
        ProblemType::NotFound,
        "no route has this path; /docs lists all routes",
    )
}

fn not_allowed() -> Problem {
    Problem::new(
        ProblemType::MethodNotAllowed,
        "the Allow header lists the methods of this path",
    )
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
