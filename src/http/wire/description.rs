//! Descriptions of request bodies: each field once, with its reader and its schema, so that a body is read exactly as the
//! OpenAPI document says. `requests` and `leases` have the bodies.

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};
use utoipa::openapi::{RefOr, Schema};

use crate::http::fields::{FieldErrors, Pointer, REPEATED};
use crate::http::json::{self, Kind, ObjectError};
use crate::http::openapi::fragment;
use crate::http::problem::{Problem, ProblemType};
use crate::order::parse_integer;

const UNKNOWN: &str = "is not a field of this request";
pub const REQUIRED: &str = "is required";
pub const NOT_AN_OBJECT: &str = "must be an object";
const NOT_A_STRING: &str = "must be a string";
pub const NOT_UNICODE: &str = "must consist of Unicode characters (no lone surrogate)";

/// A JSON object that clients send; the macro `body` implements it.
pub trait Body: Sized {
    /// Reads the object as far as possible; it is valid only if nothing was added to `errors`. The error is the reason
    /// why the text is not JSON.
    fn read_at(text: &str, at: &Pointer<'_>, errors: &mut FieldErrors) -> Result<Option<Self>, String>;
}

/// Reads a whole body: unknown, repeated and invalid fields are all named at once.
pub fn read<B: Body>(text: &str) -> Result<B, Problem> {
    let mut errors = FieldErrors::default();
    let body = B::read_at(text, &Pointer::Root, &mut errors).map_err(|reason| malformed_json(&reason))?;
    complete(body, errors)
}

/// Implements [`Body`] and the schema for a struct, from the descriptions of its fields. With the types of the fields,
/// declares the struct too.
macro_rules! body {
    (
        $(#[$attribute:meta])*
        pub struct $name:ident { $($field:ident: $type:ty = $description:expr,)+ }
    ) => {
        $(#[$attribute])*
        pub struct $name {
            $(pub $field: $type,)+
        }

        body! { impl $name { $($field = $description,)+ } }
    };
    (impl $name:ident { $($field:ident = $description:expr,)+ } $(example $example:tt)?) => {
        impl $crate::http::wire::description::Body for $name {
            fn read_at(
                text: &str,
                at: &$crate::http::fields::Pointer<'_>,
                errors: &mut $crate::http::fields::FieldErrors,
            ) -> Result<Option<$name>, String> {
                use $crate::http::wire::description::{Invalid, given};
                let Some(given) = given(text, [$(stringify!($field)),+], at, errors)? else {
                    return Ok(None);
                };
                let mut given = given.into_iter();
                let ($($field,)+) = ($(
                    $description.read(given.next().flatten(), &at.member(stringify!($field)), errors),
                )+);
                let whole = || Ok::<$name, Invalid>($name { $($field: $field?,)+ });
                Ok(whole().ok())
            }
        }

        impl utoipa::ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                let fields = [$((stringify!($field), $description.schema()),)+];
                let examples: Vec<serde_json::Value> = vec![$(serde_json::json!($example))?];
                $crate::http::wire::description::object(fields, examples.into_iter().next())
            }
        }
    };
}
pub(super) use body;

/// Returns the texts of an object's fields; `None` if the text is not an object.
pub fn given<'t, const N: usize>(
    text: &'t str,
    names: [&str; N],
    at: &Pointer<'_>,
    errors: &mut FieldErrors,
) -> Result<Option<[Option<&'t str>; N]>, String> {
    let mut given = [None; N];
    let read = json::members(text, |name, value| {
        match names.iter().position(|known| *known == name) {
            None => errors.add(&at.member(name), UNKNOWN),
            Some(place) if given[place].replace(value).is_some() => {
                errors.add(&at.member(name), REPEATED);
            }
            Some(_) => {}
        }
    });
    Ok(object_or_error(read, at, errors)?.then_some(given))
}

/// Returns the schema of an object with these fields and no others.
pub fn object<const N: usize>(fields: [(&str, FieldSchema); N], example: Option<Json>) -> RefOr<Schema> {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for (name, field) in fields {
        required.extend(field.is_required.then_some(name));
        properties.insert(name.to_owned(), field.schema);
    }
    let mut schema = json!({
        "type": "object",
        "required": required,
        "additionalProperties": false,
        "properties": properties,
    });
    if let Some(example) = example {
        schema["example"] = example;
    }
    fragment(schema)
}

/// A value that cannot be read; the reason is among the errors.
pub struct Invalid;

/// The value of a field: its reader and its schema.
pub trait Value {
    type Read;

    /// Reads the well-formed text of a value.
    fn read(&self, text: &str, at: &Pointer<'_>, errors: &mut FieldErrors) -> Result<Self::Read, Invalid>;

    fn schema(&self) -> Json;
}

/// Returns the value that `parse` reads from its text; the error is the detail for the client.
pub fn value<T, E: Display>(
    parse: impl Fn(&str) -> Result<T, E>,
    schema: impl Fn() -> Json,
) -> impl Value<Read = T> {
    Parsed { parse, schema }
}

struct Parsed<P, S> {
    parse: P,
    schema: S,
}

impl<T, E: Display, P: Fn(&str) -> Result<T, E>, S: Fn() -> Json> Value for Parsed<P, S> {
    type Read = T;

    fn read(&self, text: &str, at: &Pointer<'_>, errors: &mut FieldErrors) -> Result<T, Invalid> {
        (self.parse)(text).map_err(|reason| {
            errors.add(at, reason);
            Invalid
        })
    }

    fn schema(&self) -> Json {
        (self.schema)()
    }
}

pub fn boolean(description: &'static str) -> impl Value<Read = bool> {
    let parse = |text: &str| match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("must be true or false"),
    };
    value(
        parse,
        move || json!({ "description": description, "type": "boolean" }),
    )
}

pub fn integer(range: RangeInclusive<u64>, description: &'static str) -> impl Value<Read = u64> {
    let (min, max) = range.into_inner();
    let schema = move || integer_schema(min, max, description);
    value(move |text: &str| parse_between(text, min, max), schema)
}

pub fn seconds(range: RangeInclusive<u64>, description: &'static str) -> impl Value<Read = Duration> {
    let (min, max) = range.into_inner();
    let schema = move || integer_schema(min, max, description);
    let parse = move |text: &str| parse_between(text, min, max).map(Duration::from_secs);
    value(parse, schema)
}

fn parse_between(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let integer = if text == "0" {
        Some(0)
    } else {
        parse_integer(text)
            .ok()
            .and_then(|integer| u64::try_from(integer).ok())
    };
    let between = integer.filter(|integer| (min..=max).contains(integer));
    between.ok_or_else(|| format!("must be an integer from {min} to {max}"))
}

fn integer_schema(min: u64, max: u64, description: &str) -> Json {
    json!({ "description": description, "type": "integer", "minimum": min, "maximum": max })
}

/// Decodes the text of a string; `None` for other values, and if its escapes are not Unicode.
pub fn string(text: &str) -> Option<Cow<'_, str>> {
    json::string(text).filter(|_| Kind::of(text) == Kind::String)
}

/// Decodes the text of a string. The error is the detail for the client.
pub fn required_string(text: &str) -> Result<Cow<'_, str>, &'static str> {
    if Kind::of(text) != Kind::String {
        return Err(NOT_A_STRING);
    }
    json::string(text).ok_or(NOT_UNICODE)
}

pub struct FieldSchema {
    is_required: bool,
    schema: Json,
}

impl FieldSchema {
    /// A field that a body may have, but not as `null`.
    pub fn not_null(schema: Json) -> FieldSchema {
        FieldSchema {
            is_required: false,
            schema,
        }
    }
}

/// A field that a body must have.
pub struct Required<V>(pub V);

impl<V: Value> Required<V> {
    pub fn read(
        &self,
        given: Option<&str>,
        at: &Pointer<'_>,
        errors: &mut FieldErrors,
    ) -> Result<V::Read, Invalid> {
        let Some(text) = given else {
            errors.add(at, REQUIRED);
            return Err(Invalid);
        };
        self.0.read(text, at, errors)
    }

    pub fn schema(&self) -> FieldSchema {
        FieldSchema {
            is_required: true,
            schema: self.0.schema(),
        }
    }
}

/// A field that a body may have; `null` means absent.
pub struct Optional<V>(pub V);

impl<V: Value> Optional<V> {
    pub fn read(
        &self,
        given: Option<&str>,
        at: &Pointer<'_>,
        errors: &mut FieldErrors,
    ) -> Result<Option<V::Read>, Invalid> {
        let given = given.filter(|text| Kind::of(text) != Kind::Null);
        given.map(|text| self.0.read(text, at, errors)).transpose()
    }

    pub fn schema(&self) -> FieldSchema {
        let mut schema = self.0.schema();
        if let Some(Json::String(kind)) = schema.get("type") {
            schema["type"] = json!([kind, "null"]);
            if let Some(Json::Array(values)) = schema.get_mut("enum") {
                values.push(Json::Null);
            }
        } else if let Some(Json::Array(forms)) = schema.get_mut("oneOf") {
            forms.push(json!({ "type": "null" }));
        }
        FieldSchema {
            is_required: false,
            schema,
        }
    }
}

/// Returns true for an object. Another value is an invalid field; malformed JSON is the error.
pub fn object_or_error(
    read: Result<(), ObjectError>,
    at: &Pointer<'_>,
    errors: &mut FieldErrors,
) -> Result<bool, String> {
    match read {
        Ok(()) => Ok(true),
        Err(ObjectError::NotAnObject) => {
            errors.add(at, NOT_AN_OBJECT);
            Ok(false)
        }
        Err(ObjectError::Malformed(reason)) => Err(reason),
    }
}

pub fn malformed_json(reason: &str) -> Problem {
    Problem::new(
        ProblemType::MalformedJson,
        format!("the body is not JSON: {reason}"),
    )
}

pub fn complete<T>(value: Option<T>, errors: FieldErrors) -> Result<T, Problem> {
    match value {
        Some(value) if errors.is_empty() => Ok(value),
        _ => Err(Problem::invalid(ProblemType::InvalidFields, errors)),
    }
}
