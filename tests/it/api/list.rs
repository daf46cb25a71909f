//! `GET /orders`: newest first, by filter, page by page.

use std::ops::RangeInclusive;
use std::time::Duration;

use orderly::order::{OrderId, OrderStatus};

use super::in_process::{Api, ORDER};
use crate::support::make::{order_of, order_with_reference};

/// The order ids on a page, and the next cursor.
async fn page(api: &Api, query: &str) -> (Vec<i64>, Option<String>) {
    let page = api.get(&format!("/orders{query}")).await.ok();
    let orders = page["orders"].as_array().unwrap();
    let order_ids = orders.iter().map(|order| order["order_id"].as_i64().unwrap());
    let members: Vec<&String> = page.as_object().unwrap().keys().collect();
    assert_eq!(members, ["next_cursor", "orders"]);
    (
        order_ids.collect(),
        page["next_cursor"].as_str().map(str::to_owned),
    )
}

async fn order_ids(api: &Api, query: &str) -> Vec<i64> {
    let (order_ids, next) = page(api, query).await;
    assert_eq!(next, None, "all orders fit on one page");
    order_ids
}

fn newest_first(order_ids: RangeInclusive<i64>) -> Vec<i64> {
    order_ids.rev().collect()
}

#[tokio::test]
async fn an_empty_store_has_an_empty_list() {
    let api = Api::open().await;
    assert_eq!(
        api.get("/orders").await.text(),
        r#"{"orders":[],"next_cursor":null}"#
    );
    api.close_empty().await;
}

#[tokio::test]
async fn a_listed_order_equals_the_order_read_by_id() {
    let api = Api::open().await;
    api.post("/orders", ORDER).await.created();
    let order = api.get("/orders/1").await;
    let list = api.get("/orders").await;
    let expected = format!(r#"{{"orders":[{}],"next_cursor":null}}"#, order.text());
    assert_eq!(list.text(), expected);
    api.close().await;
}

#[tokio::test]
async fn orders_are_listed_newest_first_fifty_to_a_page() {
    let api = Api::open().await;
    api.harness.accept_some(60).await;
    let (first, next) = page(&api, "").await;
    assert_eq!(first, newest_first(11..=60));
    assert_eq!(
        order_ids(&api, &format!("?cursor={}", next.unwrap())).await,
        newest_first(1..=10)
    );
    let (largest, next) = page(&api, "?limit=500").await;
    assert_eq!((largest.len(), next), (60, None));
    api.close().await;
}

#[tokio::test]
async fn filters_select_and_combine() {
    let api = Api::open().await;
    let harness = &api.harness;
    for status in [
        OrderStatus::Completed,
        OrderStatus::Failed,
        OrderStatus::Cancelled,
    ] {
        harness.order_in(status).await;
    }
    harness.advance(Duration::from_secs(1)).await;
    harness.accept(vec![order_of(7), order_of(7)]).await;
    harness.cancel(OrderId(5)).await;
    harness.advance(Duration::from_secs(1)).await;
    harness
        .accept(vec![order_with_reference("PO/7 & x"), order_of(7)])
        .await;
    for (query, expected) in [
        ("?status=Completed", &[1][..]),
        ("?status=Failed", &[2]),
        ("?status=Cancelled", &[5, 3]),
        ("?status=Pending", &[7, 6, 4]),
        ("?status=Processing", &[]),
        ("?user_id=7", &[7, 5, 4]),
        ("?user_id=7&status=Pending", &[7, 4]),
        ("?user_id=7&status=Cancelled", &[5]),
        ("?user_id=8", &[]),
        ("?reference=PO%2F7+%26%20x", &[6]),
        ("?reference=PO%2F7", &[]),
        ("?created_after=2026-01-01T00:00:00Z", &[7, 6, 5, 4]),
        ("?created_before=2026-01-01T00:00:01Z", &[3, 2, 1]),
        ("?created_before=2026-01-01T01:00:01%2B01:00", &[3, 2, 1]),
        (
            "?created_after=2026-01-01T00:00:00Z&created_before=2026-01-01T00:00:02Z",
            &[5, 4],
        ),
        (
            "?created_after=2026-01-01T00:00:00.999999Z&user_id=7&status=Pending",
            &[7, 4],
        ),
        ("?created_after=2027-01-01T00:00:00Z", &[]),
    ] {
        assert_eq!(order_ids(&api, query).await, expected, "{query}");
    }
    api.close().await;
}

#[tokio::test]
async fn paging_returns_every_order_once_while_orders_arrive() {
    let api = Api::open().await;
    api.harness.accept_some(40).await;
    let (mut listed, mut next) = page(&api, "?limit=7").await;
    while let Some(cursor) = next {
        api.post("/orders", ORDER).await.created();
        let order_ids;
        (order_ids, next) = page(&api, &format!("?limit=7&cursor={cursor}")).await;
        listed.extend(order_ids);
    }
    assert_eq!(listed, newest_first(1..=40));
    api.close().await;
}

/// Orders that leave the filter meanwhile are skipped. No order repeats, and none that stays is missed.
#[tokio::test]
async fn filtered_paging_is_complete_while_orders_change() {
    let api = Api::open().await;
    api.harness.accept_some(30).await;
    let (mut listed, mut next) = page(&api, "?status=Pending&user_id=104&limit=4").await;
    while let Some(cursor) = next {
        let met = *listed.last().unwrap();
        api.harness.cancel(OrderId(met)).await;
        let order_ids;
        (order_ids, next) = page(
            &api,
            &format!("?status=Pending&user_id=104&limit=4&cursor={cursor}"),
        )
        .await;
        listed.extend(order_ids);
    }
    assert_eq!(listed, newest_first(1..=30));
    api.close().await;
}

/// Five hundred of the longest orders would take twelve megabytes.
#[tokio::test]
async fn a_page_of_long_orders_ends_early_with_a_next_cursor() {
    const PAGE_BYTES_MAX: usize = 1024 * 1024;
    const ORDERS: i64 = 100;
    let api = Api::open().await;
    let items = vec!["9007199254740991"; 1000].join(",");
    let metadata = format!(r#"{{"a":"{}"}}"#, "x".repeat(8_000));
    let long = format!(r#"{{"user_id":1,"item_ids":[{items}],"total_amount":1,"metadata":{metadata}}}"#);
    for _ in 0..ORDERS {
        api.post("/orders", long.clone()).await.created();
    }
    let (mut listed, mut pages, mut query) = (Vec::new(), 0, String::from("/orders?limit=500"));
    loop {
        let answer = api.get(&query).await;
        assert!(
            answer.text().len() < PAGE_BYTES_MAX + 1024,
            "{}",
            answer.text().len()
        );
        let page = answer.ok();
        let orders = page["orders"].as_array().unwrap();
        listed.extend(orders.iter().map(|order| order["order_id"].as_i64().unwrap()));
        pages += 1;
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        query = format!("/orders?limit=500&cursor={cursor}");
    }
    assert_eq!(listed, newest_first(1..=ORDERS));
    assert_eq!(pages, 3);
    api.close().await;
}

#[tokio::test]
async fn all_invalid_parameters_are_named_at_once() {
    let api = Api::open().await;
    for (query, pointers) in [
        ("status=pending", &["#/status"][..]),
        ("status=", &["#/status"]),
        ("user_id=", &["#/user_id"]),
        ("user_id=cus%00", &["#/user_id"]),
        ("user_id=%E2%80%AEcus", &["#/user_id"]),
        ("reference=", &["#/reference"]),
        ("reference=%00", &["#/reference"]),
        ("created_after=yesterday", &["#/created_after"]),
        ("created_before=2026-01-01", &["#/created_before"]),
        ("created_before=2026-01-01T00:00:00", &["#/created_before"]),
        ("limit=0", &["#/limit"]),
        ("limit=501", &["#/limit"]),
        ("limit=-1", &["#/limit"]),
        ("limit=x", &["#/limit"]),
        ("limit=", &["#/limit"]),
        ("cursor=", &["#/cursor"]),
        ("cursor=1", &["#/cursor"]),
        ("cursor=%F0%9F%98%80", &["#/cursor"]),
        ("offset=10", &["#/offset"]),
        ("user_id=1&user_id=1", &["#/user_id"]),
        (
            "status=x&user_id=&limit=z&colour=red",
            &["#/colour", "#/status", "#/user_id", "#/limit"],
        ),
    ] {
        let answer = api.get(&format!("/orders?{query}")).await;
        answer.assert_refused_at(400, "invalid-parameters", pointers);
    }
    api.close_empty().await;
}

#[tokio::test]
async fn a_page_may_be_empty_before_the_last_one() {
    let api = Api::open().await;
    api.harness.accept(vec![order_with_reference("web")]).await;
    api.harness.cancel(OrderId(1)).await;
    let others = order_with_reference("web");
    api.harness.accept_more_than_a_page_looks_at(&others).await;
    let query = "?reference=web&status=Cancelled";
    let (first, next) = page(&api, query).await;
    assert!(first.is_empty(), "{first:?}");
    let cursor = next.expect("there is a next page");
    assert_eq!(order_ids(&api, &format!("{query}&cursor={cursor}")).await, [1]);
    api.close().await;
}

/// Issue 13, point 11: exactly RFC 3339 section 5.6, in queries and bodies.
#[tokio::test]
async fn times_are_parsed_strictly_by_rfc_3339() {
    let api = Api::open().await;
    api.harness.accept_one().await;
    for time in [
        "9999-12-31T23:59:59Z",
        "2026-01-01t00:00:00z",
        "2026-01-01T00:00:00.123456%2B23:59",
        "0000-01-01T00:00:00-23:59",
        "2016-12-31T23:59:60Z",
    ] {
        for name in ["created_after", "created_before"] {
            api.get(&format!("/orders?{name}={time}")).await.ok();
        }
        let time = time.replace("%2B", "+");
        let body = format!(r#"{{"status":"Failed","created_before":"{time}"}}"#);
        api.post("/orders/retry", body).await.ok();
    }
    for time in [
        "2026-01-01T00:00:00%2B0100",
        "2026-01-01T00:00:00%2B24:00",
        "2026-01-01T00Z",
        "2026-01-01T00:00:00,5Z",
        "2026-01-01 00:00:00Z",
        "2026-02-29T00:00:00Z",
    ] {
        let answer = api
            .get(&format!("/orders?created_after={}", time.replace(' ', "%20")))
            .await;
        answer.assert_refused_at(400, "invalid-parameters", &["#/created_after"]);
        let time = time.replace("%2B", "+");
        let body = format!(r#"{{"status":"Failed","created_before":"{time}"}}"#);
        let answer = api.post("/orders/retry", body).await;
        answer.assert_refused_at(422, "invalid-fields", &["#/created_before"]);
    }
    let answer = api.get("/orders?created_after=2026-01-01T00:00:00+01:00").await;
    answer.assert_refused_at(400, "invalid-parameters", &["#/created_after"]);
    assert!(answer.text().contains("%2B01:00"), "{}", answer.text());
    api.close().await;
}

/// Issue 13, point 12: a lossy decoding would search for something else.
#[tokio::test]
async fn query_text_that_is_not_utf8_is_refused() {
    let api = Api::open().await;
    api.harness.accept(vec![order_with_reference("\u{FFFD}")]).await;
    for (path, pointer) in [
        ("/orders?reference=%FF", "#/reference"),
        ("/orders?ref%FFerence=x", "#/ref%EF%BF%BDerence"),
        ("/orders?status=%C3", "#/status"),
        ("/orders/1/events?after=%80", "#/after"),
        ("/events?user_id=%ED%A0%80", "#/user_id"),
        ("/events?%FF", "#/%EF%BF%BD"),
    ] {
        let answer = api.get(path).await;
        answer.assert_refused_at(400, "invalid-parameters", &[pointer]);
    }
    assert_eq!(order_ids(&api, "?reference=%EF%BF%BD").await, [1]);
    api.close().await;
}
