//! The OpenAPI 3.1 document: all routes with their requests and answers. `wire` describes the bodies, `docs` serves the
//! document.

use std::borrow::Cow;

use axum::body::Bytes;
use serde_json::json;
use utoipa::openapi::path::Paths;
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, ObjectBuilder, Ref, RefOr, Required, Response, ResponseBuilder, Schema,
};
use utoipa::{Modify, OpenApi, PartialSchema, ToSchema};

use crate::event::EventKind;
use crate::order::INTEGER_MAX;
pub use crate::order_json::StatusName;

mod parameters;
mod refusals;

use parameters::ParameterSchemas;
pub use parameters::{NO_CONTROLS, ids_and_codes};
pub use refusals::{
    InvalidFields, InvalidParameters, KeyInFlight, KeyNeeded, LeaseLost, NotReady, UnknownOrder,
};

/// Returns the document of these operations and schemas, for servers with and without a key.
pub fn assembled(paths: Paths, schemas: Vec<(String, RefOr<Schema>)>) -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    document.paths = paths;
    document
        .components
        .get_or_insert_default()
        .schemas
        .extend(schemas);
    let modifiers: [&dyn Modify; 4] = [&ApiKey, &Refusals, &ParameterSchemas, &OptionalBodies];
    for modifier in modifiers {
        modifier.modify(&mut document);
    }
    document
}

/// Renders the document for a server that requires a key, or for one that does not. A page shows a lock where a key is
/// required.
pub fn rendered(mut document: utoipa::openapi::OpenApi, has_key: bool) -> Bytes {
    if has_key {
        document.security = Some(vec![ApiKey::required()]);
    } else {
        document.security = None;
        document
            .components
            .get_or_insert_default()
            .security_schemes
            .clear();
    }
    let text = document.to_pretty_json();
    text.expect("strings and numbers always serialize").into()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "orderly",
        description = "Accepts orders, answers 201 only once an order is durable, and processes orders first-in first-out. \
            Every refusal is a problem document (RFC 9457); GET /problems lists the types. \
            [A page that shows orders as they change](/docs/live.html).",
    ),
    tags(
        (name = "orders"),
        (name = "live"),
        (name = "workers"),
        (name = "queue"),
        (name = "operation"),
        (name = "documentation"),
    ),
    components(schemas(StatusName, EventKindName, JsonSchema)),
)]
struct Document;

/// Declares the scheme and requires it everywhere; probes and documentation opt out. The key is optional, since a
/// server may have none.
struct ApiKey;

impl ApiKey {
    const NAME: &str = "api_key";

    fn required() -> SecurityRequirement {
        SecurityRequirement::new(ApiKey::NAME, [] as [&str; 0])
    }
}

impl Modify for ApiKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(ApiKey::NAME, SecurityScheme::Http(scheme));
        document.security = Some(vec![ApiKey::required(), SecurityRequirement::default()]);
    }
}

/// Adds a problem document as an answer to every operation.
struct Refusals;

impl Modify for Refusals {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let refusal = problem("Refused or failed; see `type`");
        let items = document.paths.paths.values_mut();
        for operation in items.flat_map(|item| [&mut item.get, &mut item.post]).flatten() {
            let responses = &mut operation.responses.responses;
            responses.insert("default".to_owned(), refusal.clone().into());
        }
    }
}

/// Returns an answer with a problem document.
fn problem(description: &str) -> Response {
    let document = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .build();
    ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", document)
        .build()
}

/// Marks bodies as optional, which an attribute cannot do for a schema written by hand.
struct OptionalBodies;

impl Modify for OptionalBodies {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for path in OPTIONAL_BODIES {
            let item = document.paths.paths.get_mut(path);
            let operation = item.and_then(|item| item.post.as_mut());
            if let Some(RefOr::T(body)) = operation.and_then(|operation| operation.request_body.as_mut()) {
                body.required = Some(Required::False);
            }
        }
    }
}

/// Paths whose POST takes a body or none.
const OPTIONAL_BODIES: [&str; 7] = [
    "/leases",
    "/orders/{id}/cancel",
    "/orders/{id}/hold",
    "/orders/{id}/release",
    "/orders/{id}/retry",
    "/queue/pause",
    "/queue/resume",
];

/// Any JSON.
pub struct JsonSchema;

impl ToSchema for JsonSchema {
    fn name() -> Cow<'static, str> {
        "Json".into()
    }
}

impl PartialSchema for JsonSchema {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(SchemaType::AnyValue)
            .description(Some("Any JSON"))
            .into()
    }
}

/// Name of an event kind.
pub struct EventKindName;

impl ToSchema for EventKindName {
    fn name() -> Cow<'static, str> {
        "EventKind".into()
    }
}

impl PartialSchema for EventKindName {
    fn schema() -> RefOr<Schema> {
        fragment(json!({ "type": "string", "enum": EventKind::ALL.map(EventKind::name) }))
    }
}

/// Schema of the id of an order, a user or an item.
pub fn id() -> serde_json::Value {
    json!({ "type": "integer", "format": "int64", "minimum": 1, "maximum": INTEGER_MAX })
}

/// Returns a schema written as JSON.
pub fn fragment(schema: serde_json::Value) -> RefOr<Schema> {
    serde_json::from_value(schema).expect("the schemas of this module and of `wire` are valid OpenAPI 3.1")
}

#[cfg(test)]
mod tests;
