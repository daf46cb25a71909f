//! Opens the file for commands, beside a running server or without one.

use std::path::Path;
use std::sync::Arc;

use super::connection::{self, open_existing};
use super::files::{require_file, unavailable};
use super::snapshot::{self, SqliteSnapshot};
use super::{lock, migrations};
use crate::store::Snapshot;
use crate::store::clock::{SteadyClock, system_clock};
use crate::store::opening::{Migration, OpenError};
use crate::time::Timestamp;

/// Opens a snapshot of the file, even beside a running server.
pub fn open_snapshot(path: &Path) -> Result<Box<dyn Snapshot>, OpenError> {
    Ok(Box::new(snapshot_of(path)?))
}

/// Opens a snapshot of the file and keeps servers away while it is open.
pub fn open_offline(path: &Path) -> Result<Box<dyn Snapshot>, OpenError> {
    require_file(path)?;
    let server_lock = lock::lock(path)?;
    Ok(Box::new(snapshot_of(path)?.with_lock(server_lock)))
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

/// Applies the missing migrations (none with `dry_run`). Returns all migrations with their state before the call.
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
