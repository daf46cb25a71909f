//! What commands do with the database that do not serve: read it at one instant, and bring its schema up to date.

use std::sync::Arc;

mod survey;

use super::connect::{Connection, Connector, connector, unavailable};
use super::floor::KnownFloor;
use super::query;
use super::schema::{self, Problem};
use super::snapshot::PostgresSnapshot;
use super::state::State;

pub use survey::survey;

use crate::config::{PostgresDatabase, PostgresUrl};
use crate::store::Snapshot;
use crate::store::migrations::{require_any, require_current};
use crate::store::opening::{Migration, OpenError};

/// Opens the database for reading at one instant, also beside servers.
pub async fn open_snapshot(database: &PostgresDatabase) -> Result<Box<dyn Snapshot>, OpenError> {
    Ok(Box::new(snapshot_of(database).await?))
}

/// The same, refused while a node is on the list and alive. One that sleeps (`ORDERLY_IDLE_SLEEP`) is on no list.
pub async fn open_offline(database: &PostgresDatabase) -> Result<Box<dyn Snapshot>, OpenError> {
    let location = &database.url.location;
    let snapshot = snapshot_of(database).await?;
    let queue = query::queue(&snapshot, &KnownFloor::default()).await;
    let queue = queue.map_err(|failure| unavailable(location, &failure))?;
    if queue.nodes.iter().any(|node| node.alive) {
        return Err(OpenError::InUse {
            location: location.clone(),
        });
    }
    Ok(Box::new(snapshot))
}

/// The way that servers go, so that what it shows is what they meet.
async fn snapshot_of(database: &PostgresDatabase) -> Result<PostgresSnapshot, OpenError> {
    let location = &database.url.location;
    let connection = connect_to_read(&database.url).await?;
    let migrations = refused(schema::check(&connection.client, location).await, location)?;
    require_any(location, &migrations)?;
    require_current(location, &migrations)?;
    let snapshot = PostgresSnapshot::open(connection).await;
    snapshot.map_err(|failure| unavailable(location, &failure))
}

/// Applies what is missing of the schema, or only tells with `dry_run`.
pub async fn migrate(database: &PostgresDatabase, dry_run: bool) -> Result<Vec<Migration>, OpenError> {
    let way = database.direct.as_ref().unwrap_or(&database.url);
    let location = &way.location;
    let connection = if dry_run {
        connect_to_read(way).await?
    } else {
        connect_once(way).await?
    };
    let before = refused(schema::check(&connection.client, location).await, location)?;
    if !dry_run {
        refused(schema::apply(&connection.client, location).await, location)?;
    }
    Ok(before)
}

/// Carries out what the first start does to a database without a schema, and takes it back.
pub async fn rehearse(database: &PostgresDatabase) -> Result<(), OpenError> {
    let way = database.direct.as_ref().unwrap_or(&database.url);
    let connection = connect_once(way).await?;
    let rehearsed = schema::rehearse(&connection.client).await;
    rehearsed.map_err(|failure| unavailable(&way.location, &failure))
}

pub(super) async fn connect_once(url: &PostgresUrl) -> Result<Connection, OpenError> {
    if url.session.is_some_and(|session| !session.may_store()) {
        return Err(OpenError::Unsuitable {
            location: url.location.clone(),
            reason: "its target_session_attrs leads to servers that only read".to_owned(),
        });
    }
    connect_by(url, |connector| connector).await
}

/// Connects for reading, also where nothing can be written.
async fn connect_to_read(url: &PostgresUrl) -> Result<Connection, OpenError> {
    connect_by(url, Connector::only_reading).await
}

async fn connect_by(
    url: &PostgresUrl,
    set_up: impl FnOnce(Connector) -> Connector,
) -> Result<Connection, OpenError> {
    let connector = set_up(connector(url, &Arc::new(State::new()), None)?);
    let connected = connector.connect().await;
    connected.map_err(|failure| unavailable(&url.location, &failure))
}

pub(super) fn refused<T>(result: Result<T, Problem>, location: &str) -> Result<T, OpenError> {
    result.map_err(|problem| match problem {
        Problem::Refusal(refusal) => refusal,
        Problem::Failure(failure) => unavailable(location, &failure),
    })
}
