//! Valid bodies, and invalid ones with every fault named.

use super::super::description::read;
use super::*;
use crate::http::problem::ProblemType;
use crate::order::{ITEMS_MAX, METADATA_BYTES_MAX};

const GOOD: &str = r#"{"user_id":104,"item_ids":[101,102,103],"total_amount":250.75}"#;

fn read_order(body: &str) -> Result<NewOrder, Problem> {
    super::read_order(body, &OrderDefaults::default())
}

fn read_batch(body: &str) -> Result<Vec<NewOrder>, Problem> {
    super::read_batch(body, &OrderDefaults::default())
}

fn read_batch_lines(body: &str) -> Result<Vec<NewOrder>, Problem> {
    super::read_batch_lines(body, &OrderDefaults::default())
}

fn errors_of<T>(read: Result<T, Problem>) -> Vec<(String, String)> {
    let Err(problem) = read else {
        panic!("was accepted")
    };
    assert_eq!(problem.kind, ProblemType::InvalidFields);
    let errors = problem.errors().iter();
    errors
        .map(|error| (error.pointer.clone(), error.detail.clone()))
        .collect()
}

fn pointers_of<T>(read: Result<T, Problem>) -> Vec<String> {
    errors_of(read).into_iter().map(|(pointer, _)| pointer).collect()
}

fn with(field: &str) -> String {
    format!("{}, {field}}}", &GOOD[..GOOD.len() - 1])
}

#[test]
fn a_valid_order_is_parsed() {
    let order = read_order(GOOD).unwrap();
    assert_eq!(order.user_id, 104);
    assert_eq!(order.items.codes(), "101,102,103");
    assert_eq!(order.total_amount.minor_units(), 25_075);
    assert_eq!((order.reference, order.metadata), (None, None));
}

#[test]
fn items_are_accepted_in_three_forms() {
    for (items, text) in [
        ("[7, 8]", "7,8"),
        ("7", "7"),
        (r#""7""#, "7"),
        (r#"" 7 , 8,9007199254740991 ""#, "7,8,9007199254740991"),
    ] {
        let body = format!(r#"{{"user_id":1,"item_ids":{items},"total_amount":"0.1"}}"#);
        assert_eq!(read_order(&body).unwrap().items.codes(), text, "{items}");
    }
    let many = vec!["1"; ITEMS_MAX + 1].join(",");
    for (items, pointer) in [
        ("[]", "#/item_ids"),
        ("{}", "#/item_ids"),
        ("0", "#/item_ids"),
        ("[1,2,3,\"4\"]", "#/item_ids/3"),
        ("[1.0]", "#/item_ids/0"),
        (r#""1,,2""#, "#/item_ids/1"),
        (r#""""#, "#/item_ids/0"),
        (&format!("[{many}]"), "#/item_ids"),
        (&format!("\"{many}\""), "#/item_ids"),
    ] {
        let body = format!(r#"{{"user_id":1,"item_ids":{items},"total_amount":1}}"#);
        assert_eq!(pointers_of(read_order(&body)), [pointer], "{items}");
    }
}

#[test]
fn items_may_be_codes() {
    let of = |items: &str| format!(r#"{{"user_id":1,"item_ids":{items},"total_amount":1}}"#);
    for (items, codes) in [
        (r#"["SKU-1", 7, "a.b_c:d/e"]"#, "SKU-1,7,a.b_c:d/e"),
        (r#""SKU-1, 7,978-3-16-148410-0""#, "SKU-1,7,978-3-16-148410-0"),
    ] {
        assert_eq!(read_order(&of(items)).unwrap().items.codes(), codes);
    }
    for (items, pointer) in [
        (r#"["7"]"#, "#/item_ids/0"),
        (r#"["a b"]"#, "#/item_ids/0"),
        (r#"[7, ""]"#, "#/item_ids/1"),
        (r#""a,0""#, "#/item_ids/1"),
        (r#""a,b;c""#, "#/item_ids/1"),
    ] {
        assert_eq!(pointers_of(read_order(&of(items))), [pointer], "{items}");
    }
}

#[test]
fn lines_are_read_and_their_faults_named() {
    let of =
        |items: &str| format!(r#"{{"user_id":"cus_1","items":{items},"total_amount":1,"currency":"JPY"}}"#);
    let order = read_order(&of(
        r#"[{"sku":"012345678905","quantity":2,"unit_price":"500","name":"Mug"},{"sku":"OFF","quantity":1,"unit_price":-200}]"#,
    ))
    .unwrap();
    assert_eq!(
        (order.items.codes(), order.items.count()),
        ("012345678905,OFF", 3)
    );
    assert_eq!(order.currency.unwrap().code(), "JPY");
    assert_eq!(order.user_id.name(), Some("cus_1"));
    for (items, pointers) in [
        ("[]", &["#/items"][..]),
        ("7", &["#/items"]),
        ("[7]", &["#/items/0"]),
        (r#"[{"sku":"a"}]"#, &["#/items/0/quantity"]),
        (
            r#"[{"sku":"a","quantity":0},{"quantity":1,"x":1}]"#,
            &["#/items/0/quantity", "#/items/1/x", "#/items/1/sku"],
        ),
        (
            r#"[{"sku":"a","quantity":1,"unit_price":1.5,"name":""}]"#,
            &["#/items/0/unit_price", "#/items/0/name"],
        ),
    ] {
        assert_eq!(pointers_of(read_order(&of(items))), pointers, "{items}");
    }
    let both = r#"{"user_id":1,"item_ids":1,"items":[{"sku":"a","quantity":1}],"total_amount":1}"#;
    assert_eq!(pointers_of(read_order(both)), ["#/items"]);
}

#[test]
fn amounts_have_the_decimals_of_the_currency() {
    for (amount, currency, shown) in [
        ("250.75", "EUR", Some("250.75")),
        ("1000", "JPY", Some("1000")),
        ("1.5", "KWD", Some("1.500")),
        ("250.75", "JPY", None),
        ("1.0001", "KWD", None),
    ] {
        let body = format!(r#"{{"user_id":1,"item_ids":1,"total_amount":{amount},"currency":"{currency}"}}"#);
        let read = read_order(&body).map(|order| order.total_amount.to_string());
        assert_eq!(read.as_deref().ok(), shown, "{body}");
    }
    let defaults = OrderDefaults {
        currency: Some(crate::money::Currency::parse("JPY").unwrap()),
    };
    let errors = errors_of(super::read_order(GOOD, &defaults));
    assert_eq!(
        errors,
        [(
            "#/total_amount".to_owned(),
            "must have no decimals (JPY)".to_owned()
        )]
    );
    let own = super::read_order(&with(r#""currency":"EUR""#), &defaults).unwrap();
    assert_eq!(own.currency.unwrap().code(), "EUR");
    for bad in ["\"eur\"", "\"XXX\"", "7"] {
        assert_eq!(
            pointers_of(read_order(&with(&format!(r#""currency":{bad}"#)))),
            ["#/currency"]
        );
    }
}

#[test]
fn a_user_may_be_text_that_is_no_integer() {
    let of = |user: &str| read_order(&GOOD.replace("104", user));
    assert_eq!(
        of(r#""cus_123""#).unwrap().user_id,
        UserId::parse("cus_123").unwrap()
    );
    assert_eq!(
        errors_of(of(r#""104""#))[0].1,
        "is an integer: send it as a number"
    );
    for bad in [r#""""#, r#""a\u202eb""#, r#""\ud800""#] {
        assert_eq!(pointers_of(of(bad)), ["#/user_id"], "{bad}");
    }
}

#[test]
fn all_invalid_fields_are_named_at_once() {
    let body = r#"{"user_id":9007199254740993,"item_ids":[1,0,-3],"total_amount":1e2,"colour":"red",
        "reference":"a\u0000b","metadata":[],"user_id":1}"#;
    let expected = [
        "#/colour",
        "#/user_id",
        "#/item_ids/1",
        "#/item_ids/2",
        "#/total_amount",
        "#/reference",
        "#/metadata",
    ];
    assert_eq!(pointers_of(read_order(body)), expected);
    assert_eq!(
        pointers_of(read_order("{}")),
        ["#/user_id", "#/item_ids", "#/total_amount"]
    );
    assert_eq!(pointers_of(read_order("[]")), ["#"]);
}

#[test]
fn integers_too_large_for_a_double_are_refused() {
    let body = GOOD.replace("104", "9007199254740992");
    assert_eq!(pointers_of(read_order(&body)), ["#/user_id"]);
    for user_id in ["\"104\"", "104.0", "1.04e2", "-1", "null", "true", "[104]"] {
        assert_eq!(
            pointers_of(read_order(&GOOD.replace("104", user_id))),
            ["#/user_id"],
            "{user_id}"
        );
    }
}

#[test]
fn metadata_is_kept_byte_for_byte() {
    let metadata = "{ \"z\": 1.10,\n \"a\" : [1e3, \"\\u00e9\"] }";
    let order = read_order(&with(&format!(r#""reference":"PO-7","metadata": {metadata} "#))).unwrap();
    assert_eq!(order.metadata.as_deref(), Some(metadata));
    assert_eq!(order.reference.unwrap().as_str(), "PO-7");
    let absent = read_order(&with(r#""reference":null,"metadata":null"#)).unwrap();
    assert_eq!((absent.reference, absent.metadata), (None, None));
}

#[test]
fn metadata_has_limits() {
    let of_size = |bytes: usize| with(&format!(r#""metadata":{{"a":"{}"}}"#, "x".repeat(bytes - 8)));
    assert!(read_order(&of_size(METADATA_BYTES_MAX)).is_ok());
    assert_eq!(
        pointers_of(read_order(&of_size(METADATA_BYTES_MAX + 1))),
        ["#/metadata"]
    );
    for value in [r#"{"a":1,"a":2}"#, r#"{"a":"\ud800"}"#, "\"{}\"", "7"] {
        assert_eq!(
            pointers_of(read_order(&with(&format!(r#""metadata":{value}"#)))),
            ["#/metadata"],
            "{value}"
        );
    }
}

#[test]
fn a_lone_surrogate_in_a_reference_is_named() {
    let errors = errors_of(read_order(&with(r#""reference":"\ud800""#)));
    assert_eq!(errors, [("#/reference".to_owned(), NOT_UNICODE.to_owned())]);
}

#[test]
fn text_that_is_not_json_is_malformed() {
    for body in ["", "{", "user_id=1", &GOOD[..GOOD.len() - 1], &format!("{GOOD}x")] {
        assert_eq!(
            read_order(body).unwrap_err().kind,
            ProblemType::MalformedJson,
            "{body}"
        );
    }
}

#[test]
fn an_invalid_order_of_a_batch_is_named_by_its_index() {
    let bad = GOOD.replace("250.75", "-1");
    let body = format!(r#"{{"orders":[{GOOD},{GOOD},7,{bad},{{"\ud800":1}}]}}"#);
    let pointers = ["#/orders/2", "#/orders/3/total_amount", "#/orders/4"];
    assert_eq!(pointers_of(read_batch(&body)), pointers);
    let lines = format!("{GOOD}\r\n\n{GOOD}\n7\n{bad}\n");
    assert_eq!(pointers_of(read_batch_lines(&lines)), pointers[..2]);
    assert_eq!(read_batch_lines(&format!("{GOOD}\n{GOOD}")).unwrap().len(), 2);
    let malformed = read_batch_lines(&format!("{GOOD}\n{{")).unwrap_err();
    assert_eq!(malformed.kind, ProblemType::MalformedJson);
}

#[test]
fn a_batch_has_a_minimum_and_a_maximum_size() {
    let of = |count: usize| vec![GOOD; count];
    let json = |count: usize| format!(r#"{{"orders":[{}]}}"#, of(count).join(","));
    assert_eq!(
        read_batch(&json(BATCH_ORDERS_MAX)).unwrap().len(),
        BATCH_ORDERS_MAX
    );
    assert_eq!(
        read_batch_lines(&of(BATCH_ORDERS_MAX).join("\n")).unwrap().len(),
        BATCH_ORDERS_MAX
    );
    for body in [&json(BATCH_ORDERS_MAX + 1), &json(0), "{}", r#"{"orders":{}}"#] {
        assert_eq!(pointers_of(read_batch(body)), ["#/orders"]);
    }
    for lines in [&of(BATCH_ORDERS_MAX + 1).join("\n"), "", "\n\n"] {
        assert_eq!(pointers_of(read_batch_lines(lines)), ["#/orders"]);
    }
    assert_eq!(pointers_of(read_batch("[]")), ["#"]);
}

#[test]
fn a_mass_retry_is_parsed_with_its_filters() {
    let query = read::<Redrive>(
        r#"{"status":"Failed","user_id":7,"created_before":"1970-01-01T00:00:01Z","dry_run":true}"#,
    )
    .unwrap();
    assert_eq!(
        (query.status, query.user_id, query.dry_run),
        (OrderStatus::Failed, Some(UserId::Number(7)), Some(true))
    );
    assert_eq!(query.created_before.unwrap().micros(), 1_000_000);
    assert_eq!(
        read::<Redrive>(r#"{"status":"Cancelled"}"#).unwrap().dry_run,
        None
    );
    assert_eq!(
        pointers_of(read::<Redrive>(
            r#"{"user_id":"7","created_before":"today","dry_run":1,"x":1}"#
        )),
        ["#/x", "#/status", "#/user_id", "#/created_before", "#/dry_run"]
    );
    assert_eq!(
        pointers_of(read::<Redrive>(r#"{"status":"Completed"}"#)),
        ["#/status"]
    );
}
