//! `orderly copy`: from the embedded store to PostgreSQL, as an operator runs it.

use rusqlite::Connection;
use serde_json::{Value, json};

use super::{CommandOutput, Fixture, command, run};
use crate::support::client::http;
use crate::support::postgres::{self, Server, TestDatabase};
use crate::support::process::{Process, orderly};
use crate::support::required;

/// Returns an empty database, or `None` without PostgreSQL.
async fn database() -> Option<TestDatabase> {
    if !required("a private PgBouncer", postgres::is_installed_with_pgbouncer()) {
        return None;
    }
    Some(Server::shared().await.create_database().await)
}

/// The folder of a server that was killed at work: three orders have ended, two have not.
async fn killed_server_folder() -> tempfile::TempDir {
    let fixture = Fixture::open(&[("ORDERLY_SIMULATED_SPEED", "0")]).await;
    for user_id in 1..=3 {
        fixture.order(user_id).await;
        assert_eq!(fixture.ended(user_id).await["status"], "Completed");
    }
    assert_eq!(fixture.server.terminate().await, Some(0));
    let mut slow = orderly(fixture.folder.path());
    slow.env("ORDERLY_SIMULATED_SPEED", "0.001");
    let fixture = Fixture {
        server: Process::start(slow).await,
        folder: fixture.folder,
    };
    for user_id in 4..=5 {
        fixture.order(user_id).await;
    }
    let output = fixture
        .run("copy --from sqlite:orderly.db --to postgres://127.0.0.1:1/x")
        .await;
    output.assert_failed(1, "in use by another orderly process");
    fixture.server.kill().await;
    fixture.folder
}

/// The exit code and JSON of a copy. The log on stderr may warn that the test server promises no durability.
#[track_caller]
fn result(output: &CommandOutput, exit: i32) -> Value {
    assert_eq!(output.exit, Some(exit), "{}{}", output.stdout, output.stderr);
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error} in {}", output.stdout))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_copied_to_postgresql_continues_there() {
    let Some(database) = database().await else {
        return;
    };
    let folder = killed_server_folder().await;
    let url = database.bouncer_url().await;
    // The target comes from the settings, so no password is on the command line.
    let mut copy = command(folder.path(), "copy --from sqlite:orderly.db --json");
    copy.env("DATABASE_URL", &url);
    let copied = result(&run(copy).await, 0);
    let expected = json!({"copied": true, "orders": 5, "keys": 5, "differences_total": 0, "differences": []});
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&copied[name], value, "{name} of {copied}");
    }
    assert_eq!(copied["from"], "sqlite:orderly.db");

    let mut serve = orderly(folder.path());
    serve.env("DATABASE_URL", &url);
    serve.envs([("ORDERLY_SIMULATED_SPEED", "0"), ("ORDERLY_LEASE", "1s")]);
    let fixture = Fixture {
        server: Process::start(serve).await,
        folder,
    };
    for user_id in 4..=5 {
        assert_eq!(fixture.ended(user_id).await["status"], "Completed");
    }
    assert_eq!(fixture.order(6).await["order_id"], 6);
    assert_eq!(fixture.order(3).await["order_id"], 3, "its key is not known");
    fixture.ended(6).await;
    let metrics = http().get(format!("{}/metrics", fixture.server.url)).send().await;
    let metrics: Value = metrics.unwrap().json().await.unwrap();
    assert_eq!(metrics["completed_orders"], 6, "{metrics}");
    assert_eq!(fixture.server.terminate().await, Some(0));
    let mut verify = command(fixture.folder.path(), "verify");
    verify.env("DATABASE_URL", &url);
    let output = run(verify).await;
    assert_eq!(output.exit, Some(0), "{}{}", output.stdout, output.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_or_interrupted_copy_leaves_nothing_behind() {
    let Some(database) = database().await else {
        return;
    };
    let folder = killed_server_folder().await;
    let line = format!("copy --from sqlite:orderly.db --to {} --json", database.url());
    let file = folder.path().join("orderly.db");
    let change = |statement: &str| {
        let file = Connection::open(&file).unwrap();
        assert!(file.execute(statement, []).unwrap() > 0, "{statement}");
    };
    // PostgreSQL integers have a smaller range than those of SQLite.
    change("update orders set attempts = 3000000000 where order_id = 2");
    let output = run(command(folder.path(), &line)).await;
    let report = result(&output, 1);
    assert_eq!(report["copied"], false);
    // The events of the order contain the attempts as well.
    let differences = ["order 2: its state differs", "order 2: its history differs"];
    assert_eq!(report["differences"], json!(differences));
    // PostgreSQL text cannot contain NUL.
    change("update orders set attempts = 1, last_error = char(65, 0) where order_id = 2");
    run(command(folder.path(), &line))
        .await
        .assert_failed(1, "write the copy");
    change("update orders set last_error = null where order_id = 2");
    let copied = result(&run(command(folder.path(), &line)).await, 0);
    assert_eq!(copied["orders"], 5);
    run(command(folder.path(), &line))
        .await
        .assert_failed(1, "already holds orders");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_requires_a_source_and_a_postgresql_target() {
    let folder = tempfile::tempdir().unwrap();
    let anywhere = "postgres://user:hunter2@127.0.0.1:1/x";
    for (line, exit, because) in [
        ("copy", 2, "--from"),
        ("copy --from sqlite:none.db", 78, "SQLite file"),
        ("copy --from sqlite:none.db --to sqlite:other.db", 78, "--to"),
        ("copy --from mysql://user:hunter2@h/d --to sqlite:x", 78, "--from"),
        (
            &*format!("copy --from sqlite:none.db --to {anywhere}"),
            1,
            "no store at",
        ),
        (
            &*format!("copy --from {anywhere} --to {anywhere}"),
            1,
            "127.0.0.1:1/x",
        ),
    ] {
        let output = run(command(folder.path(), line)).await;
        output.assert_failed(exit, because);
        assert!(!output.stderr.contains("hunter2"), "{line}: {}", output.stderr);
    }
    let made = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(made, 0, "nothing was created");
}
