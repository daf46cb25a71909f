//! What an order asks for: `item_ids` and `items`, their readers and schemas.

use serde_json::{Value as Json, json};

use super::order::{AMOUNT_MAX, amount_text};
use crate::http::fields::{FieldErrors, Pointer};
use crate::http::json::{self, Kind};
use crate::http::openapi::{self, NO_CONTROLS};
use crate::http::wire::description::{
    Invalid, NOT_AN_OBJECT, Optional, Required, Value, given, required_string, value,
};
use crate::money::Money;
use crate::order::{
    CODE_CHARS_MAX, Code, ITEM_NAME_CHARS_MAX, ITEMS_MAX, Items, Line, PIECES_MAX, QUANTITY_MAX,
    parse_integer,
};

const PRICE_PATTERN: &str = r"^-?(0|[1-9][0-9]{0,11})(\.[0-9]{1,4})?$";
const CODE_PATTERN: &str = "^[A-Za-z0-9._:/-]+$";
/// Not all digits.
const ID_CODE_PATTERN: &str = "^[0-9]*[A-Za-z._:/-][A-Za-z0-9._:/-]*$";

/// An array of integers and codes, one integer, or a string of both separated by commas.
pub(super) struct ItemIds;

impl Value for ItemIds {
    type Read = Items;

    fn read(&self, text: &str, at: &Pointer<'_>, errors: &mut FieldErrors) -> Result<Items, Invalid> {
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
                    "must be an array of integers and codes, one integer, or a comma-separated string",
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
            let read = match kind {
                Kind::Array if Kind::of(text) == Kind::String => code_in_array(text),
                Kind::String if !text.bytes().all(|byte| byte.is_ascii_digit()) => code(text),
                _ => parse_integer(text)
                    .map(|id| id.to_string())
                    .map_err(str::to_owned),
            };
            match read {
                Ok(id) => ids.push(id),
                Err(reason) if kind == Kind::Number => errors.add(at, reason),
                Err(reason) => errors.add(&at.element(index), reason),
            }
        }
        if ids.len() < count {
            return Err(Invalid);
        }
        Items::joined(&ids).ok_or(Invalid)
    }

    fn schema(&self) -> Json {
        let integer = openapi::id();
        json!({
            "description": "An array of ids (integers) and codes, one id, or a comma-separated string of both; or else `items`",
            "oneOf": [
                {
                    "type": "array",
                    "items": { "oneOf": [integer, id_code_schema()] },
                    "minItems": 1,
                    "maxItems": ITEMS_MAX,
                },
                integer,
                { "type": "string", "pattern": openapi::ids_and_codes() },
            ],
        })
    }
}

fn code_in_array(text: &str) -> Result<String, String> {
    let text = required_string(text)?;
    let found = Code::parse(&text).map_err(|error| error.to_string())?;
    if found.is_all_digits() {
        return Err("must be an integer, or a code that is not all digits".to_owned());
    }
    Ok(text.into_owned())
}

fn code(text: &str) -> Result<String, String> {
    Code::parse(text)
        .map(|code| code.as_str().to_owned())
        .map_err(|error| error.to_string())
}

fn code_schema() -> Json {
    json!({ "type": "string", "minLength": 1, "maxLength": CODE_CHARS_MAX, "pattern": CODE_PATTERN })
}

/// A code in `item_ids`, where digits alone are an integer.
fn id_code_schema() -> Json {
    let mut schema = code_schema();
    schema["pattern"] = json!(ID_CODE_PATTERN);
    schema
}

/// Lines with articles, quantities and prices.
pub(super) struct Lines {
    pub decimals: u8,
}

impl Value for Lines {
    type Read = Items;

    fn read(&self, text: &str, at: &Pointer<'_>, errors: &mut FieldErrors) -> Result<Items, Invalid> {
        let is_array = Kind::of(text) == Kind::Array;
        let texts = is_array.then(|| json::elements(text, ITEMS_MAX)).flatten();
        let Some(texts) = texts.filter(|texts| !texts.is_empty()) else {
            errors.add(at, format_args!("must be an array of 1 to {ITEMS_MAX} lines"));
            return Err(Invalid);
        };
        let count = texts.len();
        let mut lines = Vec::with_capacity(count);
        for (index, text) in texts.into_iter().enumerate() {
            lines.extend(self.line(text, &at.element(index), errors));
        }
        if lines.len() < count {
            return Err(Invalid);
        }
        Items::of_lines(&lines).ok_or_else(|| {
            errors.add(at, format_args!("must not have more than {PIECES_MAX} pieces"));
            Invalid
        })
    }

    fn schema(&self) -> Json {
        json!({
            "description": "Lines of the order, instead of `item_ids`; never summed against the total",
            "type": "array",
            "minItems": 1,
            "maxItems": ITEMS_MAX,
            "items": {
                "type": "object",
                "required": ["sku", "quantity"],
                "additionalProperties": false,
                "properties": {
                    "sku": code_schema(),
                    "quantity": { "type": "integer", "minimum": 1, "maximum": QUANTITY_MAX },
                    "unit_price": {
                        "description": "With at most the decimals of the currency; negative for a discount",
                        "oneOf": [
                            { "type": "number", "minimum": -AMOUNT_MAX, "maximum": AMOUNT_MAX },
                            { "type": "string", "pattern": PRICE_PATTERN },
                            { "type": "null" },
                        ],
                    },
                    "name": {
                        "type": ["string", "null"],
                        "minLength": 1,
                        "maxLength": ITEM_NAME_CHARS_MAX,
                        "pattern": NO_CONTROLS,
                    },
                },
            },
        })
    }
}

impl Lines {
    fn line(&self, text: &str, at: &Pointer<'_>, errors: &mut FieldErrors) -> Option<Line> {
        // The grammar is already checked, so the name of a field cannot be decoded.
        let Ok(given) = given(text, ["sku", "quantity", "unit_price", "name"], at, errors) else {
            errors.add(at, NOT_AN_OBJECT);
            return None;
        };
        let [sku, quantity, unit_price, name] = given?;
        let decimals = self.decimals;
        let sku = Required(value(sku_of, code_schema)).read(sku, &at.member("sku"), errors);
        let quantity =
            Required(value(quantity_of, Json::default)).read(quantity, &at.member("quantity"), errors);
        let price = |text: &str| {
            let text = amount_text(text)?;
            Money::parse_signed(&text, decimals).map_err(|error| error.to_string())
        };
        let unit_price =
            Optional(value(price, Json::default)).read(unit_price, &at.member("unit_price"), errors);
        let name = Optional(value(name_of, Json::default)).read(name, &at.member("name"), errors);
        let whole = || {
            Ok::<Line, Invalid>(Line {
                sku: sku?,
                quantity: quantity?,
                unit_price: unit_price?,
                name: name?,
            })
        };
        whole().ok()
    }
}

fn sku_of(text: &str) -> Result<Code, String> {
    Code::parse(&required_string(text)?).map_err(|error| error.to_string())
}

fn quantity_of(text: &str) -> Result<u32, String> {
    let number = parse_integer(text).ok().and_then(Line::parse_quantity);
    number.ok_or_else(|| format!("must be an integer from 1 to {QUANTITY_MAX}"))
}

fn name_of(text: &str) -> Result<Box<str>, String> {
    Line::parse_name(&required_string(text)?).map_err(|error| error.to_string())
}
