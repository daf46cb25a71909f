//! A store on a read-only file or disk can still be read.

use std::path::Path;

use serde_json::Value;

use crate::support::client::{Answer, Request, http, post};
use crate::support::process::{Process, orderly, run};
use crate::support::small_disk::SmallDisk;

const ORDERS: u64 = 3;

/// Starts a server on the disk that accepts some orders.
async fn server_on(disk: &SmallDisk, folder: &Path) -> Process {
    let mut command = orderly(&disk.path);
    command.env("ORDERLY_LOG_DIR", folder.join("logs"));
    let server = Process::start(command).await;
    for number in 0..ORDERS {
        let request = Request {
            key: number.to_string(),
            user_id: 1,
            cents: 1,
        };
        let answer = post(&http(), &server.url, &request).await;
        assert!(matches!(answer, Answer::Created(_)), "{answer:?}");
    }
    server
}

async fn assert_verify_and_doctor_read(disk: &SmallDisk) {
    let (exit, report) = run(&disk.path, &["verify", "--json"]).await;
    assert_eq!(exit, Some(0), "{report}");
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(
        (&report["sound"], &report["orders"]),
        (&Value::Bool(true), &ORDERS.into())
    );
    // The disk is small and no server runs, so doctor finds problems.
    let (_, text) = run(&disk.path, &["doctor"]).await;
    assert!(text.contains(": 3 orders"), "{text}");
    assert!(text.contains("the file cannot be written"), "{text}");
}

/// Issue 13, point 20.
#[tokio::test(flavor = "multi_thread")]
async fn verify_and_doctor_read_a_read_only_file() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path()).await else {
        return;
    };
    assert_eq!(server_on(&disk, folder.path()).await.terminate().await, Some(0));
    disk.turn_read_only().await;
    assert_verify_and_doctor_read(&disk).await;
    let (exit, text) = run(&disk.path, &["serve"]).await;
    assert_eq!(exit, Some(1), "{text}");
    for remedy in ["mount it writable", "orderly verify"] {
        assert!(text.contains(remedy), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_and_doctor_read_a_crashed_store_on_a_read_only_disk() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path()).await else {
        return;
    };
    server_on(&disk, folder.path()).await.kill().await;
    disk.turn_read_only().await;
    assert_verify_and_doctor_read(&disk).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_write_ahead_log_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path()).await else {
        return;
    };
    server_on(&disk, folder.path()).await.kill().await;
    std::fs::remove_file(disk.path.join("orderly.db-shm")).unwrap();
    disk.turn_read_only().await;
    let (exit, text) = run(&disk.path, &["verify"]).await;
    assert_eq!(exit, Some(1), "{text}");
    assert!(
        text.contains("orderly.db-wal") && text.contains("copy the files"),
        "{text}"
    );
}
