//! Brings the schema of a file up to date, one transaction per step. What a step does is left to its file.

use std::fmt::Write;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use sha2::{Digest, Sha256};

use super::connection::{location, unavailable};
use crate::store::open::{Migration, OpenError};

struct Step {
    number: u32,
    name: &'static str,
    sql: &'static str,
}

/// Same numbers and names as in the folders of the other drivers.
const STEPS: [Step; 1] = [Step {
    number: 1,
    name: "initial",
    sql: include_str!("../../../migrations/sqlite/0001_initial.sql"),
}];

const CREATE_HISTORY: &str = "create table if not exists migrations (
    number integer primary key, name text not null, checksum text not null) strict";

/// Applies what is missing.
pub(super) fn apply(path: &Path, connection: &mut Connection) -> Result<(), OpenError> {
    let failed = |error: rusqlite::Error| unavailable(path, error.into());
    for step in &STEPS {
        // The state is read under the write lock, so that of two processes one waits and finds the work done.
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        transaction.execute_batch(CREATE_HISTORY).map_err(failed)?;
        if check(path, &transaction)?[(step.number - 1) as usize].applied {
            continue;
        }
        run(&transaction, step).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}

fn run(transaction: &Transaction<'_>, step: &Step) -> Result<(), rusqlite::Error> {
    transaction.execute_batch(step.sql)?;
    transaction.execute(
        "insert into migrations (number, name, checksum) values (?1, ?2, ?3)",
        (step.number, step.name, checksum(step)),
    )?;
    Ok(())
}

/// All steps and whether they are applied; an error when the file is newer or was built otherwise.
pub(super) fn check(path: &Path, connection: &Connection) -> Result<Vec<Migration>, OpenError> {
    let failed = |error: rusqlite::Error| unavailable(path, error.into());
    let known = STEPS.last().map_or(0, |step| step.number);
    let found = newest(connection).map_err(failed)?;
    if found > known {
        return Err(OpenError::SchemaNewer {
            location: location(path),
            found,
            known,
        });
    }
    let mut migrations = Vec::with_capacity(STEPS.len());
    for step in &STEPS {
        let applied = step.number <= found;
        if applied {
            let stored: String = connection
                .query_row(
                    "select checksum from migrations where number = ?1",
                    [step.number],
                    |row| row.get(0),
                )
                .map_err(failed)?;
            if stored != checksum(step) {
                return Err(OpenError::MigrationChanged {
                    location: location(path),
                    number: step.number,
                });
            }
        }
        migrations.push(Migration {
            number: step.number,
            name: step.name,
            applied,
        });
    }
    Ok(migrations)
}

/// Refuses a schema that lacks a step.
pub(super) fn require_current(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    let migrations = check(path, connection)?;
    let newest = |applied_only: bool| {
        let steps = migrations.iter().filter(|step| step.applied || !applied_only);
        steps.map(|step| step.number).max().unwrap_or(0)
    };
    let (found, needed) = (newest(true), newest(false));
    if found < needed {
        return Err(OpenError::SchemaOlder {
            location: location(path),
            found,
            needed,
        });
    }
    Ok(())
}

/// 0 for a file without a schema.
fn newest(connection: &Connection) -> Result<u32, rusqlite::Error> {
    let exists = connection
        .query_row(
            "select 1 from sqlite_schema where type = 'table' and name = 'migrations'",
            [],
            |_| Ok(()),
        )
        .optional()?;
    match exists {
        None => Ok(0),
        Some(()) => connection.query_row("select coalesce(max(number), 0) from migrations", [], |row| {
            row.get(0)
        }),
    }
}

fn checksum(step: &Step) -> String {
    let digest = Sha256::digest(step.sql);
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::super::connection::open_writer;
    use super::*;

    #[test]
    fn steps_are_numbered_from_one_without_holes() {
        for (place, step) in STEPS.iter().enumerate() {
            assert_eq!(step.number as usize, place + 1);
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
