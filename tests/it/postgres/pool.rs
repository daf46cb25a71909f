//! Few connections for many callers: a pooler with two connections, hanging connections, and an exhausted pool. A caller that
//! cannot be served is refused, one that waits for a lost answer gets an error in time, and the others continue.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use orderly::lease::Outcome;
use orderly::order::OrderStatus;
use orderly::store::{Heartbeat, OrderQuery, Settled, StoreError};
use tokio::sync::mpsc;

use super::setup::{Setup, accept_keyed, assert_sound, has_pgbouncer, jump, store_at};
use crate::support::gate::Gate;
use crate::support::make::{LONGER_THAN_A_LEASE, NODE_A, claim_by, give_back_by, heartbeat};
use crate::support::postgres::{PgBouncer, Server};
use crate::support::proxy::Action;

/// Time after which a statement counts as hanging, and its connection as lost.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// Additional time that a claim may take.
const CLAIM_SLACK: Duration = Duration::from_secs(5);
/// The longest wait for a free connection.
const WAIT_MAX: Duration = Duration::from_secs(5);
const LONGER_THAN_KEYS_ARE_KEPT: Duration = Duration::from_hours(25);
/// Maximum number of concurrent lists.
const LISTS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn two_connections_of_a_pooler_serve_many_callers() {
    const CALLERS: usize = 48;
    const ROUNDS: usize = 6;
    if !has_pgbouncer() {
        return;
    }
    let shared = Server::shared().await;
    let database = shared.create_database().await;
    let bouncer = PgBouncer::start(shared, 2).await;
    let store = store_at(&database.url_at("127.0.0.1", bouncer.address().port())).await;
    let (served, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let store = &*store;
    let note = |result: Result<(), StoreError>| match result {
        Ok(()) => drop(served.fetch_add(1, Ordering::SeqCst)),
        // Nothing is stored, for certain.
        Err(StoreError::Unavailable { .. } | StoreError::Busy) => {
            refused.fetch_add(1, Ordering::SeqCst);
        }
        Err(other) => panic!("neither served nor refused: {other}"),
    };
    let caller = async |caller: usize| {
        for round in 0..ROUNDS {
            let accepted = accept_keyed(store, &format!("{caller} {round}")).await;
            let id = accepted.as_ref().ok().map(|accepted| accepted.order_ids[0]);
            note(accepted.map(drop));
            match store.claim(claim_by(NODE_A, 2)).await {
                Ok(claimed) => {
                    note(Ok(()));
                    for lease in &claimed.leases {
                        note(store.settle(lease.key(), Outcome::COMPLETED).await.map(drop));
                    }
                }
                Err(error) => note(Err(error)),
            }
            if let Some(id) = id {
                note(store.order_view(id).await.map(drop));
            }
            let page = OrderQuery {
                limit: 5,
                ..OrderQuery::default()
            };
            note(store.orders(page).await.map(drop));
            note(store.renew(heartbeat(NODE_A, &[])).await.map(drop));
            note(store.counters().await.map(drop));
            note(store.events_after(None, 10).await.map(drop));
        }
    };
    join_all((0..CALLERS).map(caller)).await;
    let (served, refused) = (served.into_inner(), refused.into_inner());
    println!("{served} served, {refused} refused");
    assert!(served > 10 * refused, "{served} served, {refused} refused");
    store.counters().await.unwrap();
    assert_sound(store).await;
    store.close().await;
}

/// One connection of each class hangs: the server has carried out the statement, but its answer does not arrive.
#[tokio::test]
async fn hanging_connections_affect_only_their_own_callers() {
    /// Parts of the statements that accept, settle and claim.
    const FROZEN: [&str; 3] = [
        "from orderly.accept_keyed",
        "from orderly.settle",
        "from orderly.claim_",
    ];
    let Some(setup) = Setup::new().await else { return };
    let store = &setup.store;
    for number in 0..6 {
        accept_keyed(&**store, &format!("before {number}")).await.unwrap();
    }
    let leases = store.claim(claim_by(NODE_A, 2)).await.unwrap().leases;
    let (freezes, mut frozen) = mpsc::unbounded_channel();
    let hits: [AtomicUsize; 3] = Default::default();
    setup.proxy.on_flight(move |flight| {
        let sql = flight.sql();
        let kind = FROZEN.iter().position(|part| sql.contains(part));
        let Some(kind) = kind.filter(|kind| hits[*kind].fetch_add(1, Ordering::SeqCst) == 0) else {
            return Action::Forward;
        };
        // Fails only after the end of the test.
        let _ = freezes.send(kind);
        Action::Silence
    });
    let accept = tokio::spawn({
        let store = store.clone();
        async move { accept_keyed(&*store, "frozen").await }
    });
    let settle = tokio::spawn({
        let (store, key) = (store.clone(), leases[0].key());
        async move { store.settle(key, Outcome::COMPLETED).await }
    });
    let claim = tokio::spawn({
        let store = store.clone();
        async move { store.claim(claim_by(NODE_A, 3)).await }
    });
    for _ in FROZEN {
        frozen.recv().await.unwrap();
    }

    for number in 0..10 {
        accept_keyed(&**store, &format!("meanwhile {number}"))
            .await
            .unwrap();
    }
    let settled = store.settle(leases[1].key(), Outcome::COMPLETED).await;
    assert_eq!(settled.unwrap(), Settled::Done(OrderStatus::Completed));
    store.order_view(leases[0].order.order_id).await.unwrap();
    assert!(!accept.is_finished() && !settle.is_finished() && !claim.is_finished());

    jump(ANSWER_TIME_MAX + CLAIM_SLACK).await;
    let unknown = |error: Option<StoreError>| {
        assert!(matches!(error, Some(StoreError::Unexpected { .. })), "{error:?}");
    };
    unknown(accept.await.unwrap().err());
    unknown(settle.await.unwrap().err());
    // The claim is not repeated: it was probably carried out, and its unreported leases expire.
    unknown(claim.await.unwrap().err());

    assert!(accept_keyed(&**store, "frozen").await.unwrap().replayed);
    let again = store.settle(leases[0].key(), Outcome::COMPLETED).await;
    let completed = Settled::Done(OrderStatus::Completed);
    assert_eq!(again.unwrap(), completed, "it was carried out");
    let again = store.settle(leases[0].key(), Outcome::COMPLETED).await;
    assert_eq!(
        again.unwrap(),
        Settled::Stale,
        "the result is recognised only once"
    );
    assert_eq!(store.claim(claim_by(NODE_A, 100)).await.unwrap().leases.len(), 12);
    // The unreported leases expire.
    let later = setup.database.now().await.plus(LONGER_THAN_A_LEASE);
    setup.database.set_clock(Some(later)).await;
    let given_back = store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    assert_eq!(given_back.pending, 3 + 12);
    assert_eq!(store.claim(claim_by(NODE_A, 100)).await.unwrap().leases.len(), 15);
    setup.end().await;
}

/// A small group waits for a large one, but not for long.
#[tokio::test]
async fn a_hanging_large_group_does_not_delay_single_orders() {
    const MANY: usize = 20;
    let Some(setup) = Setup::new().await else { return };
    let store = &setup.store;
    let first = Gate::closed();
    let holding = first.clone();
    let hits = AtomicUsize::new(0);
    let (freezes, mut frozen) = mpsc::unbounded_channel();
    setup.proxy.on_flight(move |flight| {
        if !flight.sql().contains("from orderly.accept") {
            return Action::Forward;
        }
        let action = match hits.fetch_add(1, Ordering::SeqCst) {
            0 => Action::Hold(holding.clone()),
            1 => Action::Silence,
            _ => return Action::Forward,
        };
        // Fails only after the end of the test.
        let _ = freezes.send(());
        action
    });
    let accept = |name: String| {
        let store = store.clone();
        tokio::spawn(async move { accept_keyed(&*store, &name).await })
    };
    let alone = accept("alone".to_owned());
    frozen.recv().await.unwrap();
    let many: Vec<_> = (0..MANY)
        .map(|number| accept(format!("one of many {number}")))
        .collect();
    frozen.recv().await.unwrap();
    first.open();
    alone.await.unwrap().unwrap();
    accept_keyed(&**store, "single").await.unwrap();
    assert!(
        many.iter().all(|one| !one.is_finished()),
        "all of them are in one group, which hangs"
    );
    jump(ANSWER_TIME_MAX).await;
    for one in join_all(many).await {
        assert!(matches!(one.unwrap(), Err(StoreError::Unexpected { .. })));
    }
    setup.end().await;
}

#[tokio::test]
async fn hanging_lists_delay_only_other_lists() {
    let Some(setup) = Setup::new().await else { return };
    let store = &setup.store;
    accept_keyed(&**store, "before").await.unwrap();
    let (freezes, mut frozen) = mpsc::unbounded_channel();
    let hits = AtomicUsize::new(0);
    setup.proxy.on_flight(move |flight| {
        let reads = flight.sql().contains("order by order_id desc");
        if !reads || hits.fetch_add(1, Ordering::SeqCst) >= LISTS {
            return Action::Forward;
        }
        // Fails only after the end of the test.
        let _ = freezes.send(());
        Action::Silence
    });
    let read = || {
        let store = store.clone();
        tokio::spawn(async move {
            store
                .orders(OrderQuery {
                    limit: 5,
                    ..OrderQuery::default()
                })
                .await
        })
    };
    let hanging: Vec<_> = (0..LISTS).map(|_| read()).collect();
    for _ in 0..LISTS {
        frozen.recv().await.unwrap();
    }
    let waiting = read();
    accept_keyed(&**store, "meanwhile").await.unwrap();
    // Issue 13, point 28: calls of operators wait for no list.
    store.pause(None).await.unwrap();
    assert!(store.queue().await.unwrap().pause.is_some());
    store.resume().await.unwrap();
    store.counters().await.unwrap();
    store.events_after(None, 10).await.unwrap();
    store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    assert!(!waiting.is_finished());
    jump(WAIT_MAX).await;
    let refused = waiting.await.unwrap();
    assert!(
        matches!(refused, Err(StoreError::Unavailable { .. })),
        "{refused:?}"
    );
    accept_keyed(&**store, "still").await.unwrap();

    jump(ANSWER_TIME_MAX.saturating_sub(WAIT_MAX)).await;
    for read in join_all(hanging).await {
        // A read is repeated if its connection had worked before.
        let read = read.unwrap();
        assert!(
            matches!(read, Ok(_) | Err(StoreError::Unavailable { .. })),
            "{read:?}"
        );
    }
    read().await.unwrap().unwrap();
    setup.end().await;
}

/// Heartbeats continue while other statements hang.
#[tokio::test]
async fn a_hanging_sweep_does_not_delay_heartbeats() {
    let Some(setup) = Setup::new().await else { return };
    let store = &setup.store;
    let (freezes, mut frozen) = mpsc::unbounded_channel();
    setup.proxy.on_flight(move |flight| {
        if !flight.sql().contains("The leases that ran out") {
            return Action::Forward;
        }
        // Fails only after the end of the test.
        let _ = freezes.send(());
        Action::Silence
    });
    let sweep = tokio::spawn({
        let store = store.clone();
        async move { store.give_back_expired(give_back_by(NODE_A)).await }
    });
    frozen.recv().await.unwrap();
    store.renew(heartbeat(NODE_A, &[])).await.unwrap();
    assert!(!sweep.is_finished());
    setup.proxy.on_flight(|_| Action::Forward);
    jump(ANSWER_TIME_MAX).await;
    assert!(sweep.await.unwrap().is_err());
    store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    setup.end().await;
}

#[tokio::test]
async fn a_hanging_heartbeat_is_abandoned_before_the_lease_expires() {
    /// The shortest lease that can be configured.
    const SHORT_LEASE: Duration = Duration::from_secs(1);
    let Some(setup) = Setup::new().await else { return };
    let store = &setup.store;
    let beat = || {
        let store = store.clone();
        let heartbeat = Heartbeat {
            lease: SHORT_LEASE,
            ..heartbeat(NODE_A, &[])
        };
        tokio::spawn(async move { store.renew(heartbeat).await })
    };
    beat().await.unwrap().unwrap();
    let (freezes, mut frozen) = mpsc::unbounded_channel();
    setup.proxy.on_flight(move |flight| {
        if !flight.sql().contains("A heartbeat") {
            return Action::Forward;
        }
        // Fails only after the end of the test.
        let _ = freezes.send(());
        Action::Silence
    });
    let hanging = beat();
    frozen.recv().await.unwrap();
    setup.proxy.on_flight(|_| Action::Forward);
    jump(SHORT_LEASE * 2 / 5).await;
    assert!(hanging.await.unwrap().is_err());
    beat().await.unwrap().unwrap();
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_cleanup_of_expired_keys_is_made_up_for() {
    /// More expired keys than one sweep deletes of those that this node did not store.
    const KEYS: usize = 250;
    let Some(setup) = Setup::new().await else { return };
    let store = &*setup.store;
    let names: Vec<String> = (0..KEYS).map(|number| format!("order {number}")).collect();
    for accepted in join_all(names.iter().map(|name| accept_keyed(store, name))).await {
        accepted.unwrap();
    }
    let later = setup.database.now().await.plus(LONGER_THAN_KEYS_ARE_KEPT);
    setup.database.set_clock(Some(later)).await;
    let keys = || setup.number("select count(*) from orderly.idempotency_keys");
    setup.proxy.on_flight(|_| Action::Rewrite {
        from: "delete from orderly.idempotency_keys".to_owned(),
        to: "delete from orderly.no_such_table".to_owned(),
    });
    store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    assert_eq!(usize::try_from(keys().await), Ok(KEYS));
    setup.proxy.on_flight(|_| Action::Forward);
    store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    assert_eq!(keys().await, 0);
    setup.end().await;
}
