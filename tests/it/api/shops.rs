//! Orders as five shop systems have them, mapped onto ours and read back equal.

use orderly::lease::Outcome;
use orderly::order::OrderId;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::in_process::{Api, JSON, ORDER};
use crate::support::until;

/// An order: user, currency, total, lines and number, as JSON.
struct ShopOrder {
    system: &'static str,
    user: &'static str,
    currency: &'static str,
    total: &'static str,
    lines: &'static str,
    number: &'static str,
}

#[rustfmt::skip] // one line per order
const ORDERS: [ShopOrder; 40] = [
    ShopOrder { system: "shopify", user: r#""gid://shopify/Customer/6940095564""#, currency: "EUR", total: "59.97", lines: r#"[{"sku":"TSHIRT-M-BLK","quantity":3,"unit_price":19.99,"name":"T-shirt, black, M"}]"#, number: "#1001" },
    ShopOrder { system: "shopify", user: r#""gid://shopify/Customer/6940095565""#, currency: "EUR", total: "44.91", lines: r#"[{"sku":"TSHIRT-M-BLK","quantity":3,"unit_price":19.99},{"sku":"WELCOME25","quantity":1,"unit_price":-15.06,"name":"Discount 25 %"}]"#, number: "#1002" },
    ShopOrder { system: "shopify", user: r#""gid://shopify/Customer/7001""#, currency: "USD", total: "0.00", lines: r#"[{"sku":"GIFT-CARD","quantity":1,"unit_price":25.00},{"sku":"STORE-CREDIT","quantity":1,"unit_price":-25.00}]"#, number: "#1003" },
    ShopOrder { system: "shopify", user: r#""gid://shopify/Customer/7002""#, currency: "JPY", total: "4980", lines: r#"[{"sku":"4901234567894","quantity":1,"unit_price":4980,"name":"急須"}]"#, number: "#1004" },
    ShopOrder { system: "shopify", user: r#""gid://shopify/Customer/7003""#, currency: "JPY", total: "12300", lines: r#"[{"sku":"4901234567894","quantity":2,"unit_price":4980},{"sku":"SHIPPING","quantity":1,"unit_price":2340}]"#, number: "#1005" },
    ShopOrder { system: "shopify", user: r#""gid://shopify/Customer/7004""#, currency: "KWD", total: "12.750", lines: r#"[{"sku":"OUD-12ML","quantity":1,"unit_price":12.750,"name":"Oud 12 ml"}]"#, number: "#1006" },
    ShopOrder { system: "shopify", user: r#""gid://shopify/Customer/7005""#, currency: "GBP", total: "1199.00", lines: r#"[{"sku":"BIKE/GRAVEL-54","quantity":1,"unit_price":1199.00}]"#, number: "#1007" },
    ShopOrder { system: "shopify", user: r#""gid://shopify/Customer/7006""#, currency: "CAD", total: "99.95", lines: r#"[{"sku":"SOCK_38-40","quantity":5,"unit_price":19.99}]"#, number: "#1008" },
    ShopOrder { system: "woocommerce", user: "17", currency: "EUR", total: "29.90", lines: r#"[{"sku":"woo-93","quantity":1,"unit_price":29.90,"name":"Ship your idea"}]"#, number: "727" },
    ShopOrder { system: "woocommerce", user: "0", currency: "EUR", total: "10.00", lines: r#"[{"sku":"woo-22","quantity":2,"unit_price":5.00}]"#, number: "728" },
    ShopOrder { system: "woocommerce", user: r#""guest-3fa85f64""#, currency: "EUR", total: "118.00", lines: r#"[{"sku":"woo-22","quantity":20,"unit_price":5.00},{"sku":"shipping:flat_rate:2","quantity":1,"unit_price":18.00,"name":"Flat rate"}]"#, number: "729" },
    ShopOrder { system: "woocommerce", user: "18", currency: "PLN", total: "249.99", lines: r#"[{"sku":"woo-810","quantity":1,"unit_price":249.99,"name":"Buty górskie"}]"#, number: "730" },
    ShopOrder { system: "woocommerce", user: "19", currency: "CHF", total: "75.50", lines: r#"[{"sku":"woo-31","quantity":1,"unit_price":80.00},{"sku":"coupon:spring","quantity":1,"unit_price":-4.50}]"#, number: "731" },
    ShopOrder { system: "woocommerce", user: "20", currency: "BHD", total: "3.125", lines: r#"[{"sku":"woo-5","quantity":5,"unit_price":0.625}]"#, number: "732" },
    ShopOrder { system: "woocommerce", user: "21", currency: "KRW", total: "54000", lines: r#"[{"sku":"woo-77","quantity":2,"unit_price":27000,"name":"한복 인형"}]"#, number: "733" },
    ShopOrder { system: "woocommerce", user: "22", currency: "EUR", total: "0.99", lines: r#"[{"sku":"woo-1","quantity":1,"unit_price":0.99}]"#, number: "734" },
    ShopOrder { system: "stripe", user: r#""cus_NffrFeUfNV2Hib""#, currency: "USD", total: "20.00", lines: r#"[{"sku":"price_1MoBy5LkdIwHu7ixZhnattbh","quantity":1,"unit_price":20.00,"name":"T-shirt"}]"#, number: "cs_test_a1" },
    ShopOrder { system: "stripe", user: r#""cus_NffrFeUfNV2Hic""#, currency: "USD", total: "1240.10", lines: r#"[{"sku":"price_1N","quantity":124,"unit_price":10.00},{"sku":"tax.us-ca","quantity":1,"unit_price":0.10}]"#, number: "cs_test_a2" },
    ShopOrder { system: "stripe", user: r#""cus_NffrFeUfNV2Hid""#, currency: "JPY", total: "1000", lines: r#"[{"sku":"price_jp","quantity":1,"unit_price":1000}]"#, number: "cs_test_a3" },
    ShopOrder { system: "stripe", user: r#""cus_NffrFeUfNV2Hie""#, currency: "TND", total: "45.500", lines: r#"[{"sku":"price_tn","quantity":1,"unit_price":45.500}]"#, number: "cs_test_a4" },
    ShopOrder { system: "stripe", user: r#""cus_NffrFeUfNV2Hif""#, currency: "EUR", total: "8.50", lines: r#"[{"sku":"price_eu","quantity":1,"unit_price":10.00},{"sku":"promo_1","quantity":1,"unit_price":-1.50,"name":"SUMMER15"}]"#, number: "cs_test_a5" },
    ShopOrder { system: "stripe", user: r#""cus_NffrFeUfNV2Hig""#, currency: "ISK", total: "1990", lines: r#"[{"sku":"price_is","quantity":1,"unit_price":1990}]"#, number: "cs_test_a6" },
    ShopOrder { system: "stripe", user: r#""acct_1032D82eZvKYlo2C""#, currency: "AUD", total: "15.00", lines: r#"[{"sku":"price_au","quantity":3,"unit_price":5.00}]"#, number: "cs_test_a7" },
    ShopOrder { system: "stripe", user: r#""cus_NffrFeUfNV2Hih""#, currency: "CLP", total: "12990", lines: r#"[{"sku":"price_cl","quantity":1,"unit_price":12990}]"#, number: "cs_test_a8" },
    ShopOrder { system: "magento", user: "1", currency: "USD", total: "36.39", lines: r#"[{"sku":"WS12-M-Orange","quantity":1,"unit_price":22.00,"name":"Radiant Tee-M-Orange"},{"sku":"WB04-S-Green","quantity":1,"unit_price":14.39}]"#, number: "000000001" },
    ShopOrder { system: "magento", user: "2", currency: "USD", total: "131.00", lines: r#"[{"sku":"24-MB01","quantity":1,"unit_price":34.00,"name":"Joust Duffle Bag"},{"sku":"24-UG06","quantity":1,"unit_price":7.00},{"sku":"MH07-L-Green","quantity":2,"unit_price":45.00}]"#, number: "000000002" },
    ShopOrder { system: "magento", user: r#""guest:roni@example.com""#, currency: "USD", total: "39.64", lines: r#"[{"sku":"WS03-XS-Red","quantity":1,"unit_price":34.64},{"sku":"flatrate_flatrate","quantity":1,"unit_price":5.00}]"#, number: "000000003" },
    ShopOrder { system: "magento", user: "3", currency: "EUR", total: "27.20", lines: r#"[{"sku":"24-WG085","quantity":1,"unit_price":34.00},{"sku":"catalog_rule/20","quantity":1,"unit_price":-6.80}]"#, number: "000000004" },
    ShopOrder { system: "magento", user: "4", currency: "OMR", total: "9.900", lines: r#"[{"sku":"24-MB02","quantity":1,"unit_price":9.900}]"#, number: "000000005" },
    ShopOrder { system: "magento", user: "5", currency: "VND", total: "1250000", lines: r#"[{"sku":"24-MB03","quantity":5,"unit_price":250000}]"#, number: "000000006" },
    ShopOrder { system: "magento", user: "6", currency: "INR", total: "2499.00", lines: r#"[{"sku":"24-MB04","quantity":1,"unit_price":2499.00}]"#, number: "000000007" },
    ShopOrder { system: "magento", user: "7", currency: "EUR", total: "999999999999.99", lines: r#"[{"sku":"CONTRACT","quantity":1,"unit_price":999999999999.99}]"#, number: "000000008" },
    ShopOrder { system: "shopware", user: r#""018f3a1e-6c1d-7b4e-9a53-0f2d6f1c9f11""#, currency: "EUR", total: "495.95", lines: r#"[{"sku":"SW10001","quantity":1,"unit_price":495.95,"name":"Main product"}]"#, number: "10001" },
    ShopOrder { system: "shopware", user: r#""018f3a1e-6c1d-7b4e-9a53-0f2d6f1c9f12""#, currency: "EUR", total: "20000.00", lines: r#"[{"sku":"SCREW_M4x20","quantity":1000000,"unit_price":0.02}]"#, number: "10002" },
    ShopOrder { system: "shopware", user: r#""018f3a1e-6c1d-7b4e-9a53-0f2d6f1c9f13""#, currency: "EUR", total: "17.99", lines: r#"[{"sku":"SW10002.1","quantity":1,"unit_price":19.99},{"sku":"promo-2EUR","quantity":1,"unit_price":-2.00}]"#, number: "10003" },
    ShopOrder { system: "shopware", user: r#""018f3a1e-6c1d-7b4e-9a53-0f2d6f1c9f14""#, currency: "HUF", total: "7990.00", lines: r#"[{"sku":"SW10003","quantity":1,"unit_price":7990.00}]"#, number: "10004" },
    ShopOrder { system: "shopware", user: r#""018f3a1e-6c1d-7b4e-9a53-0f2d6f1c9f15""#, currency: "XOF", total: "15000", lines: r#"[{"sku":"SW10004","quantity":3,"unit_price":5000}]"#, number: "10005" },
    ShopOrder { system: "shopware", user: r#""018f3a1e-6c1d-7b4e-9a53-0f2d6f1c9f16""#, currency: "JOD", total: "1.001", lines: r#"[{"sku":"SW10005","quantity":1,"unit_price":1.001}]"#, number: "10006" },
    ShopOrder { system: "shopware", user: r#""018f3a1e-6c1d-7b4e-9a53-0f2d6f1c9f17""#, currency: "EUR", total: "0.00", lines: r#"[{"sku":"SAMPLE","quantity":1}]"#, number: "10007" },
    ShopOrder { system: "shopware", user: r#""018f3a1e-6c1d-7b4e-9a53-0f2d6f1c9f18""#, currency: "SEK", total: "349.00", lines: r#"[{"sku":"978-91-0-012345-6","quantity":1,"unit_price":349.00,"name":"Boken"}]"#, number: "10008" },
];

#[tokio::test]
async fn orders_of_five_shop_systems_are_read_back_equal() {
    let api = Api::open().await;
    for order in &ORDERS {
        // A guest has no number.
        let user = if order.user == "0" {
            r#""guest""#
        } else {
            order.user
        };
        let body = format!(
            r#"{{"user_id":{user},"items":{},"total_amount":{},"currency":"{}","reference":"{}","metadata":{{"system":"{}"}}}}"#,
            order.lines, order.total, order.currency, order.number, order.system
        );
        let created = api.post("/orders", body).await.created();
        let id = created["order_id"].as_u64().unwrap();
        let answer = api.get(&format!("/orders/{id}")).await;
        let texts: std::collections::HashMap<String, Box<RawValue>> =
            serde_json::from_str(answer.text()).unwrap();
        let text = |member: &str| texts[member].get();
        assert_eq!(text("user_id"), user);
        assert_eq!(text("items"), order.lines);
        assert_eq!(text("total_amount"), order.total);
        assert_eq!(text("currency"), format!("\"{}\"", order.currency));
        assert_eq!(text("reference"), format!("\"{}\"", order.number));
        let lines: Value = serde_json::from_str(order.lines).unwrap();
        let lines = lines.as_array().unwrap();
        let codes: Vec<&str> = lines.iter().map(|line| line["sku"].as_str().unwrap()).collect();
        assert_eq!(text("item_ids"), format!("\"{}\"", codes.join(",")));
        let pieces: u64 = lines.iter().map(|line| line["quantity"].as_u64().unwrap()).sum();
        assert_eq!(text("item_count"), pieces.to_string());
        let of_user = user
            .trim_matches('"')
            .replace(':', "%3A")
            .replace('/', "%2F")
            .replace('@', "%40");
        let listed = api
            .get(&format!(
                "/orders?user_id={of_user}&reference={}",
                order.number.replace('#', "%23")
            ))
            .await;
        assert_eq!(listed.json()["orders"][0]["order_id"], id, "{user}");
    }
    api.close().await;
}

#[tokio::test]
async fn a_post_that_waits_shows_the_order_at_its_end() {
    let api = Api::open().await;
    let wait = [
        ("content-type", JSON),
        ("prefer", "wait=60"),
        ("idempotency-key", "a"),
    ];
    let (waited, ()) = tokio::join!(api.ask("POST", "/orders", &wait, ORDER), async {
        until("the order is there", async || api.stored().await == 1).await;
        let lease = api.harness.claim_only(OrderId(1)).await;
        api.harness.settle(&lease, Outcome::COMPLETED).await;
    });
    assert_eq!(waited.header("preference-applied"), "wait=60");
    assert!(!waited.header("orderly-cursor").is_empty());
    assert_eq!(waited.created()["status"], "Completed");
    let replayed = api.ask("POST", "/orders", &wait, ORDER).await;
    assert_eq!(replayed.header("idempotent-replayed"), "true");
    assert_eq!(replayed.created()["status"], "Completed");
    let plain = api.post_keyed("/orders", "a", ORDER).await;
    assert_eq!(
        plain.created()["status"],
        "Pending",
        "without `wait` a repeated answer is the first one"
    );
    api.close().await;
}

#[tokio::test]
async fn a_repeated_request_is_answered_in_the_currency_that_its_order_has() {
    let api = Api::open().await;
    let order = r#"{"user_id":1,"item_ids":[1],"total_amount":250}"#;
    let first = api.post_keyed("/orders", "a", order).await;
    let batch = format!(r#"{{"orders":[{order},{order}]}}"#);
    let first_batch = api.post_keyed("/orders/batch", "a", batch.clone()).await;
    let api = api.again_with_currency("JPY").await;
    let again = api.post_keyed("/orders", "a", order).await;
    assert_eq!(again.text(), first.text());
    assert_eq!(
        api.post_keyed("/orders/batch", "a", batch).await.text(),
        first_batch.text()
    );
    let yen = api.post("/orders", order).await.created();
    assert_eq!(
        (&yen["currency"], &yen["total_amount"]),
        (&json!("JPY"), &json!(250))
    );
    api.close().await;
}
