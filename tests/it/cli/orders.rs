//! `orderly orders`: the same orders as over HTTP, for people and programs.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::Fixture;
use crate::support::until;

/// Attempts fail at once and permanently.
const FAILING: [(&str, &str); 3] = [
    ("ORDERLY_SIMULATED_SPEED", "0"),
    ("ORDERLY_SIMULATED_FAILURE_RATE", "1"),
    ("ORDERLY_MAX_ATTEMPTS", "1"),
];
/// One slot, and an order takes hours.
const SLOW: [(&str, &str); 3] = [
    ("ORDERLY_SIMULATED_SPEED", "0.001"),
    ("ORDERLY_CONCURRENCY", "1"),
    ("ORDERLY_SHUTDOWN_GRACE", "0s"),
];

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_listed_and_shown_as_the_server_answers_them() {
    let fixture = Fixture::open(&FAILING).await;
    for user_id in 1..=3 {
        fixture.order(user_id).await;
        fixture.ended(user_id).await;
    }
    let page = fixture
        .run("orders list --status Failed --limit 2 --json")
        .await
        .json();
    assert_eq!(
        [0, 1].map(|at| page["orders"][at]["order_id"].clone()),
        [json!(3), json!(2)]
    );
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = fixture
        .run(&format!(
            "orders list --status Failed --limit 2 --json --cursor {cursor}"
        ))
        .await
        .json();
    assert_eq!(
        (&rest["orders"][0]["order_id"], &rest["next_cursor"]),
        (&json!(1), &json!(null))
    );
    let none = fixture.run("orders list --user-id 9 --json").await.json();
    assert_eq!(none["orders"], json!([]));

    let order = fixture.run("orders get 2 --json").await.json();
    assert_eq!(order, fixture.ended(2).await);
    let history = fixture.run("orders get 2 --events --json").await.json();
    assert_eq!(history["events"][2]["kind"], "failed");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn table_output_says_when_there_are_more_orders() {
    let fixture = Fixture::open(&FAILING).await;
    for user_id in 1..=2 {
        fixture.order(user_id).await;
        fixture.ended(user_id).await;
    }
    let list = fixture.run("orders list --limit 1").await;
    assert_eq!(list.exit, Some(0));
    let lines: Vec<&str> = list.stdout.lines().collect();
    assert!(lines[0].starts_with("ORDER  STATUS"), "{}", list.stdout);
    assert!(lines[1].starts_with("2      Failed"), "{}", list.stdout);
    assert!(list.stderr.contains("--cursor"), "{}", list.stderr);
    let order = fixture.run("orders get 1").await;
    assert!(
        order.stdout.contains("total_amount        250.75\n"),
        "{}",
        order.stdout
    );
    let history = fixture.run("orders get 1 --events").await;
    assert_eq!(history.stdout.lines().count(), 4, "{}", history.stdout);
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_cancelled_and_retried() {
    let fixture = Fixture::open(&SLOW).await;
    fixture.order(1).await;
    fixture.order(2).await;
    let cancelled = fixture.run("orders cancel 2 --json").await.json();
    assert_eq!(cancelled["status"], "Cancelled");
    assert_eq!(fixture.run("orders cancel 2 --json").await.json(), cancelled);
    let retried = fixture.run("orders retry 2 --json").await.json();
    assert_eq!(
        (&retried["status"], &retried["attempts"]),
        (&json!("Pending"), &json!(0))
    );
    assert_eq!(fixture.run("orders retry 2 --json").await.json(), retried);
    until("order 1 runs", async || {
        fixture.run("orders get 1 --json").await.json()["status"] == "Processing"
    })
    .await;
    let output = fixture.run("orders retry 1").await;
    output.assert_failed(1, "order 1 is Processing and cannot be retried");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_orders_are_counted_and_retried_together() {
    let fixture = Fixture::open(&FAILING).await;
    for user_id in 1..=3 {
        fixture.order(user_id).await;
        fixture.ended(user_id).await;
    }
    let counted = fixture
        .run("orders retry --failed --user-id 2 --dry-run --json")
        .await
        .json();
    assert_eq!(counted, json!({"matched": 1, "retried": 0, "more": false}));
    let retried = fixture
        .run("orders retry --failed --created-before 2020-01-01T00:00:00Z --json")
        .await
        .json();
    assert_eq!(retried["matched"], 0);
    let retried = fixture.run("orders retry --failed").await;
    assert_eq!(retried.stdout, "3 matched, 3 retried\n");
    assert_eq!(
        fixture.ended(1).await["status"],
        "Failed",
        "the order failed again"
    );
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_reported_on_one_line_of_stderr() {
    let fixture = Fixture::open(&FAILING).await;
    fixture
        .run("orders get 7")
        .await
        .assert_failed(1, "no order has this id");
    fixture
        .run("orders list --created-after yesterday")
        .await
        .assert_failed(1, "#/created_after");
    let output = fixture.run("orders list --cursor garbled --json").await;
    output.assert_failed(1, "#/cursor");
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_server_is_reported_with_the_setting_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = super::command(folder.path(), "orders list");
    // The port is reserved, so no server listens there.
    command.env("ORDERLY_URL", "http://127.0.0.1:1");
    super::run(command).await.assert_failed(1, "ORDERLY_URL");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_orders_are_listed_page_by_page() {
    let fixture = Fixture::open(&FAILING).await;
    for user_id in 1..=5 {
        fixture.order(user_id).await;
        fixture.ended(user_id).await;
    }
    let lines = fixture
        .run("orders list --all --limit 2 --status failed --json")
        .await;
    let ids: Vec<serde_json::Value> = lines
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["order_id"].clone())
        .collect();
    assert_eq!(ids, [5, 4, 3, 2, 1].map(|id| json!(id)));
    let table = fixture.run("orders list --all --limit 2").await;
    assert_eq!(
        (table.exit, table.stdout.lines().count()),
        (Some(0), 6),
        "{}",
        table.stdout
    );
    assert_eq!(table.stderr, "");
    let first = table.stdout.lines().nth(1).unwrap();
    assert!(
        first.starts_with("5      Failed") && first.contains("simulated"),
        "{first}"
    );
    fixture.close().await;
}

/// A page looks at a limited number of rows, whatever it finds.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_listing_continues_after_short_and_empty_pages() {
    let order = |id: u64| {
        json!({"order_id": id, "user_id": 1, "item_count": 1, "total_amount": 1, "reference": null, "status": "Failed",
               "attempts": 1, "created_at": "x", "last_error": null, "later": 1})
    };
    let pages = [
        json!({"orders": [order(9)], "next_cursor": "a"}),
        json!({"orders": [], "next_cursor": "b"}),
        json!({"orders": [order(3)], "next_cursor": null}),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (line, expected) in [("orders list --all", 3), ("orders list --all --json", 2)] {
        let mut command = super::command(folder.path(), line);
        command.env("ORDERLY_URL", answering(pages.to_vec()).await);
        let output = super::run(command).await;
        assert_eq!(
            (output.exit, output.stdout.lines().count()),
            (Some(0), expected),
            "{}",
            output.stdout
        );
    }
    let same = json!({"orders": [], "next_cursor": "a"});
    let mut command = super::command(folder.path(), "orders list --all --json");
    command.env("ORDERLY_URL", answering(vec![same.clone(), same]).await);
    super::run(command)
        .await
        .assert_failed(1, "the same cursor twice");
}

/// Starts a server that gives these answers, one per connection.
async fn answering(answers: Vec<serde_json::Value>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let body = answer.to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream
                .write_all(&[head.as_bytes(), body.as_bytes()].concat())
                .await
                .unwrap();
        }
    });
    url
}
