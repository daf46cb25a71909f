//! Disk yardstick: the rate of small appends, each with a sync.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::load::Driven;

/// Page size of SQLite's log.
const APPEND_BYTES: usize = 4 * 1024;

/// Appends to a growing file for `time`, each time with an `fdatasync`.
pub async fn sync(folder: &Path, time: Duration) -> anyhow::Result<Driven> {
    let path = folder.join("sync");
    let appended = tokio::task::spawn_blocking(move || append(&path, time)).await;
    appended.context("measure the disk")?
}

fn append(path: &PathBuf, time: Duration) -> anyhow::Result<Driven> {
    let mut file = File::create(path).context("create a file to append to")?;
    let block = [0x5a; APPEND_BYTES];
    let mut driven = Driven::default();
    let start = Instant::now();
    let mut began = start;
    while began - start < time {
        file.write_all(&block).context("append to a file")?;
        file.sync_data().context("sync a file")?;
        let now = Instant::now();
        driven.answered += 1;
        driven.in_time += u64::from(now - start <= time);
        driven.latencies.record(now - began);
        began = now;
    }
    Ok(driven)
}
