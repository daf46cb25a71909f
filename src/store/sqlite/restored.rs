//! A file that was restored from a backup.

use std::path::Path;

use super::connection::{self, open_existing};
use super::files::{require_file, unavailable};
use super::{lock, migrations};
use crate::store::opening::OpenError;

/// Refuses where there is no file, or a server has it.
pub fn require_unused(path: &Path) -> Result<(), OpenError> {
    require_file(path)?;
    lock::lock(path).map(drop)
}

/// Begins another life of the feed, while no server has the file.
pub fn renew_feed(path: &Path) -> Result<(), OpenError> {
    require_file(path)?;
    let _server_lock = lock::lock(path)?;
    migrations::require_current(path, &open_existing(path)?)?;
    let connection = connection::open_writer(path)?;
    connection
        .execute("update counters set feed_id = random()", [])
        .map_err(|error| unavailable(path, error.into()))?;
    Ok(())
}
