//! Bodies of the requests for orders. Numbers are read from their text, never through a float.

use serde_json::{Value as Json, json};

use super::description::{
    Body, Invalid, NOT_AN_OBJECT, NOT_UNICODE, Optional, Required, Value, body, boolean, complete, given, id,
    malformed_json, required_string, string, value,
};
use super::time::{TIME_EXPECTED, parse_time};
use crate::http::fields::{FieldErrors, Pointer};
use crate::http::json::{self, Kind};
use crate::http::openapi::{self, NO_CONTROLS};
use crate::http::problem::Problem;
use crate::money::Money;
use crate::order::{
    BATCH_ORDERS_MAX, ITEMS_MAX, ItemIds, METADATA_BYTES_MAX, NewOrder, OrderStatus, REASON_CHARS_MAX,
    REFERENCE_CHARS_MAX, Reason, Reference, parse_integer,
};
use crate::portable_json;
use crate::time::Timestamp;

const AMOUNT_MAX: f64 = 999_999_999_999.99;
const AMOUNT_PATTERN: &str = r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,2})?$";

body! {
    impl NewOrder {
        user_id = Required(id()),
        item_ids = Required(Items),
        total_amount = Required(amount()),
        reference = Optional(reference()),
        metadata = Optional(metadata()),
    }
    example { "user_id": 104, "item_ids": [101, 102, 103], "total_amount": 250.75 }
}

body! {
    /// Body of `POST /orders/batch` as one JSON object.
    pub struct NewOrders {
        orders: Vec<NewOrder> = Required(Orders),
    }
}

body! {
    /// Body of `POST /orders/retry`.
    pub struct Redrive {
        status: OrderStatus = Required(redriven_status()),
        user_id: Option<i64> = Optional(id()),
        created_before: Option<Timestamp> = Optional(time()),
        dry_run: Option<bool> = Optional(boolean("Count without a change")),
    }
}

body! {
    /// Body of `POST /queue/pause` and `POST /queue/resume`.
    pub struct QueueAction {
        reason: Option<Reason> = Optional(reason()),
    }
}

/// Reads the body of `POST /orders/batch` as one JSON object per line (NDJSON); empty lines are skipped.
pub fn read_batch_lines(body: &str) -> Result<Vec<NewOrder>, Problem> {
    let mut errors = FieldErrors::default();
    let root = Pointer::Root;
    let at = root.member("orders");
    let mut orders = Vec::new();
    let lines = body.split('\n').enumerate();
    let filled = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    let mut count = 0;
    for (line_index, line) in filled {
        if count == BATCH_ORDERS_MAX {
            errors.add(&at, batch_size());
            break;
        }
        let read = NewOrder::read_at(line, &at.element(count), &mut errors);
        orders.extend(read.map_err(|malformed| {
            malformed_json(&format!("{malformed} of the object in line {}", line_index + 1))
        })?);
        count += 1;
    }
    if count == 0 {
        errors.add(&at, batch_size());
    }
    complete(Some(orders), errors)
}

/// Reads the body of an action, which has no members so far.
pub fn read_action(body: &str) -> Result<(), Problem> {
    let mut errors = FieldErrors::default();
    let read = given(body, [], &Pointer::Root, &mut errors).map_err(|reason| malformed_json(&reason))?;
    complete(read.map(|[]| ()), errors)
}

/// An array of integers, one integer, or a string of integers separated by commas.
struct Items;

impl Value for Items {
    type Read = ItemIds;

    fn read(&self, text: &str, at: &Pointer<'_>, errors: &mut FieldErrors) -> Result<ItemIds, Invalid> {
        let kind = Kind::of(text);
        let string;
        let texts: Option<Vec<&str>> = match kind {
            Kind::Array => json::elements(text, ITEMS_MAX),
            Kind::Number => Some(vec![text]),
            Kind::String => {
                string = json::string(text).unwrap_or_default();
                let parts = string.split(',').take(ITEMS_MAX + 1).map(str::trim_ascii);
                Some(parts.collect()).filter(|parts: &Vec<_>| parts.len() <= ITEMS_MAX)
            }
            Kind::Null | Kind::Boolean | Kind::Object => {
                errors.add(
                    at,
                    "must be an array of integers, one integer, or a comma-separated string of integers",
                );
                return Err(Invalid);
            }
        };
        let Some(texts) = texts.filter(|texts| !texts.is_empty()) else {
            errors.add(at, format_args!("must have 1 to {ITEMS_MAX} items"));
            return Err(Invalid);
        };
        let count = texts.len();
        let mut ids = Vec::with_capacity(count);
        for (index, text) in texts.into_iter().enumerate() {
            match parse_integer(text) {
                Ok(id) => ids.push(id),
                Err(reason) if kind == Kind::Number => errors.add(at, reason),
                Err(reason) => errors.add(&at.element(index), reason),
            }
        }
        if ids.len() < count {
            return Err(Invalid);
        }
        ItemIds::new(&ids).ok_or(Invalid)
    }

    fn schema(&self) -> Json {
        let integer = openapi::id();
        json!({
            "description": "An array of integers, one integer, or a comma-separated string of integers",
            "oneOf": [
                { "type": "array", "items": integer, "minItems": 1, "maxItems": ITEMS_MAX },
                integer,
                { "type": "string", "pattern": openapi::integers() },
            ],
        })
    }
}

fn amount() -> impl Value<Read = Money> {
    let parse = |text: &str| {
        let text = match Kind::of(text) {
            Kind::Number => Some(text.into()),
            Kind::String => json::string(text),
            Kind::Null | Kind::Boolean | Kind::Array | Kind::Object => None,
        };
        let text = text.ok_or("must be a number, or a string in the same format")?;
        Money::parse(&text).map_err(|error| error.to_string())
    };
    value(parse, || {
        json!({
            "description": "0 to 999999999999.99 with at most two decimals and no exponent",
            "oneOf": [
                { "type": "number", "minimum": 0, "maximum": AMOUNT_MAX },
                { "type": "string", "pattern": AMOUNT_PATTERN },
            ],
        })
    })
}

fn reference() -> impl Value<Read = Reference> {
    let parse = |text: &str| Reference::parse(&required_string(text)?).map_err(|error| error.to_string());
    value(parse, || {
        json!({
            "description": "The caller's own order number; not unique",
            "type": "string",
            "minLength": 1,
            "maxLength": REFERENCE_CHARS_MAX,
            "pattern": NO_CONTROLS,
        })
    })
}

fn reason() -> impl Value<Read = Reason> {
    let parse = |text: &str| Reason::parse(&required_string(text)?).map_err(|error| error.to_string());
    value(parse, || {
        json!({
            "description": "The reason, for the log and for other operators",
            "type": "string",
            "minLength": 1,
            "maxLength": REASON_CHARS_MAX,
            "pattern": NO_CONTROLS,
        })
    })
}

fn metadata() -> impl Value<Read = Box<str>> {
    let parse = |text: &str| {
        if Kind::of(text) != Kind::Object {
            return Err(NOT_AN_OBJECT.to_owned());
        }
        if text.len() > METADATA_BYTES_MAX {
            return Err(format!("must not exceed {METADATA_BYTES_MAX} bytes"));
        }
        portable_json::check(text).map_err(|error| error.to_string())?;
        Ok(text.into())
    };
    value(parse, || {
        json!({
            "description": "Kept byte for byte; at most 8,192 bytes and 32 levels, no repeated key",
            "type": "object",
            "additionalProperties": true,
        })
    })
}

/// The orders of a batch.
struct Orders;

impl Value for Orders {
    type Read = Vec<NewOrder>;

    fn read(&self, text: &str, at: &Pointer<'_>, errors: &mut FieldErrors) -> Result<Vec<NewOrder>, Invalid> {
        let is_array = Kind::of(text) == Kind::Array;
        let texts = is_array.then(|| json::elements(text, BATCH_ORDERS_MAX)).flatten();
        let Some(texts) = texts.filter(|texts| !texts.is_empty()) else {
            errors.add(at, batch_size());
            return Err(Invalid);
        };
        let mut orders = Vec::new();
        for (index, text) in texts.into_iter().enumerate() {
            let at = at.element(index);
            match NewOrder::read_at(text, &at, errors) {
                Ok(order) => orders.extend(order),
                // The grammar is already checked, so the name of a field cannot be decoded.
                Err(_) => errors.add(&at, NOT_UNICODE),
            }
        }
        Ok(orders)
    }

    fn schema(&self) -> Json {
        json!({
            "type": "array",
            "items": { "$ref": "#/components/schemas/NewOrder" },
            "minItems": 1,
            "maxItems": BATCH_ORDERS_MAX,
        })
    }
}

fn batch_size() -> String {
    format!("must be an array of 1 to {BATCH_ORDERS_MAX} orders")
}

fn redriven_status() -> impl Value<Read = OrderStatus> {
    let parse = |text: &str| {
        string(text)
            .and_then(|name| OrderStatus::parse(&name))
            .filter(|status| matches!(status, OrderStatus::Failed | OrderStatus::Cancelled))
            .ok_or("must be \"Failed\" or \"Cancelled\"")
    };
    value(
        parse,
        || json!({ "type": "string", "enum": ["Failed", "Cancelled"] }),
    )
}

fn time() -> impl Value<Read = Timestamp> {
    let parse = |text: &str| {
        string(text)
            .and_then(|text| parse_time(&text))
            .ok_or(TIME_EXPECTED)
    };
    value(parse, || json!({ "type": "string", "format": "date-time" }))
}

#[cfg(test)]
mod tests;
