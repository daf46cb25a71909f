//! A database that was restored from a backup.

use super::answered::answered;
use super::commands::{connect_once, refused};
use super::connect::unavailable;
use super::schema;
use crate::config::PostgresDatabase;
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

/// Begins another life of the feed. Refused while a node is on the list and alive; one that sleeps
/// (`ORDERLY_IDLE_SLEEP`) is on no list.
pub async fn renew_feed(database: &PostgresDatabase) -> Result<(), OpenError> {
    let way = database.direct.as_ref().unwrap_or(&database.url);
    let location = &way.location;
    let connection = connect_once(way).await?;
    let migrations = refused(schema::check(&connection.client, location).await, location)?;
    require_current(location, &migrations)?;
    let renewed = connection
        .client
        .execute_typed(include_str!("renew_feed.sql"), &[]);
    match answered(renewed).await {
        Ok(0) => Err(OpenError::InUse {
            location: location.clone(),
        }),
        Ok(_) => Ok(()),
        Err(failure) => Err(unavailable(location, &failure)),
    }
}
