//! A database that was restored from a backup.

use super::answered::answered;
use super::begin_epoch::{self, Cause};
use super::commands::{connect_once, refused};
use super::connect::unavailable;
use super::schema;
use crate::config::PostgresDatabase;
use crate::store::Begun;
use crate::store::migrations::{require_any, require_current};
use crate::store::opening::OpenError;

/// Refuses where no step of the schema was ever applied, or a node is on the list and alive.
pub async fn require_unused(database: &PostgresDatabase) -> Result<(), OpenError> {
    let way = database.direct.as_ref().unwrap_or(&database.url);
    let location = &way.location;
    let connection = connect_once(way).await?;
    let migrations = refused(schema::check(&connection.client, location).await, location)?;
    require_any(location, &migrations)?;
    let living = "select 1 from orderly.nodes where expires_at >= clock_timestamp() limit 1";
    let living = answered(connection.client.query_typed_opt(living, &[])).await;
    match living.map_err(|failure| unavailable(location, &failure))? {
        Some(_) => Err(OpenError::InUse {
            location: location.clone(),
        }),
        None => Ok(()),
    }
}

/// Begins an epoch. Refused while a node is on the list and alive; one that sleeps (`ORDERLY_IDLE_SLEEP`) is on no list.
pub async fn begin_epoch(database: &PostgresDatabase) -> Result<Begun, OpenError> {
    let way = database.direct.as_ref().unwrap_or(&database.url);
    let location = &way.location;
    let connection = connect_once(way).await?;
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
