//! An order as clients send it: its reader and its schema.

use serde_json::{Value as Json, json};
use utoipa::openapi::{RefOr, Schema};

use super::items::{ItemIds, Lines};
use super::reason as reason_text;
use crate::http::fields::{FieldErrors, Pointer};
use crate::http::json::{self, Kind};
use crate::http::openapi::{self, NO_CONTROLS};
use crate::http::wire::description::{
    FieldSchema, Invalid, NOT_AN_OBJECT, Optional, Required, Value, given, object, required_string, string,
    value,
};
use crate::http::wire::time::{TIME_EXPECTED, parse_time};
use crate::money::{Currency, DECIMALS_MAX, Money};
use crate::order::{
    Hold, METADATA_BYTES_MAX, NewOrder, OrderDefaults, REASON_CHARS_MAX, REFERENCE_CHARS_MAX, Reference,
    SCHEDULE_DAYS_MAX, SCHEDULE_MAX, USER_ID_CHARS_MAX, UserId, parse_integer,
};
use crate::portable_json;
use crate::store::clock::system_clock;
use crate::time::Timestamp;

pub(super) const AMOUNT_MAX: f64 = 999_999_999_999.99;
const AMOUNT_PATTERN: &str = r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,4})?$";
pub(super) const NOT_AFTER_START: &str = "must be after start_after";
pub const DEADLINE_PASSED: &str = "must be in the future";
const NAMES: [&str; 10] = [
    "user_id",
    "item_ids",
    "items",
    "total_amount",
    "currency",
    "reference",
    "metadata",
    "start_after",
    "deadline",
    "hold",
];

/// Reads an order as far as possible; it is valid only if nothing was added to `errors`. The error is the reason why the text is
/// not JSON.
pub(super) fn read_at(
    text: &str,
    at: &Pointer<'_>,
    errors: &mut FieldErrors,
    defaults: &OrderDefaults,
) -> Result<Option<NewOrder>, String> {
    let Some(given) = given(text, NAMES, at, errors)? else {
        return Ok(None);
    };
    let [
        user_id,
        item_ids,
        items,
        total_amount,
        currency,
        reference,
        metadata,
        start_after,
        deadline,
        hold,
    ] = given;
    let items = items.filter(|text| Kind::of(text) != Kind::Null);
    let item_ids = item_ids.filter(|text| items.is_none() || Kind::of(text) != Kind::Null);
    let user_id = Required(user()).read(user_id, &at.member("user_id"), errors);
    // Amounts are read once the currency is known, and named in the order of the fields.
    let mut later = FieldErrors::default();
    let given_currency = Optional(self::currency()).read(currency, &at.member("currency"), &mut later);
    let currency = given_currency
        .as_ref()
        .ok()
        .copied()
        .flatten()
        .or(defaults.currency);
    // After a wrong currency only the form of amounts is judged.
    let decimals = given_currency
        .as_ref()
        .map_or(DECIMALS_MAX, |_| Currency::decimals_of(currency));
    let items = match (item_ids, items) {
        (Some(_), Some(_)) => {
            errors.add(&at.member("items"), "excludes item_ids");
            Err(Invalid)
        }
        (item_ids, None) => Required(ItemIds).read(item_ids, &at.member("item_ids"), errors),
        (None, Some(text)) => Lines { decimals }.read(text, &at.member("items"), errors),
    };
    let amount =
        Required(Amount { decimals, currency }).read(total_amount, &at.member("total_amount"), errors);
    errors.append(later);
    let reference = Optional(self::reference()).read(reference, &at.member("reference"), errors);
    let metadata = Optional(self::metadata()).read(metadata, &at.member("metadata"), errors);
    let start_after = Optional(start_time()).read(start_after, &at.member("start_after"), errors);
    let deadline_at = at.member("deadline");
    let deadline = Optional(self::deadline()).read(deadline, &deadline_at, errors);
    let deadline = deadline.and_then(|deadline| {
        let is_after = deadline > start_after.as_ref().ok().copied().flatten();
        if deadline.is_none() || is_after {
            return Ok(deadline);
        }
        errors.add(&deadline_at, NOT_AFTER_START);
        Err(Invalid)
    });
    let hold = Optional(Held).read(hold, &at.member("hold"), errors);
    let whole = || {
        Ok::<NewOrder, Invalid>(NewOrder {
            user_id: user_id?,
            items: items?,
            total_amount: amount?,
            currency: given_currency.map(|_| currency)?,
            reference: reference?,
            metadata: metadata?,
            start_after: start_after?,
            deadline: deadline?,
            hold: hold?,
        })
    };
    Ok(whole().ok())
}

pub(super) fn schema() -> RefOr<Schema> {
    let optional =
        |schema: Json| Optional(value(|_: &str| Err::<(), _>(""), move || schema.clone())).schema();
    let fields: [(&str, FieldSchema); 10] = [
        ("user_id", Required(user()).schema()),
        ("item_ids", optional(ItemIds.schema())),
        ("items", optional(Lines { decimals: 2 }.schema())),
        (
            "total_amount",
            Required(Amount {
                decimals: 2,
                currency: None,
            })
            .schema(),
        ),
        ("currency", Optional(currency()).schema()),
        ("reference", Optional(reference()).schema()),
        ("metadata", Optional(metadata()).schema()),
        ("start_after", Optional(start_time()).schema()),
        ("deadline", Optional(deadline()).schema()),
        ("hold", optional(Held.schema())),
    ];
    let example = json!({ "user_id": 104, "item_ids": [101, 102, 103], "total_amount": 250.75 });
    object(fields, Some(example))
}

pub(super) fn user() -> impl Value<Read = UserId> {
    value(read_user, user_schema)
}

/// Reads a user: an integer, or text that is none.
pub fn read_user(text: &str) -> Result<UserId, String> {
    match Kind::of(text) {
        Kind::String => UserId::parse(&required_string(text)?).map_err(|error| error.to_string()),
        Kind::Number | Kind::Null | Kind::Boolean | Kind::Array | Kind::Object => {
            parse_integer(text).map(UserId::Number).map_err(str::to_owned)
        }
    }
}

pub fn user_schema() -> Json {
    json!({
        "description": "An integer, or text that is no integer",
        "oneOf": [
            openapi::id(),
            { "type": "string", "minLength": 1, "maxLength": USER_ID_CHARS_MAX, "pattern": NO_CONTROLS },
        ],
    })
}

/// The total, with the decimals of a currency.
pub(super) struct Amount {
    pub decimals: u8,
    pub currency: Option<Currency>,
}

impl Value for Amount {
    type Read = Money;

    fn read(&self, text: &str, at: &Pointer<'_>, errors: &mut FieldErrors) -> Result<Money, Invalid> {
        let read = amount_text(text).and_then(|text| {
            Money::parse(&text, self.decimals).map_err(|error| match self.currency {
                Some(currency) => format!("{error} ({})", currency.code()),
                None => error.to_string(),
            })
        });
        read.map_err(|reason| {
            errors.add(at, reason);
            Invalid
        })
    }

    fn schema(&self) -> Json {
        json!({
            "description": "0 to 999999999999.99 with at most the decimals of the currency, two without one, and no exponent",
            "oneOf": [
                { "type": "number", "minimum": 0, "maximum": AMOUNT_MAX },
                { "type": "string", "pattern": AMOUNT_PATTERN },
            ],
        })
    }
}

/// Returns the text of a number, or of a string in the same format.
pub(super) fn amount_text(text: &str) -> Result<std::borrow::Cow<'_, str>, String> {
    let text = match Kind::of(text) {
        Kind::Number => Some(text.into()),
        Kind::String => json::string(text),
        Kind::Null | Kind::Boolean | Kind::Array | Kind::Object => None,
    };
    text.ok_or_else(|| "must be a number, or a string in the same format".to_owned())
}

fn currency() -> impl Value<Read = Currency> {
    let parse = |text: &str| Currency::parse(&required_string(text)?).map_err(|error| error.to_string());
    value(parse, || {
        json!({
            "description": "A currency of ISO 4217; amounts then have its decimals",
            "type": "string",
            "enum": Currency::all().into_iter().map(Currency::code).collect::<Vec<_>>(),
        })
    })
}

pub(super) fn reference() -> impl Value<Read = Reference> {
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

pub(super) fn metadata() -> impl Value<Read = Box<str>> {
    let parse = |text: &str| {
        if Kind::of(text) != Kind::Object {
            return Err(NOT_AN_OBJECT.to_owned());
        }
        check_metadata(text)?;
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

pub(super) fn check_metadata(text: &str) -> Result<(), String> {
    if text.len() > METADATA_BYTES_MAX {
        return Err(format!("must not exceed {METADATA_BYTES_MAX} bytes"));
    }
    portable_json::check(text).map_err(|error| error.to_string())
}

/// The time before which the order does not start.
pub(super) fn start_time() -> impl Value<Read = Timestamp> {
    time_ahead("The order does not start before this time, at most 366 days ahead; a past time means now")
}

/// The time by which the order should be final. Whether it has passed is judged when the order is stored.
pub(super) fn deadline() -> impl Value<Read = Timestamp> {
    time_ahead(
        "The time by which the order should be final: in the future, after `start_after`, at most 366 days ahead",
    )
}

fn time_ahead(description: &'static str) -> impl Value<Read = Timestamp> {
    let parse = |text: &str| {
        let time = string(text)
            .and_then(|text| parse_time(&text))
            .ok_or_else(|| TIME_EXPECTED.to_owned())?;
        let latest = system_clock()().plus(SCHEDULE_MAX);
        (time <= latest)
            .then_some(time)
            .ok_or_else(|| format!("must be at most {SCHEDULE_DAYS_MAX} days ahead"))
    };
    value(
        parse,
        move || json!({ "description": description, "type": "string", "format": "date-time" }),
    )
}

/// `true`, or an object with a reason.
struct Held;

impl Value for Held {
    type Read = Hold;

    fn read(&self, text: &str, at: &Pointer<'_>, errors: &mut FieldErrors) -> Result<Hold, Invalid> {
        if text == "true" {
            return Ok(Hold::default());
        }
        if Kind::of(text) != Kind::Object {
            errors.add(at, "must be true, or an object with a reason");
            return Err(Invalid);
        }
        // The grammar is already checked, so the name of a field cannot be decoded.
        let [reason] = given(text, ["reason"], at, errors)
            .ok()
            .flatten()
            .ok_or(Invalid)?;
        let reason = Optional(reason_text()).read(reason, &at.member("reason"), errors)?;
        Ok(Hold { reason })
    }

    fn schema(&self) -> Json {
        json!({
            "description": "The order does not start until it is released",
            "oneOf": [
                { "type": "boolean", "enum": [true] },
                {
                    "type": "object",
                    "additionalProperties": false,
                    "properties": {
                        "reason": {
                            "type": ["string", "null"],
                            "minLength": 1,
                            "maxLength": REASON_CHARS_MAX,
                            "pattern": NO_CONTROLS,
                        },
                    },
                },
            ],
        })
    }
}
