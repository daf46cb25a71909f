//! Few connections for many callers: a pooler with two, one of the store's own that hangs, and a pool that is used up.
//! Whoever cannot be served is refused cleanly, whoever waits for a lost answer is told so in time, the others go on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use orderly::lease::Outcome;
use orderly::order::OrderStatus;
use orderly::store::{Heartbeat, OrderQuery, Settled, StoreError};
use tokio::sync::mpsc;

use super::scene::{Scene, accept_keyed, assert_sound, has_pgbouncer, jump, store_at};
use crate::support::gate::Gate;
use crate::support::make::{LONGER_THAN_A_LEASE, NODE_A, claim_by, give_back_by, heartbeat};
use crate::support::postgres::{PgBouncer, Server};
use crate::support::proxy::Action;

/// After that a statement counts as lost, and a connection as hanging.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// What a claim may take beyond that.
const CLAIM_SLACK: Duration = Duration::from_secs(5);
/// For a free connection, where all are in use.
const WAIT_MAX: Duration = Duration::from_secs(5);
const LONGER_THAN_KEYS_ARE_KEPT: Duration = Duration::from_hours(25);
/// Lists that are read at once.
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
        // Certainly nothing stored.
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

/// One connection of each kind hangs: the server has carried out what was asked of it, and nobody hears.
#[tokio::test]
async fn hanging_connections_cost_their_callers_an_answer_and_nobody_else() {
    /// A part of the statement that accepts, of the one that settles, of the one that claims.
    const FROZEN: [&str; 3] = [
        "from orderly.accept_keyed",
        "from orderly.settle",
        "from orderly.claim_",
    ];
    let Some(scene) = Scene::new().await else { return };
    let store = &scene.store;
    for number in 0..6 {
        accept_keyed(&**store, &format!("before {number}")).await.unwrap();
    }
    let leases = store.claim(claim_by(NODE_A, 2)).await.unwrap().leases;
    let (freezes, mut frozen) = mpsc::unbounded_channel();
    let hits: [AtomicUsize; 3] = Default::default();
    scene.proxy.on_flight(move |flight| {
        let sql = flight.sql();
        let kind = FROZEN.iter().position(|part| sql.contains(part));
        let Some(kind) = kind.filter(|kind| hits[*kind].fetch_add(1, Ordering::SeqCst) == 0) else {
            return Action::Forward;
        };
        // Nobody listens at the end of the test.
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
    // Not asked again: most likely it was carried out, and the leases that nobody heard of run out.
    unknown(claim.await.unwrap().err());

    assert!(accept_keyed(&**store, "frozen").await.unwrap().replayed);
    let again = store.settle(leases[0].key(), Outcome::COMPLETED).await;
    let completed = Settled::Done(OrderStatus::Completed);
    assert_eq!(again.unwrap(), completed, "it was carried out");
    let again = store.settle(leases[0].key(), Outcome::COMPLETED).await;
    assert_eq!(again.unwrap(), Settled::Stale, "that is known by now");
    assert_eq!(store.claim(claim_by(NODE_A, 100)).await.unwrap().leases.len(), 12);
    // The leases nobody heard of run out.
    let later = scene.database.now().await.plus(LONGER_THAN_A_LEASE);
    scene.database.set_clock(Some(later)).await;
    let given_back = store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    assert_eq!(given_back.pending, 3 + 12);
    assert_eq!(store.claim(claim_by(NODE_A, 100)).await.unwrap().leases.len(), 15);
    scene.end().await;
}

/// Beside a large group a small one waits for its turn, but not for long.
#[tokio::test]
async fn a_large_group_that_hangs_holds_no_single_order_up() {
    const MANY: usize = 20;
    let Some(scene) = Scene::new().await else { return };
    let store = &scene.store;
    let first = Gate::closed();
    let holding = first.clone();
    let hits = AtomicUsize::new(0);
    let (freezes, mut frozen) = mpsc::unbounded_channel();
    scene.proxy.on_flight(move |flight| {
        if !flight.sql().contains("from orderly.accept") {
            return Action::Forward;
        }
        let action = match hits.fetch_add(1, Ordering::SeqCst) {
            0 => Action::Hold(holding.clone()),
            1 => Action::Silence,
            _ => return Action::Forward,
        };
        // Nobody listens at the end of the test.
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
        "they are one group, which hangs"
    );
    jump(ANSWER_TIME_MAX).await;
    for one in join_all(many).await {
        assert!(matches!(one.unwrap(), Err(StoreError::Unexpected { .. })));
    }
    scene.end().await;
}

#[tokio::test]
async fn lists_that_hang_keep_nothing_but_lists_waiting() {
    let Some(scene) = Scene::new().await else { return };
    let store = &scene.store;
    accept_keyed(&**store, "before").await.unwrap();
    let (freezes, mut frozen) = mpsc::unbounded_channel();
    let hits = AtomicUsize::new(0);
    scene.proxy.on_flight(move |flight| {
        let reads = flight.sql().contains("order by order_id desc");
        if !reads || hits.fetch_add(1, Ordering::SeqCst) >= LISTS {
            return Action::Forward;
        }
        // Nobody listens at the end of the test.
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
    // Issue 13, point 28: what operators need waits for no list.
    store.set_paused(true).await.unwrap();
    assert!(store.queue().await.unwrap().paused);
    store.set_paused(false).await.unwrap();
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
        // What only reads is asked again where the connection had worked before.
        let read = read.unwrap();
        assert!(
            matches!(read, Ok(_) | Err(StoreError::Unavailable { .. })),
            "{read:?}"
        );
    }
    read().await.unwrap().unwrap();
    scene.end().await;
}

/// Whatever hangs, the node says that it lives.
#[tokio::test]
async fn a_sweep_that_hangs_keeps_no_heartbeat_waiting() {
    let Some(scene) = Scene::new().await else { return };
    let store = &scene.store;
    let (freezes, mut frozen) = mpsc::unbounded_channel();
    scene.proxy.on_flight(move |flight| {
        if !flight.sql().contains("The leases that ran out") {
            return Action::Forward;
        }
        // Nobody listens at the end of the test.
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
    scene.proxy.on_flight(|_| Action::Forward);
    jump(ANSWER_TIME_MAX).await;
    assert!(sweep.await.unwrap().is_err());
    store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    scene.end().await;
}

#[tokio::test]
async fn a_heartbeat_that_hangs_is_given_up_while_the_lease_lasts() {
    /// The shortest there is.
    const SHORT_LEASE: Duration = Duration::from_secs(1);
    let Some(scene) = Scene::new().await else { return };
    let store = &scene.store;
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
    scene.proxy.on_flight(move |flight| {
        if !flight.sql().contains("A heartbeat") {
            return Action::Forward;
        }
        // Nobody listens at the end of the test.
        let _ = freezes.send(());
        Action::Silence
    });
    let hanging = beat();
    frozen.recv().await.unwrap();
    scene.proxy.on_flight(|_| Action::Forward);
    jump(SHORT_LEASE * 2 / 5).await;
    assert!(hanging.await.unwrap().is_err());
    beat().await.unwrap().unwrap();
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_could_not_be_forgotten_are_made_up_for() {
    /// More than a sweep forgets of those that this node did not store.
    const KEYS: usize = 250;
    let Some(scene) = Scene::new().await else { return };
    let store = &*scene.store;
    let names: Vec<String> = (0..KEYS).map(|number| format!("order {number}")).collect();
    for accepted in join_all(names.iter().map(|name| accept_keyed(store, name))).await {
        accepted.unwrap();
    }
    let later = scene.database.now().await.plus(LONGER_THAN_KEYS_ARE_KEPT);
    scene.database.set_clock(Some(later)).await;
    let keys = || scene.number("select count(*) from orderly.idempotency_keys");
    scene.proxy.on_flight(|_| Action::Rewrite {
        from: "delete from orderly.idempotency_keys".to_owned(),
        to: "delete from orderly.no_such_table".to_owned(),
    });
    store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    assert_eq!(usize::try_from(keys().await), Ok(KEYS));
    scene.proxy.on_flight(|_| Action::Forward);
    store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    assert_eq!(keys().await, 0);
    scene.end().await;
}
