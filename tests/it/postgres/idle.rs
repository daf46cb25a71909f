//! A store that nobody calls sends nothing, so that a serverless database can sleep; an idle node's calls cost one
//! query each, of which it makes four a minute (see the worker's tests); and the first call after a long silence finds
//! its way, whatever became of the connections in between. Time jumps here: only what is sent is real.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use orderly::lease::Outcome;
use orderly::store::{Store, StoreHealth};

use super::scene::{Scene, accept_keyed, jump};
use crate::support::make::{NODE_A, claim_by, heartbeat};
use crate::support::postgres::Server;
use crate::support::proxy::Action;
use crate::support::until;

const HOUR: Duration = Duration::from_hours(1);
/// For the store to find out that it can listen.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between the polls of a node with nothing to do.
const QUIET_INTERVAL: Duration = Duration::from_secs(34);

impl Scene {
    /// Statements that were sent so far; a message that only asks whether the connection lives is none.
    fn queries(&self) -> usize {
        self.proxy.flights().iter().filter(|sql| !sql.is_empty()).count()
    }

    /// Every kind of connection is open, also the one that listens.
    async fn is_in_use(&self) {
        accept_keyed(&*self.store, "before").await.unwrap();
        let lease = self
            .store
            .claim(claim_by(NODE_A, 1))
            .await
            .unwrap()
            .leases
            .remove(0);
        self.store.settle(lease.key(), Outcome::Completed).await.unwrap();
        self.store.renew(heartbeat(NODE_A, &[])).await.unwrap();
        let wakeups = self.store.wakeups();
        // What the order itself woke.
        wakeups.work().await;
        // The store hears others only when it has heard itself, and tries that again only while it is used.
        let heard = async {
            loop {
                tokio::select! {
                    biased;
                    () = wakeups.work() => return,
                    told = self.admin.batch_execute("notify orderly, 'from elsewhere'") => told.unwrap(),
                }
                self.store.counters().await.unwrap();
            }
        };
        let heard = tokio::time::timeout(PATIENCE, heard).await;
        heard.expect("the store listens in time");
    }

    /// What an idle node asks of its store in one of its intervals.
    async fn idle_round(&self) {
        self.store.claim(claim_by(NODE_A, 10)).await.unwrap();
        self.store.renew(heartbeat(NODE_A, &[])).await.unwrap();
    }

    async fn sessions(&self) -> i64 {
        let others = "select count(*) from pg_stat_activity
            where datname = current_database() and application_name = 'orderly'";
        self.number(others).await
    }

    /// Nothing is sent and nothing connects, however long.
    async fn assert_silent(&self) {
        let before = (self.proxy.flight_count(), self.proxy.connection_count());
        for _ in 0..10 {
            jump(HOUR).await;
            // Whatever the jump woke has had its turn when an answer has come from the server.
            self.sessions().await;
        }
        let after = (self.proxy.flight_count(), self.proxy.connection_count());
        assert_eq!(after, before, "{:?}", self.proxy.flights().last());
    }
}

#[tokio::test]
async fn an_idle_node_sends_one_query_for_each_of_its_calls() {
    const ROUNDS: usize = 20;
    let Some(scene) = Scene::new().await else { return };
    scene.is_in_use().await;
    scene.idle_round().await;
    let connections = scene.proxy.connection_count();
    let before = scene.queries();
    for _ in 0..ROUNDS {
        jump(QUIET_INTERVAL).await;
        scene.idle_round().await;
    }
    let sent = scene.queries() - before;
    assert!(sent <= 2 * ROUNDS, "{sent} queries in {ROUNDS} intervals");
    assert_eq!(scene.proxy.connection_count(), connections);
    scene.end().await;
}

#[tokio::test]
async fn a_store_that_nobody_calls_sends_nothing() {
    let Some(scene) = Scene::new().await else { return };
    scene.is_in_use().await;
    assert!(scene.sessions().await >= 4);
    scene.assert_silent().await;
    scene.end().await;
}

#[tokio::test]
async fn a_store_whose_connections_were_closed_opens_none_until_it_is_called() {
    let Some(scene) = Scene::new().await else { return };
    scene.is_in_use().await;
    let ended = Server::shared().await.terminate_backends(&scene.database).await;
    assert!(ended >= 4, "{ended} sessions were ended");
    until("all sessions are gone", async || scene.sessions().await == 0).await;
    scene.assert_silent().await;
    assert_eq!(scene.sessions().await, 0);
    assert_first_calls_work(&scene).await;
    scene.end().await;
}

#[tokio::test]
async fn the_first_call_after_a_cut_works() {
    let Some(scene) = Scene::new().await else { return };
    scene.is_in_use().await;
    scene.proxy.cut_all();
    until("all sessions are gone", async || scene.sessions().await == 0).await;
    assert_first_calls_work(&scene).await;
    scene.end().await;
}

/// As firewalls do: nothing comes back on the old connections, and nobody says that they are closed.
#[tokio::test]
async fn the_first_call_over_a_connection_that_fell_silent_works() {
    let Some(scene) = Scene::new().await else { return };
    scene.is_in_use().await;
    let silent = Arc::new(AtomicBool::new(true));
    let still = silent.clone();
    scene.proxy.on_flight(move |flight| {
        // Only what was open before: what is opened now begins with a question about the settings.
        if flight.sql().contains("server_version_num") {
            still.store(false, Ordering::SeqCst);
        }
        if still.load(Ordering::SeqCst) {
            return Action::Silence;
        }
        Action::Forward
    });
    jump(HOUR).await;
    let accepted = accept_keyed(&*scene.store, "after the silence").await.unwrap();
    assert!(!accepted.replayed);
    assert!(!silent.load(Ordering::SeqCst), "over a new connection");
    scene.proxy.cut_all();
    until("all sessions are gone", async || scene.sessions().await == 0).await;
    assert_first_calls_work(&scene).await;
    scene.end().await;
}

async fn assert_first_calls_work(scene: &Scene) {
    let store: &dyn Store = &*scene.store;
    let accepted = accept_keyed(store, "the first one").await.unwrap();
    assert!(!accepted.replayed);
    assert!(store.order(accepted.order_ids[0]).await.unwrap().is_some());
    let claimed = store.claim(claim_by(NODE_A, 10)).await.unwrap();
    assert!(
        claimed
            .leases
            .iter()
            .any(|lease| lease.order.order_id == accepted.order_ids[0])
    );
    store.renew(heartbeat(NODE_A, &[])).await.unwrap();
    assert_eq!(store.health(), StoreHealth::Ready);
}
