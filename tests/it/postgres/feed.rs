//! Numbering: every event gets its position, with or without readers, and even if its node dies. Also reads of the feed while some
//! events have no position. `late_commits` tests late commits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use orderly::metrics::Metrics;
use orderly::order::OrderId;
use orderly::store::{FeedPosition, Heartbeat, StoreError};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::setup::{NOTIFIED_WITHIN, Setup, assert_sound, store_at, store_that_counts};
use crate::support::make::{NODE_A, NODE_B, heartbeat, new_order};
use crate::support::process::run;
use crate::support::proxy::{Action, Flight};
use crate::support::until;

/// The lock of numbering, as in `store/postgres.rs`.
const FEED_LOCK: i64 = 7_239_846_511_032_003;
const UNPLACED: &str = "select count(*) from orderly.batches where first_position is null";

fn is_numbering(flight: &Flight) -> bool {
    flight.sql().contains("orderly.numbers_feed")
}

impl Setup {
    async fn accept(&self) -> OrderId {
        let accepted = self.store.accept([new_order()].into(), None).await.unwrap();
        accepted.order_ids[0]
    }

    /// The position of the cursor that comes with an order.
    async fn position_of_read(&self, id: OrderId) -> i64 {
        let view = self.store.order_view(id).await.unwrap();
        view.expect("the order was accepted").at.position.0
    }

    async fn until_all_are_numbered(&self) {
        until("every event has a position", async || {
            self.number(UNPLACED).await == 0
        })
        .await;
    }

    /// Takes the lock like another node whose numbering is slow.
    async fn take_lock(&self) {
        let take = format!("begin; select pg_advisory_xact_lock({FEED_LOCK})");
        self.admin.batch_execute(&take).await.unwrap();
    }

    async fn release_lock(&self) {
        self.admin.batch_execute("commit").await.unwrap();
    }

    fn attempts(&self) -> usize {
        let flights = self.proxy.flights();
        flights
            .iter()
            .filter(|sql| sql.contains("orderly.numbers_feed"))
            .count()
    }

    /// Applies `action` to every later attempt to number, with its count.
    fn on_attempt(&self, action: impl Fn(usize) -> Action + Send + Sync + 'static) {
        let attempts = AtomicUsize::new(0);
        self.proxy.on_flight(move |flight| {
            if is_numbering(flight) {
                return action(attempts.fetch_add(1, Ordering::SeqCst));
            }
            Action::Forward
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_events_get_positions_too() {
    let Some(setup) = Setup::new().await else { return };
    for orders in 1..4 {
        let id = setup.accept().await;
        until("the order is read up to its own event", async || {
            setup.position_of_read(id).await == orders
        })
        .await;
    }
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_missed_by_the_numbering_of_another_node_are_numbered_later() {
    let Some(setup) = Setup::new().await else { return };
    setup.take_lock().await;
    let id = setup.accept().await;
    until("the node has tried", async || {
        tokio::task::yield_now().await;
        setup.attempts() > 0
    })
    .await;
    assert_eq!(setup.position_of_read(id).await, 0);
    setup.release_lock().await;
    until("the order is read up to its own event", async || {
        setup.position_of_read(id).await == 1
    })
    .await;
    setup.end().await;
}

/// A subscriber on another node, or one that comes soon, is that far behind.
#[tokio::test(flavor = "multi_thread")]
async fn missing_positions_count_as_lag_without_a_subscriber() {
    let Some(setup) = Setup::new().await else { return };
    let metrics = Metrics::new();
    let store = store_that_counts(&setup.database.url(), &metrics).await;
    setup.take_lock().await;
    store.accept([new_order()].into(), None).await.unwrap();
    until("the lag rises with every second", async || {
        metrics.feed_lag.get() >= 3.0
    })
    .await;
    setup.release_lock().await;
    until("nothing lags any more", async || metrics.feed_lag.get() == 0.0).await;
    assert_eq!(setup.number(UNPLACED).await, 0);
    store.close().await;
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_numbering_is_retried() {
    let Some(setup) = Setup::new().await else { return };
    setup.on_attempt(|earlier| if earlier < 2 { Action::Cut } else { Action::Forward });
    let id = setup.accept().await;
    until("the order is read up to its own event", async || {
        setup.position_of_read(id).await == 1
    })
    .await;
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_a_store_numbers_all_its_events() {
    let Some(setup) = Setup::new().await else { return };
    for _ in 0..3 {
        setup.accept().await;
    }
    let late = setup.store.accept(vec![new_order(); 3].into(), None);
    let (late, ()) = tokio::join!(late, setup.store.close());
    // The accept came before the close, or is refused.
    let accepted = late.map_or(0, |accepted| accepted.order_ids.len());
    assert_eq!(setup.number(UNPLACED).await, 0);
    let last = "select last_position from orderly.queue";
    assert_eq!(usize::try_from(setup.number(last).await), Ok(3 + accepted));
}

/// The node that committed the events died, or never learned that it had committed them.
#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_numbers_events_left_by_a_dead_node() {
    let Some(setup) = Setup::new().await else { return };
    let living = store_at(&setup.database.url()).await;
    setup.on_attempt(|_| Action::Cut);
    setup.accept().await;
    setup.store.close().await;
    assert_eq!(setup.number(UNPLACED).await, 1);
    let wakeups = living.wakeups();
    assert!(wakeups.changed().now_or_never().is_none());
    living.renew(heartbeat(NODE_B, &[])).await.unwrap();
    let woken = timeout(NOTIFIED_WITHIN, wakeups.changed()).await;
    assert!(woken.is_ok(), "a subscriber is woken");
    setup.until_all_are_numbered().await;
    assert_sound(&*living).await;
    living.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_reports_committed_events_without_a_position() {
    let Some(setup) = Setup::new().await else { return };
    let first = setup.accept().await;
    let page = setup.store.events_after(None, 10).await.unwrap();
    assert_eq!((page.events.len(), page.unplaced), (1, false));
    setup.take_lock().await;
    let second = setup.accept().await;
    let page = setup.store.events_after(None, 10).await.unwrap();
    assert_eq!(page.events[0].event.order_id, first);
    assert_eq!((page.events.len(), page.unplaced), (1, true));
    assert_eq!(page.bounds.last, FeedPosition(1));
    setup.release_lock().await;
    let page = setup.store.events_after(Some(FeedPosition(1)), 10).await.unwrap();
    assert_eq!(page.events[0].event.order_id, second);
    assert_eq!((page.events.len(), page.unplaced), (1, false));
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbered_events_are_read_while_numbering_fails() {
    let Some(setup) = Setup::new().await else { return };
    setup.accept().await;
    setup.until_all_are_numbered().await;
    let broken = Arc::new(AtomicBool::new(true));
    let still = broken.clone();
    setup.on_attempt(move |_| {
        let is_broken = still.load(Ordering::SeqCst);
        if is_broken { Action::Cut } else { Action::Forward }
    });
    setup.accept().await;
    let page = setup.store.events_after(None, 10).await.unwrap();
    assert_eq!((page.events.len(), page.unplaced), (1, true));
    // The page must not claim to be complete.
    let beyond_end = setup.store.events_after(Some(FeedPosition(1)), 10).await;
    assert!(matches!(
        beyond_end,
        Err(StoreError::Unavailable { .. } | StoreError::Unexpected { .. })
    ));
    broken.store(false, Ordering::SeqCst);
    until("numbering continues", async || {
        let page = setup.store.events_after(Some(FeedPosition(1)), 10).await;
        page.is_ok_and(|page| page.events.len() == 1)
    })
    .await;
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_at_the_end_of_the_feed_takes_two_queries() {
    let Some(setup) = Setup::new().await else { return };
    // Opens the connection, which takes additional messages.
    let mut last = Some(setup.store.events_after(None, 10).await.unwrap().bounds.last);
    for _ in 0..5 {
        setup.accept().await;
        setup.store.wakeups().changed().await;
        let before = setup.queries();
        let page = setup.store.events_after(last, 10).await.unwrap();
        assert_eq!(page.events.len(), 1);
        assert!(setup.queries() - before <= 2, "{:?}", setup.proxy.flights());
        last = Some(page.bounds.last);
    }
    let before = setup.queries();
    let page = setup.store.events_after(last, 10).await.unwrap();
    assert!(page.events.is_empty() && !page.unplaced);
    assert_eq!(
        setup.queries() - before,
        1,
        "without events to number, no numbering is sent"
    );
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_waits_for_the_numbering_of_another_node() {
    let Some(setup) = Setup::new().await else { return };
    let id = setup.accept().await;
    setup.until_all_are_numbered().await;
    setup.take_lock().await;
    let second = setup.accept().await;
    let placed = setup.store.history(id, 0).await.unwrap();
    assert_eq!(
        placed.expect("it was accepted").events.len(),
        1,
        "the history does not wait"
    );
    let mut history = setup.store.history(second, 0);
    let is_waiting = async {
        let waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
        until("it waits for its turn", async || setup.number(waits).await > 0).await;
    };
    tokio::select! {
        biased;
        () = is_waiting => {}
        early = &mut history => panic!("{early:?}"),
    }
    setup.release_lock().await;
    let history = history.await.unwrap().expect("the order was accepted");
    let positions: Vec<FeedPosition> = history.events.iter().map(|event| event.position).collect();
    assert_eq!(positions.len(), 1);
    assert!(history.at.position <= positions[0]);
    setup.end().await;
}

/// Histories that wait for the numbering of the first one find the work done.
#[tokio::test(flavor = "multi_thread")]
async fn histories_that_wait_together_share_one_numbering() {
    const HISTORIES: usize = 4;
    let Some(setup) = Setup::new().await else { return };
    setup.take_lock().await;
    let id = setup.accept().await;
    let histories: JoinSet<_> = (0..HISTORIES)
        .map(|_| {
            let store = setup.store.clone();
            async move { store.history(id, 0).await }
        })
        .collect();
    let sent = |text: &str| {
        let flights = setup.proxy.flights();
        flights.iter().filter(|sql| sql.contains(text)).count()
    };
    let waits = format!("when 1 = 1 then pg_advisory_xact_lock({FEED_LOCK})");
    until("all have read, and one waits for its turn", async || {
        tokio::task::yield_now().await;
        sent("from orderly.order_events where order_id = $1") == HISTORIES && sent(&waits) == 1
    })
    .await;
    // All histories have had their turn by now.
    setup.store.counters().await.unwrap();
    setup.release_lock().await;
    for history in histories.join_all().await {
        let history = history.unwrap().expect("the order was accepted");
        assert_eq!(history.events.len(), 1);
    }
    assert!(sent(&waits) < HISTORIES, "each history numbered on its own");
    setup.end().await;
}

/// A node that holds the lock for long looks like an unreachable store: the history is answered with 503.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_waits_too_long_is_refused() {
    let Some(setup) = Setup::new().await else { return };
    setup.on_attempt(|_| Action::Rewrite {
        from: "lock_timeout = 5000".to_owned(),
        to: "lock_timeout = 50".to_owned(),
    });
    setup.take_lock().await;
    let id = setup.accept().await;
    let given_up = setup.store.history(id, 0).await;
    assert!(
        matches!(given_up, Err(StoreError::Unavailable { .. })),
        "{given_up:?}"
    );
    setup.release_lock().await;
    let history = setup.store.history(id, 0).await.unwrap();
    assert_eq!(history.expect("the order was accepted").events.len(), 1);
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_larger_than_one_message_is_numbered_completely() {
    let Some(setup) = Setup::new().await else { return };
    let id = setup.accept().await;
    setup.until_all_are_numbered().await;
    let backlog = "insert into orderly.batches (batch, kind, at, order_ids)
        select nextval('orderly.batch_ids'), 0, now(), array[-n] from generate_series(1, 12000) as n";
    setup.admin.batch_execute(backlog).await.unwrap();
    let before = setup.attempts();
    setup.accept().await;
    setup.until_all_are_numbered().await;
    assert!(setup.attempts() - before >= 3);
    assert_eq!(setup.position_of_read(id).await, 12_002);
    // The other events belong to no order, so `verify` would not find this store sound.
    setup.store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_reports_a_feed_that_lags_behind_live_nodes() {
    let Some(setup) = Setup::new().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let feed = async || {
        let line = ["doctor", "--json", "--database-url", &setup.database.url()];
        let (_, said) = run(folder.path(), &line).await;
        let json = &said[..=said.rfind('}').expect("a report")];
        let report: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error} in {said}"));
        let checks = report["checks"].as_array().expect("a list of checks").clone();
        let feed = checks.into_iter().find(|check| check["name"] == "feed");
        let feed = feed.unwrap_or_else(|| panic!("no feed in {said}"));
        let text = |name: &str| feed[name].as_str().unwrap_or_default().to_owned();
        (text("state"), text("finding"))
    };
    let long_lived = Heartbeat {
        lease: Duration::from_hours(1),
        ..heartbeat(NODE_A, &[])
    };
    setup.store.renew(long_lived).await.unwrap();
    setup.accept().await;
    setup.until_all_are_numbered().await;
    let whole = (
        "ok".to_owned(),
        "positions 1 to 1, no transaction waits".to_owned(),
    );
    assert_eq!(feed().await, whole);
    setup.take_lock().await;
    setup.accept().await;
    let (state, finding) = feed().await;
    assert_eq!(state, "ok", "{finding}");
    assert!(finding.contains("1 transaction waits"), "{finding}");
    let later = setup.database.now().await.plus(Duration::from_secs(90));
    setup.database.set_clock(Some(later)).await;
    let (state, finding) = feed().await;
    assert_eq!(state, "warn", "{finding}");
    assert!(finding.contains("the oldest for 1m 3"), "{finding}");
    setup.release_lock().await;
    setup.end().await;
}
