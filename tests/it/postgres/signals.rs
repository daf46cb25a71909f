//! What is committed through one node is heard at the others, and a node knows whether it hears everything.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use orderly::lease::{Lease, Outcome};
use orderly::order::{OrderId, OrderStatus};
use orderly::store::{ClaimRequest, RedriveQuery, Store};
use tokio::time::timeout;

use super::scene::{HEARS_WITHIN, Scene, has_pgbouncer, store_at, through};
use crate::support::make::{
    NODE_A, NODE_B, claim_by, failed, give_back_by, heartbeat, new_order, retry_after,
};
use crate::support::postgres::{PgBouncer, Server};
use crate::support::proxy::{Action, Proxy};
use crate::support::until;

/// Late words of a node that left are few.
const ATTEMPTS_MAX: usize = 10;

/// Another store that hears what the scene's own does, and has heard nothing yet.
async fn hearing_store(scene: &Scene) -> std::sync::Arc<dyn Store> {
    scene.store.renew(heartbeat(NODE_A, &[])).await.unwrap();
    until_it_hears(&*scene.store).await;
    let hearing = store_at(&scene.database.url()).await;
    hearing.renew(heartbeat(NODE_B, &[])).await.unwrap();
    until_it_hears(&*hearing).await;
    hearing
}

async fn until_it_hears(store: &dyn Store) {
    until("the store hears everything", async || {
        store.counters().await.unwrap();
        store.wakeups().hears_all()
    })
    .await;
}

/// What another node heard of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Received {
    Events,
    EventsAndWork,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_heard_at_another_node_and_wakes_its_worker_only_for_work() {
    use Received::{Events, EventsAndWork};
    let Some(scene) = Scene::new().await else { return };
    let hearing = hearing_store(&scene).await;
    let wakeups = hearing.wakeups();
    let store = &*scene.store;
    // From now on it knows of the other by its heartbeat as well.
    store.renew(heartbeat(NODE_A, &[])).await.unwrap();
    let told = || {
        let flights = scene.proxy.flights();
        flights.iter().filter(|sql| sql.contains("pg_notify")).count()
    };
    let mut expected = told();
    let mut assert_heard = async |what: &str, of_what: Received| {
        let changed = timeout(HEARS_WITHIN, wakeups.changed()).await;
        assert!(changed.is_ok(), "{what}: nothing was heard");
        let work = wakeups.work().now_or_never().is_some();
        let received = if work { EventsAndWork } else { Events };
        assert_eq!(received, of_what, "{what}");
        expected += 1;
        assert_eq!(told(), expected, "{what}: told once");
    };

    accept(store).await;
    assert_heard("an order was accepted", EventsAndWork).await;
    let lease = claim(store).await;
    assert_heard("it was started", Events).await;
    store.settle(lease.key(), retry_after(0)).await.unwrap();
    assert_heard("it is to be tried again", EventsAndWork).await;
    let lease = claim(store).await;
    assert_heard("it was started again", Events).await;
    store.settle(lease.key(), Outcome::Released).await.unwrap();
    assert_heard("it was given back", EventsAndWork).await;
    let lease = claim(store).await;
    assert_heard("it was started a third time", Events).await;
    store.settle(lease.key(), failed()).await.unwrap();
    assert_heard("it failed", Events).await;
    let id = lease.order.order_id;
    store.redrive(id).await.unwrap();
    assert_heard("it was redriven", EventsAndWork).await;
    store.cancel(id).await.unwrap();
    assert_heard("it was cancelled", Events).await;
    store.redrive_matching(cancelled()).await.unwrap();
    assert_heard("all that were cancelled were redriven", EventsAndWork).await;
    let short = ClaimRequest {
        lease: Duration::from_micros(1),
        ..claim_by(NODE_A, 1)
    };
    store.claim(short).await.unwrap();
    assert_heard("it was started for a moment", Events).await;
    let given_back = store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    assert_eq!(given_back.pending, 1);
    assert_heard("it was taken back", EventsAndWork).await;
    let lease = claim(store).await;
    assert_heard("it was started for the last time", Events).await;
    store.settle(lease.key(), Outcome::COMPLETED).await.unwrap();
    assert_heard("it was completed", Events).await;

    hearing.close().await;
    scene.end().await;
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
        created_before: None,
        dry_run: false,
    }
}

/// Or only polling would find it, which those who hear everything do rarely.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_answer_is_lost_is_heard_as_well() {
    let Some(scene) = Scene::new().await else { return };
    let hearing = hearing_store(&scene).await;
    scene.proxy.on_flight(|flight| {
        if flight.sql().contains("from orderly.accept") {
            return Action::LoseAnswer;
        }
        Action::Forward
    });
    let unanswered = scene.store.accept([new_order()].into(), None).await;
    unanswered.unwrap_err();
    for wakeups in [scene.store.wakeups(), hearing.wakeups()] {
        let changed = timeout(HEARS_WITHIN, wakeups.changed()).await;
        assert!(changed.is_ok(), "it was heard");
    }
    let page = hearing.events_after(None, 10).await.unwrap();
    assert_eq!(page.events.len(), 1);
    hearing.close().await;
    scene.end().await;
}

impl Scene {
    /// The first flight with this text is carried out and never answered.
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

/// The answer that arrives says that nothing happened: the first attempt had taken all there was.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_twice_is_heard_whatever_its_second_answer_says() {
    let Some(scene) = Scene::new().await else { return };
    let store = &*scene.store;
    let wakeups = store.wakeups();
    let short = ClaimRequest {
        lease: Duration::from_micros(1),
        ..claim_by(NODE_A, 1)
    };
    // The connections are open.
    store.claim(short).await.unwrap();
    store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    accept(store).await;
    wakeups.changed().await;

    scene.lose_first_answer("from orderly.claim_");
    let claimed = store.claim(short).await.unwrap();
    assert_eq!(claimed.leases.len(), 0);
    assert!(wakeups.changed().now_or_never().is_some(), "it was started");
    let started = "select count(*) from orderly.events where kind = 1";
    assert_eq!(scene.number(started).await, 1);

    // What is lent next was used before: on a new connection, a lost answer is no reason to send again.
    store.counters().await.unwrap();
    scene.lose_first_answer("Takes back orders whose leases ran out");
    wakeups.work().now_or_never();
    let given_back = store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    assert_eq!(given_back.pending, 0);
    assert!(wakeups.changed().now_or_never().is_some(), "it was taken back");
    assert!(wakeups.work().now_or_never().is_some(), "there is work");
    scene.end().await;
}

/// The other does not wait for its own heartbeat to find out that there is somebody to tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_is_told_by_those_who_heard_it_come() {
    let Some(scene) = Scene::new().await else { return };
    let hearing = hearing_store(&scene).await;
    accept(&*scene.store).await;
    let woken = timeout(HEARS_WITHIN, hearing.wakeups().work()).await;
    assert!(woken.is_ok(), "it was told");
    hearing.close().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_hears_everything_only_while_the_others_know_of_it() {
    let Some(scene) = Scene::new().await else { return };
    let wakeups = scene.store.wakeups();
    assert!(!wakeups.hears_all());
    for _ in 0..2 {
        scene.store.renew(heartbeat(NODE_A, &[])).await.unwrap();
        until_it_hears(&*scene.store).await;
        let mut watch = wakeups.watch_hears_all();
        scene.store.leave(NODE_A).await.unwrap();
        // So that whoever polled rarely thinks again.
        let changed = timeout(HEARS_WITHIN, watch.wait_for(|hears_all| !hears_all)).await;
        assert!(changed.is_ok_and(|watched| watched.is_ok()));
    }
    scene.end().await;
}

/// It is on no list, so nobody tells it of what is accepted; but the last that was awake may have been the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_sleeps_is_woken_by_one_that_leaves_and_leaves_work_behind() {
    let Some(scene) = Scene::new().await else { return };
    let store = &*scene.store;
    let sleeping = hearing_store(&scene).await;
    let wakeups = sleeping.wakeups();
    sleeping.leave(NODE_B).await.unwrap();
    let told = || {
        let flights = scene.proxy.flights();
        flights
            .iter()
            .filter(|sql| sql.contains("select pg_notify('orderly', $1)"))
            .count()
    };
    let mut attempts = 0..ATTEMPTS_MAX;
    let id = loop {
        assert!(
            attempts.next().is_some(),
            "each accept is announced, though the only other node sleeps"
        );
        // That there is no other node to tell.
        store.renew(heartbeat(NODE_A, &[])).await.unwrap();
        wakeups.work().now_or_never();
        let before = told();
        let id = accept(store).await;
        store.leave(NODE_A).await.unwrap();
        let woken = timeout(HEARS_WITHIN, wakeups.work()).await;
        assert!(woken.is_ok(), "an order is left");
        if told() == before {
            break id;
        }
        // A late word of the node that left: for this one it was there again.
        store.cancel(id).await.unwrap();
    };

    let lease = sleeping
        .claim(claim_by(NODE_B, 1))
        .await
        .unwrap()
        .leases
        .remove(0);
    assert_eq!(lease.order.order_id, id);
    // The claim is news to the other, which hears that somebody is there after all, and tells what it told nobody.
    let told_late = timeout(HEARS_WITHIN, wakeups.work()).await;
    assert!(told_late.is_ok(), "what was accepted is told late");
    sleeping.settle(lease.key(), Outcome::COMPLETED).await.unwrap();
    store.leave(NODE_A).await.unwrap();
    wakeups.changed().now_or_never();
    // Notifications arrive in their order: what was sent before this one has been heard.
    let events = "select pg_notify('orderly', '0123456789abcdef events')";
    scene.admin.batch_execute(events).await.unwrap();
    let received = timeout(HEARS_WITHIN, wakeups.changed()).await;
    assert!(received.is_ok(), "it listens");
    assert!(wakeups.work().now_or_never().is_none(), "nothing is left");
    sleeping.close().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_listening_is_cut_knows_it_and_hears_again_later() {
    let Some(scene) = Scene::new().await else { return };
    let wakeups = scene.store.wakeups();
    scene.store.renew(heartbeat(NODE_A, &[])).await.unwrap();
    until_it_hears(&*scene.store).await;
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and query = 'listen orderly'";
    assert_eq!(scene.number(cut).await, 1);
    // It comes back only with the next call, so this moment does not pass unseen.
    until("it knows that it is deaf", async || {
        tokio::task::yield_now().await;
        !wakeups.hears_all()
    })
    .await;
    until_it_hears(&*scene.store).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_a_pooler_does_not_believe_that_it_hears() {
    if !has_pgbouncer() {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let proxy = Proxy::before(PgBouncer::shared().await.address()).await;
    let store = store_at(&through(&proxy, &database)).await;
    store.renew(heartbeat(NODE_A, &[])).await.unwrap();
    until("it has given up listening", async || {
        store.counters().await.unwrap();
        assert!(!store.wakeups().hears_all());
        proxy.flights().iter().any(|sql| sql.contains("unlisten"))
    })
    .await;
    assert!(!store.wakeups().hears_all());
    store.close().await;
}
