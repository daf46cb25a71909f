//! Brings the schema of a file up to date, one transaction per step. What a step does is left to its file.

use std::path::Path;

use anyhow::Context;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use super::connection::{location, unavailable};
use crate::store::migrations::{self, Applied, Step};
use crate::store::open::{Migration, OpenError};

const STEPS: &[Step] = migrations::steps!("sqlite");

const CREATE_HISTORY: &str = "create table if not exists migrations (
    number integer primary key, name text not null, checksum text not null) strict";

/// Applies what is missing.
pub(super) fn apply(path: &Path, connection: &mut Connection) -> Result<(), OpenError> {
    let failed = |error: rusqlite::Error| unavailable(path, error.into());
    let is_new = applied(connection).map_err(failed)?.is_empty();
    for step in STEPS {
        // The state is read under the write lock, so that of two processes one waits and finds the work done.
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        transaction.execute_batch(CREATE_HISTORY).map_err(failed)?;
        if check(path, &transaction)?[(step.number - 1) as usize].applied {
            continue;
        }
        if !is_new {
            tracing::info!(
                step = step.name,
                "bringing the schema of the file up to date, which may take minutes where it holds many orders"
            );
        }
        run(&transaction, step).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        if !is_new {
            tracing::info!(step = step.name, "the schema of the file is a step further");
        }
    }
    Ok(())
}

/// Carries out what the first start does where there is no schema yet, and takes it back. Makes no file.
pub fn rehearse(path: &Path) -> Result<(), OpenError> {
    let failed = |error: rusqlite::Error| unavailable(path, error.into());
    if !path.exists() {
        return try_out_folder(path).map_err(|source| unavailable(path, source));
    }
    let mut connection = super::connection::open_reader(path).map_err(failed)?;
    connection
        .pragma_update(None, "query_only", false)
        .map_err(failed)?;
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    transaction.execute_batch(CREATE_HISTORY).map_err(failed)?;
    for step in STEPS {
        run(&transaction, step).map_err(failed)?;
    }
    transaction.rollback().map_err(failed)
}

/// The nearest folder there is must take another one or a file.
fn try_out_folder(path: &Path) -> anyhow::Result<()> {
    let path = std::path::absolute(path)?;
    let folder = path.ancestors().skip(1).find(|folder| folder.exists());
    let folder = folder.context("the path has no folder")?;
    crate::store::probe::writable(folder).with_context(|| format!("write into {}", folder.display()))
}

fn run(transaction: &Transaction<'_>, step: &Step) -> Result<(), rusqlite::Error> {
    transaction.execute_batch(step.sql)?;
    transaction.execute(
        "insert into migrations (number, name, checksum) values (?1, ?2, ?3)",
        (step.number, step.name, step.checksum()),
    )?;
    Ok(())
}

/// All steps and whether they are applied; an error when the file is newer or was built otherwise.
pub(super) fn check(path: &Path, connection: &Connection) -> Result<Vec<Migration>, OpenError> {
    let applied = applied(connection).map_err(|error| unavailable(path, error.into()))?;
    migrations::compare(&location(path), STEPS, &applied)
}

/// Refuses a schema that lacks a step.
pub(super) fn require_current(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    migrations::require_current(&location(path), &check(path, connection)?)
}

/// Empty for a file without a schema.
fn applied(connection: &Connection) -> Result<Vec<Applied>, rusqlite::Error> {
    let exists = connection
        .query_row(
            "select 1 from sqlite_schema where type = 'table' and name = 'migrations'",
            [],
            |_| Ok(()),
        )
        .optional()?;
    if exists.is_none() {
        return Ok(Vec::new());
    }
    connection
        .prepare("select number, checksum from migrations")?
        .query_map([], |row| {
            Ok(Applied {
                number: row.get(0)?,
                checksum: row.get(1)?,
            })
        })?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::connection::open_writer;
    use super::super::listing;
    use super::*;
    use crate::order::OrderStatus;
    use crate::store::OrderQuery;

    #[test]
    fn steps_are_numbered_from_one_without_holes() {
        for (place, step) in STEPS.iter().enumerate() {
            assert_eq!(step.number as usize, place + 1);
        }
    }

    /// Two orders of each way to be, in a file of the version before the indexes were divided.
    #[test]
    fn what_a_file_holds_is_listed_after_the_indexes_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        let mut connection = open_writer(&path).unwrap();
        let before = STEPS.iter().filter(|step| step.number < 4);
        before.for_each(|step| connection.execute_batch(step.sql).unwrap());
        connection.execute_batch(CREATE_HISTORY).unwrap();
        for step in STEPS.iter().filter(|step| step.number < 4) {
            connection
                .execute(
                    "insert into migrations values (?1, ?2, ?3)",
                    (step.number, step.name, step.checksum()),
                )
                .unwrap();
        }
        for (id, status, due_at, finished_at) in [
            (1, 0, None, None),
            (2, 0, Some(5), None),
            (3, 1, None, None),
            (4, 2, None, Some(6)),
            (5, 3, None, Some(6)),
            (6, 4, None, Some(6)),
        ]
        .into_iter()
        .flat_map(|(id, status, due_at, finished_at)| {
            [id, id + 6].map(|id| (id, status, due_at, finished_at))
        }) {
            connection
                .execute(
                    "insert into orders (order_id, status, version, attempts, generation, crashes, token, created_at,
                                         user_id, total_amount, item_ids, due_at, finished_at)
                     values (?1, ?2, 1, 0, 0, 0, 0, 1, 7, 100, '1', ?3, ?4)",
                    (id, status, due_at, finished_at),
                )
                .unwrap();
        }
        apply(&path, &mut connection).unwrap();
        for user_id in [None, Some(7)] {
            let mut found = Vec::new();
            for status in OrderStatus::ALL {
                let query = OrderQuery {
                    status: Some(status),
                    user_id,
                    limit: 50,
                    ..OrderQuery::default()
                };
                let page = listing::orders(&connection, &query).unwrap();
                assert!(page.orders.iter().all(|order| order.status == status));
                assert!(page.orders.is_sorted_by(|one, next| one.order_id > next.order_id));
                found.extend(page.orders.iter().map(|order| order.order_id.0));
            }
            found.sort_unstable();
            assert!(found.iter().copied().eq(1..=12), "{user_id:?}: {found:?}");
        }
    }

    #[test]
    fn a_newer_older_or_changed_schema_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        let mut connection = open_writer(&path).unwrap();
        assert!(matches!(
            require_current(&path, &connection),
            Err(OpenError::SchemaOlder { found: 0, .. })
        ));
        apply(&path, &mut connection).unwrap();
        apply(&path, &mut connection).unwrap();
        require_current(&path, &connection).unwrap();

        connection
            .execute("update migrations set checksum = 'x'", [])
            .unwrap();
        assert!(matches!(
            apply(&path, &mut connection),
            Err(OpenError::MigrationChanged { number: 1, .. })
        ));
        connection
            .execute("insert into migrations values (99, 'later', 'x')", [])
            .unwrap();
        assert!(matches!(
            apply(&path, &mut connection),
            Err(OpenError::SchemaNewer { found: 99, .. })
        ));
    }
}
