//! The bodies that workers outside send, which `wire` reads by hand.

use std::borrow::Cow;

use serde_json::json;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::fragment;
use crate::lease::REASON_BYTES_MAX;
use crate::pull::{LEASE_MAX, LEASES_MAX, RETRY_AFTER_MAX, WAIT_MAX};

/// Names a schema and gives the properties of its object.
macro_rules! body {
    ($(#[$documentation:meta])+ $schema:ident, $name:literal, $required:tt, $properties:tt) => {
        $(#[$documentation])+
        pub struct $schema;

        impl ToSchema for $schema {
            fn name() -> Cow<'static, str> {
                $name.into()
            }
        }

        impl PartialSchema for $schema {
            fn schema() -> RefOr<Schema> {
                fragment(json!({
                    "type": "object",
                    "required": $required,
                    "additionalProperties": false,
                    "properties": $properties,
                }))
            }
        }
    };
}

body!(
    /// The body of `POST /leases`.
    TakeSchema, "Take", [], {
        "max": {
            "description": "Most leases; 1 unless given",
            "type": ["integer", "null"], "minimum": 1, "maximum": LEASES_MAX,
        },
        "wait": {
            "description": "Seconds to wait for the first one; 0 unless given",
            "type": ["integer", "null"], "minimum": 0, "maximum": WAIT_MAX.as_secs(),
        },
        "lease": (lease()),
    }
);
body!(
    /// The body of `POST /leases/{id}/renew`.
    RenewalSchema, "Renew", ["token"], { "token": (token()), "lease": (lease()) }
);
body!(
    /// The body of `POST /leases/{id}/complete`.
    CompletionSchema, "Complete", ["token"], {
        "token": (token()),
        "result": {
            "$ref": "#/components/schemas/Json",
            "description": "Any JSON, kept byte for byte: at most 8,192 bytes, 32 levels, no key twice",
        },
    }
);
body!(
    /// The body of `POST /leases/{id}/fail`.
    FailureSchema, "Fail", ["token", "error"], {
        "token": (token()),
        "error": {
            "description": "Kept as the order's `last_error`; at most 1,024 bytes",
            "type": "string", "minLength": 1, "maxLength": REASON_BYTES_MAX, "pattern": "^[^\\u0000]*$",
        },
        "permanent": { "description": "No other attempt will do better", "type": ["boolean", "null"] },
        "retry_after": {
            "description": "Seconds before which the next attempt must not begin",
            "type": ["integer", "null"], "minimum": 0, "maximum": RETRY_AFTER_MAX.as_secs(),
        },
    }
);
body!(
    /// The body of `POST /leases/{id}/release`.
    ReleaseSchema, "Release", ["token"], { "token": (token()) }
);

fn token() -> serde_json::Value {
    json!({ "description": "Token of the lease, as it was given", "type": "string", "pattern": "^[A-Za-z0-9_-]{32}$" })
}

fn lease() -> serde_json::Value {
    json!({
        "description": "Seconds the lease lasts; ORDERLY_LEASE unless given",
        "type": ["integer", "null"], "minimum": 1, "maximum": LEASE_MAX.as_secs(),
    })
}
