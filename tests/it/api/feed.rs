//! `GET /events` by page, and the cursors that lead to it.

use orderly::lease::Outcome;
use orderly::order::{OrderId, OrderStatus};
use serde_json::Value;

use super::door::Door;
use crate::support::make::{failed, order_of};

/// Order and version of each event on a page, and the next cursor.
async fn page(door: &Door, query: &str) -> (Vec<(u64, u64)>, String) {
    let page = door.get(&format!("/events{query}")).await.ok();
    let members: Vec<&String> = page.as_object().unwrap().keys().collect();
    assert_eq!(members, ["events", "next_cursor"]);
    let events = page["events"].as_array().unwrap();
    let told = events.iter().map(told).collect();
    (told, page["next_cursor"].as_str().unwrap().to_owned())
}

fn told(event: &Value) -> (u64, u64) {
    (
        event["order_id"].as_u64().unwrap(),
        event["version"].as_u64().unwrap(),
    )
}

async fn cursor_of(door: &Door, path: &str) -> String {
    door.get(path).await.header("orderly-cursor").to_owned()
}

#[tokio::test]
async fn an_empty_feed_returns_a_cursor_to_resume_from() {
    let door = Door::open().await;
    let (events, cursor) = page(&door, "").await;
    assert_eq!(events, []);
    door.harness.accept_one().await;
    let (events, next) = page(&door, &format!("?after={cursor}")).await;
    assert_eq!(events, [(1, 1)]);
    assert_eq!(
        page(&door, &format!("?after={next}")).await,
        (Vec::new(), next.clone())
    );
    door.close().await;
}

#[tokio::test]
async fn paging_through_the_feed_neither_skips_nor_repeats() {
    let door = Door::open().await;
    door.harness.attempt_once(Outcome::COMPLETED).await;
    door.harness.attempt_once(failed()).await;
    for limit in 1..=7 {
        let mut seen = Vec::new();
        let (mut events, mut cursor) = page(&door, &format!("?limit={limit}")).await;
        while !events.is_empty() {
            assert!(events.len() <= limit);
            seen.extend(events);
            (events, cursor) = page(&door, &format!("?limit={limit}&after={cursor}")).await;
        }
        assert_eq!(seen, [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]);
    }
    door.close().await;
}

#[tokio::test]
async fn feed_events_equal_history_events() {
    let door = Door::open().await;
    door.harness.attempt_once(failed()).await;
    let feed = door.get("/events").await.ok();
    let history = door.get("/orders/1/events").await.ok();
    assert_eq!(feed["events"], history["events"]);
    assert_eq!(feed["next_cursor"], history["events"][2]["cursor"]);
    door.close().await;
}

#[tokio::test]
async fn feed_filters_combine() {
    let door = Door::open().await;
    door.harness
        .accept(vec![order_of(7), order_of(8), order_of(7)])
        .await;
    let lease = door.harness.claim(1).await.remove(0);
    door.harness.settle(&lease, Outcome::COMPLETED).await;
    for (query, found) in [
        ("user_id=7", &[(1, 1), (3, 1), (1, 2), (1, 3)][..]),
        ("order_id=2", &[(2, 1)]),
        ("status=Pending", &[(1, 1), (2, 1), (3, 1)]),
        ("user_id=7&status=Completed", &[(1, 3)]),
        ("user_id=8&order_id=1", &[]),
        ("user_id=9", &[]),
    ] {
        assert_eq!(page(&door, &format!("?{query}")).await.0, found, "{query}");
        // Page by page, continuing after empty pages.
        let (mut seen, mut cursor) = page(&door, &format!("?{query}&limit=1")).await;
        loop {
            let (events, next) = page(&door, &format!("?{query}&limit=1&after={cursor}")).await;
            if next == cursor {
                break;
            }
            seen.extend(events);
            cursor = next;
        }
        assert_eq!(seen, found, "{query}");
    }
    door.close().await;
}

#[tokio::test]
async fn order_reads_return_a_cursor_to_follow_from() {
    let door = Door::open().await;
    door.harness.attempt_once(Outcome::COMPLETED).await;
    for path in ["/orders/1", "/orders", "/orders?user_id=99", "/orders/1/events"] {
        let cursor = cursor_of(&door, path).await;
        let id = door.harness.order_in(OrderStatus::Pending).await.0.unsigned_abs();
        let (events, _) = page(&door, &format!("?after={cursor}")).await;
        assert_eq!(events, [(id, 1)], "{path}");
    }
    assert_eq!(cursor_of(&door, "/orders/99").await, "");
    door.close().await;
}

#[tokio::test]
async fn a_held_read_returns_a_cursor_to_follow_from() {
    let door = Door::open().await;
    let id = door.harness.accept_one().await;
    let held = door.get_with("/orders/1", ("prefer", "wait=60"));
    let (answer, _) = tokio::join!(held, door.harness.cancel(id));
    assert_eq!(answer.ok()["status"], "Cancelled");
    let cursor = answer.header("orderly-cursor");
    assert_eq!(page(&door, &format!("?after={cursor}")).await.0, []);
    door.close().await;
}

#[tokio::test]
async fn a_cursor_of_another_store_or_from_the_future_is_gone() {
    let (door, other) = (Door::open().await, Door::open().await);
    door.harness.accept_one().await;
    other.harness.accept_one().await;
    let foreign = cursor_of(&other, "/orders/1").await;
    let now = cursor_of(&door, "/orders/1").await;
    // A forged cursor.
    let future = format!("{}Zw", &now[..now.len() - 2]);
    for cursor in [&foreign, &future] {
        let answer = door.get(&format!("/events?after={cursor}")).await;
        answer.assert_refused(410, "cursor-gone");
        assert_eq!(answer.json()["cursor"], now.as_str());
    }
    assert_eq!(page(&door, &format!("?after={now}")).await.0, []);
    other.close().await;
    door.close().await;
}

#[tokio::test]
async fn a_cursor_before_pruned_orders_is_gone() {
    let door = Door::open().await;
    door.harness.accept_one().await;
    let too_old = cursor_of(&door, "/orders/1").await;
    door.harness.cancel(OrderId(1)).await;
    let oldest = cursor_of(&door, "/orders/1").await;
    door.harness.prune_all().await;
    door.harness.accept_one().await;
    let now = cursor_of(&door, "/orders/2").await;
    let answer = door.get(&format!("/events?after={too_old}")).await;
    answer.assert_refused(410, "cursor-gone");
    assert_eq!(answer.json()["cursor"], now.as_str());
    assert_eq!(page(&door, &format!("?after={now}")).await.0, []);
    // No event is missing after the last pruned one, nor from the beginning.
    for query in [format!("?after={oldest}"), String::new()] {
        assert_eq!(page(&door, &query).await, (vec![(2, 1)], now.clone()));
    }
    door.close().await;
}

#[tokio::test]
async fn invalid_parameters_are_named() {
    let door = Door::open().await;
    let list_cursor = {
        door.harness.accept_some(2).await;
        let list = door.get("/orders?limit=1").await.ok();
        list["next_cursor"].as_str().unwrap().to_owned()
    };
    for (query, names) in [
        ("after=x", &["#/after"][..]),
        ("after=", &["#/after"]),
        (&format!("after={list_cursor}"), &["#/after"]),
        ("limit=0&user_id=x", &["#/user_id", "#/limit"]),
        ("limit=1001", &["#/limit"]),
        ("order_id=-1&status=pending", &["#/order_id", "#/status"]),
        ("colour=red", &["#/colour"]),
        ("user_id=1&user_id=2", &["#/user_id"]),
    ] {
        let answer = door.get(&format!("/events?{query}")).await;
        answer.assert_refused_at(400, "invalid-parameters", names);
    }
    assert_eq!(page(&door, "?limit=1000").await.0.len(), 2);
    door.close().await;
}

/// The longest stored errors, in characters that take six bytes in JSON, would make a full page very long.
#[tokio::test]
async fn a_page_of_long_events_ends_early_with_a_next_cursor() {
    let door = Door::open().await;
    let long = "\u{1}".repeat(1_024);
    for _ in 0..200 {
        let outcome = Outcome::Failed { error: long.clone() };
        door.harness.attempt_once(outcome).await;
    }
    let answer = door.get("/events?limit=1000").await;
    let bytes = answer.bytes().len();
    assert!((900 * 1024..1_100 * 1024).contains(&bytes), "{bytes}");
    let (mut seen, mut cursor) = page(&door, "?limit=1000").await;
    assert!((400..600).contains(&seen.len()), "{}", seen.len());
    loop {
        let (events, next) = page(&door, &format!("?limit=1000&after={cursor}")).await;
        if events.is_empty() {
            break;
        }
        seen.extend(events);
        cursor = next;
    }
    let all = (1..=200).flat_map(|id| (1..=3).map(move |version| (id, version)));
    assert!(seen.into_iter().eq(all));
    door.close().await;
}

#[tokio::test]
async fn a_filtered_feed_page_looks_at_no_more_than_ten_thousand_events() {
    let door = Door::open().await;
    let last = door.harness.accept_more_than_a_page_looks_at(&order_of(7)).await;
    door.harness.accept(vec![order_of(8)]).await;
    let (first, cursor) = page(&door, "?user_id=8").await;
    assert_eq!(first, [], "the page looked at too many events");
    let (second, end) = page(&door, &format!("?user_id=8&after={cursor}")).await;
    let expected = (u64::try_from(last.0).unwrap() + 1_000, 1);
    assert_eq!(second, [expected]);
    let (rest, _) = page(&door, &format!("?after={end}")).await;
    assert_eq!(rest, []);
    door.close().await;
}
