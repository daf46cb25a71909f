//! Parses request bodies: unknown and repeated fields are refused by name, numbers are read from their text.

use std::convert::Infallible;

use crate::http::fields::{FieldErrors, Pointer, REPEATED};
use crate::http::json::{self, Kind, ObjectError};
use crate::http::problem::{Problem, ProblemType};
use crate::money::Money;
use crate::order::{
    BATCH_ORDERS_MAX, ITEMS_MAX, ItemIds, METADATA_BYTES_MAX, NewOrder, OrderStatus, Reference, parse_integer,
};
use crate::portable_json;
use crate::store::RedriveQuery;

use super::time::{TIME_EXPECTED, parse_time};

pub(super) const UNKNOWN: &str = "is not a field of this request";
const REQUIRED: &str = "is required";
const NOT_AN_OBJECT: &str = "must be an object";
pub(super) const NOT_UNICODE: &str = "must consist of Unicode characters (no lone surrogate)";

/// Parses the body of `POST /orders`.
pub fn read_order(body: &str) -> Result<NewOrder, Problem> {
    let mut errors = FieldErrors::default();
    let order = order(body, &Pointer::Root, &mut errors).map_err(|malformed| malformed_json(&malformed))?;
    complete(order, errors)
}

/// Parses the body of `POST /orders/batch` as one JSON object.
pub fn read_batch(body: &str) -> Result<Vec<NewOrder>, Problem> {
    let mut errors = FieldErrors::default();
    let root = Pointer::Root;
    let mut given = None;
    let read = json::members(body, |name, value| {
        let at = root.member(name);
        if name != "orders" {
            errors.add(&at, UNKNOWN);
        } else if given.replace(value).is_some() {
            errors.add(&at, REPEATED);
        }
    });
    if !object_or_error(read, &root, &mut errors).map_err(|malformed| malformed_json(&malformed))? {
        return complete(None, errors);
    }
    let at = root.member("orders");
    let texts = match given {
        Some(array) if Kind::of(array) == Kind::Array => json::elements(array, BATCH_ORDERS_MAX),
        Some(_) => Some(Vec::new()),
        None => None,
    };
    let texts = texts.filter(|texts| !texts.is_empty());
    if texts.is_none() {
        errors.add(&at, batch_size());
    }
    let mut orders = Vec::new();
    for (index, text) in texts.unwrap_or_default().into_iter().enumerate() {
        let at = at.element(index);
        match order(text, &at, &mut errors) {
            Ok(order) => orders.extend(order),
            // The grammar is already checked, so the name of a field cannot be decoded.
            Err(_) => errors.add(&at, NOT_UNICODE),
        }
    }
    complete(Some(orders), errors)
}

/// Parses the body of `POST /orders/batch` as one JSON object per line (NDJSON); empty lines are skipped.
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
        let read = order(line, &at.element(count), &mut errors);
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

/// Parses the body of an action, which has no members so far.
pub fn read_action(body: &str) -> Result<(), Problem> {
    let mut errors = FieldErrors::default();
    let root = Pointer::Root;
    let read = json::members(body, |name, _| errors.add(&root.member(name), UNKNOWN));
    object_or_error(read, &root, &mut errors).map_err(|malformed| malformed_json(&malformed))?;
    complete(Some(()), errors)
}

/// Parses the body of `POST /orders/retry`.
pub fn read_redrive(body: &str) -> Result<RedriveQuery, Problem> {
    let mut errors = FieldErrors::default();
    let root = Pointer::Root;
    let (mut status, mut user_id, mut created_before, mut dry_run) = (None, None, None, None);
    let read = json::members(body, |name, value| {
        let slot = match name {
            "status" => &mut status,
            "user_id" => &mut user_id,
            "created_before" => &mut created_before,
            "dry_run" => &mut dry_run,
            _ => return errors.add(&root.member(name), UNKNOWN),
        };
        if slot.replace(value).is_some() {
            errors.add(&root.member(name), REPEATED);
        }
    });
    if !object_or_error(read, &root, &mut errors).map_err(|malformed| malformed_json(&malformed))? {
        return complete(None, errors);
    }
    let status = required(status, &root.member("status"), &mut errors, |value| {
        let name = json::string(value).filter(|_| Kind::of(value) == Kind::String);
        name.and_then(|name| OrderStatus::parse(&name))
            .filter(|status| matches!(status, OrderStatus::Failed | OrderStatus::Cancelled))
            .ok_or("must be \"Failed\" or \"Cancelled\"")
    });
    let user_id = optional(user_id, &root.member("user_id"), &mut errors, parse_integer);
    let created_before = optional(
        created_before,
        &root.member("created_before"),
        &mut errors,
        |value| {
            let text = json::string(value).filter(|_| Kind::of(value) == Kind::String);
            text.and_then(|text| parse_time(&text)).ok_or(TIME_EXPECTED)
        },
    );
    let dry_run = optional(dry_run, &root.member("dry_run"), &mut errors, boolean);
    let query = status.map(|status| RedriveQuery {
        status,
        user_id,
        created_before,
        dry_run: dry_run.unwrap_or(false),
    });
    complete(query, errors)
}

/// Parses one order as far as possible; the order is valid only if nothing was added to `errors`. The error is the
/// reason why the text is not JSON.
fn order(text: &str, at: &Pointer<'_>, errors: &mut FieldErrors) -> Result<Option<NewOrder>, String> {
    let (mut user_id, mut item_ids, mut total_amount) = (None, None, None);
    let (mut reference, mut metadata) = (None, None);
    let read = json::members(text, |name, value| {
        let slot = match name {
            "user_id" => &mut user_id,
            "item_ids" => &mut item_ids,
            "total_amount" => &mut total_amount,
            "reference" => &mut reference,
            "metadata" => &mut metadata,
            _ => return errors.add(&at.member(name), UNKNOWN),
        };
        if slot.replace(value).is_some() {
            errors.add(&at.member(name), REPEATED);
        }
    });
    if !object_or_error(read, at, errors)? {
        return Ok(None);
    }
    let user_id = required(user_id, &at.member("user_id"), errors, parse_integer);
    let item_ids = items(item_ids, &at.member("item_ids"), errors);
    let total_amount = required(total_amount, &at.member("total_amount"), errors, amount);
    let reference = optional(reference, &at.member("reference"), errors, self::reference);
    let metadata = optional(metadata, &at.member("metadata"), errors, self::metadata);
    Ok(user_id
        .zip(item_ids)
        .zip(total_amount)
        .map(|((user_id, item_ids), total_amount)| NewOrder {
            user_id,
            item_ids,
            total_amount,
            reference,
            metadata,
        }))
}

/// Parses an array of integers, one integer, or a string of integers separated by commas.
fn items(value: Option<&str>, at: &Pointer<'_>, errors: &mut FieldErrors) -> Option<ItemIds> {
    let value = required(value, at, errors, Ok::<_, Infallible>)?;
    let string;
    let texts: Option<Vec<&str>> = match Kind::of(value) {
        Kind::Array => json::elements(value, ITEMS_MAX),
        Kind::Number => Some(vec![value]),
        Kind::String => {
            string = json::string(value).unwrap_or_default();
            let parts = string.split(',').take(ITEMS_MAX + 1).map(str::trim_ascii);
            Some(parts.collect()).filter(|parts: &Vec<_>| parts.len() <= ITEMS_MAX)
        }
        Kind::Null | Kind::Boolean | Kind::Object => {
            errors.add(
                at,
                "must be an array of integers, one integer, or a comma-separated string of integers",
            );
            return None;
        }
    };
    let Some(texts) = texts.filter(|texts| !texts.is_empty()) else {
        errors.add(at, format_args!("must have 1 to {ITEMS_MAX} items"));
        return None;
    };
    let count = texts.len();
    let mut ids = Vec::with_capacity(count);
    for (index, text) in texts.into_iter().enumerate() {
        match parse_integer(text) {
            Ok(id) => ids.push(id),
            Err(reason) if Kind::of(value) == Kind::Number => errors.add(at, reason),
            Err(reason) => errors.add(&at.element(index), reason),
        }
    }
    if ids.len() < count {
        return None;
    }
    ItemIds::new(&ids)
}

fn amount(value: &str) -> Result<Money, String> {
    let text = match Kind::of(value) {
        Kind::Number => Some(value.into()),
        Kind::String => json::string(value),
        Kind::Null | Kind::Boolean | Kind::Array | Kind::Object => None,
    };
    let text = text.ok_or("must be a number, or a string in the same format")?;
    Money::parse(&text).map_err(|error| error.to_string())
}

fn reference(value: &str) -> Result<Reference, String> {
    if Kind::of(value) != Kind::String {
        return Err("must be a string".into());
    }
    let text = json::string(value).ok_or(NOT_UNICODE)?;
    Reference::parse(&text).map_err(|error| error.to_string())
}

fn metadata(value: &str) -> Result<Box<str>, String> {
    if Kind::of(value) != Kind::Object {
        return Err(NOT_AN_OBJECT.into());
    }
    if value.len() > METADATA_BYTES_MAX {
        return Err(format!("must not exceed {METADATA_BYTES_MAX} bytes"));
    }
    portable_json::check(value).map_err(|error| error.to_string())?;
    Ok(value.into())
}

pub(super) fn required<'a, T, E: std::fmt::Display>(
    value: Option<&'a str>,
    at: &Pointer<'_>,
    errors: &mut FieldErrors,
    read: impl FnOnce(&'a str) -> Result<T, E>,
) -> Option<T> {
    let Some(value) = value else {
        errors.add(at, REQUIRED);
        return None;
    };
    read(value).map_err(|reason| errors.add(at, reason)).ok()
}

/// Parses an optional field; `null` means absent.
pub(super) fn optional<T, E: std::fmt::Display>(
    value: Option<&str>,
    at: &Pointer<'_>,
    errors: &mut FieldErrors,
    read: impl FnOnce(&str) -> Result<T, E>,
) -> Option<T> {
    let value = value.filter(|value| Kind::of(value) != Kind::Null)?;
    read(value).map_err(|reason| errors.add(at, reason)).ok()
}

pub(super) fn boolean(value: &str) -> Result<bool, &'static str> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("must be true or false"),
    }
}

/// Returns true for an object. Another value is an invalid field; malformed JSON is the error.
pub(super) fn object_or_error(
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

fn batch_size() -> String {
    format!("must be an array of 1 to {BATCH_ORDERS_MAX} orders")
}

pub(super) fn malformed_json(reason: &str) -> Problem {
    Problem::new(
        ProblemType::MalformedJson,
        format!("the body is not JSON: {reason}"),
    )
}

pub(super) fn complete<T>(value: Option<T>, errors: FieldErrors) -> Result<T, Problem> {
    match value {
        Some(value) if errors.is_empty() => Ok(value),
        _ => Err(Problem::invalid(ProblemType::InvalidFields, errors)),
    }
}

#[cfg(test)]
mod tests;
