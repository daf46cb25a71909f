//! `orderly queue`, `pause`, `resume`, `status`, `orders create` and `explain`: operations otherwise available only
//! over HTTP.

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::process::Command;

use super::{Fixture, run};

/// Asserts that the words stand on their own line, whatever the column widths.
#[track_caller]
fn assert_shows(text: &str, words: &str) {
    let mut lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    assert!(lines.any(|line| line == words), "{words}: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_pauses_inspects_and_resumes_the_queue() {
    let fixture = Fixture::open(&[("ORDERLY_SIMULATED_SPEED", "0")]).await;
    let paused = fixture.run("pause --json").await.json();
    assert_eq!(paused["paused"], true);
    fixture.order(1).await;
    let queue = fixture.run("queue").await;
    assert_shows(&queue.stdout, "pending 1");
    assert_shows(&queue.stdout, "paused true");
    assert!(queue.stdout.contains("\nNODE "), "{}", queue.stdout);
    let explained = fixture.run("orders explain 1 --json").await.json();
    assert_eq!(explained["reasons"][0]["reason"], "paused");
    let explained = fixture.run("orders explain 1").await;
    assert!(explained.stdout.contains("REASON "), "{}", explained.stdout);
    assert!(explained.stdout.contains("paused"), "{}", explained.stdout);
    let resumed = fixture.run("resume").await;
    assert_shows(&resumed.stdout, "paused false");
    assert_eq!(fixture.ended(1).await["status"], "Completed");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_reports_readiness_and_queue_and_sets_its_exit_code() {
    let fixture = Fixture::open(&[]).await;
    let status = fixture.run("status --json").await.json();
    assert_eq!(
        (&status["ready"], &status["queue"]["pending"]),
        (&json!(true), &json!(0))
    );
    let status = fixture.run("status").await;
    let first = format!("{} is ready\n", fixture.server.url);
    assert!(status.stdout.starts_with(&first), "{}", status.stdout);
    assert!(status.stdout.contains("pending"), "{}", status.stdout);
    fixture.run("orders get 1").await.assert_failed(1, "no order");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_fails_when_the_server_has_no_store() {
    let fixture = Fixture::open(&[("DATABASE_URL", "postgres://me:x@127.0.0.1:1/db")]).await;
    let output = fixture.run("status --json").await;
    let status: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(
        (output.exit, &status["ready"], &status["queue"]),
        (Some(1), &json!(false), &json!(null))
    );
    assert!(
        status["reason"].as_str().unwrap().starts_with("store: "),
        "{status}"
    );
    let output = fixture.run("status").await;
    let first = format!("{} is not ready: store: ", fixture.server.url);
    assert!(output.stdout.starts_with(&first), "{}", output.stdout);
    assert_eq!((output.exit, output.stderr.as_str()), (Some(1), ""));
    assert_eq!(fixture.server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placed_order_can_be_repeated_under_its_key() {
    let fixture = Fixture::open(&[("ORDERLY_SIMULATED_SPEED", "0")]).await;
    let line = "orders create --user-id 104 --item-ids 101,102,103 --total-amount 250.75 --reference R-1 \
                --metadata {\"a\":1.50} --idempotency-key k --json";
    let order = fixture.run(line).await.json();
    assert_eq!(
        [&order["order_id"], &order["item_ids"], &order["reference"]],
        [&json!(1), &json!("101,102,103"), &json!("R-1")]
    );
    let raw = fixture.run(line).await.stdout;
    assert!(
        raw.contains(r#""total_amount":250.75"#) && raw.contains(r#""metadata":{"a":1.50}"#),
        "{raw}"
    );
    assert_eq!(
        fixture.run(line).await.json()["order_id"],
        1,
        "the key creates no second order"
    );
    let shown = fixture
        .run("orders create --user-id 1 --item-ids 7 --total-amount 1")
        .await;
    assert!(
        shown.stdout.starts_with("order_id            2\n"),
        "{}",
        shown.stdout
    );

    let file = fixture.folder.path().join("order.json");
    std::fs::write(&file, r#"{"user_id": 5, "item_ids": 1, "total_amount": "3.00"}"#).unwrap();
    let from_file = fixture.run("orders create --body order.json --json").await.json();
    assert_eq!(from_file["user_id"], 5);
    let mut from_stdin = super::command(fixture.folder.path(), "orders create --body - --json");
    from_stdin
        .env("ORDERLY_URL", &fixture.server.url)
        .stdin(std::fs::File::open(&file).unwrap());
    assert_eq!(run(from_stdin).await.json()["order_id"], 4);

    let refused = fixture
        .run("orders create --user-id 1 --item-ids 7,,8 --total-amount 1.005")
        .await;
    refused.assert_failed(1, "#/item_ids");
    assert!(refused.stderr.contains("#/total_amount"), "{}", refused.stderr);
    assert!(
        !refused.stderr.contains("--idempotency-key"),
        "nothing was stored: {}",
        refused.stderr
    );
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_is_reported_with_its_idempotency_key() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cuts = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // The request arrives, and then the connection closes.
        stream.read_u8().await.unwrap();
    });
    let folder = tempfile::tempdir().unwrap();
    for (url, is_unknown) in [(cuts.as_str(), true), ("http://127.0.0.1:1", false)] {
        let mut create: Command = super::command(
            folder.path(),
            "orders create --user-id 1 --item-ids 1 --total-amount 1 --idempotency-key k",
        );
        create.env("ORDERLY_URL", url);
        let output = run(create).await;
        output.assert_failed(1, "no answer from");
        let run = output
            .stderr
            .contains("repeat the command with --idempotency-key k");
        assert_eq!(run, is_unknown, "{}", output.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_filter_ignores_case() {
    let fixture = Fixture::open(&[("ORDERLY_SIMULATED_SPEED", "0")]).await;
    fixture.order(1).await;
    fixture.ended(1).await;
    for status in ["completed", "COMPLETED", "Completed"] {
        let page = fixture
            .run(&format!("orders list --status {status} --json"))
            .await
            .json();
        assert_eq!(page["orders"].as_array().unwrap().len(), 1, "{status}");
    }
    let none: Value = fixture.run("orders list --status failed --json").await.json();
    assert_eq!(none["orders"], json!([]));
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_holds_marks_and_finds_orders() {
    let fixture = Fixture::open(&[("ORDERLY_SIMULATED_SPEED", "0")]).await;
    fixture.run("pause").await;
    for user_id in [1, 2, 3] {
        fixture.order(user_id).await;
    }
    let held = fixture
        .run("orders hold 1 --reason stocktaking --json")
        .await
        .json();
    assert_eq!(held["held"]["reason"], "stocktaking");
    let listed = fixture
        .run("orders list --held --status pending --status Failed --json")
        .await
        .json();
    assert_eq!(listed["orders"][0]["order_id"], 1);
    assert_eq!(listed["orders"].as_array().unwrap().len(), 1);
    fixture.run("orders release 1").await;
    let data = r#"{"amount":1.10,"id":12345678901234567890123}"#;
    let milestone = fixture
        .run(&format!("orders milestone 3 packed --data {data} --json"))
        .await;
    assert_eq!(milestone.json()["milestone"], "packed");
    let events = fixture.run("orders get 3 --events --json").await;
    assert!(
        events.stdout.contains(data),
        "kept byte for byte: {}",
        events.stdout
    );
    let listed = fixture.run("orders list --milestone packed --json").await.json();
    assert_eq!(listed["orders"][0]["order_id"], 3);
    fixture
        .run("orders milestone 3 packed --data {")
        .await
        .assert_failed(2, "--data");
    fixture.close().await;
}
