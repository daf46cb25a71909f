//! Log lines that the disk does not take are counted and reported on stdout. A deleted log folder is recreated.

use std::time::Duration;

use super::Fixture;
use crate::support::client::http;
use crate::support::process::{Process, orderly};
use crate::support::until;

async fn lost(server: &Process) -> u64 {
    let answer = http()
        .get(format!("{}/metrics/prometheus", server.url))
        .send()
        .await;
    let text = answer.unwrap().text().await.unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("orderly_log_lines_dropped_total "));
    line.expect("the counter is exposed")
        .parse()
        .expect("the counter is a number")
}

/// Every write to `/dev/full` fails as on a full disk.
#[tokio::test(flavor = "multi_thread")]
async fn log_lines_lost_on_a_full_disk_are_counted_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let logs = folder.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let now = jiff::Timestamp::now();
    for time in [now, now + Duration::from_hours(24)] {
        let day = &time.to_string()[..10];
        std::os::unix::fs::symlink("/dev/full", logs.join(format!("app.{day}.log"))).unwrap();
    }
    let server = Process::start(orderly(folder.path())).await;
    server.until_logged("log lines are lost").await;
    until("lost lines are counted", async || lost(&server).await > 0).await;
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_log_folder_is_recreated() {
    let fixture = Fixture::open(&[]).await;
    let logs = fixture.folder.path().join("logs");
    std::fs::remove_dir_all(&logs).unwrap();
    fixture.server.signal("USR1").await;
    fixture.server.until_logged("SIGUSR1 received").await;
    let newest = logs.join("app.log");
    until("the log continues in a new file", async || {
        std::fs::read_to_string(&newest).is_ok_and(|log| log.contains("SIGUSR1 received"))
    })
    .await;
    assert_eq!(lost(&fixture.server).await, 0);
    fixture.close().await;
}
