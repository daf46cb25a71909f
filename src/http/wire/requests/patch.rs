//! An amendment as clients send it: a JSON merge patch (RFC 7396).

use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::items::{ItemIds, Lines};
use super::order::{Amount, NOT_AFTER_START, deadline, metadata, reference, start_time};
use crate::http::fields::{FieldErrors, Pointer};
use crate::http::json::Kind;
use crate::http::problem::Problem;
use crate::http::wire::description::{
    FieldSchema, Invalid, Optional, Value, complete, given, malformed_json, object,
};
use crate::money::Currency;
use crate::order::{Member, NewOrder, Patch};
use crate::store::clock::system_clock;

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

/// Reads the body of `PATCH /orders/{id}` for an order with this request.
pub fn read_patch(body: &str, request: &NewOrder) -> Result<Patch, Problem> {
    let mut errors = FieldErrors::default();
    let read = read_at(body, request, &mut errors);
    complete(read.map_err(|reason| malformed_json(&reason))?, errors)
}

fn read_at(body: &str, request: &NewOrder, errors: &mut FieldErrors) -> Result<Option<Patch>, String> {
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
    let currency = request.currency;
    let decimals = Currency::decimals_of(currency);
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
    if let Some(patch) = &patch {
        check_times(patch, request, &root, errors);
    }
    Ok(patch)
}

/// Checks the times that the order has after the amendment.
fn check_times(patch: &Patch, request: &NewOrder, root: &Pointer<'_>, errors: &mut FieldErrors) {
    let (amended, _) = patch.clone().apply(request);
    let name = if patch.deadline == Member::Keep {
        "start_after"
    } else {
        "deadline"
    };
    if patch.deadline != Member::Keep && amended.is_late(system_clock()()) {
        errors.add(&root.member(name), "must be in the future");
    }
    let changes = patch.deadline != Member::Keep || patch.start_after != Member::Keep;
    if changes
        && amended
            .deadline
            .is_some_and(|deadline| amended.start_after.is_some_and(|start| deadline <= start))
    {
        let detail = if name == "deadline" {
            NOT_AFTER_START
        } else {
            "must be before deadline"
        };
        errors.add(&root.member(name), detail);
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
