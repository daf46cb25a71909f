//! `orderly tail`: the same changes as over HTTP, as they happen, despite lost connections.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use super::{Fixture, PATIENCE, command, orderly};
use crate::support::client::http;
use crate::support::process::Process;

/// Orders complete at once.
const FAST: [(&str, &str); 1] = [("ORDERLY_SIMULATED_SPEED", "0")];
/// Accepted, started, completed.
const CHANGES: usize = 3;

/// A running `orderly tail`.
struct Tail {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    messages: Lines<BufReader<ChildStderr>>,
}

impl Tail {
    fn start(fixture: &Fixture, line: &str) -> Tail {
        let mut command = command(fixture.folder.path(), line);
        command.env("ORDERLY_URL", &fixture.server.url);
        Tail::spawn(command)
    }

    fn spawn(mut command: Command) -> Tail {
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        Tail {
            lines: BufReader::new(child.stdout.take().unwrap()).lines(),
            messages: BufReader::new(child.stderr.take().unwrap()).lines(),
            child,
        }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.expect("a change is printed in time").unwrap();
        line.expect("tail is still running")
    }

    /// Reads this many changes from `--json`.
    async fn changes(&mut self, count: usize) -> Vec<Value> {
        let mut changes = Vec::new();
        for _ in 0..count {
            changes.push(serde_json::from_str(&self.line().await).unwrap());
        }
        changes
    }

    async fn message(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.messages.next_line()).await;
        let line = line.expect("a message is printed in time").unwrap();
        line.expect("tail is still running")
    }

    async fn signal(&self, name: &str) {
        let id = self.child.id().unwrap().to_string();
        let sent = Command::new("kill").args([format!("-{name}"), id]).status().await;
        assert!(sent.unwrap().success());
    }

    /// The exit code and the remaining messages.
    async fn ended(mut self) -> (Option<i32>, String) {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended.expect("tail ends in time").unwrap();
        let mut rest = String::new();
        let mut messages = self.messages.into_inner();
        messages.read_to_string(&mut rest).await.unwrap();
        (status.code(), rest)
    }
}

impl Fixture {
    /// The current end of the feed.
    async fn cursor(&self) -> String {
        let url = format!("{}/orders?limit=1", self.server.url);
        let answer = http().get(url).send().await.unwrap();
        let cursor = answer.headers().get("Orderly-Cursor").expect("reads carry it");
        cursor.to_str().unwrap().to_owned()
    }

    /// All events, read page by page.
    async fn feed(&self) -> Vec<Value> {
        let url = format!("{}/events?limit=1000", self.server.url);
        let page: Value = http().get(url).send().await.unwrap().json().await.unwrap();
        page["events"].as_array().unwrap().clone()
    }

    /// Kills the server and starts another one at the same address.
    async fn restart(self) -> Fixture {
        let port = self.port().to_owned();
        let Fixture { server, folder } = self;
        server.kill().await;
        let mut command = orderly(folder.path());
        command.envs(FAST).env("PORT", port);
        Fixture {
            server: Process::start(command).await,
            folder,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_printed_verbatim_and_in_order() {
    let fixture = Fixture::open(&FAST).await;
    let mut tail = Tail::start(
        &fixture,
        &format!("tail --json --after {}", fixture.cursor().await),
    );
    for user_id in 1..=2 {
        fixture.order(user_id).await;
        fixture.ended(user_id).await;
    }
    let url = format!("{}/events", fixture.server.url);
    let page = http().get(url).send().await.unwrap().text().await.unwrap();
    for _ in 0..2 * CHANGES {
        let line = tail.line().await;
        assert!(page.contains(&line), "{line} is not in {page}");
    }
    tail.signal("TERM").await;
    assert_eq!(tail.ended().await, (Some(0), String::new()));
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_without_a_cursor_begins_with_the_next_change() {
    let fixture = Fixture::open(&FAST).await;
    fixture.order(1).await;
    fixture.ended(1).await;
    let mut tail = Tail::start(&fixture, "tail --status Completed");
    // The start of tail cannot be observed, so orders arrive until it prints one.
    let ordering = async {
        for user_id in 2.. {
            fixture.order(user_id).await;
            fixture.ended(user_id).await;
        }
    };
    let line = tokio::select! {
        line = tail.line() => line,
        () = ordering => unreachable!("orders arrive until tail prints one"),
    };
    assert!(line.contains("completed"), "{line}");
    assert!(line.ends_with("Completed"), "colours in a pipe: {line:?}");
    assert!(!line.contains("order 1  "), "printed an earlier order: {line}");
    tail.signal("INT").await;
    assert_eq!(tail.ended().await, (Some(0), String::new()));
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_prints_only_matching_changes() {
    let fixture = Fixture::open(&FAST).await;
    let after = fixture.cursor().await;
    for user_id in 7..=8 {
        fixture.order(user_id).await;
        fixture.ended(user_id - 6).await;
    }
    for (filters, expected) in [
        ("--order 2", vec![(2, 1), (2, 2), (2, 3)]),
        ("--user 7", vec![(1, 1), (1, 2), (1, 3)]),
        ("--status Completed", vec![(1, 3), (2, 3)]),
        ("--user-id 8 --order-id 2 --status Processing", vec![(2, 2)]),
    ] {
        let mut tail = Tail::start(&fixture, &format!("tail --json --after {after} {filters}"));
        let run = tail.changes(expected.len()).await;
        let place = |change: &Value| Some((change["order_id"].as_i64()?, change["version"].as_i64()?));
        let run: Vec<_> = run.iter().filter_map(place).collect();
        assert_eq!(run, expected, "{filters}");
        tail.signal("TERM").await;
        tail.ended().await;
    }
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_causes_no_gap_or_repetition_in_tail() {
    let mut fixture = Fixture::open(&FAST).await;
    let mut tail = Tail::start(
        &fixture,
        &format!("tail --json --after {}", fixture.cursor().await),
    );
    fixture.order(1).await;
    let mut run = tail.changes(CHANGES).await;
    for user_id in 2..=4 {
        // In any status by then: the next server continues there.
        fixture.order(user_id).await;
        fixture = fixture.restart().await;
        for expected in ["the connection was lost", "connected again"] {
            let message = tail.message().await;
            assert!(message.contains(expected), "{message}");
        }
        fixture.ended(user_id).await;
        let feed = fixture.feed().await;
        run.extend(tail.changes(feed.len() - run.len()).await);
        assert_eq!(run, feed);
    }
    tail.signal("TERM").await;
    assert_eq!(tail.ended().await, (Some(0), String::new()));
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_reports_a_foreign_cursor_and_continues_from_now() {
    let (fixture, other) = tokio::join!(Fixture::open(&FAST), Fixture::open(&FAST));
    fixture.order(1).await;
    fixture.ended(1).await;
    let mut tail = Tail::start(&fixture, &format!("tail --json --after {}", other.cursor().await));
    let message = tail.message().await;
    assert!(message.contains("changes are missing here"), "{message}");
    fixture.order(2).await;
    fixture.ended(2).await;
    let run = tail.changes(CHANGES).await;
    assert!(run.iter().all(|change| change["order_id"] == json!(2)), "{run:?}");
    tail.signal("TERM").await;
    assert_eq!(tail.ended().await, (Some(0), String::new()));
    fixture.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_ends_quietly_when_its_output_is_closed() {
    let fixture = Fixture::open(&FAST).await;
    let mut tail = Tail::start(&fixture, &format!("tail --after {}", fixture.cursor().await));
    fixture.order(1).await;
    tail.line().await;
    let Tail {
        mut child,
        lines,
        messages,
    } = tail;
    drop(lines);
    // A closed output is noticed at the next change.
    let ordering = async {
        for user_id in 2.. {
            fixture.order(user_id).await;
        }
    };
    let ended = tokio::select! {
        ended = tokio::time::timeout(PATIENCE, child.wait()) => ended,
        () = ordering => unreachable!("orders arrive until tail ends"),
    };
    assert_eq!(ended.expect("tail ends in time").unwrap().code(), Some(0));
    let mut output = String::new();
    messages.into_inner().read_to_string(&mut output).await.unwrap();
    assert_eq!(output, "");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_ends_tail_with_exit_code_1() {
    let fixture = Fixture::open(&FAST).await;
    let output = fixture.run("tail --after garbled").await;
    output.assert_failed(1, "after");
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    let mut nobody = command(fixture.folder.path(), "tail");
    // The port is reserved, so no server listens there.
    nobody.env("ORDERLY_URL", "http://127.0.0.1:1");
    super::run(nobody).await.assert_failed(1, "ORDERLY_URL");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_sends_the_key_and_ends_when_it_changes() {
    const KEY: &str = "a-key-of-a-good-length";
    let fixture = Fixture::open(&[FAST[0], ("ORDERLY_API_KEY", KEY)]).await;
    fixture
        .run("tail")
        .await
        .assert_failed(1, "ORDERLY_API_KEY holds the key");
    let mut with_key = command(fixture.folder.path(), "tail --json");
    with_key
        .env("ORDERLY_URL", &fixture.server.url)
        .env("ORDERLY_API_KEY", KEY);
    let mut tail = Tail::spawn(with_key);
    let order = json!({"user_id": 1, "item_ids": 7, "total_amount": 1});
    let ordering = async {
        loop {
            let request = http()
                .post(format!("{}/orders", fixture.server.url))
                .bearer_auth(KEY);
            request
                .json(&order)
                .send()
                .await
                .unwrap()
                .error_for_status()
                .unwrap();
        }
    };
    tokio::select! {
        changes = tail.changes(1) => assert_eq!(changes[0]["user_id"], 1),
        () = ordering => unreachable!("orders arrive until tail prints one"),
    }
    let port = fixture.port().to_owned();
    let Fixture { server, folder } = fixture;
    server.kill().await;
    let mut command = orderly(folder.path());
    command
        .envs(FAST)
        .env("PORT", port)
        .env("ORDERLY_API_KEY", "another-key-of-a-good-length");
    let server = Process::start(command).await;
    let (code, rest) = tail.ended().await;
    assert_eq!(code, Some(1));
    assert!(rest.contains("ORDERLY_API_KEY holds the key"), "{rest}");
    Fixture { server, folder }.close().await;
}
