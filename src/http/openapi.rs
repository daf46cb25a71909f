//! The OpenAPI 3.1 document: all routes with their requests and answers. `docs` serves it.

use std::borrow::Cow;

use axum::body::Bytes;
use serde_json::json;
use utoipa::openapi::path::Paths;
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, ObjectBuilder, Ref, RefOr, Required, ResponseBuilder, Schema};
use utoipa::{Modify, OpenApi, PartialSchema, ToSchema};

use crate::event::EventKind;
use crate::order::{BATCH_ORDERS_MAX, INTEGER_MAX, ITEMS_MAX, REFERENCE_CHARS_MAX};
pub use crate::order_json::StatusName;

const AMOUNT_MAX: f64 = 999_999_999_999.99;
const AMOUNT_PATTERN: &str = r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,2})?$";

mod parameters;
mod workers;

use parameters::ParameterSchemas;
pub use workers::{CompletionSchema, FailureSchema, ReleaseSchema, RenewalSchema, TakeSchema};

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
    components(schemas(NewOrderSchema, StatusName, EventKindName, JsonSchema)),
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
        let problem = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("Problem")))
            .build();
        let refusal = ResponseBuilder::new()
            .description("Refused or failed; see `type`")
            .content("application/problem+json", problem)
            .build();
        let items = document.paths.paths.values_mut();
        for operation in items.flat_map(|item| [&mut item.get, &mut item.post]).flatten() {
            let responses = &mut operation.responses.responses;
            responses.insert("default".to_owned(), refusal.clone().into());
        }
    }
}

/// Marks bodies as optional, which an attribute cannot do for a schema written by hand.
struct OptionalBodies;

impl Modify for OptionalBodies {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let item = document.paths.paths.get_mut("/leases");
        let operation = item.and_then(|item| item.post.as_mut());
        if let Some(RefOr::T(body)) = operation.and_then(|operation| operation.request_body.as_mut()) {
            body.required = Some(Required::False);
        }
    }
}

/// Body of `POST /orders`, parsed by `wire`.
pub struct NewOrderSchema;

impl ToSchema for NewOrderSchema {
    fn name() -> Cow<'static, str> {
        "NewOrder".into()
    }
}

impl PartialSchema for NewOrderSchema {
    fn schema() -> RefOr<Schema> {
        let integer = id();
        fragment(json!({
            "type": "object",
            "required": ["user_id", "item_ids", "total_amount"],
            "additionalProperties": false,
            "properties": {
                "user_id": integer,
                "item_ids": {
                    "description": "An array of integers, one integer, or a comma-separated string of integers",
                    "oneOf": [
                        { "type": "array", "items": integer, "minItems": 1, "maxItems": ITEMS_MAX },
                        integer,
                        { "type": "string", "pattern": parameters::integers() },
                    ],
                },
                "total_amount": {
                    "description": "0 to 999999999999.99 with at most two decimals and no exponent",
                    "oneOf": [
                        { "type": "number", "minimum": 0, "maximum": AMOUNT_MAX },
                        { "type": "string", "pattern": AMOUNT_PATTERN },
                    ],
                },
                "reference": {
                    "description": "The caller's own order number; not unique",
                    "type": ["string", "null"],
                    "minLength": 1,
                    "maxLength": REFERENCE_CHARS_MAX,
                    "pattern": parameters::NO_CONTROLS,
                },
                "metadata": {
                    "description": "Kept byte for byte; at most 8,192 bytes and 32 levels, no repeated key",
                    "type": ["object", "null"],
                    "additionalProperties": true,
                },
            },
            "example": { "user_id": 104, "item_ids": [101, 102, 103], "total_amount": 250.75 },
        }))
    }
}

/// Body of `POST /orders/batch`.
pub struct NewOrdersSchema;

impl ToSchema for NewOrdersSchema {
    fn name() -> Cow<'static, str> {
        "NewOrders".into()
    }
}

impl PartialSchema for NewOrdersSchema {
    fn schema() -> RefOr<Schema> {
        fragment(json!({
            "type": "object",
            "required": ["orders"],
            "additionalProperties": false,
            "properties": {
                "orders": {
                    "type": "array",
                    "items": { "$ref": "#/components/schemas/NewOrder" },
                    "minItems": 1,
                    "maxItems": BATCH_ORDERS_MAX,
                },
            },
        }))
    }
}

/// Body of `POST /orders/retry`.
pub struct RedriveSchema;

impl ToSchema for RedriveSchema {
    fn name() -> Cow<'static, str> {
        "Redrive".into()
    }
}

impl PartialSchema for RedriveSchema {
    fn schema() -> RefOr<Schema> {
        fragment(json!({
            "type": "object",
            "required": ["status"],
            "additionalProperties": false,
            "properties": {
                "status": { "type": "string", "enum": ["Failed", "Cancelled"] },
                "user_id": {
                    "type": ["integer", "null"], "format": "int64", "minimum": 1, "maximum": INTEGER_MAX,
                },
                "created_before": { "type": ["string", "null"], "format": "date-time" },
                "dry_run": { "description": "Count without a change", "type": ["boolean", "null"] },
            },
        }))
    }
}

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
fn id() -> serde_json::Value {
    json!({ "type": "integer", "format": "int64", "minimum": 1, "maximum": INTEGER_MAX })
}

fn fragment(schema: serde_json::Value) -> RefOr<Schema> {
    serde_json::from_value(schema).expect("the schemas above are valid OpenAPI 3.1")
}

#[cfg(test)]
mod tests;
