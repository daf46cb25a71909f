//! `Idempotency-Key`: a repeated request gets the first answer and stores nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::task::JoinSet;

use super::in_process::{Answer, Api, JSON, NDJSON, ORDER};
use crate::support::gate::Gate;

const KEY: &str = "8e03978e-40d5-43e8-bc93-6894a57f9324";
const BATCH: &str =
    r#"{"orders":[{"user_id":1,"item_ids":7,"total_amount":1},{"user_id":2,"item_ids":7,"total_amount":2}]}"#;
const LONGER_THAN_A_DAY: Duration = Duration::from_hours(25);

fn assert_replay(again: &Answer, first: &Answer) {
    assert_eq!(again.status, StatusCode::CREATED, "{}", again.text());
    assert_eq!(again.bytes(), first.bytes());
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(again.header("content-type"), first.header("content-type"));
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(first.header("idempotent-replayed"), "");
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer_byte_for_byte() {
    let api = Api::open().await;
    let first = api.post_keyed("/orders", KEY, ORDER).await;
    api.post("/orders", ORDER).await.created();
    api.harness.advance(Duration::from_hours(1)).await;
    assert_replay(&api.post_keyed("/orders", KEY, ORDER).await, &first);
    assert_eq!(api.stored().await, 2);
    api.harness.cancel(orderly::order::OrderId(1)).await;
    assert_replay(&api.post_keyed("/orders", KEY, ORDER).await, &first);
    api.close().await;
}

#[tokio::test]
async fn a_repeated_batch_replays_as_a_whole() {
    let api = Api::open().await;
    let first = api.post_keyed("/orders/batch", KEY, BATCH).await;
    assert_eq!(first.created()["orders"].as_array().unwrap().len(), 2);
    assert_replay(&api.post_keyed("/orders/batch", KEY, BATCH).await, &first);
    let headers = [("content-type", NDJSON), ("idempotency-key", "lines")];
    let lines = format!("{ORDER}\n{ORDER}");
    let first = api.ask("POST", "/orders/batch", &headers, lines.clone()).await;
    assert_replay(&api.ask("POST", "/orders/batch", &headers, lines).await, &first);
    assert_eq!(api.stored().await, 4);
    api.close().await;
}

#[tokio::test]
async fn bare_and_quoted_values_name_the_same_key() {
    let api = Api::open().await;
    let first = api.post_keyed("/orders", "a key", ORDER).await;
    assert_replay(&api.post_keyed("/orders", "\"a key\"", ORDER).await, &first);
    assert_eq!(api.stored().await, 1);
    api.close().await;
}

#[tokio::test]
async fn a_key_reused_with_another_body_is_refused() {
    let api = Api::open().await;
    api.post_keyed("/orders", KEY, ORDER).await.created();
    for other in [ORDER.replace("250.75", "250.76"), format!("{ORDER} ")] {
        let answer = api.post_keyed("/orders", KEY, other).await;
        answer.assert_refused(422, "idempotency-key-reused");
    }
    assert_eq!(api.stored().await, 1);
    api.close().await;
}

#[tokio::test]
async fn each_route_has_its_own_keys() {
    let api = Api::open().await;
    let single = api.post_keyed("/orders", KEY, ORDER).await;
    let batch = api.post_keyed("/orders/batch", KEY, BATCH).await;
    assert_eq!(
        (single.status, batch.status),
        (StatusCode::CREATED, StatusCode::CREATED)
    );
    assert_eq!(batch.header("idempotent-replayed"), "");
    assert_eq!(api.stored().await, 3);
    api.close().await;
}

#[tokio::test]
async fn keys_are_compared_by_case_and_every_character() {
    let api = Api::open().await;
    for key in ["k", "K", "k ~", "k!", &"k".repeat(255)] {
        let answer = api.post_keyed("/orders", key, ORDER).await;
        answer.created();
        assert_eq!(answer.header("idempotent-replayed"), "", "{key}");
    }
    assert_eq!(api.stored().await, 5);
    api.close().await;
}

#[tokio::test]
async fn an_invalid_key_is_refused_before_anything_is_stored() {
    let api = Api::open().await;
    let long = "k".repeat(256);
    for key in [
        "",
        " ",
        "\"\"",
        "\"open",
        "\"closed\"after",
        "caf\u{e9}",
        "tab\tinside",
        &long,
    ] {
        let answer = api.post_keyed("/orders", key, ORDER).await;
        answer.assert_refused(400, "invalid-idempotency-key");
        let answer = api.post_keyed("/orders/batch", key, BATCH).await;
        answer.assert_refused(400, "invalid-idempotency-key");
    }
    let twice = [
        ("content-type", JSON),
        ("idempotency-key", "a"),
        ("idempotency-key", "a"),
    ];
    let answer = api.ask("POST", "/orders", &twice, ORDER).await;
    answer.assert_refused(400, "invalid-idempotency-key");
    api.close_empty().await;
}

#[tokio::test]
async fn refusals_are_not_stored_under_the_key() {
    let api = Api::open().await;
    let bad = ORDER.replace("250.75", "-1");
    for body in [bad.as_str(), "{", "[]"] {
        assert!(
            api.post_keyed("/orders", KEY, body.to_owned())
                .await
                .status
                .is_client_error()
        );
    }
    let first = api.post_keyed("/orders", KEY, ORDER).await;
    first.created();
    assert_eq!(first.header("idempotent-replayed"), "");
    // A refusal reports its own cause, whatever the key was used for.
    let answer = api.post_keyed("/orders", KEY, bad).await;
    answer.assert_refused_at(422, "invalid-fields", &["#/total_amount"]);
    api.close().await;
}

#[tokio::test]
async fn a_key_is_kept_for_a_day() {
    let api = Api::open().await;
    let first = api.post_keyed("/orders", KEY, ORDER).await;
    api.harness.advance(Duration::from_hours(23)).await;
    assert_replay(&api.post_keyed("/orders", KEY, ORDER).await, &first);
    api.harness.advance(LONGER_THAN_A_DAY).await;
    let later = api.post_keyed("/orders", KEY, ORDER).await;
    assert_eq!(later.created()["order_id"], 2);
    api.close().await;
}

#[tokio::test]
async fn a_repeat_during_the_first_request_is_asked_to_retry_later() {
    let gate = Gate::closed();
    let api = Arc::new(Api::layered(gate.clone()).await);
    let sender = api.clone();
    let first = tokio::spawn(async move { sender.post_keyed("/orders", KEY, ORDER).await });
    gate.arrival().await;
    let answer = api.post_keyed("/orders", KEY, ORDER).await;
    answer.assert_refused(409, "idempotency-in-flight");
    assert_eq!(answer.header("retry-after"), "1");
    // Another body under the same key does not learn the outcome of the first request either.
    let answer = api.post_keyed("/orders", KEY, format!("{ORDER} ")).await;
    answer.assert_refused(409, "idempotency-in-flight");
    gate.open();
    let first = first.await.unwrap();
    first.created();
    assert_replay(&api.post_keyed("/orders", KEY, ORDER).await, &first);
    Arc::into_inner(api).unwrap().close().await;
}

#[tokio::test]
async fn a_disconnected_client_leaves_its_key_usable() {
    let gate = Gate::closed();
    let api = Arc::new(Api::layered(gate.clone()).await);
    let sender = api.clone();
    let first = tokio::spawn(async move { sender.post_keyed("/orders", KEY, ORDER).await });
    gate.arrival().await;
    first.abort();
    assert!(first.await.is_err_and(|error| error.is_cancelled()));
    gate.open();
    api.post_keyed("/orders", KEY, ORDER).await.created();
    assert_eq!(api.stored().await, 1);
    Arc::into_inner(api).unwrap().close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_clients_with_one_key_make_one_order() {
    const CLIENTS: usize = 64;
    let api = Arc::new(Api::open().await);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let api = api.clone();
        clients.spawn(async move {
            loop {
                let answer = api.post_keyed("/orders", KEY, ORDER).await;
                if answer.status != StatusCode::CONFLICT {
                    return answer;
                }
                answer.assert_refused(409, "idempotency-in-flight");
                tokio::task::yield_now().await;
            }
        });
    }
    let answers = clients.join_all().await;
    let firsts = answers
        .iter()
        .filter(|answer| answer.header("idempotent-replayed").is_empty());
    let [first] = firsts.collect::<Vec<_>>()[..] else {
        panic!("one request is not a replay");
    };
    for answer in &answers {
        assert_eq!(
            (answer.status, answer.bytes()),
            (StatusCode::CREATED, first.bytes())
        );
    }
    assert_eq!(api.stored().await, 1);
    Arc::into_inner(api).unwrap().close().await;
}
