//! The OpenAPI 3.1 document: all routes with what they take and give. Serving it is left to `docs`.

use std::borrow::Cow;

use serde_json::json;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder, Schema};
use utoipa::{Modify, OpenApi, PartialSchema, ToSchema};

use super::{accept, docs, explain, health, leases, live, metrics, orders, queue};
use crate::event::EventKind;
use crate::order::{BATCH_ORDERS_MAX, INTEGER_MAX, ITEMS_MAX, REFERENCE_CHARS_MAX};
pub use crate::order_json::StatusName;

mod workers;

pub use workers::{CompletionSchema, FailureSchema, ReleaseSchema, RenewalSchema, TakeSchema};

/// The whole document.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "orderly",
        description = "Accepts orders, answers 201 only when an order is durable, processes them first-in first-out. \
            Every refusal is a problem document (RFC 9457); GET /problems lists the types. \
            [A page that shows orders as they change](/docs/live.html).",
    ),
    paths(
        accept::one,
        accept::batch,
        orders::list,
        orders::read,
        orders::history,
        explain::explain,
        orders::cancel,
        orders::retry,
        orders::retry_matching,
        leases::take,
        leases::renew,
        leases::complete,
        leases::fail,
        leases::release,
        live::events,
        live::socket::open,
        queue::read,
        queue::pause,
        queue::resume,
        metrics::negotiated,
        metrics::prometheus,
        health::livez,
        health::readyz,
        health::healthz,
        docs::openapi,
        docs::page,
        docs::file,
        docs::problems,
        docs::problem,
    ),
    components(schemas(NewOrderSchema, StatusName, EventKindName)),
    modifiers(&ApiKey, &Refusals),
)]
struct Document;

/// Names the scheme and asks for it everywhere; the probes opt out. No key is asked for where none is set.
struct ApiKey;

impl Modify for ApiKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        const NAME: &str = "api_key";
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(NAME, SecurityScheme::Http(scheme));
        let required = SecurityRequirement::new(NAME, [] as [&str; 0]);
        document.security = Some(vec![required, SecurityRequirement::default()]);
    }
}

/// Every operation may be refused, and every refusal is a problem document.
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

/// The body of `POST /orders`, which `wire` reads by hand.
pub struct NewOrderSchema;

impl ToSchema for NewOrderSchema {
    fn name() -> Cow<'static, str> {
        "NewOrder".into()
    }
}

impl PartialSchema for NewOrderSchema {
    fn schema() -> RefOr<Schema> {
        let integer = json!({ "type": "integer", "minimum": 1, "maximum": INTEGER_MAX });
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
                        { "type": "string" },
                    ],
                },
                "total_amount": {
                    "description": "0 to 999999999999.99 with at most two decimals and no exponent",
                    "oneOf": [{ "type": "number", "minimum": 0 }, { "type": "string" }],
                },
                "reference": {
                    "description": "The caller's own order number; not unique",
                    "type": ["string", "null"],
                    "minLength": 1,
                    "maxLength": REFERENCE_CHARS_MAX,
                },
                "metadata": {
                    "description": "Kept byte for byte: at most 8,192 bytes, 32 levels, no key twice",
                    "type": ["object", "null"],
                },
            },
            "example": { "user_id": 104, "item_ids": [101, 102, 103], "total_amount": 250.75 },
        }))
    }
}

/// The body of `POST /orders/batch`.
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

/// The body of `POST /orders/retry`.
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
                "user_id": { "type": ["integer", "null"], "minimum": 1, "maximum": INTEGER_MAX },
                "created_before": { "type": ["string", "null"], "format": "date-time" },
                "dry_run": { "description": "Only count", "type": ["boolean", "null"] },
            },
        }))
    }
}

/// The name of what happened to an order.
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

fn fragment(schema: serde_json::Value) -> RefOr<Schema> {
    serde_json::from_value(schema).expect("the schemas above are written in the form of OpenAPI 3.1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeSet;

    fn every<'a>(key: &str, value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    if name == key {
                        found.extend(member.as_str());
                    }
                    every(key, member, found);
                }
            }
            Value::Array(elements) => elements.iter().for_each(|element| every(key, element, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_operation_has_its_own_name() {
        let document = serde_json::to_value(document()).unwrap();
        let mut references = Vec::new();
        every("$ref", &document, &mut references);
        assert!(references.len() > 20);
        for reference in references {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        let mut names = Vec::new();
        every("operationId", &document, &mut names);
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }

    #[test]
    fn what_is_read_by_hand_is_described_in_full() {
        let document = serde_json::to_value(document()).unwrap();
        let order = &document["components"]["schemas"]["NewOrder"];
        assert_eq!(order["additionalProperties"], false);
        assert_eq!(order["required"], json!(["user_id", "item_ids", "total_amount"]));
        assert_eq!(order["properties"]["item_ids"]["oneOf"][0]["maxItems"], ITEMS_MAX);
        assert_eq!(order["properties"]["user_id"]["maximum"], INTEGER_MAX);
        let order = &document["components"]["schemas"]["Order"];
        assert_eq!(
            order["properties"]["status"]["$ref"],
            "#/components/schemas/Status"
        );
        assert_eq!(order["required"].as_array().unwrap().len(), 17);
    }
}
