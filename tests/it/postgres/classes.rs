//! Classes of connections: no class delays another, and a connection whose caller is gone becomes usable again (issue 13, points 2
//! and 28).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use orderly::lease::Outcome;
use orderly::order::OrderId;
use orderly::store::{OrderQuery, RedriveOptions, Store, StoreError, StoreHealth};
use reqwest::StatusCode;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::few_connections::LimitedDatabase;
use super::setup::{Setup, accept_keyed, has_postgres, jump, node, number, store_at, through, until_ready};
use crate::support::client::http;
use crate::support::gate::Gate;
use crate::support::make::{NODE_A, claim_by, give_back_by, heartbeat};
use crate::support::postgres::Server;
use crate::support::process::Process;
use crate::support::proxy::{Action, Proxy};
use crate::support::until;

/// Time after which a statement counts as hanging.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// Part of the statements that list orders.
const LISTS: &str = "order by order_id desc";
/// Part of the statement for point reads.
const POINTS: &str = "last_position, place from orderly.view_orders_";
/// Part of the statements that read counters.
const NUMBERS: &str = "sum(pending)::int8";

async fn list(store: &dyn Store) {
    let page = OrderQuery {
        limit: 5,
        ..OrderQuery::default()
    };
    // Fails if the read is one of those that hang.
    let _ = store.orders(page).await;
}

#[tokio::test]
async fn hanging_counter_reads_do_not_delay_control_calls() {
    const READERS: usize = 8;
    let Some(setup) = Setup::new().await else { return };
    let store = &setup.store;
    accept_keyed(&**store, "before").await.unwrap();
    let (freezes, mut frozen) = mpsc::unbounded_channel();
    setup.proxy.on_flight(move |flight| {
        if !flight.sql().contains(NUMBERS) {
            return Action::Forward;
        }
        // Fails only after the end of the test.
        let _ = freezes.send(());
        Action::Silence
    });
    let readers: Vec<_> = (0..READERS)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                match number % 2 {
                    0 => drop(store.counters().await),
                    _ => drop(store.queue().await),
                }
            })
        })
        .collect();
    for _ in 0..2 {
        frozen.recv().await.unwrap();
    }
    store.pause(None).await.unwrap();
    store.resume().await.unwrap();
    accept_keyed(&**store, "meanwhile").await.unwrap();
    store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    assert_eq!(store.events_after(None, 10).await.unwrap().events.len(), 2);
    assert!(readers.iter().all(|reader| !reader.is_finished()));
    setup.proxy.on_flight(|_| Action::Forward);
    jump(ANSWER_TIME_MAX).await;
    join_all(readers).await;
    setup.end().await;
}

/// Both read the queue for their answer.
#[tokio::test(flavor = "multi_thread")]
async fn pause_and_resume_are_answered_while_counter_reads_hang() {
    /// The maximum number of concurrent reads of this class.
    const HANGING: usize = 2;
    let Some(setup) = Setup::new().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &through(&setup.proxy, &setup.database))).await;
    until_ready(&node).await;
    let (gate, hanging) = (Gate::closed(), AtomicUsize::new(0));
    let kept_back = gate.clone();
    setup.proxy.on_flight(move |flight| {
        if !flight.sql().contains(NUMBERS) || hanging.fetch_add(1, Ordering::SeqCst) >= HANGING {
            return Action::Forward;
        }
        Action::KeepBack {
            gate: kept_back.clone(),
            then: Box::new(Action::Forward),
        }
    });
    let read = || AbortOnDropHandle::new(tokio::spawn(http().get(format!("{}/queue", node.url)).send()));
    let reads: Vec<_> = (0..HANGING).map(|_| read()).collect();
    for _ in 0..HANGING {
        gate.arrival().await;
    }
    for (path, paused) in [("pause", true), ("resume", false)] {
        let sent = http().post(format!("{}/queue/{path}", node.url)).send().await;
        let answer = sent.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let state: Value = answer.json().await.unwrap();
        assert_eq!(state["paused"], paused, "{state}");
    }
    assert!(reads.iter().all(|read| !read.is_finished()));
    gate.open();
    assert_eq!(node.terminate().await, Some(0));
    setup.end().await;
}

/// A limit on the server's side ends it. Otherwise it would keep its locks and a connection that no node counts (issue 15, point
/// 1).
#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_statement_ends_at_its_time_limit() {
    let Some(setup) = Setup::new().await else { return };
    accept_keyed(&*setup.store, "before").await.unwrap();
    // Read over another connection: within one transaction, the list of sessions does not change.
    let locker = setup.database.admin().await;
    let lock = "begin; lock table orderly.orders in access exclusive mode";
    locker.batch_execute(lock).await.unwrap();
    let running = async || {
        let counted = format!(
            "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
             and state <> 'idle' and query like '%{LISTS}%'"
        );
        setup.number(&counted).await
    };
    let store = setup.store.clone();
    let caller = AbortOnDropHandle::new(tokio::spawn(async move { list(&*store).await }));
    until("the list waits for the table", async || running().await == 1).await;
    drop(caller);
    until("the list has ended", async || running().await == 0).await;
    locker.batch_execute("rollback").await.unwrap();
    setup.end().await;
}

/// An abandoned statement keeps its connection until the server's limit ends it.
#[tokio::test(flavor = "multi_thread")]
async fn abandoned_lists_take_no_connection_from_more_urgent_work() {
    /// Maximum number of concurrent lists.
    const LISTS_MAX: i64 = 4;
    const CALLERS: usize = 24;
    let Some(setup) = Setup::new().await else { return };
    accept_keyed(&*setup.store, "before").await.unwrap();
    let locker = setup.database.admin().await;
    let lock = "begin; lock table orderly.orders in access exclusive mode";
    locker.batch_execute(lock).await.unwrap();
    let running = async || {
        let counted = format!(
            "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
             and state <> 'idle' and query like '%{LISTS}%'"
        );
        setup.number(&counted).await
    };
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        let store = setup.store.clone();
        let caller = AbortOnDropHandle::new(tokio::spawn(async move { list(&*store).await }));
        callers.push(caller);
    }
    until("lists wait for the table", async || running().await == LISTS_MAX).await;
    // The running ones are abandoned first, which must not let others start.
    for caller in callers {
        drop(caller);
        setup.store.renew(heartbeat(NODE_A, &[])).await.unwrap();
        assert!(
            running().await <= LISTS_MAX,
            "lists use more connections than their share"
        );
    }
    locker.batch_execute("rollback").await.unwrap();
    setup.end().await;
}

/// Storing calls are functions with limits of their own: each is refused, and nothing is stored.
#[tokio::test(flavor = "multi_thread")]
async fn calls_on_a_locked_table_are_refused_with_nothing_stored() {
    let Some(setup) = Setup::new().await else { return };
    let store = &setup.store;
    for name in ["running", "waiting"] {
        accept_keyed(&**store, name).await.unwrap();
    }
    let lease = store.claim(claim_by(NODE_A, 1)).await.unwrap().leases.remove(0);
    let locker = setup.database.admin().await;
    let lock = "begin; lock table orderly.orders, orderly.leases in access exclusive mode";
    locker.batch_execute(lock).await.unwrap();
    let refused = tokio::join!(
        async { accept_keyed(&**store, "meanwhile").await.err() },
        async { store.settle(lease.key(), Outcome::COMPLETED).await.err() },
        async { store.cancel(OrderId(2), None).await.err() },
        async { store.redrive(OrderId(2), RedriveOptions::default()).await.err() },
        async { store.order_view(OrderId(2)).await.err() },
        async { store.renew(heartbeat(NODE_A, &[lease.key()])).await.err() },
    );
    let (accept, settle, cancel, redrive, view, renew) = refused;
    for refused in [accept, settle, cancel, redrive, view, renew] {
        assert!(
            matches!(refused, Some(StoreError::Unavailable { .. })),
            "{refused:?}"
        );
    }
    locker.batch_execute("rollback").await.unwrap();
    until("orders can be stored", async || {
        store.health() == StoreHealth::Ready
    })
    .await;
    assert_eq!(
        setup
            .number("select count(*) from orderly.orders where version > 1")
            .await,
        0
    );
    store.settle(lease.key(), Outcome::COMPLETED).await.unwrap();
    setup.end().await;
}

/// A node opens extra connections to find out whether the database allows more; it does not use those reserved for more urgent
/// work.
#[tokio::test]
async fn a_search_for_free_connections_uses_no_reserved_one() {
    /// Reads share one of the four; with a fifth, they would have two.
    const CONNECTIONS: usize = 4;
    /// Divides the time between two attempts to open more connections. Connections stay open for longer.
    const STEP: Duration = Duration::from_millis(250);
    if !has_postgres() {
        return;
    }
    let limited = LimitedDatabase::with_connections(100).await;
    let proxy = Proxy::before(Server::shared().await.address()).await;
    let store = store_at(&limited.url_for_role(&through(&proxy, &limited.database))).await;
    // Now the node has no connection, and may open four.
    let fewer = format!("alter role {} connection limit {CONNECTIONS}", limited.role);
    limited.admin.batch_execute(&fewer).await.unwrap();
    Server::shared().await.terminate_backends(&limited.database).await;
    until("the node has no connection", async || {
        let sessions = format!(
            "select count(*) from pg_stat_activity where usename = '{}'",
            limited.role
        );
        number(&limited.admin, &sessions).await == 0
    })
    .await;
    // All four are in use when a fifth is wanted, so the node learns that there is none. It tries again later.
    let gate = Gate::closed();
    let kept_back = gate.clone();
    proxy.on_flight(move |flight| {
        if flight.sql().contains("server_version_num") {
            return Action::Forward;
        }
        Action::KeepBack {
            gate: kept_back.clone(),
            then: Box::new(Action::Forward),
        }
    });
    let calls = |number: usize| {
        let store = store.clone();
        tokio::spawn(async move {
            match number {
                0 => drop(accept_keyed(&*store, "many").await),
                1 => drop(store.claim(claim_by(NODE_A, 1)).await),
                2 => drop(store.renew(heartbeat(NODE_A, &[])).await),
                3 => drop(store.give_back_expired(give_back_by(NODE_A)).await),
                _ => drop(store.order_view(OrderId(1)).await),
            }
        })
    };
    let mut wanted: Vec<_> = (0..CONNECTIONS).map(calls).collect();
    for _ in 0..CONNECTIONS {
        gate.arrival().await;
    }
    let before = proxy.connection_count();
    wanted.push(calls(CONNECTIONS));
    until("one more connection is attempted", async || {
        proxy.connection_count() >= before + 2
    })
    .await;
    gate.open();
    join_all(wanted).await;

    let hanging = Arc::new(AtomicUsize::new(0));
    let counted = hanging.clone();
    proxy.on_flight(move |flight| {
        if !flight.sql().contains(LISTS) && !flight.sql().contains(POINTS) {
            return Action::Forward;
        }
        counted.fetch_add(1, Ordering::SeqCst);
        Action::Silence
    });
    let (lists, points) = (store.clone(), store.clone());
    let reads = [
        AbortOnDropHandle::new(tokio::spawn(async move { list(&*lists).await })),
        AbortOnDropHandle::new(tokio::spawn(async move {
            // One of the two reads always waits for the other, and is refused after a while.
            while points.order_view(OrderId(1)).await.is_err() {}
        })),
    ];
    until("a read hangs", async || hanging.load(Ordering::SeqCst) > 0).await;
    let before = proxy.connection_count();
    for round in 1.. {
        jump(STEP).await;
        // One call per remaining connection.
        let name = format!("round {round}");
        let calls: [BoxFuture<'_, ()>; 3] = [
            Box::pin(async { drop(accept_keyed(&*store, &name).await) }),
            Box::pin(async { drop(store.claim(claim_by(NODE_A, 1)).await) }),
            Box::pin(async { drop(store.renew(heartbeat(NODE_A, &[])).await) }),
        ];
        join_all(calls).await;
        assert_eq!(hanging.load(Ordering::SeqCst), 1, "in round {round}");
        // An attempt to open more connections. A later one could succeed, because an unused connection was closed.
        if proxy.connection_count() > before {
            break;
        }
    }
    assert!(reads.iter().all(|read| !read.is_finished()));
    drop(reads);
    proxy.on_flight(|_| Action::Forward);
    jump(ANSWER_TIME_MAX).await;
    store.close().await;
}
