//! The file as commands open it, beside a server or without one.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rusqlite::{Connection, ErrorCode};

use super::connection::{self, unavailable};
use super::snapshot::{self, SqliteSnapshot};
use super::{lock, migrations, opened};
use crate::store::Snapshot;
use crate::store::clock::{SteadyClock, system_clock};
use crate::store::open::{Migration, OpenError};
use crate::time::Timestamp;

/// Opens the file for reading at one instant, also beside a server.
pub fn open_snapshot(path: &Path) -> Result<Box<dyn Snapshot>, OpenError> {
    Ok(Box::new(snapshot_of(path)?))
}

/// Opens the file for reading without a server beside it, as long as the snapshot lives.
pub fn open_offline(path: &Path) -> Result<Box<dyn Snapshot>, OpenError> {
    require_file(path)?;
    let server_lock = lock::lock(path)?;
    Ok(Box::new(snapshot_of(path)?.keeping(server_lock)))
}

fn snapshot_of(path: &Path) -> Result<SqliteSnapshot, OpenError> {
    let failed = |error: rusqlite::Error| unavailable(path, error.into());
    let connection = open_existing(path)?;
    migrations::require_current(path, &connection)?;
    let newest = snapshot::newest_time(&connection).map_err(failed)?;
    let floor = newest.unwrap_or(Timestamp::from_micros(0));
    let clock = Arc::new(SteadyClock::new(system_clock(), floor));
    SqliteSnapshot::begin(connection, clock).map_err(failed)
}

/// Applies what is missing of the schema, or only tells with `dry_run`.
pub fn migrate(path: &Path, dry_run: bool) -> Result<Vec<Migration>, OpenError> {
    if dry_run {
        return migrations::check(path, &open_existing(path)?);
    }
    let _server_lock = lock::lock(path)?;
    migrations::require_known(path)?;
    let mut connection = connection::open_writer(path)?;
    let before = migrations::check(path, &connection)?;
    migrations::apply(path, &mut connection)?;
    Ok(before)
}

/// Opens a file to read it, also one that cannot be written.
pub(super) fn open_existing(path: &Path) -> Result<Connection, OpenError> {
    require_file(path)?;
    let failed = |error: rusqlite::Error| unavailable(path, error.into());
    let opened = connection::open_reader(path).and_then(|connection| {
        connection.execute_batch("select 1 from sqlite_schema limit 1")?;
        Ok(connection)
    });
    match opened {
        Err(error) if is_for_want_of_a_log(&error) => open_unchanging(path, &error),
        opened => opened.map_err(failed),
    }
}

/// A reader makes the log and its index where they are missing, which it cannot where nothing can be written.
fn is_for_want_of_a_log(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly)
    )
}

/// Without a log everything is in the file, and no server has it open: each keeps its log until it ends.
fn open_unchanging(path: &Path, error: &rusqlite::Error) -> Result<Connection, OpenError> {
    let real_path = std::fs::canonicalize(path)
        .with_context(|| format!("resolve {}", path.display()))
        .map_err(|source| unavailable(path, source))?;
    let [wal, _] = opened::beside(&real_path);
    let has_log = std::fs::metadata(&wal).is_ok_and(|metadata| metadata.len() > 0);
    if has_log {
        let problem = anyhow::anyhow!(
            "{error}: orders may be in {} alone, whose index cannot be made in a folder that cannot be written: copy \
             the files of the store to one that can",
            wal.display()
        );
        return Err(unavailable(path, problem));
    }
    connection::open_unchanging(&real_path).map_err(|error| unavailable(path, error.into()))
}

pub(super) fn require_file(path: &Path) -> Result<(), OpenError> {
    if path.exists() {
        return Ok(());
    }
    Err(OpenError::Missing {
        location: connection::location(path),
    })
}
