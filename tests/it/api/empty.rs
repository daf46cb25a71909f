//! Every read at the API of a store without orders: a fresh store, and one emptied by retention.

use axum::http::StatusCode;
use orderly::order::OrderStatus;

use super::in_process::Api;

const TIME: &str = "2026-01-01T00:00:00Z";

/// Requests and their expected statuses.
fn reads() -> Vec<(String, StatusCode)> {
    let mut reads = vec![];
    for filter in [
        "",
        "status=Pending",
        "status=Failed&user_id=1",
        "user_id=1",
        "reference=a&status=Completed",
    ] {
        for times in [
            String::new(),
            format!("created_before={TIME}"),
            format!("created_after={TIME}"),
            format!("created_after={TIME}&created_before=2027-01-01T00:00:00Z"),
        ] {
            reads.push((format!("/orders?{filter}&{times}"), StatusCode::OK));
        }
    }
    for filter in ["", "?user_id=1", "?order_id=1", "?status=Failed", "?limit=1000"] {
        reads.push((format!("/events{filter}"), StatusCode::OK));
    }
    for path in ["/queue", "/metrics", "/metrics/prometheus", "/readyz?verbose"] {
        reads.push((path.to_owned(), StatusCode::OK));
    }
    for path in ["/orders/1", "/orders/1/events", "/orders/1/explain"] {
        reads.push((path.to_owned(), StatusCode::NOT_FOUND));
    }
    reads
}

async fn assert_every_read_finds_nothing(api: &Api) {
    let mut wrong = Vec::new();
    for (path, expected) in reads() {
        let path = path.replace("?&", "?").trim_end_matches(['?', '&']).to_owned();
        let answer = api.get(&path).await;
        let is_empty =
            !path.starts_with("/orders?") || answer.text() == r#"{"orders":[],"next_cursor":null}"#;
        if answer.status != expected || !is_empty {
            wrong.push(format!("{path}: {}", answer.text()));
        }
    }
    for dry_run in [true, false] {
        for further in [
            String::new(),
            r#","user_id":1"#.to_owned(),
            format!(r#","created_before":"{TIME}""#),
        ] {
            let body = format!(r#"{{"status":"Failed","dry_run":{dry_run}{further}}}"#);
            let answer = api.post("/orders/retry", body.clone()).await;
            if answer.text() != r#"{"matched":0,"retried":0,"more":false}"# {
                wrong.push(format!("{body}: {}", answer.text()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn every_read_of_a_fresh_store_finds_nothing() {
    let api = Api::open().await;
    assert_every_read_finds_nothing(&api).await;
    api.close_empty().await;
}

#[tokio::test]
async fn every_read_of_an_emptied_store_finds_nothing() {
    let api = Api::open().await;
    for status in [
        OrderStatus::Completed,
        OrderStatus::Failed,
        OrderStatus::Cancelled,
    ] {
        api.harness.order_in(status).await;
    }
    api.harness.prune_all().await;
    assert_every_read_finds_nothing(&api).await;
    api.close_empty().await;
}
