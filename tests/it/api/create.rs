//! `POST /orders`: all accepted forms, and the 201 answer.

use insta::assert_snapshot;
use orderly::lease::Outcome;
use orderly::order::OrderId;

use super::in_process::{Api, ORDER, order_with};

/// An order with these texts as values.
fn order(item_ids: &str, total_amount: &str) -> String {
    format!(r#"{{"user_id":104,"item_ids":{item_ids},"total_amount":{total_amount}}}"#)
}

#[tokio::test]
async fn a_created_order_is_returned_in_full() {
    let api = Api::open().await;
    assert_snapshot!(api.post("/orders", ORDER).await.shown(), @r#"
    201 Created
    content-type: application/json
    location: /orders/1

    {
      "order_id":1,
      "user_id":104,
      "item_ids":"101,102,103",
      "total_amount":250.75,
      "status":"Pending",
      "reference":null,
      "metadata":null,
      "version":1,
      "item_count":3,
      "attempts":0,
      "created_at":"2026-01-01T00:00:00.000000Z",
      "processing_at":null,
      "completed_at":null,
      "next_attempt_at":null,
      "last_error":null,
      "time_taken_seconds":null,
      "result":null
    }
    "#);
    let full = order_with(r#""reference":"PO-7/2026","metadata":{"gift":true,"weight":1.50}"#);
    assert_snapshot!(api.post("/orders", full).await.shown(), @r#"
    201 Created
    content-type: application/json
    location: /orders/2

    {
      "order_id":2,
      "user_id":104,
      "item_ids":"101,102,103",
      "total_amount":250.75,
      "status":"Pending",
      "reference":"PO-7/2026",
      "metadata":{
        "gift":true,
        "weight":1.50
      },
      "version":1,
      "item_count":3,
      "attempts":0,
      "created_at":"2026-01-01T00:00:00.000000Z",
      "processing_at":null,
      "completed_at":null,
      "next_attempt_at":null,
      "last_error":null,
      "time_taken_seconds":null,
      "result":null
    }
    "#);
    api.close().await;
}

#[tokio::test]
async fn an_amount_is_returned_exactly_with_two_decimals() {
    let api = Api::open().await;
    for (given, answered) in [
        ("250.75", "250.75"),
        ("\"250.75\"", "250.75"),
        ("0.1", "0.10"),
        ("0.30", "0.30"),
        ("\"0.3\"", "0.30"),
        ("0", "0.00"),
        ("100", "100.00"),
        ("100.0", "100.00"),
        ("0.07", "0.07"),
        ("4.35", "4.35"),
        ("1.15", "1.15"),
        ("999999999999.99", "999999999999.99"),
        ("\"999999999999.99\"", "999999999999.99"),
    ] {
        let created = api.post("/orders", order("7", given)).await;
        created.created();
        let expected = format!(r#""total_amount":{answered},"#);
        assert!(created.text().contains(&expected), "{given}: {}", created.text());
        let read = api.get(created.header("location")).await;
        assert!(read.text().contains(&expected), "{given}: {}", read.text());
    }
    api.close().await;
}

#[tokio::test]
async fn item_ids_may_be_array_integer_or_text_and_return_as_text() {
    let api = Api::open().await;
    let thousand: Vec<String> = (1..=1000).map(|id: u32| id.to_string()).collect();
    let thousand = thousand.join(",");
    for (given, answered) in [
        ("[101,102,103]", "101,102,103"),
        ("[ 7 ]", "7"),
        ("7", "7"),
        ("\"101,102,103\"", "101,102,103"),
        ("\"7\"", "7"),
        ("[3,1,3]", "3,1,3"),
        ("9007199254740991", "9007199254740991"),
        (&format!("[{thousand}]"), &thousand),
        (&format!("\"{thousand}\""), &thousand),
    ] {
        let created = api.post("/orders", order(given, "1")).await.created();
        assert_eq!(created["item_ids"], answered);
        assert_eq!(created["item_count"], answered.split(',').count());
    }
    api.close().await;
}

#[tokio::test]
async fn a_user_id_may_be_the_largest_safe_json_integer() {
    let api = Api::open().await;
    let created = api
        .post("/orders", ORDER.replace("104", "9007199254740991"))
        .await;
    assert_eq!(created.created()["user_id"], 9_007_199_254_740_991_u64);
    api.close().await;
}

#[tokio::test]
async fn metadata_is_kept_byte_for_byte() {
    let api = Api::open().await;
    for metadata in [
        "{}",
        "{ \"z\" :\t1.10,\r\n \"a\":[ 1E3,-0.0, 12345678901234567890 ] }",
        r#"{"\u0061":"\u00e9\/\ud83d\ude00","A":"é/😀"}"#,
        r#"{"nested":{"same":1},"same":{"same":null}}"#,
    ] {
        let created = api
            .post("/orders", order_with(&format!("\"metadata\": {metadata} ")))
            .await;
        let expected = format!("\"metadata\":{metadata},");
        let location = created.header("location").to_owned();
        for answer in [
            created,
            api.get(&location).await,
            api.get("/orders?limit=1").await,
        ] {
            assert!(answer.text().contains(&expected), "{metadata}: {}", answer.text());
        }
    }
    api.close().await;
}

#[tokio::test]
async fn metadata_may_have_at_most_8192_bytes_and_32_levels() {
    let api = Api::open().await;
    let largest = format!(r#"{{"a":"{}"}}"#, "x".repeat(8192 - 8));
    let deepest = format!("{}1{}", "{\"a\":".repeat(32), "}".repeat(32));
    for metadata in [largest, deepest] {
        let field = format!("\"metadata\":{metadata}");
        api.post("/orders", order_with(&field)).await.created();
    }
    api.close().await;
}

#[tokio::test]
async fn a_reference_is_kept_with_all_its_characters() {
    let api = Api::open().await;
    let longest = "é".repeat(200);
    for (given, kept) in [
        ("PO-7", "PO-7"),
        (r#"a\"b\\c\/d"#, r#"a"b\c/d"#),
        (r"\u00e9\ud83d\ude00", "é😀"),
        (" spaces inside ", " spaces inside "),
        ("'; drop table orders; --", "'; drop table orders; --"),
        (&longest, &longest),
    ] {
        let created = api
            .post("/orders", order_with(&format!("\"reference\":\"{given}\"")))
            .await;
        assert_eq!(created.created()["reference"], kept);
        let read = api.get(created.header("location")).await;
        assert_eq!(read.ok()["reference"], kept);
    }
    api.close().await;
}

#[tokio::test]
async fn null_in_an_optional_field_means_absent() {
    let api = Api::open().await;
    let created = api
        .post("/orders", order_with(r#""reference":null,"metadata":null"#))
        .await;
    assert_snapshot!(created.text(), @r#"{"order_id":1,"user_id":104,"item_ids":"101,102,103","total_amount":250.75,"status":"Pending","reference":null,"metadata":null,"version":1,"item_count":3,"attempts":0,"created_at":"2026-01-01T00:00:00.000000Z","processing_at":null,"completed_at":null,"next_attempt_at":null,"last_error":null,"time_taken_seconds":null,"result":null}"#);
    api.close().await;
}

#[tokio::test]
async fn orders_get_rising_ids_in_order_of_acceptance() {
    let api = Api::open().await;
    for number in 1..=3 {
        let created = api.post("/orders", ORDER).await;
        assert_eq!(created.created()["order_id"], number);
        assert_eq!(created.header("location"), format!("/orders/{number}"));
    }
    api.close().await;
}

/// The answer belongs to the request, not to the moment: a repeat after the completion still says Pending.
#[tokio::test]
async fn a_replayed_201_shows_the_order_as_it_was_accepted() {
    let api = Api::open().await;
    let first = api.post_keyed("/orders", "k", ORDER).await;
    let lease = api.harness.claim_only(OrderId(1)).await;
    api.harness.settle(&lease, Outcome::COMPLETED).await;
    let again = api.post_keyed("/orders", "k", ORDER).await;
    assert_eq!(again.created()["status"], "Pending");
    assert_eq!(again.bytes(), first.bytes());
    assert_eq!(api.get("/orders/1").await.ok()["status"], "Completed");
    api.close().await;
}

#[tokio::test]
async fn a_json_body_may_name_its_charset() {
    let api = Api::open().await;
    for content_type in ["application/json; charset=utf-8", "Application/JSON"] {
        let headers = [("content-type", content_type)];
        api.ask("POST", "/orders", &headers, ORDER).await.created();
    }
    api.close().await;
}
