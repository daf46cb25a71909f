//! Bodies sent by external workers, parsed by `wire`.

use std::borrow::Cow;

use serde_json::json;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::fragment;
use crate::lease::REASON_BYTES_MAX;
use crate::pull::{LEASE_MAX, LEASES_MAX, RETRY_AFTER_MAX, WAIT_MAX};

/// Declares a schema with its name and the properties of its object.
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
    /// Body of `POST /leases`.
    TakeSchema, "Take", [], {
        "max": {
            "description": "Maximum number of leases; 1 by default",
            "type": ["integer", "null"], "minimum": 1, "maximum": LEASES_MAX,
        },
        "wait": {
            "description": "Seconds to wait for the first one; 0 by default",
            "type": ["integer", "null"], "minimum": 0, "maximum": WAIT_MAX.as_secs(),
        },
        "lease": (lease()),
    }
);
body!(
    /// Body of `POST /leases/{id}/renew`.
    RenewalSchema, "Renew", ["token"], { "token": (token()), "lease": (lease()) }
);
body!(
    /// Body of `POST /leases/{id}/complete`.
    CompletionSchema, "Complete", ["token"], {
        "token": (token()),
        "result": {
            "$ref": "#/components/schemas/Json",
            "description": "Any JSON, kept byte for byte; at most 8,192 bytes and 32 levels, no repeated key",
        },
    }
);
body!(
    /// Body of `POST /leases/{id}/fail`.
    FailureSchema, "Fail", ["token", "error"], {
        "token": (token()),
        "error": {
            "description": "Kept as the order's `last_error`; at most 1,024 bytes",
            "type": "string", "minLength": 1, "maxLength": REASON_BYTES_MAX, "pattern": "^[^\\u0000]*$",
        },
        "permanent": { "description": "Another attempt would fail as well", "type": ["boolean", "null"] },
        "retry_after": {
            "description": "Minimum number of seconds until the next attempt",
            "type": ["integer", "null"], "minimum": 0, "maximum": RETRY_AFTER_MAX.as_secs(),
        },
    }
);
body!(
    /// Body of `POST /leases/{id}/release`.
    ReleaseSchema, "Release", ["token"], { "token": (token()) }
);

fn token() -> serde_json::Value {
    json!({ "description": "Token of the lease, as issued", "type": "string", "pattern": "^[A-Za-z0-9_-]{32}$" })
}

fn lease() -> serde_json::Value {
    json!({
        "description": "Seconds the lease lasts; ORDERLY_LEASE by default",
        "type": ["integer", "null"], "minimum": 1, "maximum": LEASE_MAX.as_secs(),
    })
}
