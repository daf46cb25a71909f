//! Access to the database for commands that do not serve: read it at one instant, and migrate its schema.

use std::sync::Arc;

mod survey;

use super::connect::{Connection, Connector, connector, unavailable};
use super::database_state::DatabaseState;
use super::lower_bound::LowerBound;
use super::query;
use super::schema::{self, SchemaProblem};
use super::snapshot::PostgresSnapshot;

pub use survey::survey;

use crate::config::{PostgresDatabase, PostgresUrl};
use crate::store::Snapshot;
use crate::store::migrations::{require_any, require_current};
use crate::store::opening::{Migration, OpenError};

/// Opens the database for reading at one instant, even while nodes run.
pub async fn open_snapshot(database: &PostgresDatabase) -> Result<Box<dyn Snapshot>, OpenError> {
    Ok(Box::new(snapshot_of(database).await?))
}

/// Opens the database for reading at one instant. Fails while a node is on the list and alive; a sleeping node
/// (`ORDERLY_IDLE_SLEEP`) is on no list.
pub async fn open_offline(database: &PostgresDatabase) -> Result<Box<dyn Snapshot>, OpenError> {
    let location = &database.url.location;
    let snapshot = snapshot_of(database).await?;
    let queue = query::queue(&snapshot, &LowerBound::default()).await;
    let queue = queue.map_err(|failure| unavailable(location, &failure))?;
    if queue.nodes.iter().any(|node| node.alive) {
        return Err(OpenError::InUse {
            location: location.clone(),
        });
    }
    Ok(Box::new(snapshot))
}

/// Opens a snapshot over the URL of servers, so that it shows what they see.
async fn snapshot_of(database: &PostgresDatabase) -> Result<PostgresSnapshot, OpenError> {
    let location = &database.url.location;
    let connection = connect_to_read(&database.url).await?;
    let migrations = refused(schema::check(&connection.client, location).await, location)?;
    require_any(location, &migrations)?;
    require_current(location, &migrations)?;
    let snapshot = PostgresSnapshot::open(connection).await;
    snapshot.map_err(|failure| unavailable(location, &failure))
}

/// Applies missing migrations, unless `dry_run`. Returns all migrations as they were before.
pub async fn migrate(database: &PostgresDatabase, dry_run: bool) -> Result<Vec<Migration>, OpenError> {
    let url = database.direct.as_ref().unwrap_or(&database.url);
    let location = &url.location;
    let connection = if dry_run {
        connect_to_read(url).await?
    } else {
        connect_once(url).await?
    };
    let before = refused(schema::check(&connection.client, location).await, location)?;
    if !dry_run {
        refused(schema::apply(&connection.client, location).await, location)?;
    }
    Ok(before)
}

/// Runs what the first start does to a database without a schema, and rolls it back.
pub async fn rehearse(database: &PostgresDatabase) -> Result<(), OpenError> {
    let url = database.direct.as_ref().unwrap_or(&database.url);
    let connection = connect_once(url).await?;
    let rehearsed = schema::rehearse(&connection.client).await;
    rehearsed.map_err(|failure| unavailable(&url.location, &failure))
}

/// Opens one connection for storing. Fails when the URL asks for servers that only read.
pub(super) async fn connect_once(url: &PostgresUrl) -> Result<Connection, OpenError> {
    if url.session.is_some_and(|session| !session.may_store()) {
        return Err(OpenError::Unsuitable {
            location: url.location.clone(),
            reason: "its target_session_attrs leads to servers that only read".to_owned(),
        });
    }
    connect_by(url, |connector| connector).await
}

/// Opens one connection for reading, to a server that may take no writes.
async fn connect_to_read(url: &PostgresUrl) -> Result<Connection, OpenError> {
    connect_by(url, Connector::only_reading).await
}

async fn connect_by(
    url: &PostgresUrl,
    set_up: impl FnOnce(Connector) -> Connector,
) -> Result<Connection, OpenError> {
    let connector = set_up(connector(url, &Arc::new(DatabaseState::new()), None)?);
    let connected = connector.connect().await;
    connected.map_err(|failure| unavailable(&url.location, &failure))
}

/// Turns a problem with the schema into the error for the command.
pub(super) fn refused<T>(result: Result<T, SchemaProblem>, location: &str) -> Result<T, OpenError> {
    result.map_err(|problem| match problem {
        SchemaProblem::Refusal(refusal) => refusal,
        SchemaProblem::Database(failure) => unavailable(location, &failure),
    })
}
