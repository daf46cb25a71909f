//! One file under two names: two servers must never share it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use tokio::process::Command;

use crate::support::PATIENCE;
use crate::support::process::{Process, orderly, run};

fn at(folder: &Path, name: &str) -> Command {
    let mut command = orderly(folder);
    let url = format!("sqlite:{}", folder.join(name).display());
    command.env("DATABASE_URL", url);
    command
}

async fn refused(folder: &Path, name: &str) -> (Option<i32>, String) {
    let output = tokio::time::timeout(PATIENCE, at(folder, name).output()).await;
    let output = output.expect("a refused start ends in time").unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// Issue 13, point 4.
#[tokio::test(flavor = "multi_thread")]
async fn a_symlink_to_a_missing_file_admits_no_second_server() {
    let folder = tempfile::tempdir().unwrap();
    symlink("data/orders.db", folder.path().join("link.db")).unwrap();
    symlink("link.db", folder.path().join("link-to-link.db")).unwrap();
    let first = Process::start(at(folder.path(), "link-to-link.db")).await;
    for name in ["data/orders.db", "link.db", "link-to-link.db"] {
        let (exit, text) = refused(folder.path(), name).await;
        assert_eq!(exit, Some(1), "{name}: {text}");
        assert!(
            text.contains("in use by another orderly process"),
            "{name}: {text}"
        );
    }
    assert_eq!(first.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_a_second_hard_link_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let first = Process::start(orderly(folder.path())).await;
    fs::hard_link(folder.path().join("orderly.db"), folder.path().join("other.db")).unwrap();
    let (exit, text) = refused(folder.path(), "other.db").await;
    assert_eq!(exit, Some(78), "{text}");
    assert!(text.contains("2 names (hard links)"), "{text}");
    assert_eq!(first.terminate().await, Some(0));
    let (exit, text) = run(folder.path(), &["serve"]).await;
    assert_eq!(exit, Some(78), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_file_that_is_deleted_still_admits_no_second_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = orderly(folder.path());
    command.env("ORDERLY_LEASE", "3s");
    let first = Process::start(command).await;
    let lock = folder.path().join("orderly.db.lock");
    fs::remove_file(&lock).unwrap();
    let made_anew = async {
        while !lock.exists() {
            tokio::task::yield_now().await;
        }
    };
    let next_heartbeat = tokio::time::timeout(PATIENCE, made_anew).await;
    next_heartbeat.expect("the next heartbeat recreates the file");
    let (exit, text) = run(folder.path(), &["serve"]).await;
    assert_eq!(exit, Some(1), "{text}");
    assert!(text.contains("in use by another orderly process"), "{text}");
    assert_eq!(first.terminate().await, Some(0));
}
