//! The standbys that commits wait for, as the database shows them. Whether this node's own commits wait is left to `probe.rs`.

use super::failure::Failure;
use super::links::Reads;
use super::look::read_only_reason;
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

/// Returns the reason why the server takes no writes, where it takes none.
pub(super) async fn takes_no_writes(source: &impl Reads) -> Result<Option<String>, Failure> {
    let statement = "select pg_is_in_recovery(), current_setting('default_transaction_read_only')::bool";
    let found = source.read(statement, &[]).await?;
    let row = rows::only(&found)?;
    let is_standby: bool = rows::column(row, 0)?;
    let is_set: bool = rows::column(row, 1)?;
    Ok((is_standby || is_set).then(|| read_only_reason(is_standby).to_owned()))
}
