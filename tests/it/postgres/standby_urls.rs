//! URLs that lead to a standby: commands that can read it, and nodes that look for the primary.

use std::path::Path;

use super::setup::{accept_keyed, has_postgres, node, number, store_at, until_ready};
use crate::support::client::{Answer, Request, http, post};
use crate::support::postgres::{Pair, Server, TestDatabase};
use crate::support::process::Process;
use crate::support::until;

/// A primary and a standby, with a database of three orders.
async fn pair_with_orders() -> (Pair, TestDatabase) {
    let pair = Pair::start().await;
    let database = pair.primary.create_database().await;
    let store = store_at(&database.url()).await;
    for name in ["one", "two", "three"] {
        accept_keyed(&*store, name).await.unwrap();
    }
    store.close().await;
    pair.caught_up().await;
    (pair, database)
}

/// URL of the database on the standby.
fn standby_url(pair: &Pair, database: &TestDatabase) -> String {
    database.url_at("127.0.0.1", pair.standby.address().port())
}

fn url_of_both(pair: &Pair, database: &TestDatabase) -> String {
    let host = format!("127.0.0.1:{},127.0.0.1", pair.standby.address().port());
    database.url_at(&host, pair.primary.address().port())
}

async fn run_orderly(folder: &Path, url: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = node(folder, url).args(arguments).output().await.unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code(), said)
}

/// Issue 15, point 6.
#[tokio::test(flavor = "multi_thread")]
async fn verify_doctor_and_copy_read_a_standby() {
    if !has_postgres() {
        return;
    }
    let (pair, database) = pair_with_orders().await;
    let folder = tempfile::tempdir().unwrap();
    let standby = standby_url(&pair, &database);
    for url in [&standby, &format!("{standby}?target_session_attrs=standby")] {
        let (exit, said) = run_orderly(folder.path(), url, &["verify"]).await;
        assert_eq!(exit, Some(0), "{said}");
        assert!(said.contains("3 orders"), "{said}");
        let (exit, said) = run_orderly(folder.path(), url, &["migrate", "--dry-run"]).await;
        assert_eq!(exit, Some(0), "{said}");
    }
    let (exit, said) = run_orderly(folder.path(), &standby, &["doctor"]).await;
    assert_eq!(exit, Some(1), "{said}");
    for part in [": 3 orders", "it is a standby", "at the server that takes writes"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    for misleading in ["host and port", "PGPASSWORD"] {
        assert!(!said.contains(misleading), "{said}");
    }
    let empty = Server::shared().await.create_database().await;
    let copy = ["copy", "--from", &standby, "--to", &empty.url()];
    let (exit, said) = run_orderly(folder.path(), "sqlite:none.db", &copy).await;
    assert_eq!(exit, Some(0), "{said}");
    assert!(
        said.contains("copied 3 orders") && said.contains("nothing differs"),
        "{said}"
    );
}

/// Issue 15, finding F9: a node whose URL listed the standby first never became ready.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_commands_find_the_primary_listed_after_a_standby() {
    if !has_postgres() {
        return;
    }
    let (pair, database) = pair_with_orders().await;
    let folder = tempfile::tempdir().unwrap();
    let both = url_of_both(&pair, &database);
    let (_, said) = run_orderly(folder.path(), &both, &["doctor"]).await;
    assert!(said.contains(": 3 orders"), "{said}");
    assert!(!said.contains("read-only"), "{said}");
    let node = Process::start(node(folder.path(), &both)).await;
    until_ready(&node).await;
    place(&node, "behind a standby").await;
    assert_eq!(node.terminate().await, Some(0));
}

/// Issue 15, point 3: sessions survive the change of the server, and each of them refused a request.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_leaves_a_server_that_became_read_only() {
    if !has_postgres() {
        return;
    }
    let (pair, database) = pair_with_orders().await;
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &url_of_both(&pair, &database))).await;
    until_ready(&node).await;
    let old = database.admin().await;
    for change in [
        "set default_transaction_read_only = off",
        "alter system set default_transaction_read_only = on",
        "select pg_reload_conf()",
    ] {
        old.batch_execute(change).await.unwrap();
    }
    pair.promote().await;
    place(&node, "after the change").await;
    let sessions = "select count(*) from pg_stat_activity
        where datname = current_database() and application_name = 'orderly'";
    until("no session is left on the old server", async || {
        place(&node, "once more").await;
        number(&old, sessions).await == 0
    })
    .await;
    assert_eq!(node.terminate().await, Some(0));
}

async fn place(node: &Process, key: &str) {
    let request = Request {
        key: key.to_owned(),
        user_id: 1,
        cents: 1,
    };
    until("the order is accepted", async || {
        matches!(post(&http(), &node.url, &request).await, Answer::Created(_))
    })
    .await;
}
