//! The standbys that commits wait for, as the database shows them. `probe.rs` finds out whether this node's own
//! commits wait.

use super::class_pool::ReadSource;
use super::failure::PgFailure;
use super::rows;
use super::server_info::read_only_reason;
use crate::store::snapshot::Standbys;

/// Reads the state of the synchronous standbys; `None` when commits wait for none.
pub(super) async fn standbys(source: &impl ReadSource) -> Result<Option<Standbys>, PgFailure> {
    let found = source.read(include_str!("standbys.sql"), &[]).await?;
    let row = rows::only(&found)?;
    let required: bool = rows::column(row, 0)?;
    let standbys = Standbys {
        connected: rows::column(row, 1)?,
        waiting: rows::large_count(row, 2)?,
    };
    Ok(required.then_some(standbys))
}

/// Returns the reason why the server takes no writes; `None` when it takes them.
pub(super) async fn takes_no_writes(source: &impl ReadSource) -> Result<Option<String>, PgFailure> {
    let statement = "select pg_is_in_recovery(), current_setting('default_transaction_read_only')::bool";
    let found = source.read(statement, &[]).await?;
    let row = rows::only(&found)?;
    let is_standby: bool = rows::column(row, 0)?;
    let is_set: bool = rows::column(row, 1)?;
    Ok((is_standby || is_set).then(|| read_only_reason(is_standby).to_owned()))
}
