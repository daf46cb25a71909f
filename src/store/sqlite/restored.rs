//! Begins a new epoch in a file that was restored from a backup.

use std::path::Path;

use super::connection::{self, open_existing};
use super::files::{require_file, unavailable};
use super::{epochs, lock, migrations};
use crate::store::NewEpoch;
use crate::store::clock::system_clock;
use crate::store::opening::OpenError;

/// Fails if there is no file, or a server has it open.
pub fn require_unused(path: &Path) -> Result<(), OpenError> {
    require_file(path)?;
    lock::lock(path).map(drop)
}

/// Begins an epoch. Fails while a server has the file open.
pub fn begin_epoch(path: &Path) -> Result<NewEpoch, OpenError> {
    require_file(path)?;
    let _server_lock = lock::lock(path)?;
    migrations::require_current(path, &open_existing(path)?)?;
    let begun = || {
        let connection = connection::open_writer(path)?;
        let transaction = connection.unchecked_transaction()?;
        let begun = epochs::begin(&transaction, system_clock()())?;
        transaction.commit()?;
        Ok(begun)
    };
    begun().map_err(|error: anyhow::Error| unavailable(path, error))
}
