//! A store made by another build: every command refuses it, names the remedy and changes nothing.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tokio_postgres::Client;

use super::{CommandOutput, Fixture, command, run};
use crate::postgres::schema::rename_functions;
use crate::support::postgres::{self, Server};
use crate::support::process::{Process, orderly};
use crate::support::required;

const COMMANDS: [&str; 4] = ["migrate", "migrate --dry-run", "migrate --restored", "verify"];

/// The schema of a build with a different first migration.
const ANOTHER_FIRST_STEP: &str = "update migrations set checksum = 'x' where number = 1";
/// The same from a build with more migrations: the numbers do not tell which build is newer.
const MORE_STEPS: &str = "update migrations set checksum = 'x' where number = 1;
    insert into migrations (number, name, checksum) values (2, 'live', 'y'), (3, 'fulfilment', 'z')";

#[track_caller]
fn assert_refused(output: &CommandOutput, location: &str) {
    for part in [
        location,
        "was made by another build of orderly (migration 1 differs) and was left unchanged",
        "run the build that made it, or give this one an empty database",
    ] {
        output.assert_ended(78, part);
    }
    assert!(!output.stderr.contains("newer"), "{}", output.stderr);
}

/// Asserts that every command that opens the store refuses it.
async fn assert_refused_by_all(folder: &Path, url: &str, location: &str) {
    let run_line = async |line: &str| {
        let mut command = command(folder, line);
        command.env("DATABASE_URL", url);
        run(command).await
    };
    assert_refused(&run_line("serve").await, location);
    for line in COMMANDS {
        let output = run_line(line).await;
        assert_refused(&output, location);
        assert_eq!(output.stdout, "", "{line}");
    }
    let output = run_line("doctor --json").await;
    assert_eq!(output.exit, Some(1), "{}{}", output.stdout, output.stderr);
    for part in ["was made by another build of orderly", "docs/OPERATIONS.md"] {
        assert!(output.stdout.contains(part), "{}", output.stdout);
    }
}

/// Contents of the database file and of its write-ahead log.
fn contents(folder: &Path) -> [Vec<u8>; 2] {
    ["orderly.db", "orderly.db-wal"].map(|name| std::fs::read(folder.join(name)).unwrap_or_default())
}

/// Runs `sql` on the file, but keeps the contents of the write-ahead log.
fn tamper(folder: &Path, sql: &str) {
    let file = Connection::open(folder.join("orderly.db")).unwrap();
    file.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .unwrap();
    file.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    file.execute_batch(sql).unwrap();
}

async fn assert_file_is_left(folder: &Path) {
    let before = contents(folder);
    assert_refused_by_all(folder, "sqlite:orderly.db", "sqlite:orderly.db").await;
    let output = run(command(
        folder,
        "copy --from sqlite:orderly.db --to postgres://127.0.0.1:1/x",
    ))
    .await;
    assert_refused(&output, "sqlite:orderly.db");
    // Compares every byte without printing the contents.
    assert!(contents(folder) == before, "the files were changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_build_is_left_unchanged() {
    let fixture = Fixture::open(&[]).await;
    fixture.order(1).await;
    let folder = fixture.folder;
    assert_eq!(fixture.server.terminate().await, Some(0));
    tamper(
        folder.path(),
        &format!("{ANOTHER_FIRST_STEP}; pragma wal_checkpoint(truncate)"),
    );
    assert_file_is_left(folder.path()).await;
}

/// A clean stop copies the write-ahead log into the file; a kill leaves both.
#[tokio::test(flavor = "multi_thread")]
async fn the_write_ahead_log_of_another_build_is_left_unchanged() {
    let fixture = Fixture::open(&[]).await;
    fixture.order(1).await;
    let folder = fixture.folder;
    fixture.server.kill().await;
    tamper(folder.path(), MORE_STEPS);
    assert!(!contents(folder.path())[1].is_empty(), "the log is not empty");
    assert_file_is_left(folder.path()).await;
}

/// A backup written by `vacuum into`: a server would change its journal mode first.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_another_build_keeps_its_journal_mode() {
    let fixture = Fixture::open(&[]).await;
    fixture.order(1).await;
    let folder = fixture.folder;
    assert_eq!(fixture.server.terminate().await, Some(0));
    tamper(folder.path(), MORE_STEPS);
    let backup = tempfile::tempdir().unwrap();
    let into = format!("vacuum into '{}'", backup.path().join("orderly.db").display());
    tamper(folder.path(), &into);
    assert_file_is_left(backup.path()).await;
}

/// Every row of every table, with the transaction that wrote it.
async fn rows(admin: &Client) -> BTreeMap<String, Vec<String>> {
    let tables = "select relname::text from pg_class
        where relnamespace = 'orderly'::regnamespace and relkind = 'r'";
    let mut found = BTreeMap::new();
    for table in admin.query(tables, &[]).await.unwrap() {
        let table: String = table.get(0);
        let rows = format!("select concat_ws(' ', xmin, t.*::text) from orderly.{table} as t order by 1");
        let rows = admin.query(&rows, &[]).await.unwrap();
        found.insert(table, rows.iter().map(|row| row.get(0)).collect());
    }
    found
}

/// Schema objects from the catalog, with the transactions that created them.
async fn objects(admin: &Client) -> Vec<String> {
    let objects = "select concat_ws(' ', 'relation', xmin, oid, relname, relfilenode) from pg_class
        where relnamespace = 'orderly'::regnamespace
        union all select concat_ws(' ', 'function', xmin, oid, proname) from pg_proc
        where pronamespace = 'orderly'::regnamespace
        union all select concat_ws(' ', 'schema', xmin, oid) from pg_namespace where nspname = 'orderly'
        order by 1";
    let objects = admin.query(objects, &[]).await.unwrap();
    objects.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_build_is_left_unchanged() {
    if !required("a private PostgreSQL", postgres::is_installed()) {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let url = database.url();
    let folder = tempfile::tempdir().unwrap();
    let mut serve = command(folder.path(), "serve");
    serve.env("DATABASE_URL", &url);
    let fixture = Fixture {
        server: Process::start(serve).await,
        folder,
    };
    fixture.order(1).await;
    fixture.ended(1).await;
    assert_eq!(fixture.server.terminate().await, Some(0));
    let admin = database.admin().await;
    admin
        .batch_execute("set search_path to orderly, pg_catalog")
        .await
        .unwrap();
    for tampering in [ANOTHER_FIRST_STEP, MORE_STEPS] {
        admin.batch_execute(tampering).await.unwrap();
        let before = (rows(&admin).await, objects(&admin).await);
        assert_eq!(before.0["orders"].len(), 1);
        assert_refused_by_all(fixture.folder.path(), &url, database.name()).await;
        assert_eq!((rows(&admin).await, objects(&admin).await), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_into_a_database_of_another_build_is_refused() {
    if !required("a private PostgreSQL", postgres::is_installed()) {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let fixture = Fixture::open(&[]).await;
    fixture.order(1).await;
    let folder = fixture.folder;
    assert_eq!(fixture.server.terminate().await, Some(0));
    let run_line = async |line: &str| {
        let mut command = command(folder.path(), line);
        command.env("DATABASE_URL", database.url());
        run(command).await
    };
    assert_eq!(run_line("migrate").await.exit, Some(0));
    let admin = database.admin().await;
    let tampering = "update orderly.migrations set checksum = 'x'";
    admin.batch_execute(tampering).await.unwrap();
    let before = (rows(&admin).await, objects(&admin).await);
    let output = run_line("copy --from sqlite:orderly.db").await;
    assert_refused(&output, database.name());
    assert_eq!((rows(&admin).await, objects(&admin).await), before);
}

/// A build that changed a statement but no table has other functions.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_functions_of_another_build_requires_a_migration() {
    if !required("a private PostgreSQL", postgres::is_installed()) {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let url = database.url();
    let folder = tempfile::tempdir().unwrap();
    let strict = |line: &str| {
        let mut command = command(folder.path(), line);
        command.envs([("DATABASE_URL", url.as_str()), ("ORDERLY_MIGRATE", "off")]);
        command
    };
    assert_eq!(run(strict("migrate")).await.exit, Some(0));
    rename_functions(&database.admin().await).await;
    run(strict("serve"))
        .await
        .assert_ended(78, "lacks functions of this binary: run `orderly migrate`");
    assert_eq!(run(strict("migrate")).await.exit, Some(0));
    let mut served = orderly(folder.path());
    served.envs([("DATABASE_URL", url.as_str()), ("ORDERLY_MIGRATE", "off")]);
    let served = Process::start(served).await;
    assert_eq!(served.terminate().await, Some(0));
}
