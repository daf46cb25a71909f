//! The standbys that commits wait for, as the database shows them. Whether this node's own commits wait is left to `probe.rs`.

use super::failure::Failure;
use super::links::Reads;
use super::rows;
use crate::store::snapshot::Standbys;

/// `None` where no commit waits for a standby.
pub(super) async fn standbys(source: &impl Reads) -> Result<Option<Standbys>, Failure> {
    let found = source.read(include_str!("standbys.sql"), &[]).await?;
    let row = rows::only(&found)?;
    let required: bool = rows::column(row, 0)?;
    let standbys = Standbys {
        connected: rows::column(row, 1)?,
        waiting: rows::large_count(row, 2)?,
    };
    Ok(required.then_some(standbys))
}

/// Reports whether the server takes no writes: it is a standby, or set so.
pub(super) async fn only_reads(source: &impl Reads) -> Result<bool, Failure> {
    let statement = "select pg_is_in_recovery() or current_setting('default_transaction_read_only')::bool";
    let found = source.read(statement, &[]).await?;
    rows::column(rows::only(&found)?, 0)
}
