//! SIGTERM: running orders are finished or given back, and the exit is clean.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::watch;

use super::killed::busy;
use super::load::{Load, seed};
use crate::support::client::http;
use crate::support::process::{Process, orderly, run};
use crate::support::required;

const ROUNDS: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_exits_cleanly_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = || {
        let mut command = busy(orderly(folder.path()));
        command
            .env("ORDERLY_SIMULATED_SPEED", "10")
            .env("ORDERLY_SHUTDOWN_GRACE", "5s");
        command
    };
    let mut load = Load::new(8, seed());
    for _ in 0..ROUNDS {
        let mut stopped = Process::start(server()).await;
        let (sender, mut reached) = watch::channel(0);
        let url = stopped.url.clone();
        let stop = async {
            reached
                .wait_for(|count| *count >= 50)
                .await
                .expect("the load reaches the target");
            stopped.signal("TERM").await;
            let exit = stopped.ended().await;
            assert_eq!(exit.code(), Some(0));
            assert!(!stopped.has_logged("could not be given back"));
        };
        tokio::join!(load.run(&url, usize::MAX, sender), stop);
        let (exit, report) = run(folder.path(), &["verify"]).await;
        assert_eq!(exit, Some(0), "{report}");
    }
    let last = Process::start(server()).await;
    let (sender, _) = watch::channel(0);
    load.run(&last.url, 8, sender).await;
    let wrong = load.log.compare(&http(), &last.url).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(last.terminate().await, Some(0));
}

/// Orders that take hours do not delay a stop beyond its grace time, and start again afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_orders_are_given_back_within_the_grace_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = orderly(folder.path());
    command
        .env("ORDERLY_SIMULATED_SPEED", "0.001")
        .env("ORDERLY_SHUTDOWN_GRACE", "1s");
    let first = Process::start(command).await;
    let mut load = Load::new(4, 1);
    let (sender, _) = watch::channel(0);
    load.run(&first.url, 20, sender).await;
    assert_eq!(first.terminate().await, Some(0));
    let (exit, report) = run(folder.path(), &["verify"]).await;
    assert_eq!(exit, Some(0), "{report}");

    let second = Process::start(busy(orderly(folder.path()))).await;
    let wrong = load.log.compare(&http(), &second.url).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(second.terminate().await, Some(0));
}

/// Giving back needs a sync; when that fails, the exit must not look clean.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_during_a_stop_fails_the_exit_code() {
    if !required("strace", Command::new("strace").arg("-V").output().await.is_ok()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = orderly(folder.path());
    command
        .env("ORDERLY_SIMULATED_SPEED", "0.001")
        .env("ORDERLY_SHUTDOWN_GRACE", "2s");
    let mut server = Process::start(command).await;
    let mut load = Load::new(1, 1);
    let (sender, _) = watch::channel(0);
    load.run(&server.url, 1, sender).await;

    let mut strace = Command::new("strace")
        .args([
            "-f",
            "-e",
            "trace=fsync,fdatasync",
            "-e",
            "inject=fsync,fdatasync:error=EIO",
        ])
        .args(["-p", &server.id().to_string()])
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("strace can be started");
    let mut text = BufReader::new(strace.stderr.take().expect("stderr is piped")).lines();
    let attached = text.next_line().await.unwrap().unwrap_or_default();
    assert!(attached.contains("attached"), "{attached}");

    server.signal("TERM").await;
    assert_eq!(server.ended().await.code(), Some(1));
    assert!(server.has_logged("the store failed"));
    drop(text);
    strace.kill().await.expect("strace can be killed");
}
