//! Bounds, lengths and patterns of parameters by name, in one table for all operations. `query`, `idempotency` and
//! `cursor` parse them.

use serde_json::{Value, json};
use utoipa::Modify;
use utoipa::openapi::RefOr;
use utoipa::openapi::path::{Operation, Parameter};

use super::{fragment, id};
use crate::http::wire::user_schema;
use crate::order::{
    CODE_CHARS_MAX, INTEGER_MAX, ITEMS_MAX, MILESTONE_CHARS_MAX, OrderStatus, REFERENCE_CHARS_MAX,
};
use crate::store::{FEED_EVENTS_MAX, PAGE_ORDERS_MAX};

/// Cursor of the feed: 17 bytes in base64; the first is the format, the last eight a number that is not negative.
const FEED_CURSOR: &str = "^A[g-v][A-Za-z0-9_-]{10}[A-Za-f][A-Za-z0-9_-]{9}[AEIMQUYcgkosw048]$";
/// Cursor of the list: nine bytes in base64, likewise.
const LIST_CURSOR: &str = "^A[Q-X][A-Za-z0-9_-]{10}$";
/// Text for people: no control and no bidirectional-override characters.
pub const NO_CONTROLS: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f\\u202a-\\u202e\\u2066-\\u2069]*$";
/// The version of an order as a strong entity tag.
const VERSION_TAG: &str = "^\"[1-9][0-9]{0,8}\"$";
/// Bare values, the simpler of the two forms.
const IDEMPOTENCY_KEY: &str = "^[!#-~]([ -~]{0,253}[!-~])?$";

/// Gives each parameter its schema.
pub(super) struct ParameterSchemas;

impl Modify for ParameterSchemas {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut document.paths.paths {
            let operations = [&mut item.get, &mut item.post, &mut item.patch]
                .into_iter()
                .flatten();
            for parameter in operations.flat_map(parameters_of) {
                if let Some(schema) = schema(path, &parameter.name) {
                    parameter.schema = Some(fragment(schema));
                }
            }
        }
    }
}

fn parameters_of(operation: &mut Operation) -> impl Iterator<Item = &mut Parameter> {
    let given = operation.parameters.iter_mut().flatten();
    given.filter_map(|parameter| match parameter {
        RefOr::T(parameter) => Some(parameter),
        RefOr::Ref(_) => None,
    })
}

fn schema(path: &str, name: &str) -> Option<Value> {
    let schema = match (path, name) {
        (_, "id" | "order_id") => id(),
        (_, "user_id") => user_schema(),
        ("/orders", "status") => json!({
            "type": "array", "items": { "$ref": "#/components/schemas/Status" }, "maxItems": OrderStatus::ALL.len(),
        }),
        ("/orders", "held" | "overdue") => json!({ "type": "boolean", "enum": [true] }),
        ("/orders", "milestone") => json!({
            "type": "string", "minLength": 1, "maxLength": MILESTONE_CHARS_MAX, "pattern": "^[a-z_]+$",
        }),
        (_, "status") => json!({ "$ref": "#/components/schemas/Status" }),
        (_, "reference") => json!({
            "type": "string", "minLength": 1, "maxLength": REFERENCE_CHARS_MAX, "pattern": NO_CONTROLS,
        }),
        (_, "created_after" | "created_before") => json!({ "type": "string", "format": "date-time" }),
        ("/orders", "limit") => json!({ "type": "integer", "minimum": 1, "maximum": PAGE_ORDERS_MAX }),
        ("/events", "limit") => json!({ "type": "integer", "minimum": 1, "maximum": FEED_EVENTS_MAX }),
        (_, "cursor") => json!({ "type": "string", "pattern": LIST_CURSOR }),
        ("/events", "after") => json!({ "type": "string", "pattern": FEED_CURSOR }),
        ("/orders/{id}/events", "after") => json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
        (_, "If-Match") => json!({ "type": "string", "pattern": VERSION_TAG }),
        (_, "Idempotency-Key") => json!({
            "type": "string", "minLength": 1, "maxLength": 255, "pattern": IDEMPOTENCY_KEY,
        }),
        _ => return None,
    };
    Some(schema)
}

/// Returns a pattern for integers from 1 to [`INTEGER_MAX`] and codes, separated by commas, with optional blanks around them.
pub fn ids_and_codes() -> String {
    let integer = integer_pattern(&INTEGER_MAX.to_string());
    let code = format!("(?![0-9]+ *(,|$))[A-Za-z0-9._:/-]{{1,{CODE_CHARS_MAX}}}");
    let more = ITEMS_MAX - 1;
    format!("^ *({integer}|{code}) *(, *({integer}|{code}) *){{0,{more}}}$")
}

/// Returns a pattern for integers up to `largest`: those with fewer digits; for each digit, those smaller there and
/// equal before it; and the largest itself.
fn integer_pattern(largest: &str) -> String {
    let digits = largest.len();
    let shorter = format!("[1-9][0-9]{{0,{}}}", digits - 2);
    let smaller = largest.char_indices().filter_map(|(place, digit)| {
        let least = if place == 0 { '1' } else { '0' };
        let below = char::from_u32(u32::from(digit) - 1).filter(|below| *below >= least)?;
        let rest = digits - place - 1;
        Some(format!("{}[{least}-{below}][0-9]{{{rest}}}", &largest[..place]))
    });
    let all: Vec<String> = [shorter]
        .into_iter()
        .chain(smaller)
        .chain([largest.to_owned()])
        .collect();
    all.join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_matches_all_integers_up_to_the_largest() {
        assert_eq!(
            integer_pattern("305"),
            "[1-9][0-9]{0,1}|[1-2][0-9]{2}|30[0-4][0-9]{0}|305"
        );
    }
}
