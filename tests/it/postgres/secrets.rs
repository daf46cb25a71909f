//! Passwords of both URLs never appear in output or logs, whatever fails: an unreachable host, a wrong password, or a wrong
//! database.

use std::path::Path;

use orderly::store::open::migrate;
use tokio::process::Command;

use super::setup::{database_at, has_postgres, status_of};
use crate::support::postgres::{Options, Server, TestDatabase};
use crate::support::process::{Process, orderly};

/// The right password, and one that is refused.
const CANARY: &str = "canary-5d4c3b2a1f0e";
const WRONG: &str = "parrot-0e1f2a3b4c5d";

fn assert_silent(said: &[u8], whose: &str) {
    for secret in [CANARY, WRONG] {
        let leaked = said
            .windows(secret.len())
            .any(|window| window == secret.as_bytes());
        assert!(
            !leaked,
            "{whose} prints a password: {}",
            String::from_utf8_lossy(said)
        );
    }
}

fn assert_logs_silent(folder: &Path) {
    let logs = std::fs::read_dir(folder.join("logs")).expect("a server has a log");
    for log in logs {
        let path = log.unwrap().path();
        assert_silent(&std::fs::read(&path).unwrap(), &path.display().to_string());
    }
}

/// A command that logs everything.
fn command(folder: &Path, url: &str, direct: &str) -> Command {
    let mut command = orderly(folder);
    command.envs([
        ("DATABASE_URL", url),
        ("DATABASE_DIRECT_URL", direct),
        ("RUST_LOG", "trace"),
    ]);
    command
}

/// URLs that do not work, each with a part of the error text.
fn broken_urls(database: &TestDatabase) -> Vec<(String, &'static str)> {
    let good = database.url();
    vec![
        (
            format!("postgres://postgres:{CANARY}@127.0.0.1:1/orders"),
            "127.0.0.1:1",
        ),
        (
            format!("postgres://postgres:{CANARY}@nowhere.invalid/orders"),
            "nowhere.invalid",
        ),
        (good.replace(CANARY, WRONG), "password authentication failed"),
        (good.replace(database.name(), "nothing_here"), "does not exist"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_prints_a_password_whatever_fails() {
    if !has_postgres() {
        return;
    }
    let server = Server::start(Options::default().password(CANARY)).await;
    let database = server.create_database().await;
    let good = database.url();
    assert!(good.contains(CANARY));
    for (bad, because) in broken_urls(&database) {
        for (url, direct) in [(&bad, &bad), (&good, &bad), (&bad, &good)] {
            for line in [&["verify"][..], &["doctor"], &["doctor", "--json"], &["migrate"]] {
                let folder = tempfile::tempdir().unwrap();
                let said = command(folder.path(), url, direct)
                    .args(line)
                    .output()
                    .await
                    .unwrap();
                let whose = format!("{line:?} on {because}");
                assert_silent(&said.stdout, &whose);
                assert_silent(&said.stderr, &whose);
                // Migrations use the direct URL if there is one; other commands connect like a server.
                let way = if line == ["migrate"] { direct } else { url };
                if way == &bad {
                    let all = [said.stdout, said.stderr].concat();
                    let all = String::from_utf8_lossy(&all);
                    assert!(all.contains(because), "{whose}: {all}");
                    assert_ne!(said.status.code(), Some(0), "{whose}: {all}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_server_logs_a_password_whatever_fails() {
    if !has_postgres() {
        return;
    }
    let server = Server::start(Options::default().password(CANARY)).await;
    let database = server.create_database().await;
    let good = database.url();
    migrate(&database_at(&good), false).await.unwrap();
    for (bad, because) in broken_urls(&database) {
        for (url, direct) in [(&bad, &bad), (&good, &bad), (&bad, &good)] {
            let folder = tempfile::tempdir().unwrap();
            // A start fails on errors that cannot go away; otherwise the node waits for the database.
            let refused = url == &bad && !bad.contains("/orders");
            if refused {
                let said = command(folder.path(), url, direct).output().await.unwrap();
                assert_eq!(said.status.code(), Some(1), "{because}");
                assert!(String::from_utf8_lossy(&said.stderr).contains(because));
                assert_silent(&said.stdout, because);
                assert_silent(&said.stderr, because);
            } else {
                let node = Process::start(command(folder.path(), url, direct)).await;
                status_of(&node, "/readyz?verbose").await;
                assert!(!node.has_logged(CANARY) && !node.has_logged(WRONG));
                assert_eq!(node.terminate().await, Some(0));
            }
            assert_logs_silent(folder.path());
        }
    }
}
