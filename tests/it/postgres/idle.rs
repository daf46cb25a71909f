//! A store that nobody calls sends nothing, so that a serverless database can sleep; an idle node's calls cost one
//! query each, of which it makes four a minute (see the worker's tests); and the first call after a long silence finds
//! its way, whatever became of the connections in between. Time jumps here: only what is sent is real.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use orderly::lease::Outcome;
use orderly::live::{Filter, Live, LiveSettings, Next, Subscription};
use orderly::metrics::Metrics;
use orderly::order::OrderId;
use orderly::store::{FEED_EVENTS_MAX, Store, StoreHealth};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::scene::{HEARS_WITHIN, Scene, accept_keyed, jump};
use crate::support::make::{NODE_A, claim_by, heartbeat};
use crate::support::postgres::Server;
use crate::support::proxy::Action;
use crate::support::until;

const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);
/// Between the polls of a node with nothing to do.
const QUIET_INTERVAL: Duration = Duration::from_secs(34);

impl Scene {
    /// Connections are open, also the one that listens.
    async fn is_in_use(&self) {
        accept_keyed(&*self.store, "before").await.unwrap();
        let lease = self
            .store
            .claim(claim_by(NODE_A, 1))
            .await
            .unwrap()
            .leases
            .remove(0);
        self.store.settle(lease.key(), Outcome::COMPLETED).await.unwrap();
        self.store.renew(heartbeat(NODE_A, &[])).await.unwrap();
        // The store hears others only when it has heard itself, and tries that again only while it is used.
        until("the store listens", async || {
            self.store.counters().await.unwrap();
            self.store.wakeups().hears_all()
        })
        .await;
        // What was committed has its place in the feed, and the store knows it.
        let page = self.store.events_after(None, FEED_EVENTS_MAX).await.unwrap();
        assert!(!page.unplaced);
        // A connection that was opened for a caller who got another one is open as well.
        until("all connections are open", async || {
            self.proxy.is_quiet() && self.opened_connections() == self.proxy.connection_count()
        })
        .await;
    }

    /// Connections over which the settings were asked for, as is done first, also over the one that listens.
    fn opened_connections(&self) -> u64 {
        let opens = |sql: &&String| sql.contains("server_version_num");
        self.proxy.flights().iter().filter(opens).count() as u64
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

    /// In steps that are shorter than any answer may take, each only when nothing is under way: however slow the machine,
    /// no jump makes an answer late. An answer that is late by the clock costs a new connection.
    async fn pass(&self, span: Duration) {
        const STEP: Duration = Duration::from_secs(1);
        let mut passed = Duration::ZERO;
        while passed < span {
            jump(STEP).await;
            self.sessions().await;
            until("everything is answered", async || self.proxy.is_quiet()).await;
            passed += STEP;
        }
    }

    /// Somebody who has followed the feed since it was last read to its end.
    async fn follow(&self, idle_sleep: bool) -> Follower {
        let ending = CancellationToken::new();
        let settings = LiveSettings { idle_sleep };
        let live = Live::start(self.store.clone(), Metrics::new(), settings, ending.clone());
        let subscription = live.feed().subscribe(Filter::default(), None).await;
        Follower {
            subscription: subscription.unwrap(),
            live,
            ending,
        }
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

struct Follower {
    subscription: Subscription,
    live: Live,
    ending: CancellationToken,
}

impl Follower {
    async fn hears(&mut self, id: OrderId) {
        match timeout(HEARS_WITHIN, self.subscription.next()).await {
            Ok(Next::Change(change)) => assert_eq!(change.event.event.order_id, id),
            Ok(Next::Resync(cursor)) => panic!("sent back to {cursor:?}"),
            Err(elapsed) => panic!("nothing was heard: {elapsed}"),
        }
    }

    async fn end(self) {
        self.ending.cancel();
        self.live.ended().await.unwrap();
    }
}

#[tokio::test]
async fn who_follows_an_idle_feed_costs_two_queries_a_minute() {
    const MINUTES: u32 = 10;
    let Some(scene) = Scene::new().await else { return };
    scene.is_in_use().await;
    let mut follower = scene.follow(false).await;
    scene.pass(MINUTE).await;
    let (before, connections) = (scene.queries(), scene.proxy.connection_count());
    scene.pass(MINUTE * MINUTES).await;
    let sent = scene.queries() - before;
    assert!(
        (1..=20).contains(&sent),
        "{sent} queries in {MINUTES} minutes: {:?}",
        scene.proxy.flights().last()
    );
    assert_eq!(scene.proxy.connection_count(), connections);
    let accepted = accept_keyed(&*scene.store, "after that").await.unwrap();
    follower.hears(accepted.order_ids[0]).await;
    follower.end().await;
    scene.end().await;
}

/// Nor does the end of the connection that listens wake the database, which may itself have ended it to sleep.
#[tokio::test]
async fn who_follows_the_feed_of_a_node_that_may_sleep_does_not_keep_the_database_awake() {
    let Some(scene) = Scene::new().await else { return };
    scene.is_in_use().await;
    let mut follower = scene.follow(true).await;
    scene.pass(3 * MINUTE).await;
    scene.assert_silent().await;
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and query = 'listen orderly'";
    assert_eq!(scene.number(cut).await, 1);
    until("the node knows that it is deaf", async || {
        tokio::task::yield_now().await;
        !scene.store.wakeups().hears_all()
    })
    .await;
    scene.assert_silent().await;
    let accepted = accept_keyed(&*scene.store, "after that").await.unwrap();
    follower.hears(accepted.order_ids[0]).await;
    follower.end().await;
    scene.end().await;
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

/// The last that it sends: what was committed gets its place in the feed, with nobody reading.
#[tokio::test]
async fn a_store_that_is_left_alone_leaves_nothing_undone() {
    let Some(scene) = Scene::new().await else { return };
    scene.is_in_use().await;
    accept_keyed(&*scene.store, "the last").await.unwrap();
    let (before, unplaced) = (
        scene.queries(),
        "select count(*) from orderly.batches where first_position is null",
    );
    jump(HOUR).await;
    until("it has its place", async || scene.number(unplaced).await == 0).await;
    assert_eq!(scene.queries() - before, 1, "one message");
    // Whose answer has come when the store has nothing more to close with.
    scene.assert_silent().await;
    scene.end().await;
}

#[tokio::test]
async fn a_store_that_nobody_calls_sends_nothing() {
    let Some(scene) = Scene::new().await else { return };
    scene.is_in_use().await;
    assert!(scene.sessions().await >= 2);
    scene.assert_silent().await;
    scene.end().await;
}

#[tokio::test]
async fn a_store_whose_connections_were_closed_opens_none_until_it_is_called() {
    let Some(scene) = Scene::new().await else { return };
    scene.is_in_use().await;
    let ended = Server::shared().await.terminate_backends(&scene.database).await;
    assert!(ended >= 2, "{ended} sessions were ended");
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
    assert!(store.order_view(accepted.order_ids[0]).await.unwrap().is_some());
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
