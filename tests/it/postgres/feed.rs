//! Every event gets its place in the feed whether or not somebody reads, and whatever happens to the node that wrote it;
//! and how the feed is read while some have none. What commits late is left to `late_commits`.

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

use super::scene::{HEARS_WITHIN, Scene, assert_sound, store_at, store_that_counts};
use crate::support::make::{NODE_A, NODE_B, heartbeat, new_order};
use crate::support::process::run;
use crate::support::proxy::{Action, Flight};
use crate::support::until;

/// Whoever gives places holds it, as `store/postgres.rs` says.
const FEED_LOCK: i64 = 7_239_846_511_032_003;
const UNPLACED: &str = "select count(*) from orderly.batches where first_position is null";

fn gives_places(flight: &Flight) -> bool {
    flight.sql().contains("orderly.numbers_feed")
}

impl Scene {
    async fn accept(&self) -> OrderId {
        let accepted = self.store.accept([new_order()].into(), None).await.unwrap();
        accepted.order_ids[0]
    }

    /// Up to where an order is read.
    async fn place_of_reading(&self, id: OrderId) -> i64 {
        let view = self.store.order_view(id).await.unwrap();
        view.expect("the order was accepted").at.position.0
    }

    async fn until_all_are_placed(&self) {
        until("everything has its place", async || {
            self.number(UNPLACED).await == 0
        })
        .await;
    }

    /// As another node that gives places, and takes its time.
    async fn take_lock(&self) {
        let take = format!("begin; select pg_advisory_xact_lock({FEED_LOCK})");
        self.admin.batch_execute(&take).await.unwrap();
    }

    async fn give_lock_back(&self) {
        self.admin.batch_execute("commit").await.unwrap();
    }

    fn attempts(&self) -> usize {
        let flights = self.proxy.flights();
        flights
            .iter()
            .filter(|sql| sql.contains("orderly.numbers_feed"))
            .count()
    }

    /// Attempts to give places meet this from now on, and are counted.
    fn on_attempt(&self, action: impl Fn(usize) -> Action + Send + Sync + 'static) {
        let attempts = AtomicUsize::new(0);
        self.proxy.on_flight(move |flight| {
            if gives_places(flight) {
                return action(attempts.fetch_add(1, Ordering::SeqCst));
            }
            Action::Forward
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_reads_gets_its_place_all_the_same() {
    let Some(scene) = Scene::new().await else { return };
    for orders in 1..4 {
        let id = scene.accept().await;
        until("the order is read up to its own event", async || {
            scene.place_of_reading(id).await == orders
        })
        .await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_node_did_not_see_when_it_gave_places_gets_one_later() {
    let Some(scene) = Scene::new().await else { return };
    scene.take_lock().await;
    let id = scene.accept().await;
    until("the node has tried", async || {
        tokio::task::yield_now().await;
        scene.attempts() > 0
    })
    .await;
    assert_eq!(scene.place_of_reading(id).await, 0);
    scene.give_lock_back().await;
    until("the order is read up to its own event", async || {
        scene.place_of_reading(id).await == 1
    })
    .await;
    scene.end().await;
}

/// Whoever follows the feed on another node, or comes soon, is late by that.
#[tokio::test(flavor = "multi_thread")]
async fn places_that_are_not_given_show_as_lag_though_nobody_listens() {
    let Some(scene) = Scene::new().await else { return };
    let metrics = Metrics::new();
    let store = store_that_counts(&scene.database.url(), &metrics).await;
    scene.take_lock().await;
    store.accept([new_order()].into(), None).await.unwrap();
    until("the lag rises with every second", async || {
        metrics.feed_lag.get() >= 3.0
    })
    .await;
    scene.give_lock_back().await;
    until("nothing is late any more", async || metrics.feed_lag.get() == 0.0).await;
    assert_eq!(scene.number(UNPLACED).await, 0);
    store.close().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn places_that_could_not_be_given_are_given_later() {
    let Some(scene) = Scene::new().await else { return };
    scene.on_attempt(|earlier| if earlier < 2 { Action::Cut } else { Action::Forward });
    let id = scene.accept().await;
    until("the order is read up to its own event", async || {
        scene.place_of_reading(id).await == 1
    })
    .await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_closes_leaves_nothing_without_a_place() {
    let Some(scene) = Scene::new().await else { return };
    for _ in 0..3 {
        scene.accept().await;
    }
    let late = scene.store.accept(vec![new_order(); 3].into(), None);
    let (late, ()) = tokio::join!(late, scene.store.close());
    // It came before the end, or is refused.
    let accepted = late.map_or(0, |accepted| accepted.order_ids.len());
    assert_eq!(scene.number(UNPLACED).await, 0);
    let last = "select last_position from orderly.queue";
    assert_eq!(usize::try_from(scene.number(last).await), Ok(3 + accepted));
}

/// However it came to be: the node that committed it died, or never knew that it did.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_that_is_gone_left_without_a_place_is_found_by_a_heartbeat() {
    let Some(scene) = Scene::new().await else { return };
    let living = store_at(&scene.database.url()).await;
    scene.on_attempt(|_| Action::Cut);
    scene.accept().await;
    scene.store.close().await;
    assert_eq!(scene.number(UNPLACED).await, 1);
    let wakeups = living.wakeups();
    assert!(wakeups.changed().now_or_never().is_none());
    living.renew(heartbeat(NODE_B, &[])).await.unwrap();
    let told = timeout(HEARS_WITHIN, wakeups.changed()).await;
    assert!(told.is_ok(), "who follows the feed is told");
    scene.until_all_are_placed().await;
    assert_sound(&*living).await;
    living.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_says_that_there_is_more_without_a_place_yet() {
    let Some(scene) = Scene::new().await else { return };
    let first = scene.accept().await;
    let page = scene.store.events_after(None, 10).await.unwrap();
    assert_eq!((page.events.len(), page.unplaced), (1, false));
    scene.take_lock().await;
    let second = scene.accept().await;
    let page = scene.store.events_after(None, 10).await.unwrap();
    assert_eq!(page.events[0].event.order_id, first);
    assert_eq!((page.events.len(), page.unplaced), (1, true));
    assert_eq!(page.bounds.last, FeedPosition(1));
    scene.give_lock_back().await;
    let page = scene.store.events_after(Some(FeedPosition(1)), 10).await.unwrap();
    assert_eq!(page.events[0].event.order_id, second);
    assert_eq!((page.events.len(), page.unplaced), (1, false));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_its_place_is_read_when_no_more_can_be_given() {
    let Some(scene) = Scene::new().await else { return };
    scene.accept().await;
    scene.until_all_are_placed().await;
    let broken = Arc::new(AtomicBool::new(true));
    let still = broken.clone();
    scene.on_attempt(move |_| {
        let is_broken = still.load(Ordering::SeqCst);
        if is_broken { Action::Cut } else { Action::Forward }
    });
    scene.accept().await;
    let page = scene.store.events_after(None, 10).await.unwrap();
    assert_eq!((page.events.len(), page.unplaced), (1, true));
    // Whoever has read that far must not believe that there is nothing more.
    let behind = scene.store.events_after(Some(FeedPosition(1)), 10).await;
    assert!(matches!(
        behind,
        Err(StoreError::Unavailable { .. } | StoreError::Unexpected { .. })
    ));
    broken.store(false, Ordering::SeqCst);
    until("it goes on", async || {
        let page = scene.store.events_after(Some(FeedPosition(1)), 10).await;
        page.is_ok_and(|page| page.events.len() == 1)
    })
    .await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_at_the_end_comes_for_news_with_two_queries() {
    let Some(scene) = Scene::new().await else { return };
    // Opens the connection, which takes messages of its own.
    let mut last = Some(scene.store.events_after(None, 10).await.unwrap().bounds.last);
    for _ in 0..5 {
        scene.accept().await;
        scene.store.wakeups().changed().await;
        let before = scene.queries();
        let page = scene.store.events_after(last, 10).await.unwrap();
        assert_eq!(page.events.len(), 1);
        assert!(scene.queries() - before <= 2, "{:?}", scene.proxy.flights());
        last = Some(page.bounds.last);
    }
    let before = scene.queries();
    let page = scene.store.events_after(last, 10).await.unwrap();
    assert!(page.events.is_empty() && !page.unplaced);
    assert_eq!(scene.queries() - before, 1, "nothing to number, nothing is sent");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_waits_for_the_places_that_another_node_gives() {
    let Some(scene) = Scene::new().await else { return };
    let id = scene.accept().await;
    scene.until_all_are_placed().await;
    scene.take_lock().await;
    let second = scene.accept().await;
    let placed = scene.store.history(id, 0).await.unwrap();
    assert_eq!(
        placed.expect("it was accepted").events.len(),
        1,
        "nothing to wait for"
    );
    let mut history = scene.store.history(second, 0);
    let is_waiting = async {
        let waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
        until("it waits for its turn", async || scene.number(waits).await > 0).await;
    };
    tokio::select! {
        biased;
        () = is_waiting => {}
        early = &mut history => panic!("{early:?}"),
    }
    scene.give_lock_back().await;
    let history = history.await.unwrap().expect("the order was accepted");
    let positions: Vec<FeedPosition> = history.events.iter().map(|event| event.position).collect();
    assert_eq!(positions.len(), 1);
    assert!(history.at.position <= positions[0]);
    scene.end().await;
}

/// Those who wait for the first of them find the work done.
#[tokio::test(flavor = "multi_thread")]
async fn histories_that_wait_together_do_not_number_one_after_the_other() {
    const HISTORIES: usize = 4;
    let Some(scene) = Scene::new().await else { return };
    scene.take_lock().await;
    let id = scene.accept().await;
    let histories: JoinSet<_> = (0..HISTORIES)
        .map(|_| {
            let store = scene.store.clone();
            async move { store.history(id, 0).await }
        })
        .collect();
    let sent = |text: &str| {
        let flights = scene.proxy.flights();
        flights.iter().filter(|sql| sql.contains(text)).count()
    };
    let waits = format!("when 1 = 1 then pg_advisory_xact_lock({FEED_LOCK})");
    until("all have read, and one waits for its turn", async || {
        tokio::task::yield_now().await;
        sent("from orderly.order_events where order_id = $1") == HISTORIES && sent(&waits) == 1
    })
    .await;
    // Those who have read have had their turn by now.
    scene.store.counters().await.unwrap();
    scene.give_lock_back().await;
    for history in histories.join_all().await {
        let history = history.unwrap().expect("the order was accepted");
        assert_eq!(history.events.len(), 1);
    }
    assert!(sent(&waits) < HISTORIES, "each has numbered on its own");
    scene.end().await;
}

/// A node that holds the lock for long is as good as a store that is away: 503, and nobody waits for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_does_not_wait_for_ever() {
    let Some(scene) = Scene::new().await else { return };
    scene.on_attempt(|_| Action::Rewrite {
        from: "lock_timeout = 5000".to_owned(),
        to: "lock_timeout = 50".to_owned(),
    });
    scene.take_lock().await;
    let id = scene.accept().await;
    let given_up = scene.store.history(id, 0).await;
    assert!(
        matches!(given_up, Err(StoreError::Unavailable { .. })),
        "{given_up:?}"
    );
    scene.give_lock_back().await;
    let history = scene.store.history(id, 0).await.unwrap();
    assert_eq!(history.expect("the order was accepted").events.len(), 1);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_that_is_more_than_one_message_takes_is_numbered_to_its_end() {
    let Some(scene) = Scene::new().await else { return };
    let id = scene.accept().await;
    scene.until_all_are_placed().await;
    let backlog = "insert into orderly.batches (batch, kind, at, order_ids)
        select nextval('orderly.batch_ids'), 0, now(), array[-n] from generate_series(1, 12000) as n";
    scene.admin.batch_execute(backlog).await.unwrap();
    let before = scene.attempts();
    scene.accept().await;
    scene.until_all_are_placed().await;
    assert!(scene.attempts() - before >= 3);
    assert_eq!(scene.place_of_reading(id).await, 12_002);
    // The rest is of no orders, so this is no sound store.
    scene.store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_tells_of_a_feed_that_living_nodes_let_fall_behind() {
    let Some(scene) = Scene::new().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let feed = async || {
        let line = ["doctor", "--json", "--database-url", &scene.database.url()];
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
    scene.store.renew(long_lived).await.unwrap();
    scene.accept().await;
    scene.until_all_are_placed().await;
    let whole = (
        "ok".to_owned(),
        "positions 1 to 1, no transaction waits".to_owned(),
    );
    assert_eq!(feed().await, whole);
    scene.take_lock().await;
    scene.accept().await;
    let (state, finding) = feed().await;
    assert_eq!(state, "ok", "{finding}");
    assert!(finding.contains("1 transaction waits"), "{finding}");
    let later = scene.database.now().await.plus(Duration::from_secs(90));
    scene.database.set_clock(Some(later)).await;
    let (state, finding) = feed().await;
    assert_eq!(state, "warn", "{finding}");
    assert!(finding.contains("the oldest for 1m 3"), "{finding}");
    scene.give_lock_back().await;
    scene.end().await;
}
