//! Late commits. Ids are drawn before the commit, so a reader that follows ids skips orders that commit later. The positions of the
//! feed skip nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use orderly::order::OrderId;
use orderly::store::{Accepted, FeedEvent, FeedPosition, Store};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::timeout;

use super::setup::{NOTIFIED_WITHIN, Setup, assert_sound, number, store_at, through};
use crate::support::gate::Gate;
use crate::support::late::{HeldCommits, PlainReader};
use crate::support::make::{NODE_A, claim_by, new_order};
use crate::support::postgres::Server;
use crate::support::proxy::{Action, Flight, Proxy};
use crate::support::until;

const WRITERS: usize = 4;

/// Reads the feed and counts the events.
#[derive(Default)]
struct Follower {
    last: Option<FeedPosition>,
    /// Number of times that each event was read, by order and version.
    seen: HashMap<(OrderId, u32), usize>,
}

impl Follower {
    async fn read(&mut self, store: &dyn Store) {
        let page = store.events_after(self.last, 50).await.unwrap();
        for FeedEvent { position, event, .. } in page.events {
            assert!(self.last < Some(position), "positions rise");
            self.last = Some(position);
            *self.seen.entry((event.order_id, event.version)).or_default() += 1;
        }
    }

    async fn read_until(&mut self, store: &dyn Store, events: usize) {
        while self.seen.len() < events {
            self.read(store).await;
        }
    }

    fn assert_once(&self, orders: &[OrderId]) {
        assert_eq!(self.seen.len(), orders.len());
        for id in orders {
            assert_eq!(self.seen.get(&(*id, 1)), Some(&1), "order {id}");
        }
    }
}

fn accepts(flight: &Flight) -> bool {
    flight.sql().contains("from orderly.accept")
}

/// The last batch number drawn, committed or not.
const LAST_DRAWN: &str = "select case when is_called then last_value else 0 end from orderly.batch_ids";

/// The last committed batch number, which a naive reader takes for the end of the feed.
const LAST_BATCH: &str = "select max(batch) from orderly.batches";

fn batch_of(id: OrderId) -> String {
    format!("select batch from orderly.events where order_id = {id} and version = 1")
}

/// Holds back the commit of the next flight that accepts.
fn hold_next(setup: &Setup) -> Arc<Gate> {
    let gate = Gate::closed();
    let holding = gate.clone();
    let held = AtomicUsize::new(0);
    setup.proxy.on_flight(move |flight| {
        if accepts(flight) && held.fetch_add(1, Ordering::SeqCst) == 0 {
            return Action::Hold(holding.clone());
        }
        Action::Forward
    });
    gate
}

async fn accept_some(store: &dyn Store, orders: usize) -> Accepted {
    let orders: Vec<_> = (0..orders).map(|_| new_order()).collect();
    store.accept(orders.into(), None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn late_commits_are_read_once_but_a_naive_reader_skips_them() {
    const ROUNDS: usize = 5;
    let Some(setup) = Setup::new().await else { return };
    let proxy = Proxy::before(Server::shared().await.address()).await;
    let punctual = punctual_store(&setup, &proxy).await;
    let mut follower = Follower::default();
    let mut plain = PlainReader::new(setup.database.admin().await);
    let mut orders = Vec::new();
    for _ in 0..ROUNDS {
        let drawn = setup.number(LAST_DRAWN).await;
        let gate = hold_next(&setup);
        let late = accept_some(&*setup.store, 3);
        let meanwhile = async {
            gate.arrival().await;
            until("the late batch has its number", async || {
                setup.number(LAST_DRAWN).await > drawn
            })
            .await;
            let early = accept_some(&*punctual, 2).await;
            follower.read_until(&*punctual, orders.len() + 2).await;
            plain.read().await;
            // A subscriber that follows from this read must get the commits that come later.
            let read = punctual.order_view(early.order_ids[0]).await.unwrap();
            let (at, last_batch) = (read.unwrap().at, setup.number(LAST_BATCH).await);
            let page = punctual.events_after(Some(at.position), 50).await.unwrap();
            assert!(
                page.events.is_empty() && !page.unplaced,
                "uncommitted events do not count as waiting"
            );
            gate.open();
            (early, at, last_batch)
        };
        let (late, (early, at, last_batch)) = tokio::join!(late, meanwhile);
        for id in &late.order_ids {
            let history = punctual.history(*id, 0).await.unwrap().unwrap();
            assert!(
                history.events[0].position > at.position,
                "order {id} has a later position"
            );
        }
        assert!(
            setup.number(&batch_of(late.order_ids[0])).await < last_batch,
            "the control would skip it"
        );
        orders.extend(early.order_ids);
        orders.extend(late.order_ids);
        follower.read_until(&*punctual, orders.len()).await;
        plain.read().await;
    }
    follower.assert_once(&orders);
    assert_eq!(plain.seen(), 2 * ROUNDS, "the control skips every late commit");
    let counted = setup
        .number("select sum(pending)::int8 from orderly.counters where slot >= 128")
        .await;
    assert_eq!(usize::try_from(counted), Ok(2 * ROUNDS), "it had rows of its own");
    punctual.close().await;
    setup.end().await;
}

/// Issue 13, point 38. Orders accepted at the same time have no order among them, whatever their ids. Late ones are claimed as soon
/// as they are committed, before orders accepted after that.
#[tokio::test(flavor = "multi_thread")]
async fn concurrently_accepted_orders_start_in_the_order_of_commits() {
    let Some(setup) = Setup::new().await else { return };
    let proxy = Proxy::before(Server::shared().await.address()).await;
    let punctual = punctual_store(&setup, &proxy).await;
    let claim = async || -> Vec<OrderId> {
        let leases = punctual.claim(claim_by(NODE_A, 5)).await.unwrap().leases;
        leases.iter().map(|lease| lease.order.order_id).collect()
    };
    // The lower bound of the claims has risen.
    accept_some(&*punctual, 10).await;
    for _ in 0..3 {
        claim().await;
    }
    let gate = hold_next(&setup);
    let late = accept_some(&*setup.store, 3);
    let meanwhile = async {
        gate.arrival().await;
        let drawn = "select last_value from orderly.order_ids";
        until("the late ones have their ids", async || {
            setup.number(drawn).await == 13
        })
        .await;
        let early = accept_some(&*punctual, 6).await.order_ids;
        assert_eq!(claim().await, early[..5]);
        gate.open();
        early
    };
    let (late, early) = tokio::join!(late, meanwhile);
    assert!(late.order_ids[2] < early[0], "{late:?} {early:?}");
    let then = accept_some(&*punctual, 1).await.order_ids;
    assert_eq!(claim().await, [late.order_ids, vec![early[5], then[0]]].concat());
    punctual.close().await;
    setup.end().await;
}

/// A store that commits at once while the setup's own store waits. The two use different counter rows, so that one does not wait
/// for the other.
async fn punctual_store(setup: &Setup, proxy: &Proxy) -> Arc<dyn Store> {
    let rows = "insert into orderly.counters (slot) select generate_series(128, 255)";
    setup.admin.batch_execute(rows).await.unwrap();
    proxy.on_flight(|flight| {
        if !accepts(flight) {
            return Action::Forward;
        }
        Action::Rewrite {
            from: "$13)".to_owned(),
            to: "($13 + 128::int2)::int2)".to_owned(),
        }
    });
    store_at(&through(proxy, &setup.database)).await
}

/// Commits held back at a time. One writer always gets through.
const HELD_MAX: usize = WRITERS - 1;

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_misses_nothing_whatever_the_order_of_commits() {
    const ACCEPTS: usize = 75;
    let Some(setup) = Setup::new().await else { return };
    let seed = rand::random();
    println!("seed: {seed}");
    let lock = Arc::new(HeldCommits::new(HELD_MAX));
    let (deciding, rng) = (lock.clone(), Mutex::new(StdRng::seed_from_u64(seed)));
    setup.proxy.on_flight(move |flight| {
        if accepts(flight) {
            deciding.action(&mut rng.lock().unwrap())
        } else {
            Action::Forward
        }
    });
    let finished = AtomicUsize::new(0);
    let write = async |writer: usize| {
        let mut rng = StdRng::seed_from_u64(seed + writer as u64);
        let store = store_at(&through(&setup.proxy, &setup.database)).await;
        let mut ids = Vec::new();
        for _ in 0..ACCEPTS {
            ids.extend(accept_some(&*store, rng.random_range(1..4)).await.order_ids);
        }
        finished.fetch_add(1, Ordering::SeqCst);
        store.close().await;
        ids
    };
    let reader = store_at(&setup.database.url()).await;
    let mut plain = PlainReader::new(setup.database.admin().await);
    let read = async {
        let mut follower = Follower::default();
        let mut rng = StdRng::seed_from_u64(seed);
        while finished.load(Ordering::SeqCst) < WRITERS {
            follower.read(&*reader).await;
            plain.read().await;
            lock.open_one(&mut rng);
        }
        follower
    };
    let (orders, mut follower) = tokio::join!(join_all((0..WRITERS).map(write)), read);
    let orders = orders.concat();
    follower.read_until(&*reader, orders.len()).await;
    plain.read().await;
    follower.assert_once(&orders);
    assert!(
        plain.seen() < orders.len(),
        "the control skips some: {} of {}",
        plain.seen(),
        orders.len()
    );
    let unnumbered = "select count(*) from orderly.batches where first_position is null";
    assert_eq!(number(&setup.admin, unnumbered).await, 0);
    assert_sound(&*reader).await;
    reader.close().await;
    setup.end().await;
}

/// Such a store is damaged: every event belongs to a batch.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_fails_at_once_if_no_batch_holds_an_event() {
    let Some(setup) = Setup::new().await else { return };
    let id = accept_some(&*setup.store, 1).await.order_ids[0];
    let lose = "update orderly.orders set accepted_in = 0";
    setup.admin.batch_execute(lose).await.unwrap();
    let history = timeout(NOTIFIED_WITHIN, setup.store.history(id, 0)).await;
    let refused = history.expect("an answer in time").unwrap_err();
    assert!(refused.to_string().contains("the place of an event"), "{refused}");
    setup.store.close().await;
}
