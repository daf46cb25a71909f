//! The findings of `orderly doctor` about standbys, several hosts, the direct URL, the read URL and the pooler.

use serde_json::Value;

use super::setup::{has_pgbouncer, has_postgres, node, store_at};
use crate::support::postgres::{Pair, Server, Stop, TestDatabase, is_installed_with_standby};
use crate::support::required;

fn has_standby() -> bool {
    required("a private PostgreSQL with a standby", is_installed_with_standby())
}

/// The checks of one run of `doctor`.
async fn doctor(environment: &[(&str, &str)]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let mut doctor = node(folder.path(), "");
    doctor
        .envs(environment.iter().copied())
        .args(["doctor", "--json"]);
    let said = doctor.output().await.unwrap();
    let report: Value = serde_json::from_slice(&said.stdout).unwrap();
    report["checks"].as_array().unwrap().clone()
}

fn named<'c>(checks: &'c [Value], name: &str) -> &'c Value {
    let found = checks.iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {checks:?}"))
}

/// Asserts the state of one check, and words of its finding or advice.
async fn assert_says(environment: &[(&str, &str)], name: &str, state: &str, words: &str) {
    let checks = doctor(environment).await;
    let check = named(&checks, name);
    assert_eq!(check["state"], state, "{check}");
    assert!(check.to_string().contains(words), "{check}");
}

/// A database with the schema of a store.
async fn database_on(server: &Server) -> TestDatabase {
    let database = server.create_database().await;
    store_at(&database.url()).await.close().await;
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_a_commit_that_does_not_wait_for_the_required_standby() {
    if !has_standby() {
        return;
    }
    let pair = Pair::start_synchronous().await;
    let database = database_on(&pair.primary).await;
    let set = format!(
        "alter database {} set synchronous_commit = local",
        database.name()
    );
    database.admin().await.batch_execute(&set).await.unwrap();
    let url = database.url();
    let at = [("DATABASE_URL", url.as_str())];
    assert_says(&at, "durability", "fail", "synchronous_commit is local").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_reports_which_hosts_take_writes() {
    if !has_standby() {
        return;
    }
    let pair = Pair::start().await;
    let database = database_on(&pair.primary).await;
    pair.caught_up().await;
    let (primary, standby) = (pair.primary.address(), pair.standby.address());
    let url = |parameters: &str| {
        let name = database.name();
        format!("postgres://postgres@{standby},{primary}/{name}{parameters}")
    };
    let only_read = format!("takes writes: {primary}; only read: {standby}");
    assert_says(&[("DATABASE_URL", &url(""))], "hosts", "ok", &only_read).await;
    let any = url("?target_session_attrs=any");
    assert_says(
        &[("DATABASE_URL", &any)],
        "hosts",
        "fail",
        "target_session_attrs=read-write",
    )
    .await;

    let alone = format!("postgres://postgres@{standby}/{}", database.name());
    assert_says(&[("DATABASE_URL", &alone)], "writes", "fail", "HAProxy").await;

    pair.standby.stop(Stop::Fast).await;
    assert_says(
        &[("DATABASE_URL", &url(""))],
        "hosts",
        "warn",
        &standby.to_string(),
    )
    .await;
    pair.standby.start_again().await;
    pair.primary.stop(Stop::Fast).await;
    assert_says(
        &[("DATABASE_URL", &url(""))],
        "hosts",
        "fail",
        "no host takes writes",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_a_direct_url_of_another_database() {
    if !has_standby() {
        return;
    }
    let pair = Pair::start().await;
    let database = database_on(&pair.primary).await;
    pair.caught_up().await;
    let url = database.url();
    let of_standby = format!(
        "postgres://postgres@{}/{}",
        pair.standby.address(),
        database.name()
    );
    let other = Server::shared().await.create_database().await;
    let nowhere = "postgres://postgres@127.0.0.1:1/orderly";
    for (direct, state, words) in [
        (url.as_str(), "ok", "the server of DATABASE_URL"),
        (&of_standby, "fail", "another server of the cluster"),
        (&other.url(), "fail", "another server or another database"),
        (nowhere, "fail", "leads to no server"),
    ] {
        let at = [("DATABASE_URL", url.as_str()), ("DATABASE_DIRECT_URL", direct)];
        assert_says(&at, "direct way", state, words).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_reports_the_server_of_the_read_url() {
    if !has_standby() {
        return;
    }
    let pair = Pair::start().await;
    let database = database_on(&pair.primary).await;
    pair.caught_up().await;
    let url = database.url();
    let other = Server::shared().await.create_database().await;
    for (read, state, words) in [
        (
            database.on(&pair.standby).url(),
            "ok",
            "another server of the cluster",
        ),
        (url.clone(), "warn", "spared nothing"),
        (other.url(), "fail", "another cluster"),
        (
            "postgres://postgres@127.0.0.1:1/orderly".to_owned(),
            "warn",
            "leads to no server",
        ),
    ] {
        let at = [("DATABASE_URL", url.as_str()), ("DATABASE_READ_URL", &read)];
        assert_says(&at, "read way", state, words).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_the_version_of_a_pooler() {
    if !has_postgres() || !has_pgbouncer() {
        return;
    }
    let database = database_on(Server::shared().await).await;
    let url = database.bouncer_url().await;
    let checks = doctor(&[("DATABASE_URL", &url)]).await;
    let pooler = named(&checks, "pooler");
    let version = pooler["finding"].as_str().unwrap().strip_prefix("PgBouncer 1.");
    let minor: u32 = version.unwrap().split('.').next().unwrap().parse().unwrap();
    let expected = if minor < 19 { "warn" } else { "ok" };
    assert_eq!(pooler["state"], expected, "{pooler}");
    let straight = doctor(&[("DATABASE_URL", &database.url())]).await;
    assert!(
        straight.iter().all(|check| check["name"] != "pooler"),
        "{straight:?}"
    );
}
