//! Failing and full disks.

use std::path::Path;

use reqwest::StatusCode;
use serde_json::Value;
use tokio::process::Command;

use crate::support::client::{Answer, Request, http, post};
use crate::support::process::{Process, configure, orderly, run};
use crate::support::required;
use crate::support::small_disk::SmallDisk;

/// Number of syncs of one thread that work: enough to create the store, pause it and accept some orders.
const GOOD_SYNCS: u32 = 30;
/// Far more orders than any of the test disks holds.
const ORDERS_MAX: u64 = 100_000;
/// Orders sent after the disk was found full.
const SENT_WHILE_FULL: u64 = 20;
const PAGE_BYTES: u64 = 4096;
/// A write-ahead log frame: 24 bytes of header before each page (<https://sqlite.org/walformat.html>).
const FRAME_BYTES: u64 = PAGE_BYTES + 24;
/// Frames that fit the first 32 KiB of the shared index, same source. The next frame makes the file grow.
const FRAMES_INDEXED: u64 = 4062;
/// The frames of several commits.
const FRAMES_NEAR_THE_END: u64 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_after_a_failed_sync() {
    if !required("strace", Command::new("strace").arg("-V").output().await.is_ok()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("strace");
    configure(&mut command, folder.path());
    command
        .args(["-f", "-q", "-o", "strace.txt", "-e", "trace=fsync,fdatasync"])
        .args([
            "-e",
            &format!("inject=fsync,fdatasync:error=EIO:when={GOOD_SYNCS}+"),
        ])
        .arg(env!("CARGO_BIN_EXE_orderly"));
    let mut server = Process::start(only_accepts(command)).await;
    pause(&server.url).await;
    let mut client = OrderClient::new(&server.url);
    // Only accepts write from here on, so the first failing sync is that of an accept.
    let first_failure = client.send_until_not_created().await;
    assert!(
        matches!(first_failure, Answer::Unknown),
        "the outcome should be unknown: {first_failure:?}"
    );
    assert!(
        !client.acknowledged.is_empty(),
        "no order was accepted before the fault"
    );
    let acknowledged = client.acknowledged.len();
    let exit = tokio::select! {
        exit = server.ended() => exit,
        () = client.send(ORDERS_MAX) => panic!("the server kept running"),
    };
    assert_eq!(exit.code(), Some(1));
    assert!(server.has_logged("the store failed"));
    assert_eq!(
        client.acknowledged.len(),
        acknowledged,
        "acknowledged after the failed sync"
    );

    let (exit, report) = run(folder.path(), &["verify", "--json"]).await;
    assert_eq!(exit, Some(0), "{report}");
    let healed = Process::start(orderly(folder.path())).await;
    client.url.clone_from(&healed.url);
    client.assert_true().await;
    assert_eq!(healed.terminate().await, Some(0));
}

/// The checkpoint runs beside the writer, whose own syncs keep working.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_checkpoint_sync_ends_the_server_and_loses_nothing() {
    /// Far more than until the first checkpoint.
    const BATCHES_MAX: usize = 1_000;
    const BATCH: usize = 500;
    /// The most text an order may have, so that the log fills quickly.
    const NOTE_CHARS: usize = 8_000;
    if !required("strace", Command::new("strace").arg("-V").output().await.is_ok()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let new = Process::start(orderly(folder.path())).await;
    assert_eq!(new.terminate().await, Some(0));
    let database = folder.path().join("orderly.db");
    assert!(database.exists());
    let mut command = Command::new("strace");
    configure(&mut command, folder.path());
    command
        .args([
            "-f",
            "-q",
            "-o",
            "strace.txt",
            "-e",
            "trace=fsync,fdatasync",
            "-P",
        ])
        .arg(&database)
        .args(["-e", "inject=fsync,fdatasync:error=EIO"])
        .arg(env!("CARGO_BIN_EXE_orderly"));
    let mut server = Process::start(only_accepts(command)).await;
    pause(&server.url).await;
    let note = "x".repeat(NOTE_CHARS);
    let order =
        serde_json::json!({"user_id": 1, "item_ids": [1], "total_amount": 1, "metadata": {"note": note}});
    let orders = vec![order; BATCH];
    let batch = serde_json::json!({ "orders": orders });
    let url = format!("{}/orders/batch", server.url);
    let mut acknowledged = 0;
    for _ in 0..BATCHES_MAX {
        match http().post(&url).json(&batch).send().await {
            Ok(answer) if answer.status() == StatusCode::CREATED => acknowledged += BATCH as u64,
            Ok(_) | Err(_) => break,
        }
    }
    assert_eq!(server.ended().await.code(), Some(1));
    assert!(server.has_logged("the store failed"));
    assert!(acknowledged > 0, "no order was accepted before the fault");

    let (exit, report) = run(folder.path(), &["verify", "--json"]).await;
    assert_eq!(exit, Some(0), "{report}");
    let healed = Process::start(only_accepts(orderly(folder.path()))).await;
    let metrics: Value = http()
        .get(format!("{}/metrics", healed.url))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let stored = metrics["total_orders"].as_u64().unwrap();
    assert!(stored >= acknowledged, "{stored} of {acknowledged}: {metrics}");
    assert_eq!(healed.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_full_disk_refuses_orders_and_recovers_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path()).await else {
        return;
    };
    disk.leave_free(16 * 1024 * 1024);
    let server = Process::start(on(&disk, folder.path())).await;
    let mut client = OrderClient::new(&server.url);
    client.send_until_refused().await;
    assert_eq!(client.ready().await, StatusCode::SERVICE_UNAVAILABLE);
    let (request, id) = client.acknowledged.last().expect("an order was accepted");
    assert_eq!(client.ids_of(&request.key).await, [*id], "reads stopped working");

    disk.free();
    // The heartbeat notices the free space; no operator has to act.
    while client.ready().await != StatusCode::OK {
        tokio::task::yield_now().await;
    }
    let resumed = client.send_one().await;
    assert!(matches!(resumed, Answer::Created(_)), "{resumed:?}");
    client.assert_true().await;
    assert_eq!(server.terminate().await, Some(0));
    let (exit, report) = run(&disk.path, &["verify"]).await;
    assert_eq!(exit, Some(0), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_refused_on_a_full_disk_stay_unstored_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path()).await else {
        return;
    };
    let server = Process::start(on(&disk, folder.path())).await;
    let mut client = OrderClient::new(&server.url);
    client.send(50).await;
    disk.leave_free(256 * 1024);
    client.send_until_refused().await;
    client.send(SENT_WHILE_FULL).await;
    assert!(!client.refused.is_empty());
    server.kill().await;
    disk.free();
    restart_and_compare(&disk, folder.path(), client).await;
}

/// The shared index grows after the commit was synced; an answer of "nothing stored" would then be false.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_too_full_for_the_wal_index_gives_an_honest_answer() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path()).await else {
        return;
    };
    let server = Process::start(only_accepts(on(&disk, folder.path()))).await;
    pause(&server.url).await;
    let mut client = OrderClient::new(&server.url);
    let log = disk.path.join("orderly.db-wal");
    let index = disk.path.join("orderly.db-shm");
    let first_size = size(&index);
    loop {
        if size(&log) / FRAME_BYTES + FRAMES_NEAR_THE_END > FRAMES_INDEXED {
            // A larger commit is refused but leaves the log longer for the next one.
            disk.leave_free(first_size - PAGE_BYTES);
        }
        if matches!(client.send_one().await, Answer::Unknown) {
            break;
        }
        assert_eq!(size(&index), first_size, "the index has grown");
    }
    assert!(
        size(&log) / FRAME_BYTES > FRAMES_INDEXED,
        "the commit was not written"
    );
    assert!(size(&index) < 2 * first_size, "the index has grown");
    assert_eq!(client.ready().await, StatusCode::SERVICE_UNAVAILABLE);
    client.send(SENT_WHILE_FULL).await;
    server.kill().await;
    disk.free();
    restart_and_compare(&disk, folder.path(), client).await;
}

async fn restart_and_compare(disk: &SmallDisk, folder: &Path, mut client: OrderClient) {
    let healed = Process::start(on(disk, folder)).await;
    client.url.clone_from(&healed.url);
    client.assert_true().await;
    assert_eq!(healed.terminate().await, Some(0));
    let (exit, report) = run(&disk.path, &["verify"]).await;
    assert_eq!(exit, Some(0), "{report}");
}

/// The server with its store and log on the small disk, and heartbeats every second.
fn on(disk: &SmallDisk, folder: &Path) -> Command {
    let mut command = orderly(&disk.path);
    command
        .env("ORDERLY_LOG_DIR", folder.join("logs"))
        .env("ORDERLY_LEASE", "3s");
    command
}

/// Once paused, only accepts write: no heartbeat falls into the test.
fn only_accepts(mut command: Command) -> Command {
    command.env("ORDERLY_LEASE", "1h");
    command
}

async fn pause(url: &str) {
    let paused = http().post(format!("{url}/queue/pause")).send().await.unwrap();
    assert_eq!(paused.status(), StatusCode::OK);
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

/// A client that sends orders one by one and records the answers.
struct OrderClient {
    http: reqwest::Client,
    url: String,
    sent: u64,
    acknowledged: Vec<(Request, i64)>,
    refused: Vec<Request>,
}

impl OrderClient {
    fn new(url: &str) -> OrderClient {
        OrderClient {
            http: http(),
            url: url.to_owned(),
            sent: 0,
            acknowledged: Vec::new(),
            refused: Vec::new(),
        }
    }

    async fn send_one(&mut self) -> Answer {
        self.sent += 1;
        assert!(self.sent < ORDERS_MAX, "the fault never occurred");
        let request = Request {
            key: format!("{:0>100}", self.sent),
            user_id: 1,
            cents: self.sent,
        };
        let answer = post(&self.http, &self.url, &request).await;
        match &answer {
            Answer::Created(order) => self.acknowledged.push((request, id_of(order))),
            Answer::Refused(StatusCode::SERVICE_UNAVAILABLE) => self.refused.push(request),
            Answer::Refused(status) => panic!("a good order was refused: {status}"),
            // Stored or not: nothing to compare.
            Answer::Unknown => {}
        }
        answer
    }

    async fn send(&mut self, count: u64) {
        for _ in 0..count {
            self.send_one().await;
        }
    }

    async fn send_until_not_created(&mut self) -> Answer {
        loop {
            let answer = self.send_one().await;
            if !matches!(answer, Answer::Created(_)) {
                return answer;
            }
        }
    }

    async fn send_until_refused(&mut self) {
        while self.refused.is_empty() {
            self.send_one().await;
        }
    }

    async fn ready(&self) -> StatusCode {
        let answer = self.http.get(format!("{}/readyz", self.url)).send().await;
        answer.unwrap().status()
    }

    /// The ids of the orders with the reference.
    async fn ids_of(&self, reference: &str) -> Vec<i64> {
        let url = format!("{}/orders?reference={reference}", self.url);
        let page = self.http.get(url).send().await.unwrap();
        assert_eq!(page.status(), StatusCode::OK);
        let page: Value = page.json().await.unwrap();
        page["orders"].as_array().unwrap().iter().map(id_of).collect()
    }

    /// Asserts that every acknowledged order exists once and no refused order exists.
    async fn assert_true(&self) {
        for (request, id) in &self.acknowledged {
            let found = self.ids_of(&request.key).await;
            assert_eq!(found, [*id], "acknowledged: {}", request.key);
        }
        for request in &self.refused {
            let found = self.ids_of(&request.key).await;
            assert!(found.is_empty(), "refused: {} is {found:?}", request.key);
        }
    }
}

fn id_of(order: &Value) -> i64 {
    order["order_id"].as_i64().expect("an order has an id")
}
