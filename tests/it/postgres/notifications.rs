//! Notifications: commits of one node wake the others, and each node knows whether it receives every notification.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use orderly::lease::{Lease, Outcome};
use orderly::order::{OrderId, OrderStatus};
use orderly::store::{ClaimRequest, RedriveOptions, RedriveQuery, Store};
use tokio::time::timeout;

use super::setup::{NOTIFIED_WITHIN, Setup, has_pgbouncer, store_at, through};
use crate::support::make::{
    NODE_A, NODE_B, claim_by, failed, give_back_by, heartbeat, new_order, retry_after,
};
use crate::support::postgres::{PgBouncer, Server};
use crate::support::proxy::{Action, Proxy};
use crate::support::until;

/// Attempts of the test, since a node that left may still send a few late messages.
const ATTEMPTS_MAX: usize = 10;

/// Another node of the store, which receives notifications and has received none of a change yet.
async fn listening_store(setup: &Setup) -> std::sync::Arc<dyn Store> {
    setup.store.renew(heartbeat(NODE_A, &[])).await.unwrap();
    until_it_listens(&*setup.store).await;
    let listener = store_at(&setup.database.url()).await;
    listener.renew(heartbeat(NODE_B, &[])).await.unwrap();
    until_it_listens(&*listener).await;
    listener
}

async fn until_it_listens(store: &dyn Store) {
    until("the store receives every notification", async || {
        store.counters().await.unwrap();
        store.wakeups().hears_all()
    })
    .await;
}

/// The notification of a change that another node received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Received {
    Events,
    EventsAndWork,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_notifies_another_node_and_only_work_wakes_its_worker() {
    use Received::{Events, EventsAndWork};
    let Some(setup) = Setup::new().await else { return };
    let listener = listening_store(&setup).await;
    let wakeups = listener.wakeups();
    let store = &*setup.store;
    // Now it also knows the other node by its heartbeat.
    store.renew(heartbeat(NODE_A, &[])).await.unwrap();
    let notifications_sent = || {
        let flights = setup.proxy.flights();
        flights.iter().filter(|sql| sql.contains("pg_notify")).count()
    };
    let mut expected = notifications_sent();
    let mut assert_notified = async |what: &str, expected_wakeups: Received| {
        let changed = timeout(NOTIFIED_WITHIN, wakeups.changed()).await;
        assert!(changed.is_ok(), "{what}: no notification arrived");
        let work = wakeups.work().now_or_never().is_some();
        let received = if work { EventsAndWork } else { Events };
        assert_eq!(received, expected_wakeups, "{what}");
        expected += 1;
        assert_eq!(notifications_sent(), expected, "{what}: notified once");
    };

    accept(store).await;
    assert_notified("an order was accepted", EventsAndWork).await;
    let lease = claim(store).await;
    assert_notified("it was started", Events).await;
    store.settle(lease.key(), retry_after(0)).await.unwrap();
    assert_notified("it is to be tried again", EventsAndWork).await;
    let lease = claim(store).await;
    assert_notified("it was started again", Events).await;
    store.settle(lease.key(), Outcome::Released).await.unwrap();
    assert_notified("it was given back", EventsAndWork).await;
    let lease = claim(store).await;
    assert_notified("it was started a third time", Events).await;
    store.settle(lease.key(), failed()).await.unwrap();
    assert_notified("it failed", Events).await;
    let id = lease.order.order_id;
    store.redrive(id, RedriveOptions::default()).await.unwrap();
    assert_notified("it was redriven", EventsAndWork).await;
    store.cancel(id, None).await.unwrap();
    assert_notified("it was cancelled", Events).await;
    store.redrive_matching(cancelled()).await.unwrap();
    assert_notified("all that were cancelled were redriven", EventsAndWork).await;
    let short = ClaimRequest {
        lease: Duration::from_micros(1),
        ..claim_by(NODE_A, 1)
    };
    store.claim(short).await.unwrap();
    assert_notified("it was started for a moment", Events).await;
    let given_back = store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    assert_eq!(given_back.pending, 1);
    assert_notified("it was taken back", EventsAndWork).await;
    let lease = claim(store).await;
    assert_notified("it was started for the last time", Events).await;
    store.settle(lease.key(), Outcome::COMPLETED).await.unwrap();
    assert_notified("it was completed", Events).await;

    listener.close().await;
    setup.end().await;
}

async fn accept(store: &dyn Store) -> OrderId {
    let accepted = store.accept([new_order()].into(), None).await.unwrap();
    accepted.order_ids[0]
}

async fn claim(store: &dyn Store) -> Lease {
    let mut claimed = store.claim(claim_by(NODE_A, 1)).await.unwrap();
    claimed.leases.remove(0)
}

fn cancelled() -> RedriveQuery {
    RedriveQuery {
        status: OrderStatus::Cancelled,
        user_id: None,
        user_name: None,
        created_before: None,
        options: RedriveOptions::default(),
        dry_run: false,
    }
}

/// Otherwise only polling would find the change, and a node that receives every notification polls rarely.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_with_a_lost_answer_notifies_other_nodes() {
    let Some(setup) = Setup::new().await else { return };
    let listener = listening_store(&setup).await;
    setup.proxy.on_flight(|flight| {
        if flight.sql().contains("from orderly.accept") {
            return Action::LoseAnswer;
        }
        Action::Forward
    });
    let unanswered = setup.store.accept([new_order()].into(), None).await;
    unanswered.unwrap_err();
    for wakeups in [setup.store.wakeups(), listener.wakeups()] {
        let changed = timeout(NOTIFIED_WITHIN, wakeups.changed()).await;
        assert!(changed.is_ok(), "the change was notified");
    }
    let page = listener.events_after(None, 10).await.unwrap();
    assert_eq!(page.events.len(), 1);
    listener.close().await;
    setup.end().await;
}

impl Setup {
    /// Carries out the first flight with this text and loses its answer.
    fn lose_first_answer(&self, text: &'static str) {
        let lost = AtomicBool::new(false);
        self.proxy.on_flight(move |flight| {
            if flight.sql().contains(text) && !lost.swap(true, Ordering::SeqCst) {
                return Action::LoseAnswer;
            }
            Action::Forward
        });
    }
}

/// The second answer reports no change, because the first attempt had already made it.
#[tokio::test(flavor = "multi_thread")]
async fn a_resent_call_notifies_whatever_its_second_answer_says() {
    let Some(setup) = Setup::new().await else { return };
    let store = &*setup.store;
    let wakeups = store.wakeups();
    let short = ClaimRequest {
        lease: Duration::from_micros(1),
        ..claim_by(NODE_A, 1)
    };
    // Makes sure that the connections are open.
    store.claim(short).await.unwrap();
    store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    accept(store).await;
    wakeups.changed().await;

    setup.lose_first_answer("from orderly.claim_");
    let claimed = store.claim(short).await.unwrap();
    assert_eq!(claimed.leases.len(), 0);
    assert!(wakeups.changed().now_or_never().is_some(), "it was started");
    let started = "select count(*) from orderly.events where kind = 1";
    assert_eq!(setup.number(started).await, 1);

    // The next connection was used before; after a lost answer on a new connection, the call would not be sent again.
    store.counters().await.unwrap();
    setup.lose_first_answer("Takes back orders whose leases ran out");
    wakeups.work().now_or_never();
    let given_back = store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    assert_eq!(given_back.pending, 0);
    assert!(wakeups.changed().now_or_never().is_some(), "it was taken back");
    assert!(wakeups.work().now_or_never().is_some(), "there is work");
    setup.end().await;
}

/// The other node does not wait for its own heartbeat to find out about the new node.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_is_notified_by_nodes_that_heard_its_announcement() {
    let Some(setup) = Setup::new().await else { return };
    let listener = listening_store(&setup).await;
    accept(&*setup.store).await;
    let woken = timeout(NOTIFIED_WITHIN, listener.wakeups().work()).await;
    assert!(woken.is_ok(), "the new node was notified");
    listener.close().await;
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_relies_on_notifications_only_while_others_know_it() {
    let Some(setup) = Setup::new().await else { return };
    let wakeups = setup.store.wakeups();
    assert!(!wakeups.hears_all());
    for _ in 0..2 {
        setup.store.renew(heartbeat(NODE_A, &[])).await.unwrap();
        until_it_listens(&*setup.store).await;
        let mut watch = wakeups.watch_hears_all();
        setup
            .store
            .leave(NODE_A, orderly::store::Leaving::ToStop)
            .await
            .unwrap();
        // The change of `hears_all` makes pollers poll more often.
        let changed = timeout(NOTIFIED_WITHIN, watch.wait_for(|hears_all| !hears_all)).await;
        assert!(changed.is_ok_and(|watched| watched.is_ok()));
    }
    setup.end().await;
}

/// A sleeping node is not on the list, so nothing notifies it of accepts; but the node that leaves may be the last one awake.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_work_behind_wakes_a_sleeping_node() {
    let Some(setup) = Setup::new().await else { return };
    let store = &*setup.store;
    let sleeping = listening_store(&setup).await;
    let wakeups = sleeping.wakeups();
    sleeping
        .leave(NODE_B, orderly::store::Leaving::ToStop)
        .await
        .unwrap();
    let notifications_sent = || {
        let flights = setup.proxy.flights();
        flights
            .iter()
            .filter(|sql| sql.contains("select pg_notify('orderly', $1)"))
            .count()
    };
    let mut attempts = 0..ATTEMPTS_MAX;
    let id = loop {
        assert!(
            attempts.next().is_some(),
            "each accept is notified although the only other node sleeps"
        );
        // The store learns that there is no other node.
        store.renew(heartbeat(NODE_A, &[])).await.unwrap();
        wakeups.work().now_or_never();
        let before = notifications_sent();
        let id = accept(store).await;
        store
            .leave(NODE_A, orderly::store::Leaving::ToStop)
            .await
            .unwrap();
        let woken = timeout(NOTIFIED_WITHIN, wakeups.work()).await;
        assert!(woken.is_ok(), "an order is left behind");
        if notifications_sent() == before {
            break id;
        }
        // A late message of the node that left made it look present again.
        store.cancel(id, None).await.unwrap();
    };

    let lease = sleeping
        .claim(claim_by(NODE_B, 1))
        .await
        .unwrap()
        .leases
        .remove(0);
    assert_eq!(lease.order.order_id, id);
    // The claim shows the other node that this one is awake, so it sends the notification it had withheld.
    let notified_late = timeout(NOTIFIED_WITHIN, wakeups.work()).await;
    assert!(notified_late.is_ok(), "the accept is notified late");
    sleeping.settle(lease.key(), Outcome::COMPLETED).await.unwrap();
    store
        .leave(NODE_A, orderly::store::Leaving::ToStop)
        .await
        .unwrap();
    wakeups.changed().now_or_never();
    // Notifications arrive in order, so all earlier ones have been received.
    let events = "select pg_notify('orderly', '0123456789abcdef events')";
    setup.admin.batch_execute(events).await.unwrap();
    let received = timeout(NOTIFIED_WITHIN, wakeups.changed()).await;
    assert!(received.is_ok(), "the node listens");
    assert!(
        wakeups.work().now_or_never().is_none(),
        "no other notification came"
    );
    sleeping.close().await;
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_notices_a_cut_listening_connection_and_recovers() {
    let Some(setup) = Setup::new().await else { return };
    let wakeups = setup.store.wakeups();
    setup.store.renew(heartbeat(NODE_A, &[])).await.unwrap();
    until_it_listens(&*setup.store).await;
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and query = 'listen orderly'";
    assert_eq!(setup.number(cut).await, 1);
    // The connection is opened again only with the next call, so the test cannot miss this state.
    until("the store knows that it receives no notifications", async || {
        tokio::task::yield_now().await;
        !wakeups.hears_all()
    })
    .await;
    until_it_listens(&*setup.store).await;
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_a_pooler_does_not_rely_on_notifications() {
    if !has_pgbouncer() {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let proxy = Proxy::before(PgBouncer::shared().await.address()).await;
    let store = store_at(&through(&proxy, &database)).await;
    store.renew(heartbeat(NODE_A, &[])).await.unwrap();
    until("the node has stopped listening", async || {
        store.counters().await.unwrap();
        assert!(!store.wakeups().hears_all());
        proxy.flights().iter().any(|sql| sql.contains("unlisten"))
    })
    .await;
    assert!(!store.wakeups().hears_all());
    store.close().await;
}
