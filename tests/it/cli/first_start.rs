//! `doctor` before the first start: it tries what the start will do and leaves nothing behind.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rusqlite::Connection;
use serde_json::Value;
use tokio::process::Command;

use super::{CommandOutput, command, run};
use crate::support::postgres::{self, Certificate, Options, Server, TestDatabase};
use crate::support::required;

fn check(output: &CommandOutput, name: &str) -> Value {
    let report: Value = serde_json::from_str(&output.stdout).expect("doctor answers JSON");
    let checks = report["checks"].as_array().expect("checks are a list");
    let found = checks.iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report}")).clone()
}

async fn doctor(folder: &Path, settings: &[(&str, &str)]) -> CommandOutput {
    let mut command = command(folder, "doctor --json");
    command.envs(settings.iter().copied());
    run(command).await
}

#[track_caller]
fn assert_check(output: &CommandOutput, name: &str, state: &str, finding: &str, advice: &str) {
    let check = check(output, name);
    assert_eq!(check["state"], state, "{check}");
    for (member, part) in [("finding", finding), ("advice", advice)] {
        let text = check[member].as_str().unwrap_or_default();
        assert!(text.contains(part), "{check}");
    }
    assert!(!output.stdout.contains("psql"), "{}", output.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_passes_before_a_first_start_that_works() {
    let folder = tempfile::tempdir().unwrap();
    for path in ["sqlite:orderly.db", "sqlite:a/b/orderly.db"] {
        let output = doctor(folder.path(), &[("DATABASE_URL", path)]).await;
        assert_check(&output, "store", "warn", "no store at", "orderly serve");
        assert_eq!(output.exit, Some(0), "{}", output.stdout);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_an_unwritable_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "in the way").unwrap();
    let settings = [
        ("DATABASE_URL", "sqlite:file/orderly.db"),
        ("ORDERLY_LOG_DIR", "file/logs"),
    ];
    let output = doctor(folder.path(), &settings).await;
    assert_check(&output, "store", "fail", "none can be created", "DATABASE_URL");
    assert_check(
        &output,
        "log-unwritable",
        "fail",
        "no log file",
        "ORDERLY_LOG_DIR",
    );
    assert_eq!(output.exit, Some(1));
    // Writing there fails for root too.
    if Path::new("/proc/self").exists() {
        let output = doctor(folder.path(), &[("DATABASE_URL", "sqlite:/proc/orderly.db")]).await;
        assert_check(&output, "store", "fail", "none can be created", "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_another_programs_tables_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orderly.db");
    let file = Connection::open(&path).unwrap();
    file.execute_batch("create table orders (id integer); insert into orders values (1)")
        .unwrap();
    drop(file);
    let before = std::fs::read(&path).unwrap();
    let output = doctor(folder.path(), &[]).await;
    assert_check(
        &output,
        "store",
        "fail",
        "already exists",
        "a database of its own",
    );
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let start = run(command(folder.path(), "serve")).await;
    start.assert_ended(1, "already exists");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_fails_where_no_start_may_create_the_schema() {
    let folder = tempfile::tempdir().unwrap();
    let output = doctor(folder.path(), &[("ORDERLY_MIGRATE", "off")]).await;
    assert_check(&output, "store", "fail", "no store at", "run `orderly migrate`");
}

/// A separate database on a server that requires passwords.
async fn database() -> Option<TestDatabase> {
    if !required("a private PostgreSQL", postgres::is_installed()) {
        return None;
    }
    let server = Server::start(Options::default().password("hunter2")).await;
    Some(server.create_database().await)
}

async fn node(folder: &Path, url: &str, line: &str) -> CommandOutput {
    let mut command = command(folder, line);
    command.env("DATABASE_URL", url);
    run(command).await
}

/// The role may only connect at first.
#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_a_missing_database_privilege() {
    let Some(database) = database().await else { return };
    let admin = database.admin().await;
    let role = "create role shop login password 'hunter2'";
    admin.batch_execute(role).await.unwrap();
    let url = database.url().replace("postgres:hunter2@", "shop:hunter2@");
    assert!(url.contains("shop:"), "{url}");
    let folder = tempfile::tempdir().unwrap();
    let output = node(folder.path(), &url, "doctor --json").await;
    assert_check(&output, "store", "fail", "42501", "grant create on database");
    node(folder.path(), &url, "serve").await.assert_ended(1, "42501");

    let grant = format!("grant create on database \"{}\" to shop", database.name());
    admin.batch_execute(&grant).await.unwrap();
    let output = node(folder.path(), &url, "doctor --json").await;
    assert_check(&output, "store", "warn", "no store at", "orderly serve");
    let none = "select to_regnamespace('orderly') is null";
    let none: bool = admin.query_one(none, &[]).await.unwrap().get(0);
    assert!(none, "nothing was created");

    assert_eq!(node(folder.path(), &url, "migrate").await.exit, Some(0));
    let revoke = "alter table orderly.orders owner to postgres";
    admin.batch_execute(revoke).await.unwrap();
    let output = node(folder.path(), &url, "doctor --json").await;
    assert_check(
        &output,
        "store",
        "fail",
        "permission denied for table orders",
        "make it their owner",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_a_foreign_schema_of_the_same_name() {
    let Some(database) = database().await else { return };
    let foreign = "create schema orderly; create table orderly.orders (id integer)";
    database.admin().await.batch_execute(foreign).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let output = node(folder.path(), &database.url(), "doctor --json").await;
    assert_check(
        &output,
        "store",
        "fail",
        "already exists",
        "a database of its own",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_advice_matches_the_database_error() {
    let Some(database) = database().await else { return };
    let good = database.url();
    let folder = tempfile::tempdir().unwrap();
    for (url, finding, advice) in [
        (good.replace("hunter2", "wrong"), "28P01", "PGPASSWORD"),
        (good.replace(":hunter2", ""), "wants a password", "PGPASSWORD"),
        (good.replace(database.name(), "nothing_here"), "3D000", "createdb"),
        (
            format!("{good}?sslmode=require"),
            "does not support TLS",
            "sslmode",
        ),
        (
            "postgres://me:x@127.0.0.1:1/db".to_owned(),
            "refused",
            "start PostgreSQL",
        ),
    ] {
        let output = node(folder.path(), &url, "doctor --json").await;
        assert_check(&output, "store", "fail", finding, advice);
    }
}

/// Errors that waiting cannot fix end the start.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_fails_at_once_on_permanent_errors() {
    let Some(database) = database().await else { return };
    let good = database.url();
    let self_signed = Options::default().certificate(Certificate::self_signed(&["127.0.0.1"]));
    let encrypted = Server::start(self_signed).await.create_database().await;
    let folder = tempfile::tempdir().unwrap();
    for (url, because) in [
        (good.replace(":hunter2", ""), "wants a password"),
        (format!("{good}?sslmode=require"), "does not support TLS"),
        (format!("{}?sslmode=verify-full", encrypted.url()), "certificate"),
    ] {
        node(folder.path(), &url, "serve").await.assert_ended(1, because);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_refused_by_the_pooler_ends_the_start() {
    if !required("a private PgBouncer", postgres::is_installed_with_pgbouncer()) {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let url = format!(
        "{}?options=-c%20statement_timeout%3D1s",
        database.bouncer_url().await
    );
    let folder = tempfile::tempdir().unwrap();
    let because = "unsupported startup parameter";
    node(folder.path(), &url, "serve").await.assert_ended(1, because);
    let output = node(folder.path(), &url, "doctor --json").await;
    assert_check(&output, "store", "fail", because, "ignore_startup_parameters");
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_found_in_the_same_places_as_psql() {
    let Some(database) = database().await else { return };
    let url = database.url().replace(":hunter2", "");
    let folder = tempfile::tempdir().unwrap();
    let home = tempfile::tempdir().unwrap();
    let migrate = |more: &[(&str, &str)]| {
        let mut command: Command = command(folder.path(), "migrate");
        command.env("DATABASE_URL", &url).env("HOME", home.path());
        command.envs(more.iter().copied());
        run(command)
    };
    migrate(&[]).await.assert_failed(1, "wants a password");
    assert_eq!(migrate(&[("PGPASSWORD", "hunter2")]).await.exit, Some(0));
    let file = home.path().join(".pgpass");
    std::fs::write(&file, "*:*:*:postgres:hunter2\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = migrate(&[]).await;
    output.assert_failed(1, "chmod 600");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(migrate(&[]).await.exit, Some(0));
    // URLs in arguments too.
    run(command(folder.path(), "migrate")).await;
    for line in [
        format!("copy --from sqlite:orderly.db --to {url}"),
        format!("verify --database-url {url}"),
    ] {
        let mut command = command(folder.path(), &line);
        command.env("HOME", home.path());
        let output = run(command).await;
        assert_eq!(output.exit, Some(0), "{line}: {}", output.stderr);
    }
}
