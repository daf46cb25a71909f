//! Calls on rows that another session of the database has locked: only these calls wait or are refused.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use orderly::lease::{Lease, Outcome};
use orderly::order::OrderStatus;
use orderly::store::{Acted, ExternalHold, Prune, RedriveOptions, RedriveQuery, Settled, StoreError};

use super::locked_claims::{Locker, accept, accept_later, claim};
use super::setup::{Setup, node, number, through};
use crate::support::client::http;
use crate::support::gate::Gate;
use crate::support::make::{LEASE, NODE_A, claim_by, failed, give_back_by, heartbeat, key, new_order};
use crate::support::process::Process;
use crate::support::proxy::Action;
use crate::support::until;

/// Orders besides the locked one.
const OTHER_ORDERS: usize = 20;
/// Time limit of a claim, after which it ends without orders.
const CLAIM_PATIENCE: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_order_does_not_affect_other_results_of_its_group() {
    let Some(setup) = Setup::new().await else { return };
    accept(&*setup.store, 20).await;
    let leases = setup.store.claim(claim_by(NODE_A, 20)).await.unwrap().leases;
    let locker = Locker::of_orders(&setup, &[leases[7].order.order_id]).await;
    let settle = async |lease: &Lease| setup.store.settle(lease.key(), Outcome::COMPLETED).await;
    let completed = "select count(*) from orderly.orders where status = 2";
    let (ends, ()) = tokio::join!(join_all(leases.iter().map(settle)), async {
        until("the others are completed", async || {
            setup.number(completed).await == 19
        })
        .await;
        locker.release().await;
    });
    for end in ends {
        assert_eq!(end.unwrap(), Settled::Done(OrderStatus::Completed));
    }
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_on_a_locked_order_are_refused_and_change_nothing() {
    refused_while_locked("orders", [true, true, true, true, false]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_on_a_locked_lease_are_refused_and_change_nothing() {
    refused_while_locked("leases", [false, true, false, true, true]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_of_an_order_locked_in_its_line_is_refused() {
    refused_while_locked("first_line", [true, false, false, false, false]).await;
}

/// Makes five calls: cancel a Pending order, cancel a Processing one, redrive a Failed one, settle, and hold a lease externally.
/// Asserts that exactly the calls that meet the lock are refused.
async fn refused_while_locked(table: &str, meets: [bool; 5]) {
    let Some(setup) = Setup::new().await else { return };
    let store = &setup.store;
    let ids = accept(&**store, 5).await;
    let leases = store.claim(claim_by(NODE_A, 4)).await.unwrap().leases;
    store.settle(leases[0].key(), failed()).await.unwrap();
    let locker = Locker::of_rows(&setup, table, &ids).await;
    let hold = ExternalHold {
        lease: LEASE,
        run_max: LEASE,
    };
    let answers: (_, _, _, _, _) = tokio::join!(
        async { store.cancel(ids[4], None).await.map(drop) },
        async { store.cancel(ids[1], None).await.map(drop) },
        async { store.redrive(ids[0], RedriveOptions::default()).await.map(drop) },
        async { store.settle(leases[2].key(), Outcome::COMPLETED).await.map(drop) },
        async { store.hold_external(leases[3].key(), hold).await.map(drop) },
    );
    let answers: [Result<(), StoreError>; 5] = answers.into();
    for (number, (answer, meets)) in answers.iter().zip(meets).enumerate() {
        let refused = matches!(answer, Err(StoreError::Unavailable { .. }));
        assert!(
            refused == meets && (refused || answer.is_ok()),
            "{table}, {number}: {answer:?}"
        );
    }
    locker.release().await;
    // The refused calls changed nothing.
    let stored = "select count(*) from orderly.batches where kind in (2, 7, 8)";
    let expected = meets[..4].iter().filter(|meets| !**meets).count();
    assert_eq!(setup.number(stored).await, i64::try_from(expected).unwrap());
    let outside = "select count(*) from orderly.leases where outside";
    assert_eq!(setup.number(outside).await, i64::from(!meets[4]));
    assert!(matches!(
        store.cancel(ids[3], None).await.unwrap(),
        Acted::Done(_)
    ));
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redriving_many_orders_leaves_out_a_locked_one() {
    let Some(setup) = Setup::new().await else { return };
    let ids = accept(&*setup.store, 3).await;
    for lease in setup.store.claim(claim_by(NODE_A, 3)).await.unwrap().leases {
        setup.store.settle(lease.key(), failed()).await.unwrap();
    }
    let query = RedriveQuery {
        status: OrderStatus::Failed,
        user_id: None,
        user_name: None,
        created_before: None,
        options: RedriveOptions::default(),
        dry_run: false,
    };
    let locker = Locker::of_orders(&setup, &ids[1..2]).await;
    let redriven = setup.store.redrive_matching(query.clone()).await.unwrap();
    assert_eq!((redriven.matched, redriven.retried), (3, 2));
    locker.release().await;
    let redriven = setup.store.redrive_matching(query.clone()).await.unwrap();
    assert_eq!((redriven.matched, redriven.retried), (1, 1));
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_renews_other_leases_and_keeps_a_locked_one() {
    let Some(setup) = Setup::new().await else { return };
    let store = &setup.store;
    accept(&**store, 3).await;
    let leases = store.claim(claim_by(NODE_A, 3)).await.unwrap().leases;
    let keys: Vec<_> = leases.iter().map(Lease::key).collect();
    let lengthened =
        "select count(*) from orderly.leases where expires_at > clock_timestamp() + interval '1 hour'";
    let mut beat = heartbeat(NODE_A, &keys);
    beat.lease = Duration::from_hours(2);
    let node = Locker::of(&setup, "orderly.nodes").await;
    let locker = Locker::of_orders(&setup, &[keys[1].order_id]).await;
    let renewed = store.renew(beat.clone()).await.unwrap();
    assert_eq!((renewed.lost, renewed.locked), (vec![], vec![keys[1]]));
    assert_eq!(setup.number(lengthened).await, 2);
    locker.release().await;
    node.release().await;
    let renewed = store.renew(beat.clone()).await.unwrap();
    assert_eq!((renewed.lost, renewed.locked), (vec![], vec![]));
    assert_eq!(setup.number(lengthened).await, 3);
    // Locks the node's own row.
    let node = Locker::of(&setup, "orderly.nodes").await;
    store.renew(beat).await.unwrap();
    store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    store
        .leave(NODE_A, orderly::store::Leaving::ToStop)
        .await
        .unwrap();
    node.release().await;
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_keys_and_counters_delay_no_other_accept() {
    let Some(setup) = Setup::new().await else { return };
    let store = &setup.store;
    let accept_under = async |name: &str| store.accept([new_order()].into(), Some(key(name, 1))).await;
    let (young, old) = (
        accept_under("young").await.unwrap(),
        accept_under("old").await.unwrap(),
    );
    let age =
        "update orderly.idempotency_keys set created_at = created_at - interval '2 days' where key = 'old'";
    setup.admin.batch_execute(age).await.unwrap();
    let keys = Locker::of(&setup, "orderly.idempotency_keys").await;
    let counters = Locker::of(&setup, "orderly.counters where slot % 4 <> 0").await;
    let again = accept_under("young").await.unwrap();
    assert_eq!((again.order_ids, again.replayed), (young.order_ids, true));
    // The first requests occupy the connections, so that the one with the locked key shares a statement with others.
    let mut names: Vec<String> = (0..OTHER_ORDERS).map(|number| format!("new {number}")).collect();
    names[OTHER_ORDERS / 2] = "old".to_owned();
    let accepted = join_all(names.iter().map(|name| accept_under(name))).await;
    for (name, accepted) in names.iter().zip(accepted) {
        match accepted {
            Err(StoreError::Unavailable { .. }) if name == "old" => {}
            accepted => assert!(accepted.is_ok() && name != "old", "{name}: {accepted:?}"),
        }
    }
    // Enough requests to draw a locked counter row.
    for _ in 0..OTHER_ORDERS {
        store.accept([new_order()].into(), None).await.unwrap();
    }
    keys.release().await;
    counters.release().await;
    let renewed = accept_under("old").await.unwrap();
    assert!(!renewed.replayed && renewed.order_ids != old.order_ids);
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_leaves_locked_rows_for_a_later_round() {
    let Some(setup) = Setup::new().await else { return };
    let store = &setup.store;
    let ids = accept_later(&setup, 0, 3).await;
    for lease in store.claim(claim_by(NODE_A, 3)).await.unwrap().leases {
        store.settle(lease.key(), Outcome::COMPLETED).await.unwrap();
    }
    accept_later(&setup, 120, 1).await;
    store.events_after(None, 100).await.unwrap();
    let step = Prune {
        older_than: Duration::from_hours(1),
        after: None,
    };
    let order = Locker::of_orders(&setup, &ids[..1]).await;
    let batch = format!("orderly.batches where kind = 2 and {} = any (order_ids)", ids[1]);
    let batch = Locker::of(&setup, &batch).await;
    assert_eq!(store.prune(step).await.unwrap().orders, 1);
    order.release().await;
    batch.release().await;
    assert_eq!(store.prune(step).await.unwrap().orders, 2);
    setup.end().await;
}

/// Claims wait for the lock that a pause takes, so a pause must not wait long.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_meets_a_locked_row_is_refused_quickly() {
    let Some(setup) = Setup::new().await else { return };
    let queue = Locker::of(&setup, "orderly.queue").await;
    let began = Instant::now();
    let refused = setup.store.pause(None).await;
    assert!(
        began.elapsed() < CLAIM_PATIENCE,
        "claims were blocked for too long"
    );
    assert!(
        matches!(refused, Err(StoreError::Unavailable { .. })),
        "{refused:?}"
    );
    let ids = accept(&*setup.store, 1).await;
    assert_eq!(claim(&*setup.store, 1).await, ids);
    queue.release().await;
    setup.store.pause(None).await.unwrap();
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_logs_which_session_locks_an_order_and_its_end() {
    let Some(setup) = Setup::new().await else { return };
    let ids = accept(&*setup.store, 2).await;
    let locker = Locker::of_orders(&setup, &ids[..1]).await;
    let pid = number(&locker.0, "select pg_backend_pid()::int8").await;
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &setup.database.url())).await;
    let completed = async |count| {
        until("orders are completed", async || {
            setup
                .number("select count(*) from orderly.orders where status = 2")
                .await
                == count
        })
        .await;
    };
    completed(1).await;
    until("the log names the session", async || {
        node.has_logged(&format!("session {pid} of the database (user "))
            && node.has_logged("has locked 1 order (1)")
    })
    .await;
    let order = format!("{}/orders/{}", node.url, ids[0]);
    let explained = http().get(format!("{order}/explain")).send().await.unwrap();
    let explained: serde_json::Value = explained.json().await.unwrap();
    assert_eq!(explained["reasons"][0]["reason"], "locked", "{explained}");
    let detail = explained["reasons"][0]["detail"].as_str().unwrap();
    assert!(detail.starts_with(&format!("session {pid} ")), "{detail}");
    let refused = http().post(format!("{order}/cancel")).send().await.unwrap();
    assert_eq!(refused.status(), reqwest::StatusCode::SERVICE_UNAVAILABLE);
    locker.release().await;
    completed(2).await;
    until("the log reports the end of the lock", async || {
        node.has_logged("has locked no order any more")
    })
    .await;
    assert_eq!(node.terminate().await, Some(0));
    setup.end().await;
}

/// A session that ends its transaction and later locks other orders.
#[tokio::test(flavor = "multi_thread")]
async fn a_later_transaction_of_a_session_is_reported_with_its_own_age() {
    let Some(setup) = Setup::new().await else { return };
    let ids = accept(&*setup.store, 2).await;
    let locker = Locker::of_orders(&setup, &ids).await;
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &setup.database.url())).await;
    node.until_logged("has locked 2 orders (1, 2)").await;
    let next = format!(
        "rollback; begin; select from orderly.orders where order_id = {} for update",
        ids[1]
    );
    locker.0.batch_execute(&next).await.unwrap();
    node.until_logged("has locked 1 order (2), for at least 1 s: ")
        .await;
    // The log does not advise ending the session yet.
    assert!(!node.has_logged("pg_terminate_backend"));
    locker.release().await;
    node.until_logged("has locked no order any more").await;
    assert_eq!(node.terminate().await, Some(0));
    setup.end().await;
}

/// The node sees the later transaction once, which is not enough to name the session again.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_named_session_is_logged_after_a_later_short_transaction() {
    const LOOKS: &str = "virtualtransaction";
    let Some(setup) = Setup::new().await else { return };
    let ids = accept(&*setup.store, 1).await;
    let locker = Locker::of_orders(&setup, &ids).await;
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &through(&setup.proxy, &setup.database))).await;
    node.until_logged("has locked 1 order (1)").await;
    let next = format!(
        "rollback; begin; select from orderly.orders where order_id = {} for update",
        ids[0]
    );
    // The next look at the locks waits for the second transaction, and the one after that for its end.
    let gates = [Gate::closed(), Gate::closed()];
    let (looks, held_up) = (AtomicUsize::new(0), gates.clone());
    setup.proxy.on_flight(move |flight| {
        if !flight.sql().contains(LOOKS) {
            return Action::Forward;
        }
        match held_up.get(looks.fetch_add(1, Ordering::SeqCst)) {
            Some(gate) => Action::KeepBack {
                gate: gate.clone(),
                then: Box::new(Action::Forward),
            },
            None => Action::Forward,
        }
    });
    gates[0].arrival().await;
    locker.0.batch_execute(&next).await.unwrap();
    gates[0].open();
    gates[1].arrival().await;
    locker.release().await;
    gates[1].open();
    node.until_logged("has locked no order any more").await;
    assert_eq!(node.terminate().await, Some(0));
    setup.end().await;
}
