//! An amendment as clients send it: a JSON merge patch (RFC 7396).

use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::items::{ItemIds, Lines};
use super::order::{Amount, NOT_AFTER_START, check_metadata, deadline, metadata, reference, start_time};
use crate::http::fields::{FieldErrors, Pointer};
use crate::http::json::Kind;
use crate::http::problem::Problem;
use crate::http::wire::description::{
    FieldSchema, Invalid, Optional, Value, complete, given, malformed_json, object,
};
use crate::money::Currency;
use crate::order::{AmendedField, Member, Order, Patch};

const NOT_NULL: &str = "cannot be removed";
const NAMES: [&str; 7] = [
    "items",
    "item_ids",
    "total_amount",
    "reference",
    "metadata",
    "start_after",
    "deadline",
];

/// Body of `PATCH /orders/{id}`.
pub struct Amendment;

impl ToSchema for Amendment {
    fn name() -> std::borrow::Cow<'static, str> {
        "Amendment".into()
    }
}

impl PartialSchema for Amendment {
    fn schema() -> RefOr<Schema> {
        let amount = Amount {
            decimals: 2,
            currency: None,
        };
        let fields: [(&str, FieldSchema); 7] = [
            ("items", FieldSchema::not_null(Lines { decimals: 2 }.schema())),
            ("item_ids", FieldSchema::not_null(ItemIds.schema())),
            ("total_amount", FieldSchema::not_null(amount.schema())),
            ("reference", Optional(reference()).schema()),
            ("metadata", Optional(metadata()).schema()),
            ("start_after", Optional(start_time()).schema()),
            ("deadline", Optional(deadline()).schema()),
        ];
        object(fields, Some(serde_json::json!({ "total_amount": 199.90 })))
    }
}

/// Reads the body of `PATCH /orders/{id}` for this order.
pub fn read_patch(body: &str, order: &Order) -> Result<Patch, Problem> {
    let mut errors = FieldErrors::default();
    let read = read_at(body, order, &mut errors);
    complete(read.map_err(|reason| malformed_json(&reason))?, errors)
}

fn read_at(body: &str, order: &Order, errors: &mut FieldErrors) -> Result<Option<Patch>, String> {
    let root = Pointer::Root;
    let Some(
        [
            items,
            item_ids,
            total_amount,
            reference,
            metadata,
            start_after,
            deadline,
        ],
    ) = given(body, NAMES, &root, errors)?
    else {
        return Ok(None);
    };
    // The currency of an order never changes.
    let currency = order.request.currency;
    let decimals = Currency::decimals_of(currency);
    let is_value = |text: &&str| Kind::of(text) != Kind::Null;
    // The new list replaces the old one, which may be removed by name.
    let (items, item_ids) = (
        items.filter(|text| item_ids.is_none() || is_value(text)),
        item_ids.filter(|text| items.is_none() || is_value(text)),
    );
    let items = if items.is_some() && item_ids.is_some() {
        errors.add(&root.member("items"), "excludes item_ids");
        Err(Invalid)
    } else {
        let lines = set(items, &Lines { decimals }, &root.member("items"), errors);
        let ids = set(item_ids, &ItemIds, &root.member("item_ids"), errors);
        lines.and_then(|lines| Ok(lines.or(ids?)))
    };
    let total_amount = set(
        total_amount,
        &Amount { decimals, currency },
        &root.member("total_amount"),
        errors,
    );
    let reference = change(
        reference,
        &super::order::reference(),
        &root.member("reference"),
        errors,
    );
    let metadata = change(
        metadata,
        &super::order::metadata(),
        &root.member("metadata"),
        errors,
    );
    let start_after = change(start_after, &start_time(), &root.member("start_after"), errors);
    let deadline = change(
        deadline,
        &super::order::deadline(),
        &root.member("deadline"),
        errors,
    );
    let whole = || {
        Ok::<Patch, Invalid>(Patch {
            items: items?,
            total_amount: total_amount?,
            reference: reference?,
            metadata: metadata?,
            start_after: start_after?,
            deadline: deadline?,
        })
    };
    let patch = whole().ok();
    let Some(mut patch) = patch else {
        return Ok(None);
    };
    // A client that sends every member back changes only those that differ.
    if patch.deadline == Member::of(order.request.deadline) {
        patch.deadline = Member::Keep;
    }
    check_amended(&patch, order, &root, errors);
    Ok(Some(patch))
}

/// Checks the order as it is after the amendment.
fn check_amended(patch: &Patch, order: &Order, root: &Pointer<'_>, errors: &mut FieldErrors) {
    let (amended, fields) = patch.clone().apply(&order.request);
    let starts_late = amended.deadline.is_some() && amended.deadline <= amended.start_after;
    // The deadline of an overdue order means nothing any more.
    if starts_late && !order.overdue {
        if fields.contains(&AmendedField::Deadline) {
            errors.add(&root.member("deadline"), NOT_AFTER_START);
        } else if fields.contains(&AmendedField::StartAfter) {
            errors.add(&root.member("start_after"), "must be before deadline");
        }
    }
    if fields.contains(&AmendedField::Metadata)
        && let Some(metadata) = &amended.metadata
        && let Err(reason) = check_metadata(metadata)
    {
        errors.add(&root.member("metadata"), reason);
    }
}

/// Reads a member that an order must have.
fn set<V: Value>(
    text: Option<&str>,
    member: &V,
    at: &Pointer<'_>,
    errors: &mut FieldErrors,
) -> Result<Option<V::Read>, Invalid> {
    match text {
        None => Ok(None),
        Some(text) if Kind::of(text) == Kind::Null => {
            errors.add(at, NOT_NULL);
            Err(Invalid)
        }
        Some(text) => member.read(text, at, errors).map(Some),
    }
}

/// Reads a member that an order may lack.
fn change<V: Value>(
    text: Option<&str>,
    member: &V,
    at: &Pointer<'_>,
    errors: &mut FieldErrors,
) -> Result<Member<V::Read>, Invalid> {
    match text {
        None => Ok(Member::Keep),
        Some(text) if Kind::of(text) == Kind::Null => Ok(Member::Remove),
        Some(text) => member.read(text, at, errors).map(Member::Set),
    }
}
