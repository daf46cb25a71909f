//! `orderly bench`: very short runs of every load. The measured speed is not checked.

use serde_json::Value;
use tempfile::TempDir;

use super::{CommandOutput, Fixture, PATIENCE, command, run};
use crate::support::postgres::{self, Server};
use crate::support::process::orderly;
use crate::support::{required, until};

/// The shortest possible run.
const SHORT: &str = "--duration 50ms --rounds 2 --connections 4 --json";

/// Runs a benchmark with its folder inside `folder`.
pub(super) async fn bench(folder: &TempDir, line: &str) -> CommandOutput {
    let line = format!("bench {line} {SHORT} --folder {}", folder.path().display());
    run(command(folder.path(), &line)).await
}

/// Returns the only load of a report, with all its figures present.
#[track_caller]
pub(super) fn only_load(output: &CommandOutput) -> Value {
    assert_eq!(output.exit, Some(0), "{}{}", output.stdout, output.stderr);
    let report: Value = serde_json::from_str(&output.stdout).expect("the report is JSON");
    let loads = report["loads"].as_array().expect("a list of loads");
    assert_eq!(loads.len(), 1, "{report}");
    assert!(loads[0]["rate"]["median"].as_f64() > Some(0.0), "{report}");
    let rounds = loads[0]["rounds"].as_array().expect("a list of rounds");
    assert_eq!(rounds.len(), 2, "{report}");
    for round in rounds {
        assert!(round["count"].as_u64() > Some(0), "{round}");
        assert_eq!(round["refused"], 0, "{round}");
    }
    loads[0].clone()
}

/// Asserts that no files and no processes are left.
#[track_caller]
fn assert_nothing_left(folder: &TempDir) {
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let folder = folder
        .path()
        .to_str()
        .expect("temporary folders have plain names");
    for process in std::fs::read_dir("/proc").unwrap() {
        let process = process.unwrap().path();
        // Processes that work in the folder or were given its path.
        let works_in = std::fs::read_link(process.join("cwd")).unwrap_or_default();
        let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let works_in = works_in.to_string_lossy().into_owned();
        assert!(
            !works_in.starts_with(folder) && !line.contains(folder),
            "{line} in {works_in}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_load_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    for line in [
        "accept",
        "batch --batch-size 10",
        "status",
        "mixed",
        "end-to-end",
        "drain --orders 1003",
        "pickup",
    ] {
        let output = bench(&folder, line).await;
        let load = only_load(&output);
        assert!(line.starts_with(load["load"].as_str().unwrap()), "{load}");
        assert_eq!(output.stderr, "", "{line}");
        assert_nothing_left(&folder);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_loop_reports_offered_and_unsent_requests() {
    let folder = tempfile::tempdir().unwrap();
    let load = only_load(&bench(&folder, "accept --rate 200").await);
    let round = &load["rounds"][0];
    assert_eq!(round["offered"], 200.0);
    // 50 ms at 200 requests per second.
    assert_eq!(
        round["count"].as_u64().unwrap() + round["unsent"].as_u64().unwrap(),
        10,
        "{round}"
    );
    let load = only_load(&bench(&folder, "status --rate 50%").await);
    assert!(load["rounds"][0]["offered"].as_f64() > Some(0.0), "{load}");
    assert_nothing_left(&folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_loads_are_shown_in_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let line = format!(
        "bench accept drain --orders 10 --users 7 --duration 50ms --rounds 1 --connections 1 --folder {}",
        folder.path().display()
    );
    let output = run(command(folder.path(), &line)).await;
    assert_eq!((output.exit, output.stderr.as_str()), (Some(0), ""));
    for text in [
        "sqlite, 7 users, 1 round of 0.05 s",
        "\naccept ",
        "\ndrain ",
        " orders/s",
    ] {
        assert!(output.stdout.contains(text), "{text} in {}", output.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgresql_the_server_gets_its_own_database() {
    if !required("a private PostgreSQL", postgres::is_installed()) {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let folder = tempfile::tempdir().unwrap();
    let line = format!("accept --database-url {}", database.url());
    let output = bench(&folder, &line).await;
    only_load(&output);
    assert_nothing_left(&folder);
    let admin = database.admin().await;
    let left = "select datname from pg_database where datname like 'orderly_bench_%'";
    assert_eq!(
        admin.query(left, &[]).await.unwrap().len(),
        0,
        "databases are dropped"
    );
    let tables = "select 1 from pg_tables where schemaname = 'public'";
    assert_eq!(
        admin.query(tables, &[]).await.unwrap().len(),
        0,
        "the given database is unchanged"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_is_measured_and_keeps_running() {
    let fixture = Fixture::open(&[("ORDERLY_SIMULATED_SPEED", "0")]).await;
    let folder = tempfile::tempdir().unwrap();
    let output = bench(&folder, &format!("accept --url {}", fixture.server.url)).await;
    only_load(&output);
    assert_nothing_left(&folder);
    fixture.order(1).await;
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_other_than_this_machine_get_no_load() {
    let folder = tempfile::tempdir().unwrap();
    for line in [
        "--url http://192.0.2.1:5000",
        "--url http://orders.example",
        "--database-url postgres://db.example/d",
    ] {
        bench(&folder, line)
            .await
            .assert_failed(78, "is not this machine");
    }
    assert_nothing_left(&folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_benchmarks_are_refused_before_anything_is_created() {
    let folder = tempfile::tempdir().unwrap();
    for (line, exit, because) in [
        ("--database-url sqlite:x.db", 78, "names a SQLite file"),
        ("--url https://127.0.0.1:5000", 78, "plain HTTP"),
        ("drain --url http://127.0.0.1:5000", 78, "a server of its own"),
        ("--rate 0", 2, "requests per second"),
        ("--set NAME", 2, "NAME=VALUE"),
        ("sell", 2, "possible values"),
        ("--batch-size 1001", 2, "1001"),
        ("--url http://127.0.0.1:1 --set A=b", 2, "cannot be used with"),
    ] {
        bench(&folder, line).await.assert_failed(exit, because);
    }
    let line = "bench --duration 1ms";
    run(command(folder.path(), line))
        .await
        .assert_failed(2, "50ms to 10m");
    assert_nothing_left(&folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_to_start_is_reported_and_cleaned_up() {
    let folder = tempfile::tempdir().unwrap();
    bench(&folder, "--set ORDERLY_CONCURRENCY=none")
        .await
        .assert_failed(1, "start the server to measure");
    assert_nothing_left(&folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_is_cleaned_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut long = orderly(folder.path());
    long.args([
        "bench",
        "accept",
        "--duration",
        "10m",
        "--connections",
        "2",
        "--folder",
    ]);
    long.arg(folder.path());
    let mut running = long.spawn().expect("the program can be started");
    let id = running.id().expect("the benchmark is running");
    // Measuring begins once its server has a store.
    until("the server has a store", async || {
        let made = std::fs::read_dir(folder.path()).unwrap().flatten().next();
        made.is_some_and(|made| made.path().join("0-accept/orderly.db").exists())
    })
    .await;
    let sent = tokio::process::Command::new("kill")
        .args(["-INT", &id.to_string()])
        .status()
        .await;
    assert!(sent.unwrap().success());
    let ended = tokio::time::timeout(PATIENCE, running.wait()).await;
    assert_eq!(ended.expect("it ends in time").unwrap().code(), Some(1));
    assert_nothing_left(&folder);
}
