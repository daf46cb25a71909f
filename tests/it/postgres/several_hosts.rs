//! Several hosts in the URL: an unusable host does not keep a node from the writable one, and an error names every host if none is
//! usable.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::setup::{accept_keyed, has_postgres, node, store_at, until_ready};
use crate::support::client::{Answer, Request, http, post};
use crate::support::postgres::{Server, TestDatabase};
use crate::support::process::Process;
use crate::support::proxy::{Action, Proxy};
use crate::support::unresponsive::UnresponsiveHost;
use crate::support::until;

/// `connect_timeout` of the URLs here.
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// A node should be ready within 4 s; a loaded machine gets five times as long.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Requests sent after their connections were cut.
const ROUNDS: usize = 5;

/// A URL of the database with several hosts.
fn url_at(database: &TestDatabase, hosts: &[SocketAddr], parameters: &str) -> String {
    let hosts: Vec<String> = hosts.iter().map(SocketAddr::to_string).collect();
    let url = database.url();
    let (_, after) = url
        .split_once("@127.0.0.1:")
        .expect("the server is at an address");
    let (_, name) = after.split_once('/').expect("a URL of a database");
    format!("postgres://postgres@{}/{name}?{parameters}", hosts.join(","))
}

async fn place(node: &Process, number: usize) {
    let request = Request {
        key: format!("order {number}"),
        user_id: 1,
        cents: 1,
    };
    // The request may be lost with its connection.
    until("the order is accepted", async || {
        matches!(post(&http(), &node.url, &request).await, Answer::Created(_))
    })
    .await;
}

/// Asserts that a node serves requests although the first host of its URL is unusable and its connections are cut repeatedly.
async fn assert_serves_despite(unusable: &UnresponsiveHost) {
    let server = Server::shared().await;
    let database = server.create_database().await;
    let url = url_at(
        &database,
        &[unusable.address(), server.address()],
        "connect_timeout=3",
    );
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let node = Process::start(node(folder.path(), &url)).await;
    until_ready(&node).await;
    assert!(began.elapsed() >= CONNECT_TIME, "the first host was not tried");
    assert!(began.elapsed() < READY_WITHIN, "{:?}", began.elapsed());
    let mut slow = Vec::new();
    for round in 0..ROUNDS {
        server.terminate_backends(&database).await;
        let asked = Instant::now();
        place(&node, round).await;
        slow.extend(Some(asked.elapsed()).filter(|elapsed| *elapsed >= CONNECT_TIME));
    }
    // A session that is terminated during its login makes the node try the next host.
    assert!(slow.len() <= 1, "{slow:?}");
    assert_eq!(node.terminate().await, Some(0));
}

/// Issue 15, point 3: such a node never became ready.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_first_host_blocks_neither_start_nor_requests() {
    if has_postgres() {
        assert_serves_despite(&UnresponsiveHost::frozen().await).await;
    }
}

/// Issue 15, point 3: every new connection first waited for the attempt at this host.
#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_first_host_blocks_neither_start_nor_requests() {
    if has_postgres() {
        assert_serves_despite(&UnresponsiveHost::gone().await).await;
    }
}

/// A proxy that makes the server look read-only.
async fn read_only_proxy(server: &Server) -> Proxy {
    let proxy = Proxy::before(server.address()).await;
    proxy.on_flight(|_| Action::Rewrite {
        from: "current_setting('transaction_read_only')".to_owned(),
        to: "'on'".to_owned(),
    });
    proxy
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writable_host_is_used_unless_configured_otherwise() {
    if !has_postgres() {
        return;
    }
    let server = Server::shared().await;
    let read_only = read_only_proxy(server).await;
    for (parameters, writes) in [
        ("", true),
        ("target_session_attrs=read-write", true),
        ("target_session_attrs=any", false),
    ] {
        let database = server.create_database().await;
        let hosts = [read_only.address(), server.address()];
        let store = store_at(&url_at(&database, &hosts, parameters)).await;
        let accepted = accept_keyed(&*store, "one").await;
        assert_eq!(accepted.is_ok(), writes, "{parameters}: {accepted:?}");
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_names_every_host_and_its_reason_if_none_serves() {
    let url = "postgres://me:canary-7f6e5d@127.0.0.1:1,nowhere.invalid:7/orders";
    let folder = tempfile::tempdir().unwrap();
    for command in [&["verify"][..], &["doctor"], &["migrate"]] {
        let output = node(folder.path(), url).args(command).output().await.unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        for part in ["host 127.0.0.1:1: ", "refused", "host nowhere.invalid:7: "] {
            assert!(said.contains(part), "{command:?}, {part}: {said}");
        }
        assert!(!said.contains("canary-7f6e5d"), "{said}");
    }
}
