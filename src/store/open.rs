//! Opens the configured store with its driver.

use std::sync::Arc;

use super::measured::measured;
use super::postgres::{self, Postgres};
use super::sqlite::{self, Sqlite};
use super::survey::Survey;
use super::{NewEpoch, Snapshot, Store};
use crate::config::{Database, PostgresDatabase};

pub use super::opening::{Migration, OpenError, OpenOptions};

/// Opens the store for serving. Creates it if it does not exist.
pub async fn open(database: &Database, options: OpenOptions) -> Result<Arc<dyn Store>, OpenError> {
    let calls = options.metrics.store_call.clone();
    let store: Arc<dyn Store> = match database {
        Database::Sqlite(path) => {
            let path = path.clone();
            let location = location(database);
            Arc::new(blocking(location, move || Sqlite::open(&path, options)).await?)
        }
        Database::Postgres(database) => Arc::new(Postgres::open(database, options).await?),
    };
    Ok(measured(store, calls))
}

/// Queries each server that the URLs of a shared database name.
pub async fn survey(database: &PostgresDatabase) -> Survey {
    postgres::survey(database).await
}

/// Opens a snapshot, even beside a running server. Creates nothing.
pub async fn open_snapshot(database: &Database) -> Result<Box<dyn Snapshot>, OpenError> {
    match database {
        Database::Sqlite(path) => {
            let path = path.clone();
            blocking(location(database), move || sqlite::open_snapshot(&path)).await
        }
        Database::Postgres(database) => postgres::open_snapshot(database).await,
    }
}

/// Opens a snapshot of a store that no server uses; fails while one runs. Keeps servers away from a file while the snapshot lives,
/// but cannot keep nodes away from a shared database.
pub async fn open_offline(database: &Database) -> Result<Box<dyn Snapshot>, OpenError> {
    match database {
        Database::Sqlite(path) => {
            let path = path.clone();
            blocking(location(database), move || sqlite::open_offline(&path)).await
        }
        Database::Postgres(database) => postgres::open_offline(database).await,
    }
}

/// Applies the missing migrations (none with `dry_run`). Returns all migrations with their state before the call.
pub async fn migrate(database: &Database, dry_run: bool) -> Result<Vec<Migration>, OpenError> {
    match database {
        Database::Sqlite(path) => {
            let path = path.clone();
            blocking(location(database), move || sqlite::migrate(&path, dry_run)).await
        }
        Database::Postgres(database) => postgres::migrate(database, dry_run).await,
    }
}

/// Checks that a first start can create the store: its folder or its schema. Leaves nothing behind.
pub async fn rehearse(database: &Database) -> Result<(), OpenError> {
    match database {
        Database::Sqlite(path) => {
            let path = path.clone();
            blocking(location(database), move || sqlite::migrations::rehearse(&path)).await
        }
        Database::Postgres(database) => postgres::rehearse(database).await,
    }
}

/// Fails if there is no store, or if a server is known to use it. The schema may be an older one.
pub async fn require_unused(database: &Database) -> Result<(), OpenError> {
    match database {
        Database::Sqlite(path) => {
            let path = path.clone();
            blocking(location(database), move || sqlite::require_unused(&path)).await
        }
        Database::Postgres(database) => postgres::require_unused(database).await,
    }
}

/// Begins an epoch in a store that was restored from a backup, so that ids, tokens and cursors given out since the backup are not
/// given out again. Fails if a server is known to use the store.
pub async fn begin_epoch(database: &Database) -> Result<NewEpoch, OpenError> {
    match database {
        Database::Sqlite(path) => {
            let path = path.clone();
            blocking(location(database), move || sqlite::begin_epoch(&path)).await
        }
        Database::Postgres(database) => postgres::begin_epoch(database).await,
    }
}

async fn blocking<T: Send + 'static>(
    location: String,
    open: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    tokio::task::spawn_blocking(open)
        .await
        .unwrap_or_else(|panicked| {
            Err(OpenError::Unavailable {
                location,
                source: panicked.into(),
            })
        })
}

/// Reports whether this error text of a database, or of a pooler in front of it, says that it has no connection left.
pub fn is_out_of_connections(text: &str) -> bool {
    postgres::is_refusal_text(text)
}

/// The location of the store, without secrets, for messages.
pub fn location(database: &Database) -> String {
    match database {
        Database::Sqlite(path) => format!("sqlite:{}", path.display()),
        Database::Postgres(database) => database.url.location.clone(),
    }
}
