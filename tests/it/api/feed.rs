//! `GET /events` by page, and the cursors that lead to it.

use orderly::lease::Outcome;
use orderly::order::{OrderId, OrderStatus};
use serde_json::Value;

use super::in_process::Api;
use crate::support::make::{failed, order_of};

/// Order and version of each event on a page, and the next cursor.
async fn page(api: &Api, query: &str) -> (Vec<(u64, u64)>, String) {
    let page = api.get(&format!("/events{query}")).await.ok();
    let members: Vec<&String> = page.as_object().unwrap().keys().collect();
    assert_eq!(members, ["events", "next_cursor"]);
    let events = page["events"].as_array().unwrap();
    let id_and_version = events.iter().map(id_and_version).collect();
    (id_and_version, page["next_cursor"].as_str().unwrap().to_owned())
}

fn id_and_version(event: &Value) -> (u64, u64) {
    (
        event["order_id"].as_u64().unwrap(),
        event["version"].as_u64().unwrap(),
    )
}

async fn cursor_of(api: &Api, path: &str) -> String {
    api.get(path).await.header("orderly-cursor").to_owned()
}

#[tokio::test]
async fn an_empty_feed_returns_a_cursor_to_resume_from() {
    let api = Api::open().await;
    let (events, cursor) = page(&api, "").await;
    assert_eq!(events, []);
    api.harness.accept_one().await;
    let (events, next) = page(&api, &format!("?after={cursor}")).await;
    assert_eq!(events, [(1, 1)]);
    assert_eq!(
        page(&api, &format!("?after={next}")).await,
        (Vec::new(), next.clone())
    );
    api.close().await;
}

#[tokio::test]
async fn paging_through_the_feed_neither_skips_nor_repeats() {
    let api = Api::open().await;
    api.harness.attempt_once(Outcome::COMPLETED).await;
    api.harness.attempt_once(failed()).await;
    for limit in 1..=7 {
        let mut seen = Vec::new();
        let (mut events, mut cursor) = page(&api, &format!("?limit={limit}")).await;
        while !events.is_empty() {
            assert!(events.len() <= limit);
            seen.extend(events);
            (events, cursor) = page(&api, &format!("?limit={limit}&after={cursor}")).await;
        }
        assert_eq!(seen, [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]);
    }
    api.close().await;
}

#[tokio::test]
async fn feed_events_equal_history_events() {
    let api = Api::open().await;
    api.harness.attempt_once(failed()).await;
    let feed = api.get("/events").await.ok();
    let history = api.get("/orders/1/events").await.ok();
    assert_eq!(feed["events"], history["events"]);
    assert_eq!(feed["next_cursor"], history["events"][2]["cursor"]);
    api.close().await;
}

#[tokio::test]
async fn feed_filters_combine() {
    let api = Api::open().await;
    api.harness
        .accept(vec![order_of(7), order_of(8), order_of(7)])
        .await;
    let lease = api.harness.claim(1).await.remove(0);
    api.harness.settle(&lease, Outcome::COMPLETED).await;
    for (query, found) in [
        ("user_id=7", &[(1, 1), (3, 1), (1, 2), (1, 3)][..]),
        ("order_id=2", &[(2, 1)]),
        ("status=Pending", &[(1, 1), (2, 1), (3, 1)]),
        ("user_id=7&status=Completed", &[(1, 3)]),
        ("user_id=8&order_id=1", &[]),
        ("user_id=9", &[]),
    ] {
        assert_eq!(page(&api, &format!("?{query}")).await.0, found, "{query}");
        // Page by page, continuing after empty pages.
        let (mut seen, mut cursor) = page(&api, &format!("?{query}&limit=1")).await;
        loop {
            let (events, next) = page(&api, &format!("?{query}&limit=1&after={cursor}")).await;
            if next == cursor {
                break;
            }
            seen.extend(events);
            cursor = next;
        }
        assert_eq!(seen, found, "{query}");
    }
    api.close().await;
}

#[tokio::test]
async fn order_reads_return_a_cursor_to_follow_from() {
    let api = Api::open().await;
    api.harness.attempt_once(Outcome::COMPLETED).await;
    for path in ["/orders/1", "/orders", "/orders?user_id=99", "/orders/1/events"] {
        let cursor = cursor_of(&api, path).await;
        let id = api.harness.order_in(OrderStatus::Pending).await.0.unsigned_abs();
        let (events, _) = page(&api, &format!("?after={cursor}")).await;
        assert_eq!(events, [(id, 1)], "{path}");
    }
    assert_eq!(cursor_of(&api, "/orders/99").await, "");
    api.close().await;
}

#[tokio::test]
async fn a_held_read_returns_a_cursor_to_follow_from() {
    let api = Api::open().await;
    let id = api.harness.accept_one().await;
    let held = api.get_with("/orders/1", ("prefer", "wait=60"));
    let (answer, _) = tokio::join!(held, api.harness.cancel(id));
    assert_eq!(answer.ok()["status"], "Cancelled");
    let cursor = answer.header("orderly-cursor");
    assert_eq!(page(&api, &format!("?after={cursor}")).await.0, []);
    api.close().await;
}

#[tokio::test]
async fn a_cursor_of_another_store_or_from_the_future_is_gone() {
    let (api, other) = (Api::open().await, Api::open().await);
    api.harness.accept_one().await;
    other.harness.accept_one().await;
    let foreign = cursor_of(&other, "/orders/1").await;
    let now = cursor_of(&api, "/orders/1").await;
    // A forged cursor.
    let future = format!("{}Zw", &now[..now.len() - 2]);
    for cursor in [&foreign, &future] {
        let answer = api.get(&format!("/events?after={cursor}")).await;
        answer.assert_refused(410, "cursor-gone");
        assert_eq!(answer.json()["cursor"], now.as_str());
    }
    assert_eq!(page(&api, &format!("?after={now}")).await.0, []);
    other.close().await;
    api.close().await;
}

#[tokio::test]
async fn a_cursor_before_pruned_orders_is_gone() {
    let api = Api::open().await;
    api.harness.accept_one().await;
    let too_old = cursor_of(&api, "/orders/1").await;
    api.harness.cancel(OrderId(1)).await;
    let oldest = cursor_of(&api, "/orders/1").await;
    api.harness.prune_all().await;
    api.harness.accept_one().await;
    let now = cursor_of(&api, "/orders/2").await;
    let answer = api.get(&format!("/events?after={too_old}")).await;
    answer.assert_refused(410, "cursor-gone");
    assert_eq!(answer.json()["cursor"], now.as_str());
    assert_eq!(page(&api, &format!("?after={now}")).await.0, []);
    // No event is missing after the last pruned one, nor from the beginning.
    for query in [format!("?after={oldest}"), String::new()] {
        assert_eq!(page(&api, &query).await, (vec![(2, 1)], now.clone()));
    }
    api.close().await;
}

#[tokio::test]
async fn invalid_parameters_are_named() {
    let api = Api::open().await;
    let list_cursor = {
        api.harness.accept_some(2).await;
        let list = api.get("/orders?limit=1").await.ok();
        list["next_cursor"].as_str().unwrap().to_owned()
    };
    for (query, names) in [
        ("after=x", &["#/after"][..]),
        ("after=", &["#/after"]),
        (&format!("after={list_cursor}"), &["#/after"]),
        ("limit=0&user_id=", &["#/user_id", "#/limit"]),
        ("limit=1001", &["#/limit"]),
        ("order_id=-1&status=pending", &["#/order_id", "#/status"]),
        ("colour=red", &["#/colour"]),
        ("user_id=1&user_id=2", &["#/user_id"]),
    ] {
        let answer = api.get(&format!("/events?{query}")).await;
        answer.assert_refused_at(400, "invalid-parameters", names);
    }
    assert_eq!(page(&api, "?limit=1000").await.0.len(), 2);
    api.close().await;
}

/// The longest stored errors, in characters that take six bytes in JSON, would make a full page very long.
#[tokio::test]
async fn a_page_of_long_events_ends_early_with_a_next_cursor() {
    let api = Api::open().await;
    let long = "\u{1}".repeat(1_024);
    for _ in 0..200 {
        let outcome = Outcome::Failed { error: long.clone() };
        api.harness.attempt_once(outcome).await;
    }
    let answer = api.get("/events?limit=1000").await;
    let bytes = answer.bytes().len();
    assert!((900 * 1024..1_100 * 1024).contains(&bytes), "{bytes}");
    let (mut seen, mut cursor) = page(&api, "?limit=1000").await;
    assert!((400..600).contains(&seen.len()), "{}", seen.len());
    loop {
        let (events, next) = page(&api, &format!("?limit=1000&after={cursor}")).await;
        if events.is_empty() {
            break;
        }
        seen.extend(events);
        cursor = next;
    }
    let all = (1..=200).flat_map(|id| (1..=3).map(move |version| (id, version)));
    assert!(seen.into_iter().eq(all));
    api.close().await;
}

#[tokio::test]
async fn a_filtered_feed_page_looks_at_no_more_than_ten_thousand_events() {
    let api = Api::open().await;
    let last = api.harness.accept_more_than_a_page_looks_at(&order_of(7)).await;
    api.harness.accept(vec![order_of(8)]).await;
    let (first, cursor) = page(&api, "?user_id=8").await;
    assert_eq!(first, [], "the page looked at too many events");
    let (second, end) = page(&api, &format!("?user_id=8&after={cursor}")).await;
    let expected = (u64::try_from(last.0).unwrap() + 1_000, 1);
    assert_eq!(second, [expected]);
    let (rest, _) = page(&api, &format!("?after={end}")).await;
    assert_eq!(rest, []);
    api.close().await;
}
