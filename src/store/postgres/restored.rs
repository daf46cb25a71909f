//! Begins an epoch in a database that was restored from a backup.

use super::await_answer::await_answer;
use super::begin_epoch::{self, Cause};
use super::commands::{connect_once, refused};
use super::connect::unavailable;
use super::schema;
use crate::config::PostgresDatabase;
use crate::store::NewEpoch;
use crate::store::migrations::{require_any, require_current};
use crate::store::opening::OpenError;

/// Fails when the database has no schema, or when a node is on the list and alive.
pub async fn require_unused(database: &PostgresDatabase) -> Result<(), OpenError> {
    let url = database.direct.as_ref().unwrap_or(&database.url);
    let location = &url.location;
    let connection = connect_once(url).await?;
    let migrations = refused(schema::check(&connection.client, location).await, location)?;
    require_any(location, &migrations)?;
    let living = "select 1 from orderly.nodes where expires_at >= clock_timestamp() limit 1";
    let living = await_answer(connection.client.query_typed_opt(living, &[])).await;
    match living.map_err(|failure| unavailable(location, &failure))? {
        Some(_) => Err(OpenError::InUse {
            location: location.clone(),
        }),
        None => Ok(()),
    }
}

/// Begins an epoch. Fails while a node is on the list and alive; a sleeping node (`ORDERLY_IDLE_SLEEP`) is on no
/// list.
pub async fn begin_epoch(database: &PostgresDatabase) -> Result<NewEpoch, OpenError> {
    let url = database.direct.as_ref().unwrap_or(&database.url);
    let location = &url.location;
    let connection = connect_once(url).await?;
    let migrations = refused(schema::check(&connection.client, location).await, location)?;
    require_current(location, &migrations)?;
    match begin_epoch::begin(&connection.client, Cause::Restored).await {
        Ok(None) => Err(OpenError::InUse {
            location: location.clone(),
        }),
        Ok(Some(begun)) => Ok(begun),
        Err(failure) => Err(unavailable(location, &failure)),
    }
}
