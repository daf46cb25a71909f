//! Opens the store a configuration names, whichever driver it takes.

use std::sync::Arc;

use super::measured::measured;
use super::postgres::{self, Postgres};
use super::sqlite::{self, Sqlite};
use super::survey::Survey;
use super::{Begun, Snapshot, Store};
use crate::config::{Database, PostgresDatabase};

pub use super::opening::{Migration, OpenError, OpenOptions};

/// Opens for serving, creating what does not exist yet.
pub async fn open(database: &Database, options: OpenOptions) -> Result<Arc<dyn Store>, OpenError> {
    let calls = options.metrics.store_calls.clone();
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

/// Asks each server that the URLs of a shared database name.
pub async fn survey(database: &PostgresDatabase) -> Survey {
    postgres::survey(database).await
}

/// Opens for reading at one instant, also beside a running server; creates nothing.
pub async fn open_snapshot(database: &Database) -> Result<Box<dyn Snapshot>, OpenError> {
    match database {
        Database::Sqlite(path) => {
            let path = path.clone();
            blocking(location(database), move || sqlite::open_snapshot(&path)).await
        }
        Database::Postgres(database) => postgres::open_snapshot(database).await,
    }
}

/// The same without a server beside it: refused while one runs. A file stays closed to servers as long as the snapshot
/// lives; of a shared database nobody can say that no node will come.
pub async fn open_offline(database: &Database) -> Result<Box<dyn Snapshot>, OpenError> {
    match database {
        Database::Sqlite(path) => {
            let path = path.clone();
            blocking(location(database), move || sqlite::open_offline(&path)).await
        }
        Database::Postgres(database) => postgres::open_offline(database).await,
    }
}

/// Applies the missing migrations (none with `dry_run`) and answers all of them with their state before the call.
pub async fn migrate(database: &Database, dry_run: bool) -> Result<Vec<Migration>, OpenError> {
    match database {
        Database::Sqlite(path) => {
            let path = path.clone();
            blocking(location(database), move || sqlite::migrate(&path, dry_run)).await
        }
        Database::Postgres(database) => postgres::migrate(database, dry_run).await,
    }
}

/// Tries out what the first start does where there is no store yet: making its folder or its schema. Leaves nothing behind.
pub async fn rehearse(database: &Database) -> Result<(), OpenError> {
    match database {
        Database::Sqlite(path) => {
            let path = path.clone();
            blocking(location(database), move || sqlite::migrations::rehearse(&path)).await
        }
        Database::Postgres(database) => postgres::rehearse(database).await,
    }
}

/// Refuses where there is no store, or a server runs on it, where that can be told; its schema may be an older one.
pub async fn require_unused(database: &Database) -> Result<(), OpenError> {
    match database {
        Database::Sqlite(path) => {
            let path = path.clone();
            blocking(location(database), move || sqlite::require_unused(&path)).await
        }
        Database::Postgres(database) => postgres::require_unused(database).await,
    }
}

/// Begins an epoch of a store that was restored from a backup, so that nothing is given out again that was given out since the
/// backup. Refused while a server runs, where that can be told.
pub async fn begin_epoch(database: &Database) -> Result<Begun, OpenError> {
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

/// Reports whether a database, or a pooler before it, said that it has no connection left.
pub fn tells_of_no_connection(told: &str) -> bool {
    postgres::is_refusal_text(told)
}

/// Where the data is, without secrets: for people.
pub fn location(database: &Database) -> String {
    match database {
        Database::Sqlite(path) => format!("sqlite:{}", path.display()),
        Database::Postgres(database) => database.url.location.clone(),
    }
}
