//! The table of routes: each with its access, its description for the `OpenAPI` document, and its handler. Dispatch, metrics
//! and the document all come from it.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::LazyLock;

use axum::response::Response;
use utoipa::__dev::{SchemaReferences, Tags};
use utoipa::Path;
use utoipa::openapi::path::{HttpMethod, Operation, PathsBuilder};
use utoipa::openapi::{OpenApi, PathItem, RefOr, Schema};

use super::call::Call;
use super::openapi;
use super::problem::Problem;
use super::{accept, actions, docs, explain, health, leases, live, metrics, orders, queue};

/// Clients that may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Clients with the API key, if the server has one.
    Keyed,
    /// Every client: a load balancer has no key, and the probes and the documentation hold no data.
    Open,
}

pub type Answering = Pin<Box<dyn Future<Output = Result<Response, Problem>> + Send>>;
pub type Handler = Box<dyn Fn(Call) -> Answering + Send + Sync>;

pub struct Route {
    pub method: HttpMethod,
    /// The path, with at most one parameter in braces.
    pub path: String,
    pub access: Access,
    pub handler: Handler,
    operation: Operation,
    schemas: fn(&mut Vec<(String, RefOr<Schema>)>),
}

/// Statuses that every operation may answer.
const ANYWHERE: [u16; 2] = [500, 503];

impl Route {
    /// `description` is what `utoipa::path` makes of the handler `NAME`: `__path_NAME`.
    fn new<D: Path + SchemaReferences + Tags<'static>, F>(
        access: Access,
        _description: D,
        handler: impl Fn(Call) -> F + Send + Sync + 'static,
    ) -> Route
    where
        F: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        let [method] = <[HttpMethod; 1]>::try_from(D::methods())
            .unwrap_or_else(|methods| panic!("a description has one method: {}", methods.len()));
        assert!(
            matches!(method, HttpMethod::Get | HttpMethod::Post | HttpMethod::Patch),
            "dispatch knows GET, POST and PATCH"
        );
        let mut operation = D::operation();
        operation.tags = Some(D::tags().into_iter().map(str::to_owned).collect());
        Route {
            method,
            path: D::path(),
            access,
            handler: Box::new(move |call| Box::pin(handler(call))),
            operation,
            schemas: D::schemas,
        }
    }

    pub fn method_name(&self) -> &'static str {
        match self.method {
            HttpMethod::Get => "GET",
            HttpMethod::Patch => "PATCH",
            _ => "POST",
        }
    }

    /// Returns the statuses that the route may answer, rising.
    pub fn statuses(&self) -> BTreeSet<u16> {
        let responses = self.operation.responses.responses.keys();
        let own = responses.filter_map(|status| status.parse().ok());
        own.chain(ANYWHERE).collect()
    }
}

/// Returns all routes.
pub fn table() -> &'static [Route] {
    static TABLE: LazyLock<Vec<Route>> = LazyLock::new(made);
    &TABLE
}

fn made() -> Vec<Route> {
    use Access::{Keyed, Open};
    vec![
        Route::new(Keyed, accept::__path_one, accept::one),
        Route::new(Keyed, accept::__path_batch, accept::batch),
        Route::new(Keyed, orders::__path_list, orders::list),
        Route::new(Keyed, orders::__path_read, orders::read),
        Route::new(Keyed, actions::__path_amend, actions::amend),
        Route::new(Keyed, orders::__path_history, orders::history),
        Route::new(Keyed, explain::__path_explain, explain::explain),
        Route::new(Keyed, actions::__path_cancel, actions::cancel),
        Route::new(Keyed, actions::__path_hold, actions::hold),
        Route::new(Keyed, actions::__path_release, actions::release),
        Route::new(Keyed, actions::__path_add_milestone, actions::add_milestone),
        Route::new(Keyed, actions::__path_retry, actions::retry),
        Route::new(Keyed, actions::__path_retry_matching, actions::retry_matching),
        Route::new(Keyed, leases::__path_take, leases::take),
        Route::new(Keyed, leases::__path_renew, leases::renew),
        Route::new(Keyed, leases::__path_complete, leases::complete),
        Route::new(Keyed, leases::__path_fail, leases::fail),
        Route::new(Keyed, leases::__path_release, leases::release),
        Route::new(Keyed, live::__path_events, live::events),
        Route::new(Keyed, live::socket::__path_open, live::socket::open),
        Route::new(Keyed, queue::__path_read, queue::read),
        Route::new(Keyed, queue::__path_pause, queue::pause),
        Route::new(Keyed, queue::__path_resume, queue::resume),
        Route::new(Keyed, metrics::__path_negotiated, metrics::negotiated),
        Route::new(Keyed, metrics::__path_prometheus, metrics::prometheus),
        Route::new(Open, health::__path_livez, health::livez),
        Route::new(Open, health::__path_readyz, health::readyz),
        Route::new(Open, health::__path_healthz, health::healthz),
        Route::new(Open, docs::__path_root, docs::root),
        Route::new(Open, docs::__path_openapi, docs::openapi),
        Route::new(Open, docs::__path_page, docs::page),
        Route::new(Open, docs::__path_folder, docs::folder),
        Route::new(Open, docs::__path_file, docs::file),
        Route::new(Open, docs::__path_problems, docs::problems),
        Route::new(Open, docs::__path_problem, docs::problem),
    ]
}

/// Returns the `OpenAPI` document, for servers with an API key and without one.
pub fn document() -> OpenApi {
    let mut schemas = Vec::new();
    let mut paths = PathsBuilder::new();
    for route in table() {
        (route.schemas)(&mut schemas);
        let item = PathItem::new(route.method.clone(), route.operation.clone());
        paths = paths.path(&route.path, item);
    }
    openapi::assembled(paths.build(), schemas)
}
