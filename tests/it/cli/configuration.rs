//! Configurations that stop a start, and those that only cause warnings.

use std::path::Path;

use super::{CommandOutput, Fixture, command, run};
use crate::support::process::{Process, orderly};

async fn start_with(folder: &Path, settings: &[(&str, &str)]) -> CommandOutput {
    let mut command = command(folder, "serve");
    command.envs(settings.iter().copied());
    run(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_setting_stops_the_start_with_exit_78_and_its_name() {
    let folder = tempfile::tempdir().unwrap();
    for (name, value, because) in [
        ("ORDERLY_CONCURRENCY", "many", "not a number from 1 to 10000"),
        ("ORDERLY_CONCURRENCY", "0", "not a number from 1 to 10000"),
        ("PORT", "65536", "not a number from 0 to 65535"),
        ("ORDERLY_LEASE", "30", "has no unit"),
        ("ORDERLY_LEASE", "1ms", "not between"),
        ("ORDERLY_MIGRATE", "maybe", "neither"),
        ("ORDERLY_PROCESSOR", "real", "simulated"),
        ("ORDERLY_SIMULATED_FAILURE_RATE", "2", "not a number from 0 to 1"),
        ("ORDERLY_LOG_FORMAT", "xml", "json"),
        ("DATABASE_URL", "mysql://localhost/orders", "sqlite:PATH"),
        ("DATABASE_URL", "postgres:///orders", "names no host"),
        (
            "DATABASE_URL",
            "postgresql://localhost/orders?sslmode=on",
            "verify-full",
        ),
        (
            "DATABASE_URL",
            "postgresql://localhost/orders?sslmod=require",
            "did you mean `sslmode`?",
        ),
        (
            "DATABASE_URL",
            "postgresql://localhost/orders?sslcrl=revoked.pem",
            "`sslcrl` is not supported",
        ),
        ("HOST", "0.0.0.0", "ORDERLY_API_KEY"),
        ("HOST", "::", "--open"),
    ] {
        let output = start_with(folder.path(), &[(name, value)]).await;
        output.assert_failed(78, because);
        assert!(output.stderr.contains(name), "{name}: {}", output.stderr);
    }
    assert!(!folder.path().join("orderly.db").exists(), "nothing was created");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_configuration_errors_are_reported_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let output = start_with(
        folder.path(),
        &[
            ("ORDERLY_LEASE", "30"),
            ("PORT", "x"),
            ("ORDERLY_MAX_ATTEMPTS", "0"),
        ],
    )
    .await;
    output.assert_failed(78, "ORDERLY_MAX_ATTEMPTS");
    assert_eq!(output.stderr.lines().count(), 3, "{}", output.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_in_the_file_stops_the_start_with_a_suggestion() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("orderly.toml"), "concurency = 5\n").unwrap();
    start_with(folder.path(), &[])
        .await
        .assert_failed(78, "`concurrency`");
    std::fs::write(folder.path().join("orderly.toml"), "concurrency = \n").unwrap();
    start_with(folder.path(), &[])
        .await
        .assert_failed(78, "orderly.toml");
    let mut command = command(folder.path(), "serve --config missing.toml");
    command.env_remove("ORDERLY_CONFIG");
    run(command).await.assert_failed(78, "missing.toml");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_variable_is_warned_about() {
    let fixture = Fixture::open(&[("ORDERLY_CONCURENCY", "5")]).await;
    assert!(
        fixture.server.has_logged("ORDERLY_CONCURRENCY"),
        "the variable that was probably meant"
    );
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_without_effect_on_the_store_are_warned_about_everywhere() {
    let fixture = Fixture::open(&[
        ("DATABASE_DIRECT_URL", "postgres://localhost/orders"),
        ("ORDERLY_IDLE_SLEEP", "on"),
    ])
    .await;
    let warning = "DATABASE_DIRECT_URL (from the environment) is set, but has no effect with SQLite";
    assert!(fixture.server.has_logged(warning));
    assert!(
        fixture
            .server
            .has_logged("ORDERLY_IDLE_SLEEP (from the environment) is set, but has no effect")
    );
    for line in ["verify", "migrate --dry-run"] {
        let mut command = command(fixture.folder.path(), line);
        command.env("DATABASE_DIRECT_URL", "postgres://localhost/orders");
        let output = run(command).await;
        assert_eq!(
            (output.exit, output.stderr),
            (Some(0), format!("orderly: {warning}\n")),
            "{line}"
        );
    }
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_overrides_the_environment_which_overrides_the_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("orderly.toml"),
        "concurrency = 3\nmax_attempts = 3\nlease = \"3s\"\n",
    )
    .unwrap();
    std::fs::write(folder.path().join(".env"), "ORDERLY_LEASE=4s\n").unwrap();
    let mut command = command(folder.path(), "doctor --json --concurrency 7");
    command.envs([("ORDERLY_CONCURRENCY", "5"), ("ORDERLY_MAX_ATTEMPTS", "5")]);
    let output = run(command).await;
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let settings = report["settings"].as_array().unwrap();
    let value = |name: &str| {
        let found = settings.iter().find(|setting| setting["name"] == name);
        found.unwrap()["value"].as_str().unwrap().to_owned()
    };
    let values = ["ORDERLY_CONCURRENCY", "ORDERLY_MAX_ATTEMPTS", "ORDERLY_LEASE"].map(value);
    assert_eq!(values, ["7", "5", "4s"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_address_requires_a_key_or_the_open_flag() {
    for (name, value) in [
        ("ORDERLY_API_KEY", "correct-horse-battery-staple"),
        ("ORDERLY_OPEN", "on"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = orderly(folder.path());
        command.env("HOST", "0.0.0.0").env(name, value);
        let server = Process::start(command).await;
        assert_eq!(server.terminate().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_prints_how_to_place_an_order_at_any_log_level() {
    const KEY: &str = "correct-horse-battery-staple";
    let folder = tempfile::tempdir().unwrap();
    let mut command = orderly(folder.path());
    command.envs([
        ("RUST_LOG", "warn"),
        ("HOST", "0.0.0.0"),
        ("ORDERLY_API_KEY", KEY),
    ]);
    let server = Process::start(command).await;
    let port = server.url.rsplit(':').next().unwrap();
    assert!(server.has_logged(&format!("ready at http://127.0.0.1:{port}, orders are kept in ")));
    assert!(server.has_logged(&format!("curl -X POST http://127.0.0.1:{port}/orders ")));
    assert!(server.has_logged(r#"-H \"Authorization: Bearer $ORDERLY_API_KEY\""#));
    assert!(!server.has_logged("http://0.0.0.0") && !server.has_logged(KEY));
    assert_eq!(server.terminate().await, Some(0));

    let fixture = Fixture::open(&[("RUST_LOG", "error")]).await;
    assert!(fixture.server.has_logged("curl -X POST") && !fixture.server.has_logged("Authorization"));
    fixture.close().await;
}

/// Issue 15, point 6.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_url_stops_a_start_where_it_cannot_be_one() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = ("DATABASE_URL", "postgres://127.0.0.1:1/orders");
    let sqlite = ("DATABASE_URL", "sqlite:other.db");
    for (database, read, because) in [
        (
            None,
            "postgres://127.0.0.1:1/orders",
            "leads to standbys of the PostgreSQL in DATABASE_URL",
        ),
        (
            Some(sqlite),
            "postgres://127.0.0.1:1/orders",
            "leads to standbys of the PostgreSQL in DATABASE_URL",
        ),
        (
            Some(postgres),
            "sqlite:data/orderly.db",
            "not a URL of the form postgres://",
        ),
        (
            Some(postgres),
            "postgres://127.0.0.1:1/orders?colour=red",
            "a parameter is not known",
        ),
        (Some(postgres), "postgres://127.0.0.1:port/orders", "port"),
    ] {
        let read = [("DATABASE_READ_URL", read)];
        let given: Vec<_> = database.into_iter().chain(read).collect();
        let said = start_with(folder.path(), &given).await;
        said.assert_failed(78, because);
        said.assert_failed(78, "DATABASE_READ_URL (from the environment)");
    }
    let made = std::fs::read_dir(folder.path()).unwrap();
    assert_eq!(made.count(), 0, "nothing is stored anywhere");
}

/// Issue 15, point 3: a server must write; reading commands need not.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_url_stops_servers_but_not_reading_commands() {
    let folder = tempfile::tempdir().unwrap();
    for value in ["read-only", "standby", "prefer-standby"] {
        let url = format!("postgres://127.0.0.1:1/orders?target_session_attrs={value}");
        for name in ["DATABASE_URL", "DATABASE_DIRECT_URL"] {
            let both = [("DATABASE_URL", "postgres://127.0.0.1:1/orders"), (name, &*url)];
            let output = start_with(folder.path(), &both).await;
            output.assert_failed(78, "target_session_attrs leads to servers that store no orders");
            assert!(output.stderr.contains(name), "{}", output.stderr);
        }
        for (line, exit, because) in [
            ("verify", 1, "refused"),
            ("migrate --dry-run", 1, "refused"),
            (
                "migrate",
                78,
                "target_session_attrs leads to servers that only read",
            ),
        ] {
            let mut command = command(folder.path(), line);
            command.env("DATABASE_URL", &url);
            run(command).await.assert_failed(exit, because);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn service_files_and_keyword_strings_can_name_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let services = folder.path().join("services");
    std::fs::write(
        &services,
        "[orders]\nhost=127.0.0.1\nport=1\npassword=canary-9a8b7c\n",
    )
    .unwrap();
    for url in [
        "service=orders",
        "postgres://?service=orders",
        "host=127.0.0.1 port=1 password=canary-9a8b7c",
    ] {
        let mut command = command(folder.path(), "doctor");
        command.env("DATABASE_URL", url).env("PGSERVICEFILE", &services);
        let output = run(command).await;
        assert_eq!(output.exit, Some(1), "{}", output.stdout);
        assert!(
            output.stdout.contains("postgres://127.0.0.1:1: "),
            "{}",
            output.stdout
        );
        assert!(
            !format!("{}{}", output.stdout, output.stderr).contains("canary"),
            "{}",
            output.stdout
        );
    }
    let output = start_with(folder.path(), &[("DATABASE_URL", "service=order")]).await;
    output.assert_failed(78, "the service is described in none of the files");
}
