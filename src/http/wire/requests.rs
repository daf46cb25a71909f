//! Bodies of the requests for orders. Numbers are read from their text, never through a float.

use std::borrow::Cow;

use serde_json::json;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::description::{
    NOT_AN_OBJECT, NOT_UNICODE, Optional, REQUIRED, Required, Value, body, boolean, complete, given,
    malformed_json, object, required_string, string, value,
};
use super::time::{TIME_EXPECTED, parse_time};
use crate::http::fields::{FieldErrors, Pointer};
use crate::http::json::{self, Kind};
use crate::http::openapi::NO_CONTROLS;
use crate::http::problem::Problem;
use crate::order::{
    BATCH_ORDERS_MAX, MILESTONE_CHARS_MAX, MilestoneName, NewOrder, OrderDefaults, OrderStatus,
    REASON_CHARS_MAX, Reason, UserId, check_milestone_data,
};
use crate::time::Timestamp;

mod items;
mod order;
mod patch;

pub use order::{DEADLINE_PASSED, read_user, user_schema};
pub use patch::{Amendment, read_patch};

/// Orders of `POST /orders/batch` as one JSON object.
pub struct NewOrders;

impl ToSchema for NewOrder {
    fn name() -> Cow<'static, str> {
        "NewOrder".into()
    }
}

impl PartialSchema for NewOrder {
    fn schema() -> RefOr<Schema> {
        order::schema()
    }
}

impl ToSchema for NewOrders {
    fn name() -> Cow<'static, str> {
        "NewOrders".into()
    }
}

impl PartialSchema for NewOrders {
    fn schema() -> RefOr<Schema> {
        let orders = value(
            |_: &str| Err::<(), _>(""),
            || {
                json!({
                    "type": "array",
                    "items": { "$ref": "#/components/schemas/NewOrder" },
                    "minItems": 1,
                    "maxItems": BATCH_ORDERS_MAX,
                })
            },
        );
        object([("orders", Required(orders).schema())], None)
    }
}

body! {
    /// Body of `POST /orders/retry`.
    pub struct Redrive {
        status: OrderStatus = Required(redriven_status()),
        user_id: Option<UserId> = Optional(order::user()),
        created_before: Option<Timestamp> = Optional(time()),
        dry_run: Option<bool> = Optional(boolean("Count without a change")),
        reason: Option<Reason> = Optional(reason()),
        same_key: Option<bool> = Optional(same_key()),
    }
}

body! {
    /// Body of `POST /orders/{id}/cancel`, `hold` and `release`.
    pub struct Action {
        reason: Option<Reason> = Optional(reason()),
    }
}

body! {
    /// Body of `POST /orders/{id}/milestones`.
    pub struct AddMilestone {
        name: MilestoneName = Required(milestone_name()),
        data: Option<Box<str>> = Optional(milestone_data()),
        reason: Option<Reason> = Optional(reason()),
    }
}

body! {
    /// Body of `POST /orders/{id}/retry`.
    pub struct Retry {
        reason: Option<Reason> = Optional(reason()),
        same_key: Option<bool> = Optional(same_key()),
    }
}

body! {
    /// Body of `POST /queue/pause` and `POST /queue/resume`.
    pub struct QueueAction {
        reason: Option<Reason> = Optional(reason()),
    }
}

/// Reads the body of `POST /orders`.
pub fn read_order(body: &str, defaults: &OrderDefaults) -> Result<NewOrder, Problem> {
    let mut errors = FieldErrors::default();
    let read = order::read_at(body, &Pointer::Root, &mut errors, defaults);
    complete(read.map_err(|reason| malformed_json(&reason))?, errors)
}

/// Reads the body of `POST /orders/batch` as one JSON object.
pub fn read_batch(body: &str, defaults: &OrderDefaults) -> Result<Vec<NewOrder>, Problem> {
    let mut errors = FieldErrors::default();
    let root = Pointer::Root;
    let given = given(body, ["orders"], &root, &mut errors).map_err(|reason| malformed_json(&reason))?;
    let Some([given]) = given else {
        return complete(None, errors);
    };
    let at = root.member("orders");
    let Some(text) = given else {
        errors.add(&at, REQUIRED);
        return complete(None, errors);
    };
    let is_array = Kind::of(text) == Kind::Array;
    let texts = is_array.then(|| json::elements(text, BATCH_ORDERS_MAX)).flatten();
    let Some(texts) = texts.filter(|texts| !texts.is_empty()) else {
        errors.add(&at, batch_size());
        return complete(None, errors);
    };
    let mut orders = Vec::with_capacity(texts.len());
    for (index, text) in texts.into_iter().enumerate() {
        let at = at.element(index);
        match order::read_at(text, &at, &mut errors, defaults) {
            Ok(order) => orders.extend(order),
            // The grammar is already checked, so the name of a field cannot be decoded.
            Err(_) => errors.add(&at, NOT_UNICODE),
        }
    }
    complete(Some(orders), errors)
}

/// Reads the body of `POST /orders/batch` as one JSON object per line (NDJSON); empty lines are skipped.
pub fn read_batch_lines(body: &str, defaults: &OrderDefaults) -> Result<Vec<NewOrder>, Problem> {
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
        let read = order::read_at(line, &at.element(count), &mut errors, defaults);
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

fn milestone_name() -> impl Value<Read = MilestoneName> {
    let parse = |text: &str| MilestoneName::parse(&required_string(text)?).map_err(|error| error.to_string());
    value(parse, || {
        json!({
            "description": "Name of the milestone, such as `packed` or `shipped`",
            "type": "string",
            "minLength": 1,
            "maxLength": MILESTONE_CHARS_MAX,
            "pattern": "^[a-z_]+$",
        })
    })
}

fn milestone_data() -> impl Value<Read = Box<str>> {
    let parse = |text: &str| {
        if Kind::of(text) != Kind::Object {
            return Err(NOT_AN_OBJECT.to_owned());
        }
        check_milestone_data(text)?;
        Ok(text.into())
    };
    value(parse, || {
        json!({
            "description": "Kept byte for byte in the event; at most 1,024 bytes, no repeated key",
            "type": "object",
            "additionalProperties": true,
        })
    })
}

fn same_key() -> impl Value<Read = bool> {
    boolean("Keep the idempotency key of the attempts before")
}

fn reason() -> impl Value<Read = Reason> {
    let parse = |text: &str| Reason::parse(&required_string(text)?).map_err(|error| error.to_string());
    value(parse, || {
        json!({
            "description": "The reason, for other operators",
            "type": "string",
            "minLength": 1,
            "maxLength": REASON_CHARS_MAX,
            "pattern": NO_CONTROLS,
        })
    })
}

fn batch_size() -> String {
    format!("must be an array of 1 to {BATCH_ORDERS_MAX} orders")
}

fn redriven_status() -> impl Value<Read = OrderStatus> {
    one_status(&[OrderStatus::Failed, OrderStatus::Cancelled])
}

fn one_status(allowed: &'static [OrderStatus]) -> impl Value<Read = OrderStatus> {
    let names = || allowed.iter().map(|status| status.name());
    let parse = move |text: &str| {
        let status = string(text).and_then(|name| OrderStatus::parse(&name));
        status.filter(|status| allowed.contains(status)).ok_or_else(|| {
            let quoted: Vec<String> = names().map(|name| format!("\"{name}\"")).collect();
            format!("must be {}", quoted.join(" or "))
        })
    };
    value(
        parse,
        move || json!({ "type": "string", "enum": names().collect::<Vec<_>>() }),
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
