//! Signals: terminating ones drain the server, others are ignored, and all are logged. A clock behind the store is
//! logged at the start.

use rusqlite::Connection;
use tokio::process::Command;

use super::Fixture;
use crate::support::process::{Process, orderly};

/// An order takes hours, so a clean stop gives it back.
const SLOW: [(&str, &str); 2] = [
    ("ORDERLY_SIMULATED_SPEED", "0.001"),
    ("ORDERLY_SHUTDOWN_GRACE", "1s"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_terminating_signal_drains_the_server() {
    for name in ["HUP", "QUIT", "INT", "TERM"] {
        let mut fixture = Fixture::open(&SLOW).await;
        fixture.order(1).await;
        fixture.server.signal(name).await;
        let ended = fixture.server.ended().await;
        assert_eq!(ended.code(), Some(0), "SIG{name}");
        assert!(
            fixture
                .server
                .has_logged(&format!("SIG{name} received: finishing")),
            "SIG{name}"
        );
        let file = Connection::open(fixture.folder.path().join("orderly.db")).unwrap();
        let status: i64 = file
            .query_row("select status from orders where order_id = 1", [], |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(status, 0, "SIG{name}: the order is not Pending again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unused_signals_are_ignored_and_logged() {
    let fixture = Fixture::open(&[]).await;
    for name in ["USR1", "USR2"] {
        fixture.server.signal(name).await;
        let line = format!("SIG{name} received and ignored");
        fixture.server.until_logged(&line).await;
    }
    fixture.order(1).await;
    fixture.close().await;
}

/// As `nohup` starts it.
#[tokio::test(flavor = "multi_thread")]
async fn a_sighup_ignored_at_the_start_stays_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let mut wrapped = Command::new("sh");
    wrapped
        .args(["-c", "trap '' HUP; exec \"$0\""])
        .arg(env!("CARGO_BIN_EXE_orderly"));
    crate::support::process::configure(&mut wrapped, folder.path());
    let server = Process::start(wrapped).await;
    server.signal("HUP").await;
    server.signal("USR1").await;
    server.until_logged("SIGUSR1 received").await;
    assert!(!server.has_logged("SIGHUP"));
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_years_ahead_of_the_clock_is_logged_at_start() {
    let fixture = Fixture::open(&[("ORDERLY_SIMULATED_SPEED", "0")]).await;
    fixture.order(1).await;
    fixture.ended(1).await;
    assert!(!fixture.server.has_logged("ahead of the clock"));
    assert_eq!(fixture.server.terminate().await, Some(0));
    let file = Connection::open(fixture.folder.path().join("orderly.db")).unwrap();
    let three_years = 3 * 366 * 86_400_000_000_i64;
    file.execute("update events set at = at + ?1", [three_years])
        .unwrap();
    drop(file);
    let server = Process::start(orderly(fixture.folder.path())).await;
    server
        .until_logged("ahead of the clock of this machine; set the clock")
        .await;
    assert_eq!(server.terminate().await, Some(0));
}
