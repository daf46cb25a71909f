//! `verify`, `doctor` and `migrate`: the commands that open the store themselves.

use std::path::Path;

use rusqlite::Connection;
use serde_json::{Value, json};

use super::{CommandOutput, Fixture, command, run};
use crate::fulfilment::receiver::Receiver;
use crate::support::postgres::{self, Server, TestDatabase};
use crate::support::required;

/// A store with three completed orders and no running server.
async fn stopped_fixture() -> Fixture {
    let fixture = Fixture::open(&[("ORDERLY_SIMULATED_SPEED", "0")]).await;
    for user_id in 1..=3 {
        fixture.order(user_id).await;
        assert_eq!(fixture.ended(user_id).await["status"], "Completed");
    }
    fixture
}

fn finding(output: &CommandOutput) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error} in {}", output.stdout))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_store_is_verified_while_its_server_runs() {
    let fixture = stopped_fixture().await;
    let report = fixture.run("verify --json").await.json();
    let sound =
        json!({"sound": true, "orders": 3, "events": 9, "keys": 3, "breaches_total": 0, "breaches": []});
    assert_eq!(report, sound);
    fixture.close().await;
}

/// Each statement imitates a driver bug that would otherwise go unnoticed.
#[tokio::test(flavor = "multi_thread")]
async fn verify_detects_a_tampered_store() {
    let fixture = stopped_fixture().await;
    assert_eq!(fixture.server.terminate().await, Some(0));
    let folder = fixture.folder.path();
    let pristine = std::fs::read(folder.join("orderly.db")).unwrap();
    for tampering in [
        "update orders set status = 3 where order_id = 2",
        "update orders set version = 4 where order_id = 2",
        "update orders set attempts = 2 where order_id = 2",
        "delete from events where order_id = 2 and version = 2",
        "update events set kind = 4, status = 3 where order_id = 2 and version = 3",
        "delete from orders where order_id = 2",
        "update counters set completed = 4",
        "update counters set last_position = last_position + 1",
        "update counters set processing_micros = processing_micros + 1",
        "update orders set processing_at = 0 where order_id = 3",
        "update idempotency_keys set first_order_id = 9 where first_order_id = 2",
    ] {
        let file = Connection::open(folder.join("orderly.db")).unwrap();
        assert!(file.execute(tampering, []).unwrap() > 0, "{tampering}");
        drop(file);
        let output = run(command(folder, "verify --json")).await;
        assert_eq!(
            output.exit,
            Some(1),
            "{tampering}: {}{}",
            output.stdout,
            output.stderr
        );
        let report = finding(&output);
        assert_eq!(report["sound"], false, "{tampering}");
        assert!(
            report["breaches"][0]["detail"].is_string(),
            "{tampering}: {report}"
        );
        std::fs::write(folder.join("orderly.db"), &pristine).unwrap();
    }
    assert_eq!(run(command(folder, "verify")).await.exit, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_creates_no_store() {
    let folder = tempfile::tempdir().unwrap();
    run(command(folder.path(), "verify"))
        .await
        .assert_failed(1, "no store at");
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "nothing was created"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_a_running_server_healthy() {
    let fixture = stopped_fixture().await;
    let output = fixture
        .run(&format!("doctor --json --port {}", fixture.port()))
        .await;
    let report = finding(&output);
    assert_eq!(
        (output.exit, &report["healthy"]),
        (Some(0), &json!(true)),
        "{report}"
    );
    let checks: Vec<&str> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        checks,
        [
            "configuration",
            "disk",
            "store",
            "orders",
            "durability",
            "server",
            "feed",
            "clock"
        ]
    );
    for name in ["disk", "store", "durability", "feed", "clock", "server"] {
        let check = report["checks"]
            .as_array()
            .unwrap()
            .iter()
            .find(|check| check["name"] == name);
        assert_eq!(check.unwrap()["state"], "ok", "{report}");
    }
    let text = fixture.run(&format!("doctor --port {}", fixture.port())).await;
    assert!(text.stdout.contains("ok    store"), "{}", text.stdout);
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_reports_a_damaged_store_and_a_bad_setting_together() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("orderly.db"),
        "not a database, but long enough to be read",
    )
    .unwrap();
    let mut command = command(folder.path(), "doctor --json");
    command.env("ORDERLY_CONCURRENCY", "many");
    let output = run(command).await;
    let report = finding(&output);
    assert_eq!(
        (output.exit, &report["healthy"]),
        (Some(1), &json!(false)),
        "{report}"
    );
    let failed: Vec<&str> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["state"] == "fail")
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    assert_eq!(failed, ["configuration", "store"], "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_reports_whether_the_processing_service_is_reachable() {
    let receiver = Receiver::start().await;
    let url = receiver.url();
    let folder = tempfile::tempdir().unwrap();
    let asked = async || {
        let mut command = command(folder.path(), "doctor --json");
        command.envs([("ORDERLY_PROCESSOR", "http"), ("ORDERLY_PROCESSOR_URL", &url)]);
        let found = finding(&run(command).await);
        let checks = found["checks"].as_array().unwrap().clone();
        checks
            .into_iter()
            .find(|check| check["name"] == "processor")
            .unwrap()
    };
    assert_eq!(asked().await["state"], "ok");
    assert!(
        receiver.deliveries().is_empty(),
        "a connection check delivers nothing"
    );
    receiver.stop().await;
    let check = asked().await;
    assert_eq!(check["state"], "fail");
    assert!(
        check["finding"].as_str().unwrap().contains("Connection refused"),
        "{check}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_leaves_a_newer_schema_untouched() {
    let fixture = stopped_fixture().await;
    assert_eq!(fixture.server.terminate().await, Some(0));
    let folder = fixture.folder.path();
    let file = Connection::open(folder.join("orderly.db")).unwrap();
    file.execute(
        "insert into migrations (number, name, checksum) values (99, 'later', '')",
        [],
    )
    .unwrap();
    drop(file);
    run(command(folder, "serve")).await.assert_ended(78, "newer");
    for line in ["migrate", "migrate --dry-run", "verify"] {
        run(command(folder, line)).await.assert_failed(78, "newer");
    }
    let output = run(command(folder, "doctor --json")).await;
    assert_eq!(output.exit, Some(1), "{}", output.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_automatic_migration_off_a_store_is_migrated_once_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let strict = |line: &str| {
        let mut command = command(folder.path(), line);
        command.env("ORDERLY_MIGRATE", "off");
        command
    };
    run(strict("serve")).await.assert_ended(78, "orderly migrate");
    assert_eq!(run(strict("migrate")).await.exit, Some(0));
    assert_eq!(
        run(strict("migrate")).await.exit,
        Some(0),
        "a second migration has nothing to do"
    );
    assert_eq!(run(strict("verify")).await.exit, Some(0));
}

fn epoch_of(fixture: &Path) -> i64 {
    let file = Connection::open(fixture.join("orderly.db")).unwrap();
    let epoch = file.query_row(
        "select identity from epochs order by epoch desc limit 1",
        [],
        |row| row.get(0),
    );
    epoch.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_file_gets_a_new_epoch_only_without_a_running_server() {
    let fixture = stopped_fixture().await;
    fixture
        .run("migrate --restored")
        .await
        .assert_failed(1, "in use by another orderly process");
    assert_eq!(fixture.server.terminate().await, Some(0));
    let folder = fixture.folder.path();
    let first = epoch_of(folder);
    let plain = run(command(folder, "migrate --json")).await.json();
    assert_eq!((&plain["restored"], epoch_of(folder)), (&json!(false), first));
    let restored = run(command(folder, "migrate --restored --json")).await.json();
    assert_eq!(restored["restored"], true);
    let epoch = &restored["epoch"];
    assert!(epoch["number"].as_u64().unwrap() > 1, "{epoch}");
    assert!(
        epoch["first_order_id"].as_i64().unwrap() > 1_000_000_000,
        "{epoch}"
    );
    assert!(epoch["after_position"].as_i64().unwrap() > 0, "{epoch}");
    assert!(
        epoch["stored_until"].as_str().unwrap().starts_with("20"),
        "{epoch}"
    );
    let second = epoch_of(folder);
    assert_ne!(second, first);
    let output = run(command(folder, "migrate --restored")).await;
    assert!(output.stdout.contains("began with order"), "{}", output.stdout);
    assert_ne!(epoch_of(folder), second);
    assert_eq!(run(command(folder, "verify")).await.exit, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_gets_a_new_epoch_only_without_live_nodes() {
    if required("a private PostgreSQL", postgres::is_installed()) {
        let database = Server::shared().await.create_database().await;
        begins_an_epoch(&database, &database.url()).await;
    }
}

/// A pooler that keeps no prepared statement between two messages.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_behind_a_pooler_gets_a_new_epoch() {
    if required("a private PgBouncer", postgres::is_installed_with_pgbouncer()) {
        let database = Server::shared().await.create_database().await;
        begins_an_epoch(&database, &database.bouncer_url().await).await;
    }
}

async fn begins_an_epoch(database: &TestDatabase, url: &str) {
    let admin = database.admin().await;
    let folder = tempfile::tempdir().unwrap();
    let migrate = async |line: &str| {
        let mut command = command(folder.path(), line);
        command.env("DATABASE_URL", url);
        run(command).await
    };
    let epoch = async || -> i64 {
        let newest = "select identity from orderly.epochs order by epoch desc limit 1";
        admin.query_one(newest, &[]).await.unwrap().get(0)
    };
    migrate("migrate --restored")
        .await
        .assert_failed(1, "no store at");
    let nothing = "select to_regnamespace('orderly') is null";
    let nothing: bool = admin.query_one(nothing, &[]).await.unwrap().get(0);
    assert!(nothing, "the schema is empty");
    assert_eq!(migrate("migrate").await.exit, Some(0));
    let first = epoch().await;
    let node = "insert into orderly.nodes values (1, 1, 0, now(), now(), now() + interval '1 hour')";
    admin.batch_execute(node).await.unwrap();
    migrate("migrate --restored").await.assert_failed(1, "in use");
    assert_eq!(epoch().await, first);
    // A backup contains the nodes that were alive when it was made.
    let silent = "update orderly.nodes set expires_at = now() - interval '1 second'";
    admin.batch_execute(silent).await.unwrap();
    let output = migrate("migrate --restored").await;
    assert_eq!(output.exit, Some(0), "{}", output.stderr);
    assert!(output.stdout.contains("no event is stored"), "{}", output.stdout);
    assert_ne!(epoch().await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn restoring_without_a_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    run(command(folder.path(), "migrate --restored"))
        .await
        .assert_failed(1, "no store at");
    run(command(folder.path(), "migrate --restored --dry-run"))
        .await
        .assert_failed(2, "--dry-run");
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "nothing was created"
    );
}
