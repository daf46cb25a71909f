//! The connections of one node: which work waits for which, and what becomes of one whose caller is gone (issue 13,
//! points 2 and 28).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use orderly::lease::Outcome;
use orderly::order::OrderId;
use orderly::store::{OrderQuery, Store, StoreError, StoreHealth};
use reqwest::StatusCode;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::scarce::Limited;
use super::scene::{Scene, accept_keyed, has_postgres, jump, node, number, store_at, through, until_ready};
use crate::support::client::http;
use crate::support::gate::Gate;
use crate::support::make::{NODE_A, claim_by, give_back_by, heartbeat};
use crate::support::postgres::Server;
use crate::support::process::Process;
use crate::support::proxy::{Action, Proxy};
use crate::support::until;

/// After that a statement counts as lost.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// A part of the statements that list orders.
const LISTS: &str = "order by order_id desc";
/// A part of the statement that reads single orders.
const POINTS: &str = "last_position, place from orderly.view_orders_";
/// A part of the statements that read counters.
const NUMBERS: &str = "sum(pending)::int8";

async fn list(store: &dyn Store) {
    let page = OrderQuery {
        limit: 5,
        ..OrderQuery::default()
    };
    // Some of them are to hang.
    let _ = store.orders(page).await;
}

#[tokio::test]
async fn numbers_that_hang_keep_no_control_waiting() {
    const READERS: usize = 8;
    let Some(scene) = Scene::new().await else { return };
    let store = &scene.store;
    accept_keyed(&**store, "before").await.unwrap();
    let (freezes, mut frozen) = mpsc::unbounded_channel();
    scene.proxy.on_flight(move |flight| {
        if !flight.sql().contains(NUMBERS) {
            return Action::Forward;
        }
        // The receiver is gone at the end of the test.
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
    store.set_paused(true).await.unwrap();
    store.set_paused(false).await.unwrap();
    accept_keyed(&**store, "meanwhile").await.unwrap();
    store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    assert_eq!(store.events_after(None, 10).await.unwrap().events.len(), 2);
    assert!(readers.iter().all(|reader| !reader.is_finished()));
    scene.proxy.on_flight(|_| Action::Forward);
    jump(ANSWER_TIME_MAX).await;
    join_all(readers).await;
    scene.end().await;
}

/// They read the queue for their answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_and_a_resume_are_answered_while_numbers_hang() {
    /// As many as may be read at once.
    const HANGING: usize = 2;
    let Some(scene) = Scene::new().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &through(&scene.proxy, &scene.database))).await;
    until_ready(&node).await;
    let (gate, hanging) = (Gate::closed(), AtomicUsize::new(0));
    let kept_back = gate.clone();
    scene.proxy.on_flight(move |flight| {
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
    scene.end().await;
}

/// By a limit of the server's own: it would hold its locks, and a connection that no node counts (issue 15, point 1).
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_whose_caller_is_gone_ends_by_its_limit() {
    let Some(scene) = Scene::new().await else { return };
    accept_keyed(&*scene.store, "before").await.unwrap();
    // The other connection's: within one transaction, the list of sessions stays as it was first read.
    let locker = scene.database.admin().await;
    let lock = "begin; lock table orderly.orders in access exclusive mode";
    locker.batch_execute(lock).await.unwrap();
    let running = async || {
        let counted = format!(
            "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
             and state <> 'idle' and query like '%{LISTS}%'"
        );
        scene.number(&counted).await
    };
    let store = scene.store.clone();
    let caller = AbortOnDropHandle::new(tokio::spawn(async move { list(&*store).await }));
    until("the list waits for the table", async || running().await == 1).await;
    drop(caller);
    until("the list is given up", async || running().await == 0).await;
    locker.batch_execute("rollback").await.unwrap();
    scene.end().await;
}

/// Their statements run on until the server's limit ends them, and hold their connections for as long.
#[tokio::test(flavor = "multi_thread")]
async fn callers_that_leave_take_no_connection_of_more_urgent_work() {
    /// As many as may run at once.
    const LISTS_MAX: i64 = 4;
    const CALLERS: usize = 24;
    let Some(scene) = Scene::new().await else { return };
    accept_keyed(&*scene.store, "before").await.unwrap();
    let locker = scene.database.admin().await;
    let lock = "begin; lock table orderly.orders in access exclusive mode";
    locker.batch_execute(lock).await.unwrap();
    let running = async || {
        let counted = format!(
            "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
             and state <> 'idle' and query like '%{LISTS}%'"
        );
        scene.number(&counted).await
    };
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        let store = scene.store.clone();
        let caller = AbortOnDropHandle::new(tokio::spawn(async move { list(&*store).await }));
        callers.push(caller);
    }
    until("lists wait for the table", async || running().await == LISTS_MAX).await;
    // Those that run leave first, and would make room for the next.
    for caller in callers {
        drop(caller);
        scene.store.renew(heartbeat(NODE_A, &[])).await.unwrap();
        assert!(
            running().await <= LISTS_MAX,
            "lists have more connections than they may"
        );
    }
    locker.batch_execute("rollback").await.unwrap();
    scene.end().await;
}

/// Calls that store are functions, which have their limits in them: each is refused, and nothing of it is stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_table_refuses_whatever_stores_without_a_doubt() {
    let Some(scene) = Scene::new().await else { return };
    let store = &scene.store;
    for name in ["running", "waiting"] {
        accept_keyed(&**store, name).await.unwrap();
    }
    let lease = store.claim(claim_by(NODE_A, 1)).await.unwrap().leases.remove(0);
    let locker = scene.database.admin().await;
    let lock = "begin; lock table orderly.orders, orderly.leases in access exclusive mode";
    locker.batch_execute(lock).await.unwrap();
    let refused = tokio::join!(
        async { accept_keyed(&**store, "meanwhile").await.err() },
        async { store.settle(lease.key(), Outcome::COMPLETED).await.err() },
        async { store.cancel(OrderId(2)).await.err() },
        async { store.redrive(OrderId(2)).await.err() },
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
        scene
            .number("select count(*) from orderly.orders where version > 1")
            .await,
        0
    );
    store.settle(lease.key(), Outcome::COMPLETED).await.unwrap();
    scene.end().await;
}

/// Room is looked for with connections of its own, not by lending those that are kept for more urgent work.
#[tokio::test]
async fn a_look_for_room_lends_no_kept_connection() {
    /// Reads share one of them; with one more, they would have two.
    const CONNECTIONS: usize = 4;
    /// Between two looks is a multiple of it, and connections stay open for longer.
    const STEP: Duration = Duration::from_millis(250);
    if !has_postgres() {
        return;
    }
    let limited = Limited::to(100).await;
    let proxy = Proxy::before(Server::shared().await.address()).await;
    let store = store_at(&limited.of_role(&through(&proxy, &limited.database))).await;
    // From here on the node has none, and may have four.
    let fewer = format!("alter role {} connection limit {CONNECTIONS}", limited.role);
    limited.admin.batch_execute(&fewer).await.unwrap();
    Server::shared().await.terminate_backends(&limited.database).await;
    until("it has none", async || {
        let sessions = format!(
            "select count(*) from pg_stat_activity where usename = '{}'",
            limited.role
        );
        number(&limited.admin, &sessions).await == 0
    })
    .await;
    // All four are in use when a fifth is wanted, which teaches the node that there is none; later it looks again.
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
    until("one more is tried again", async || {
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
            // Refused after a while: one of the two waits for the other all the time.
            while points.order_view(OrderId(1)).await.is_err() {}
        })),
    ];
    until("a read hangs", async || hanging.load(Ordering::SeqCst) > 0).await;
    let before = proxy.connection_count();
    for round in 1.. {
        jump(STEP).await;
        // As many calls as there are connections left.
        let name = format!("round {round}");
        let calls: [BoxFuture<'_, ()>; 3] = [
            Box::pin(async { drop(accept_keyed(&*store, &name).await) }),
            Box::pin(async { drop(store.claim(claim_by(NODE_A, 1)).await) }),
            Box::pin(async { drop(store.renew(heartbeat(NODE_A, &[])).await) }),
        ];
        join_all(calls).await;
        assert_eq!(hanging.load(Ordering::SeqCst), 1, "in round {round}");
        // A look. A later one could find the room of a connection that was closed unused.
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
