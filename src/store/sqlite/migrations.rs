//! Migrates the schema of a file, one transaction per step.

use std::path::Path;

use anyhow::Context;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use super::connection::open_existing;
use super::files::{location, unavailable};
use crate::store::migrations::{self, Applied, Step};
use crate::store::opening::{Migration, OpenError};

const STEPS: &[Step] = migrations::steps!("sqlite");

const CREATE_HISTORY: &str = "create table if not exists migrations (
    number integer primary key, name text not null, checksum text not null) strict";

/// Applies the missing steps.
pub(super) fn apply(path: &Path, connection: &mut Connection) -> Result<(), OpenError> {
    apply_steps(STEPS, path, connection)
}

fn apply_steps(steps: &[Step], path: &Path, connection: &mut Connection) -> Result<(), OpenError> {
    let failed = |error: rusqlite::Error| unavailable(path, error.into());
    let is_new = applied(connection).map_err(failed)?.is_empty();
    for step in steps {
        // Checked under the write lock: a second process waits, and then finds the step applied.
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        transaction.execute_batch(CREATE_HISTORY).map_err(failed)?;
        if check_against(steps, path, &transaction)?[(step.number - 1) as usize].applied {
            continue;
        }
        if !is_new {
            tracing::info!(
                step = step.name,
                "migrating the schema of the file, which may take minutes if it holds many orders"
            );
        }
        run(&transaction, step).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        if !is_new {
            tracing::info!(step = step.name, "migrated the schema of the file");
        }
    }
    Ok(())
}

/// Tries out the first start on a database without a schema, and rolls it back. Creates no file.
pub fn rehearse(path: &Path) -> Result<(), OpenError> {
    let failed = |error: rusqlite::Error| unavailable(path, error.into());
    if !path.exists() {
        return check_folder(path).map_err(|source| unavailable(path, source));
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

/// Checks that the nearest existing parent folder can be written.
fn check_folder(path: &Path) -> anyhow::Result<()> {
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

/// All steps, and whether each is applied. Fails if another build or a newer binary made the file.
pub(super) fn check(path: &Path, connection: &Connection) -> Result<Vec<Migration>, OpenError> {
    check_against(STEPS, path, connection)
}

fn check_against(steps: &[Step], path: &Path, connection: &Connection) -> Result<Vec<Migration>, OpenError> {
    let applied = applied(connection).map_err(|error| unavailable(path, error.into()))?;
    migrations::compare(&location(path), steps, &applied)
}

/// Refuses the file of another build, before a writer opens it and thereby sets the journal mode and runs a checkpoint.
pub(super) fn require_known(path: &Path) -> Result<(), OpenError> {
    check(path, &open_existing(path)?).map(drop)
}

/// Refuses a schema that lacks a step.
pub(super) fn require_current(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    migrations::require_current(&location(path), &check(path, connection)?)
}

/// The applied steps; none for a file without a schema.
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
    use super::*;

    const LATER: Step = Step {
        number: 2,
        name: "later",
        sql: "create table later (id integer primary key) strict;
              insert into later select last_order_id from counters",
    };

    /// The steps of a later build.
    fn with(later: impl IntoIterator<Item = Step>) -> Vec<Step> {
        let today = STEPS.iter().map(|Step { number, name, sql }| Step {
            number: *number,
            name,
            sql,
        });
        today.chain(later).collect()
    }

    fn file() -> (tempfile::TempDir, std::path::PathBuf, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        let connection = open_writer(&path).unwrap();
        (folder, path, connection)
    }

    #[test]
    fn steps_are_numbered_from_one_without_gaps() {
        for (place, step) in STEPS.iter().enumerate() {
            assert_eq!(step.number as usize, place + 1);
        }
    }

    #[test]
    fn a_missing_step_is_applied_once() {
        let (_folder, path, mut connection) = file();
        apply(&path, &mut connection).unwrap();
        connection
            .execute("update counters set last_order_id = 7", [])
            .unwrap();
        let steps = with([LATER]);
        let applied = |connection: &Connection| -> Vec<bool> {
            let migrations = check_against(&steps, &path, connection).unwrap();
            migrations.iter().map(|step| step.applied).collect()
        };
        assert_eq!(applied(&connection), [true, false]);
        for _ in 0..2 {
            apply_steps(&steps, &path, &mut connection).unwrap();
            assert_eq!(applied(&connection), [true, true]);
            let moved: i64 = connection
                .query_row("select id from later", [], |row| row.get(0))
                .unwrap();
            assert_eq!(moved, 7);
        }
        assert!(matches!(
            require_current(&path, &connection),
            Err(OpenError::SchemaNewer {
                found: 2,
                known: 1,
                ..
            })
        ));
    }

    #[test]
    fn a_step_that_fails_changes_nothing() {
        let (_folder, path, mut connection) = file();
        let broken = Step {
            number: 3,
            name: "broken",
            sql: "drop table later; select nothing from nowhere",
        };
        let steps = with([LATER, broken]);
        assert!(apply_steps(&steps, &path, &mut connection).is_err());
        let migrations = check_against(&steps, &path, &connection).unwrap();
        let applied: Vec<bool> = migrations.iter().map(|step| step.applied).collect();
        assert_eq!(applied, [true, true, false]);
        connection.execute("select id from later", []).unwrap_err();
        let stored: i64 = connection
            .query_row("select count(*) from later", [], |row| row.get(0))
            .unwrap();
        assert_eq!(stored, 1);
    }

    #[test]
    fn a_newer_older_or_different_schema_is_refused() {
        let (_folder, path, mut connection) = file();
        assert!(matches!(
            require_current(&path, &connection),
            Err(OpenError::SchemaOlder { found: 0, .. })
        ));
        apply(&path, &mut connection).unwrap();
        apply(&path, &mut connection).unwrap();
        require_current(&path, &connection).unwrap();

        connection
            .execute("insert into migrations values (99, 'later', 'x')", [])
            .unwrap();
        assert!(matches!(
            apply(&path, &mut connection),
            Err(OpenError::SchemaNewer { found: 99, .. })
        ));
        // The numbers of another build do not show which build is newer.
        connection
            .execute("update migrations set checksum = 'x'", [])
            .unwrap();
        assert!(matches!(
            apply(&path, &mut connection),
            Err(OpenError::SchemaDiffers { number: 1, .. })
        ));
    }
}
