//! Nodes that share the connection limit of a role, while nodes come and go (issue 13, point 2).

use std::cell::RefCell;
use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use super::few_connections::{LimitedDatabase, named, place, stop};
use super::setup::{has_postgres, node, number, until_ready};
use crate::support::client::{Request, http, post};
use crate::support::postgres::connect;
use crate::support::process::Process;
use crate::support::until;

/// Clients that send requests without pause until this is dropped.
struct Load {
    _clients: Vec<AbortOnDropHandle<()>>,
}

impl Load {
    fn on(node: &Process) -> Load {
        const CLIENTS: u64 = 8;
        let url: Arc<str> = node.url.clone().into();
        let client = |client| {
            let url = url.clone();
            tokio::spawn(async move {
                let http = http();
                for number in 0.. {
                    let request = Request {
                        key: format!("client {client}, order {number}"),
                        user_id: 1,
                        cents: 1,
                    };
                    // The answer does not matter; the node is kept busy.
                    let _ = tokio::join!(
                        post(&http, &url, &request),
                        http.get(format!("{url}/orders?limit=1")).send(),
                        http.get(format!("{url}/queue")).send(),
                        http.get(format!("{url}/events?limit=1")).send(),
                    );
                }
            })
        };
        Load {
            _clients: (0..CLIENTS)
                .map(|number| AbortOnDropHandle::new(client(number)))
                .collect(),
        }
    }
}

/// URL of a node with its own application name, which identifies its sessions.
fn url_of(limited: &LimitedDatabase, node: &str) -> String {
    format!("{}?application_name={node}", limited.url())
}

async fn sessions_of(limited: &LimitedDatabase, node: &str) -> i64 {
    let counted = format!(
        "select count(*) from pg_stat_activity where datname = current_database() and application_name = '{node}'"
    );
    number(&limited.admin, &counted).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_node_yields_connections_to_a_later_node() {
    const CONNECTIONS: usize = 6;
    const SHARE: i64 = 3;
    const ORDERS: usize = 20;
    if !has_postgres() {
        return;
    }
    let limited = LimitedDatabase::with_connections(CONNECTIONS).await;
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = Process::start(node(folders[0].path(), &url_of(&limited, "first"))).await;
    until_ready(&first).await;
    let load = Load::on(&first);
    until("the first node uses more than half", async || {
        sessions_of(&limited, "first").await > SHARE
    })
    .await;
    let second = Process::start(node(folders[1].path(), &url_of(&limited, "second"))).await;
    until_ready(&second).await;
    place(&second, &named("second", ORDERS)).await;
    let by_second = format!(
        "select count(*) from orderly.events where kind = 2 and node = {}",
        second.node().0.cast_signed()
    );
    until("the second node completes orders", async || {
        number(&limited.admin, &by_second).await > 0
    })
    .await;
    until("each has its share", async || {
        sessions_of(&limited, "first").await <= SHARE && sessions_of(&limited, "second").await >= SHARE - 1
    })
    .await;
    until_ready(&first).await;
    until_ready(&second).await;
    stop(second).await;
    until("the first node uses more than half again", async || {
        sessions_of(&limited, "first").await > SHARE
    })
    .await;
    drop(load);
    stop(first).await;
}

/// A dead node stays on the list for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_takes_over_the_connections_of_a_dead_node() {
    const CONNECTIONS: usize = 6;
    const SHARE: i64 = 3;
    if !has_postgres() {
        return;
    }
    let limited = LimitedDatabase::with_connections(CONNECTIONS).await;
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = Process::start(node(folders[0].path(), &url_of(&limited, "first"))).await;
    until_ready(&first).await;
    let second = Process::start(node(folders[1].path(), &url_of(&limited, "second"))).await;
    until_ready(&second).await;
    first.kill().await;
    let _load = Load::on(&second);
    until("the second node uses more than half", async || {
        sessions_of(&limited, "second").await > SHARE
    })
    .await;
    stop(second).await;
}

/// The connection limit changes while nodes run.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_notices_a_raised_connection_limit() {
    const CONNECTIONS: usize = 3;
    if !has_postgres() {
        return;
    }
    let limited = LimitedDatabase::with_connections(CONNECTIONS).await;
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &url_of(&limited, "first"))).await;
    until_ready(&node).await;
    let _load = Load::on(&node);
    let more = format!("alter role {} connection limit 12", limited.role);
    limited.admin.batch_execute(&more).await.unwrap();
    until("the node uses more", async || {
        sessions_of(&limited, "first").await > i64::try_from(CONNECTIONS).unwrap()
    })
    .await;
    stop(node).await;
}

/// Other programs use the connections of the role for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_logs_a_shortage_of_connections_and_its_end() {
    const CONNECTIONS: usize = 6;
    const OTHER_CONNECTIONS: usize = 4;
    if !has_postgres() {
        return;
    }
    let limited = LimitedDatabase::with_connections(CONNECTIONS).await;
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &url_of(&limited, "first"))).await;
    until_ready(&node).await;
    let others = RefCell::new(Vec::new());
    until("the other programs are connected", async || {
        let other = connect(&limited.url()).await;
        others.borrow_mut().extend(other.ok());
        others.borrow().len() == OTHER_CONNECTIONS
    })
    .await;
    let _load = Load::on(&node);
    node.until_logged("of its 5 connections: it works more slowly")
        .await;
    drop(others);
    node.until_logged("the database allows this node all of its 5 connections again")
        .await;
    stop(node).await;
}
