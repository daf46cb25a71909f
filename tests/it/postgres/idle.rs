//! Idle stores. An unused store sends nothing, so that a serverless database can sleep. Each of the four calls per minute of an
//! idle node (see the worker's tests) costs one query. The first call after a long silence succeeds, whatever happened to the
//! connections. Time is virtual here; only the messages are real.

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

use super::setup::{NOTIFIED_WITHIN, Setup, accept_keyed, jump};
use crate::support::make::{NODE_A, claim_by, heartbeat};
use crate::support::postgres::Server;
use crate::support::proxy::Action;
use crate::support::until;

const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);
/// The longest interval between polls of an idle node.
const QUIET_INTERVAL: Duration = Duration::from_secs(34);

impl Setup {
    /// Uses the store until its connections are open, including the one that listens.
    async fn open_connections(&self) {
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
        // The store relies on notifications only after it has received its own, and retries that only while it is used.
        until("the store listens", async || {
            self.store.counters().await.unwrap();
            self.store.wakeups().hears_all()
        })
        .await;
        // All events have positions, and the store knows it.
        let page = self.store.events_after(None, FEED_EVENTS_MAX).await.unwrap();
        assert!(!page.unplaced);
        // A connection opened for a caller that got another one is open as well.
        until("all connections are open", async || {
            self.proxy.is_quiet() && self.opened_connections() == self.proxy.connection_count()
        })
        .await;
    }

    /// Number of connections opened so far, including the one that listens. Each first reads the settings.
    fn opened_connections(&self) -> u64 {
        let opens = |sql: &&String| sql.contains("server_version_num");
        self.proxy.flights().iter().filter(opens).count() as u64
    }

    /// Makes the calls of an idle node during one interval.
    async fn idle_round(&self) {
        self.store.claim(claim_by(NODE_A, 10)).await.unwrap();
        self.store.renew(heartbeat(NODE_A, &[])).await.unwrap();
    }

    async fn sessions(&self) -> i64 {
        let others = "select count(*) from pg_stat_activity
            where datname = current_database() and application_name = 'orderly'";
        self.number(others).await
    }

    /// Advances time in steps shorter than any time limit, each only while no call is under way. So no step makes an answer late,
    /// however slow the machine; a late answer would cost a new connection.
    async fn advance(&self, span: Duration) {
        const STEP: Duration = Duration::from_secs(1);
        let mut passed = Duration::ZERO;
        while passed < span {
            jump(STEP).await;
            self.sessions().await;
            until("everything is answered", async || self.proxy.is_quiet()).await;
            passed += STEP;
        }
    }

    /// A subscriber that has read the feed to its end.
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

    /// Asserts that the store sends nothing and opens no connection for hours.
    async fn assert_silent(&self) {
        let before = (self.proxy.flight_count(), self.proxy.connection_count());
        for _ in 0..10 {
            jump(HOUR).await;
            // Tasks woken by the step have run once an answer has come from the server.
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
    async fn expect_event(&mut self, id: OrderId) {
        match timeout(NOTIFIED_WITHIN, self.subscription.next()).await {
            Ok(Next::Change(change)) => assert_eq!(change.event.event.order_id, id),
            Ok(Next::Resync(cursor)) => panic!("resync at {cursor:?}"),
            Err(elapsed) => panic!("no event arrived: {elapsed}"),
        }
    }

    async fn end(self) {
        self.ending.cancel();
        self.live.ended().await.unwrap();
    }
}

#[tokio::test]
async fn a_subscriber_of_an_idle_feed_costs_two_queries_per_minute() {
    const MINUTES: u32 = 10;
    let Some(setup) = Setup::new().await else { return };
    setup.open_connections().await;
    let mut follower = setup.follow(false).await;
    setup.advance(MINUTE).await;
    let (before, connections) = (setup.queries(), setup.proxy.connection_count());
    setup.advance(MINUTE * MINUTES).await;
    let sent = setup.queries() - before;
    assert!(
        (1..=20).contains(&sent),
        "{sent} queries in {MINUTES} minutes: {:?}",
        setup.proxy.flights().last()
    );
    assert_eq!(setup.proxy.connection_count(), connections);
    let accepted = accept_keyed(&*setup.store, "after that").await.unwrap();
    follower.expect_event(accepted.order_ids[0]).await;
    follower.end().await;
    setup.end().await;
}

/// The end of the listening connection does not wake the database either; the database may have closed it to sleep.
#[tokio::test]
async fn a_subscriber_of_a_sleeping_node_does_not_keep_the_database_awake() {
    let Some(setup) = Setup::new().await else { return };
    setup.open_connections().await;
    let mut follower = setup.follow(true).await;
    setup.advance(3 * MINUTE).await;
    setup.assert_silent().await;
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and query = 'listen orderly'";
    assert_eq!(setup.number(cut).await, 1);
    until("the node knows that it receives no notifications", async || {
        tokio::task::yield_now().await;
        !setup.store.wakeups().hears_all()
    })
    .await;
    setup.assert_silent().await;
    let accepted = accept_keyed(&*setup.store, "after that").await.unwrap();
    follower.expect_event(accepted.order_ids[0]).await;
    follower.end().await;
    setup.end().await;
}

#[tokio::test]
async fn an_idle_node_sends_one_query_per_call() {
    const ROUNDS: usize = 20;
    let Some(setup) = Setup::new().await else { return };
    setup.open_connections().await;
    setup.idle_round().await;
    let connections = setup.proxy.connection_count();
    let before = setup.queries();
    for _ in 0..ROUNDS {
        jump(QUIET_INTERVAL).await;
        setup.idle_round().await;
    }
    let sent = setup.queries() - before;
    assert!(sent <= 2 * ROUNDS, "{sent} queries in {ROUNDS} intervals");
    assert_eq!(setup.proxy.connection_count(), connections);
    setup.end().await;
}

/// Numbering of the last commits is the last query, even without readers.
#[tokio::test]
async fn an_idle_store_numbers_its_last_events_in_one_query() {
    let Some(setup) = Setup::new().await else { return };
    setup.open_connections().await;
    accept_keyed(&*setup.store, "the last").await.unwrap();
    let (before, unplaced) = (
        setup.queries(),
        "select count(*) from orderly.batches where first_position is null",
    );
    jump(HOUR).await;
    until("its event has a position", async || {
        setup.number(unplaced).await == 0
    })
    .await;
    assert_eq!(setup.queries() - before, 1, "one message");
    // Its answer has arrived if closing the store sends nothing more.
    setup.assert_silent().await;
    setup.end().await;
}

#[tokio::test]
async fn an_unused_store_sends_nothing() {
    let Some(setup) = Setup::new().await else { return };
    setup.open_connections().await;
    assert!(setup.sessions().await >= 2);
    setup.assert_silent().await;
    setup.end().await;
}

#[tokio::test]
async fn closed_connections_are_not_reopened_before_the_next_call() {
    let Some(setup) = Setup::new().await else { return };
    setup.open_connections().await;
    let ended = Server::shared().await.terminate_backends(&setup.database).await;
    assert!(ended >= 2, "{ended} sessions were ended");
    until("all sessions are gone", async || setup.sessions().await == 0).await;
    setup.assert_silent().await;
    assert_eq!(setup.sessions().await, 0);
    assert_first_calls_work(&setup).await;
    setup.end().await;
}

#[tokio::test]
async fn the_first_call_after_connections_were_cut_succeeds() {
    let Some(setup) = Setup::new().await else { return };
    setup.open_connections().await;
    setup.proxy.cut_all();
    until("all sessions are gone", async || setup.sessions().await == 0).await;
    assert_first_calls_work(&setup).await;
    setup.end().await;
}

/// A firewall can cause this: the old connections get no answer, and nothing reports that they are closed.
#[tokio::test]
async fn the_first_call_after_connections_fell_silent_succeeds() {
    let Some(setup) = Setup::new().await else { return };
    setup.open_connections().await;
    let silent = Arc::new(AtomicBool::new(true));
    let still = silent.clone();
    setup.proxy.on_flight(move |flight| {
        // Affects only connections opened before: a new one first reads the settings.
        if flight.sql().contains("server_version_num") {
            still.store(false, Ordering::SeqCst);
        }
        if still.load(Ordering::SeqCst) {
            return Action::Silence;
        }
        Action::Forward
    });
    jump(HOUR).await;
    let accepted = accept_keyed(&*setup.store, "after the silence").await.unwrap();
    assert!(!accepted.replayed);
    assert!(!silent.load(Ordering::SeqCst), "the call used a new connection");
    setup.proxy.cut_all();
    until("all sessions are gone", async || setup.sessions().await == 0).await;
    assert_first_calls_work(&setup).await;
    setup.end().await;
}

async fn assert_first_calls_work(setup: &Setup) {
    let store: &dyn Store = &*setup.store;
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
