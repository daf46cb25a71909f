//! Bodies that are not JSON: refused with the position of the syntax error, and nothing is stored.

use axum::body::Bytes;

use super::in_process::{Api, ORDER, order_with};

const KIB: usize = 1024;

/// The valid order with one text replaced.
fn with(good: &str, bad: &str) -> String {
    assert!(ORDER.contains(good));
    ORDER.replace(good, bad)
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused() {
    let api = Api::open().await;
    let unclosed = "{\"a\":".repeat(10 * KIB);
    let brackets = "[".repeat(60 * KIB);
    for body in [
        "",
        " ",
        "order",
        "{",
        &ORDER[..ORDER.len() - 1],
        &ORDER[1..],
        &with("104", ""),
        &with("104", "0104"),
        &with("104", "+104"),
        &with("104", "NaN"),
        &with("250.75", "NaN"),
        &with("250.75", "-Infinity"),
        &with("250.75", "250."),
        &with("250.75", ".75"),
        &with("250.75", "0x10"),
        &with("103]", "103,]"),
        &with("\"user_id\"", "user_id"),
        &ORDER.replace('"', "'"),
        &format!("{ORDER}{ORDER}"),
        &format!("{ORDER},"),
        &format!("\u{feff}{ORDER}"),
        &order_with("\"reference\":\"line\nbreak\""),
        &order_with("\"reference\":\"\0\""),
        &order_with(r#""reference":"\x""#),
        &order_with(r#""reference":"\u00g0""#),
        "user_id=104&item_ids=101&total_amount=250.75",
        "<order/>",
        &unclosed,
        &brackets,
    ] {
        let answer = api.post("/orders", body.to_owned()).await;
        answer.assert_refused(400, "malformed-json");
        let answer = api.post("/orders/batch", body.to_owned()).await;
        answer.assert_refused(400, "malformed-json");
    }
    for body in [
        &b"\xff\xfe{}"[..],
        b"{\"user_id\":\"\xc3\x28\"}",
        b"\x00\x7b\x00\x7d",
        b"\x1f\x8b\x08",
    ] {
        let answer = api.post("/orders", Bytes::from_static(body)).await;
        answer.assert_refused(400, "malformed-json");
    }
    api.close_empty().await;
}

#[tokio::test]
async fn every_prefix_of_a_good_body_is_malformed() {
    let api = Api::open().await;
    for end in 0..ORDER.len() {
        let answer = api.post("/orders", ORDER[..end].to_owned()).await;
        answer.assert_refused(400, "malformed-json");
    }
    api.close_empty().await;
}

#[tokio::test]
async fn a_field_name_that_is_not_text_is_refused() {
    let api = Api::open().await;
    let order = order_with(r#""\ud800":1"#);
    api.post("/orders", order.clone())
        .await
        .assert_refused(400, "malformed-json");
    let answer = api
        .post("/orders/batch", format!(r#"{{"orders":[{ORDER},{order}]}}"#))
        .await;
    answer.assert_refused_at(422, "invalid-fields", &["#/orders/1"]);
    api.close_empty().await;
}
