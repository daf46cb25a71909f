//! Invalid fields: all are named at once by their pointers, alone and inside a batch, and nothing is stored.

use super::in_process::{Api, ORDER, order_with};

const KIB: usize = 1024;

/// The valid order with one text replaced.
fn with(good: &str, bad: &str) -> String {
    assert!(ORDER.contains(good));
    ORDER.replace(good, bad)
}

/// Asserts that the order is refused at these pointers, alone and among valid orders of a batch.
async fn assert_bad_fields(api: &Api, order: &str, pointers: &[&str]) {
    let answer = api.post("/orders", order.to_owned()).await;
    answer.assert_refused_at(422, "invalid-fields", pointers);
    let inside: Vec<String> = pointers
        .iter()
        .map(|pointer| pointer.replacen('#', "#/orders/1", 1))
        .collect();
    let inside: Vec<&str> = inside.iter().map(String::as_str).collect();
    let batch = format!(r#"{{"orders":[{ORDER},{order},{ORDER}]}}"#);
    let answer = api.post("/orders/batch", batch).await;
    answer.assert_refused_at(422, "invalid-fields", &inside);
    let answer = api
        .post_lines(format!("{ORDER}\n{}\n{ORDER}", order.replace('\n', " ")))
        .await;
    answer.assert_refused_at(422, "invalid-fields", &inside);
}

#[tokio::test]
async fn a_body_that_is_not_an_object_is_refused_as_a_whole() {
    let api = Api::open().await;
    for body in [
        "[]",
        "null",
        "true",
        "7",
        "1e400",
        "\"order\"",
        r#"[{"user_id":1}]"#,
    ] {
        assert_bad_fields(&api, body, &["#"]).await;
    }
    api.close_empty().await;
}

#[tokio::test]
async fn missing_fields_are_all_named() {
    let api = Api::open().await;
    assert_bad_fields(&api, "{}", &["#/user_id", "#/item_ids", "#/total_amount"]).await;
    assert_bad_fields(&api, r#"{"item_ids":[1]}"#, &["#/user_id", "#/total_amount"]).await;
    let nulls = r#"{"user_id":null,"item_ids":null,"total_amount":null}"#;
    assert_bad_fields(&api, nulls, &["#/user_id", "#/item_ids", "#/total_amount"]).await;
    api.close_empty().await;
}

#[tokio::test]
async fn a_user_id_is_a_safe_json_integer() {
    let api = Api::open().await;
    let deep = format!("{}{}", "[".repeat(15 * KIB), "]".repeat(15 * KIB));
    for user_id in [
        "0",
        "-1",
        "-0",
        "1.0",
        "1.5",
        "1e3",
        "9007199254740992",
        "9007199254740993",
        "9223372036854775808",
        "123456789012345678901234567890",
        "1e400",
        "\"104\"",
        "\"\"",
        "true",
        "[104]",
        "{}",
        &deep,
    ] {
        assert_bad_fields(&api, &with("104", user_id), &["#/user_id"]).await;
    }
    api.close_empty().await;
}

#[tokio::test]
async fn item_ids_are_one_to_a_thousand_integers_or_codes() {
    let api = Api::open().await;
    let too_many = vec!["1"; 1001].join(",");
    for (item_ids, pointers) in [
        ("[]", &["#/item_ids"][..]),
        ("\"\"", &["#/item_ids/0"]),
        ("{}", &["#/item_ids"]),
        ("true", &["#/item_ids"]),
        ("0", &["#/item_ids"]),
        ("-7", &["#/item_ids"]),
        ("7.0", &["#/item_ids"]),
        ("9007199254740993", &["#/item_ids"]),
        (&format!("[{too_many}]"), &["#/item_ids"]),
        (&format!("\"{too_many}\""), &["#/item_ids"]),
        (
            "[1,0,-3,2.5,\"4\",null,[],{}]",
            &[
                "#/item_ids/1",
                "#/item_ids/2",
                "#/item_ids/3",
                "#/item_ids/4",
                "#/item_ids/5",
                "#/item_ids/6",
                "#/item_ids/7",
            ],
        ),
        ("\"1,,3\"", &["#/item_ids/1"]),
        ("\"1,2,\"", &["#/item_ids/2"]),
        ("\"1;2\"", &["#/item_ids/0"]),
        ("\"1,x y\"", &["#/item_ids/1"]),
        (r#""1,\u0000""#, &["#/item_ids/1"]),
        (r#""1,\ud800""#, &["#/item_ids/0"]),
        ("[9007199254740993]", &["#/item_ids/0"]),
    ] {
        assert_bad_fields(&api, &with("[101,102,103]", item_ids), pointers).await;
    }
    api.close_empty().await;
}

#[tokio::test]
async fn an_amount_is_parsed_from_text_never_through_a_float() {
    let api = Api::open().await;
    for total_amount in [
        "-1",
        "-0",
        "-0.01",
        "250.755",
        "0.001",
        "0.100",
        "1000000000000",
        "999999999999.991",
        "1e2",
        "1E2",
        "1e400",
        "1e-400",
        "123456789012345678901234567890",
        "true",
        "[1]",
        "{}",
        "\"\"",
        "\" 1\"",
        "\"1.\"",
        "\".5\"",
        "\"01\"",
        "\"+1\"",
        "\"-1\"",
        "\"1,50\"",
        "\"1e2\"",
        "\"NaN\"",
        "\"Infinity\"",
        "\"1.234\"",
        "\"١\"",
        r#""1\u0000""#,
        r#""\ud800""#,
    ] {
        assert_bad_fields(&api, &with("250.75", total_amount), &["#/total_amount"]).await;
    }
    api.close_empty().await;
}

#[tokio::test]
async fn a_reference_has_1_to_200_characters_without_control_characters() {
    let api = Api::open().await;
    let long = format!("\"{}\"", "é".repeat(201));
    for reference in [
        "\"\"",
        &long,
        r#""a\u0000b""#,
        r#""a\nb""#,
        r#""a\u0085b""#,
        r#""\u007f""#,
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        "7",
        "true",
        "[]",
        "{}",
    ] {
        assert_bad_fields(
            &api,
            &order_with(&format!("\"reference\":{reference}")),
            &["#/reference"],
        )
        .await;
    }
    api.close_empty().await;
}

#[tokio::test]
async fn metadata_is_an_interoperable_json_object() {
    let api = Api::open().await;
    let nested = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    let arrays = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(8192 - 7));
    for metadata in [
        "[]",
        "7",
        "\"{}\"",
        "true",
        &large,
        &nested(33),
        &nested(1000),
        &arrays(32),
        &arrays(4000),
        &arrays(25_000),
        r#"{"a":1,"a":1}"#,
        r#"{"a":{"b":[{"c":1,"c":2}]}}"#,
        r#"{"a":1,"\u0061":2}"#,
        r#"{"a":"\u0000"}"#,
        r#"{"\u0000":1}"#,
        r#"{"a":["x",{"b":"\u0000"}]}"#,
        r#"{"a":"\ud83d"}"#,
        r#"{"a":"\ude00\ud83d"}"#,
        r#"{"\ud800":1}"#,
        r#"{"a":1e400}"#,
    ] {
        assert_bad_fields(
            &api,
            &order_with(&format!("\"metadata\":{metadata}")),
            &["#/metadata"],
        )
        .await;
    }
    api.close_empty().await;
}

#[tokio::test]
async fn unknown_and_repeated_fields_are_named() {
    let api = Api::open().await;
    for (field, pointer) in [
        ("\"colour\":\"red\"", "#/colour"),
        ("\"User_id\":104", "#/User_id"),
        ("\"order_id\":1", "#/order_id"),
        ("\"status\":\"Completed\"", "#/status"),
        ("\"\":1", "#/"),
        ("\"a/b~c d\":1", "#/a~1b~0c%20d"),
        (r#""\u0000":1"#, "#/%00"),
        ("\"é\":1", "#/%C3%A9"),
        ("\"__proto__\":{}", "#/__proto__"),
        ("\"user_id\":104", "#/user_id"),
        (r#""user\u005fid":104"#, "#/user_id"),
        ("\"total_amount\":1", "#/total_amount"),
        ("\"reference\":\"a\",\"reference\":\"b\"", "#/reference"),
        ("\"metadata\":{},\"metadata\":{}", "#/metadata"),
    ] {
        assert_bad_fields(&api, &order_with(field), &[pointer]).await;
    }
    api.close_empty().await;
}

#[tokio::test]
async fn all_invalid_fields_are_named_at_once() {
    let api = Api::open().await;
    let order = r#"{"user_id":9007199254740993,"item_ids":[1,0],"total_amount":-0.001,"colour":"red",
        "reference":"","metadata":{"a":1,"a":2}}"#;
    let pointers = [
        "#/colour",
        "#/user_id",
        "#/item_ids/1",
        "#/total_amount",
        "#/reference",
        "#/metadata",
    ];
    assert_bad_fields(&api, order, &pointers).await;
    let answer = api.post("/orders", order).await;
    insta::assert_snapshot!(answer.shown(), @r##"
    422 Unprocessable Entity
    content-type: application/problem+json

    {
      "type":"/problems/invalid-fields",
      "title":"Fields are invalid",
      "status":422,
      "detail":"6 fields are invalid, the first: #/colour is not a field of this request",
      "instance":"[request id]",
      "errors":[
        {
          "pointer":"#/colour",
          "detail":"is not a field of this request"
        },
        {
          "pointer":"#/user_id",
          "detail":"must be an integer from 1 to 9007199254740991"
        },
        {
          "pointer":"#/item_ids/1",
          "detail":"must be an integer from 1 to 9007199254740991"
        },
        {
          "pointer":"#/total_amount",
          "detail":"must not be negative"
        },
        {
          "pointer":"#/reference",
          "detail":"must have 1 to 200 characters"
        },
        {
          "pointer":"#/metadata",
          "detail":"must not repeat a key within an object"
        }
      ]
    }
    "##);
    api.close_empty().await;
}

/// The answer to a hostile body stays small.
#[tokio::test]
async fn very_many_invalid_fields_give_a_short_answer() {
    let api = Api::open().await;
    let fields: Vec<String> = (0..4000).map(|number| format!("\"x{number}\":1")).collect();
    let answer = api.post("/orders", order_with(&fields.join(","))).await;
    let (status, kind, pointers) = answer.refusal();
    assert_eq!(
        (status, kind.as_str(), pointers.len()),
        (422, "invalid-fields", 100)
    );
    assert!(
        answer.text().contains("4000"),
        "not all are counted: {}",
        answer.text()
    );
    let answer = api
        .post("/orders", order_with(&format!("\"{}\":1", "x".repeat(60_000))))
        .await;
    assert_eq!(answer.refusal().0, 422);
    assert!(answer.bytes().len() < 2 * KIB);
    api.close_empty().await;
}
