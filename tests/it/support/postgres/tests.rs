//! Tests of the private servers: isolated, restartable, as strict as real ones, and gone with the test process.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use orderly::time::Timestamp;
use tokio_postgres::error::SqlState;

use super::{Authority, Certificate, Options, PgBouncer, Server, Stop, TestDatabase, connect, connected};
use super::{is_installed, is_installed_with_pgbouncer};
use crate::support::{required, until};

/// Set in a copy of the test binary that is to be killed.
const TO_BE_KILLED: &str = "ORDERLY_TEST_TO_BE_KILLED";
/// Printed by that copy once its servers are up.
const SERVERS_ARE_UP: &str = "servers are up in ";
const NEW_YEAR: Timestamp = Timestamp::from_micros(1_767_225_600_000_001);

fn has_postgres() -> bool {
    required("a private PostgreSQL", is_installed())
}

fn has_pgbouncer() -> bool {
    required("a private PgBouncer", is_installed_with_pgbouncer())
}

#[tokio::test]
async fn a_test_sets_the_database_clock_for_every_session() {
    if !has_pgbouncer() {
        return;
    }
    let server = Server::shared().await;
    let (database, other) = (server.create_database().await, server.create_database().await);
    let direct = connect(&database.url()).await.unwrap();
    let pooled = connect(&database.bouncer_url().await).await.unwrap();
    database.set_clock(Some(NEW_YEAR)).await;
    assert_eq!(database.now().await, NEW_YEAR);
    assert!(other.now().await > NEW_YEAR);
    for client in [&direct, &pooled] {
        let shown = client
            .simple_query("select clock_timestamp() at time zone 'UTC'")
            .await;
        assert!(
            format!("{shown:?}").contains("2026-01-01 00:00:00.000001"),
            "{shown:?}"
        );
    }
    database.set_clock(None).await;
    assert!(database.now().await > NEW_YEAR);
}

#[tokio::test]
async fn a_database_is_dropped_with_its_handle() {
    if !has_postgres() {
        return;
    }
    let server = Server::shared().await;
    let database = server.create_database().await;
    let name = database.name().to_owned();
    let _open = connect(&database.url()).await.unwrap();
    drop(database);
    let maintenance = server.connect("postgres").await.unwrap();
    until("the database is dropped", async || {
        let found = maintenance
            .query_one("select count(*) from pg_database where datname = $1", &[&name])
            .await;
        found.unwrap().get::<_, i64>(0) == 0
    })
    .await;
}

#[tokio::test]
async fn terminating_sessions_spares_the_harness() {
    if !has_postgres() {
        return;
    }
    let server = Server::shared().await;
    let (database, other) = (server.create_database().await, server.create_database().await);
    let client = connect(&database.url()).await.unwrap();
    let of_another = connect(&other.url()).await.unwrap();
    let admin = database.admin().await;
    assert_eq!(server.terminate_backends(&database).await, 1);
    assert!(client.simple_query("select 1").await.is_err());
    of_another.simple_query("select 1").await.unwrap();
    admin.simple_query("select 1").await.unwrap();
}

#[tokio::test]
async fn a_restarted_server_has_all_committed_data() {
    if !has_postgres() {
        return;
    }
    let server = Server::start(Options::default()).await;
    let database = server.create_database().await;
    let url = database.url();
    database
        .admin()
        .await
        .batch_execute("create table kept ()")
        .await
        .unwrap();
    for how in [Stop::Fast, Stop::Immediate, Stop::Killed, Stop::Killed] {
        let client = connect(&url).await.unwrap();
        client
            .batch_execute("insert into kept default values")
            .await
            .unwrap();
        database.set_clock(Some(NEW_YEAR)).await;
        server.stop(how).await;
        assert!(client.simple_query("select 1").await.is_err(), "{how:?}");
        assert!(connect(&url).await.is_err(), "{how:?}");
        server.start_again().await;
        assert_eq!(database.now().await, NEW_YEAR, "{how:?}");
    }
    let row = database
        .admin()
        .await
        .query_one("select count(*) from kept", &[])
        .await;
    assert_eq!(row.unwrap().get::<_, i64>(0), 4);
}

#[tokio::test]
async fn only_a_private_server_can_have_other_settings() {
    if !has_postgres() {
        return;
    }
    let own = Server::start(Options::default().setting("fsync", "on")).await;
    for (server, expected) in [(Server::shared().await, "off"), (&own, "on")] {
        let database = server.create_database().await;
        let row = database.admin().await.query_one("show fsync", &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), expected);
    }
}

#[tokio::test]
async fn a_password_is_required_over_tcp() {
    if !has_postgres() {
        return;
    }
    let server = Server::start(Options::default().password("a secret")).await;
    let database = server.create_database().await;
    assert!(connect(&database.url()).await.is_ok());
    let error = connect(&database.url().replace("secret", "guess"))
        .await
        .err()
        .unwrap();
    assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD));
}

#[tokio::test]
async fn a_client_accepts_only_valid_certificates() {
    if !has_postgres() {
        return;
    }
    let authority = Authority::new();
    assert!(authority.root().starts_with("-----BEGIN CERTIFICATE-----"));
    let names = ["localhost", "127.0.0.1"];
    let shown = [
        (Some(authority.certificate_for(&names)), true),
        (Some(authority.certificate_for(&["elsewhere.example"])), false),
        (Some(Certificate::self_signed(&names)), false),
        (None, false),
    ];
    for (certificate, good) in shown {
        let options = Options {
            certificate,
            ..Options::default()
        };
        let database = Server::start(options).await.create_database().await;
        let config: tokio_postgres::Config = format!("{}?sslmode=require", database.url()).parse().unwrap();
        let connected = connected(&config, authority.client()).await;
        assert_eq!(connected.is_ok(), good, "{:?}", connected.err());
    }
}

#[tokio::test]
async fn a_pool_serves_one_transaction_after_another() {
    if !has_pgbouncer() {
        return;
    }
    let (_bouncer, _database, url) = small_pool().await;
    let (one, other) = (connect(&url).await.unwrap(), connect(&url).await.unwrap());
    one.batch_execute("begin; create table made_in_a_transaction ()")
        .await
        .unwrap();
    // The pool's single connection is taken, so this statement waits for the commit and then finds the table. Joined
    // futures are polled in order, so it is sent first.
    let (found, committed) = tokio::join!(
        other.batch_execute("select from made_in_a_transaction"),
        one.batch_execute("commit"),
    );
    found.unwrap();
    committed.unwrap();
}

#[tokio::test]
async fn a_pool_refuses_settings_at_connection_start() {
    if !has_pgbouncer() {
        return;
    }
    let (_bouncer, database, url) = small_pool().await;
    let options = "?options=-c%20statement_timeout%3D1s";
    assert!(connect(&format!("{}{options}", database.url())).await.is_ok());
    assert!(connect(&format!("{url}{options}")).await.is_err());
}

#[tokio::test]
async fn a_restarted_pooler_has_disconnected_its_clients() {
    if !has_pgbouncer() {
        return;
    }
    let (bouncer, _database, url) = small_pool().await;
    let client = connect(&url).await.unwrap();
    bouncer.restart().await;
    assert!(client.simple_query("select 1").await.is_err());
    connect(&url)
        .await
        .unwrap()
        .simple_query("select 1")
        .await
        .unwrap();
}

/// Starts a pooler with one connection.
async fn small_pool() -> (PgBouncer, TestDatabase, String) {
    let server = Server::shared().await;
    let database = server.create_database().await;
    let bouncer = PgBouncer::start(server, 1).await;
    let url = database.url_at("127.0.0.1", bouncer.address().port());
    (bouncer, database, url)
}

#[test]
fn a_killed_test_process_leaves_nothing_behind() {
    if !has_pgbouncer() {
        return;
    }
    let own_name = "support::postgres::tests::start_servers_in_a_process_to_be_killed";
    // Every process started by the copy inherits its output, so the end of the output is the end of all of them.
    let mut copy = Command::new("sh")
        .args(["-c", r#"exec "$@" 3>&1"#, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", own_name, "--nocapture"])
        .env(TO_BE_KILLED, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = copy.stdout.take().unwrap();
    let mut text = String::new();
    let mut byte = [0];
    while !(text.contains(SERVERS_ARE_UP) && text.ends_with('\n')) {
        assert_eq!(output.read(&mut byte).unwrap(), 1, "the copy ended: {text}");
        text.push(char::from(byte[0]));
    }
    copy.kill().unwrap();
    copy.wait().unwrap();
    output.read_to_end(&mut Vec::new()).unwrap();
    let (_, folders) = text.trim().rsplit_once(SERVERS_ARE_UP).unwrap();
    let folders: Vec<&str> = folders.split(' ').collect();
    assert_eq!(folders.len(), 2);
    // Includes the contents, which show who wrote there last.
    let left = Command::new("find")
        .args(&folders)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    assert!(
        folders.iter().all(|folder| !Path::new(folder).exists()),
        "{folders:?}: {}",
        String::from_utf8_lossy(&left.stdout)
    );
}

#[tokio::test]
async fn start_servers_in_a_process_to_be_killed() {
    if std::env::var_os(TO_BE_KILLED).is_none() {
        return;
    }
    let server = Server::start(Options::default()).await;
    let bouncer = PgBouncer::start(&server, 1).await;
    let folders = [server.running.folder(), bouncer.folder()].map(|folder| folder.display().to_string());
    println!("{SERVERS_ARE_UP}{}", folders.join(" "));
    std::future::pending::<()>().await;
}
