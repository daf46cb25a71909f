//! Copying a store to PostgreSQL: everything continues there as before. Command output is tested in `cli`, detection of
//! differences with the comparison itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use orderly::event::Event;
use orderly::lease::Outcome;
use orderly::order::{BATCH_ORDERS_MAX, OrderId, OrderStatus};
use orderly::store::copy::CopyError;
use orderly::store::open::OpenError;
use orderly::store::snapshot::OrderRecord;
use orderly::store::{CLAIM_ORDERS_MAX, FEED_EVENTS_MAX, FeedPosition};

use crate::support::harness::ids_of;
use crate::support::make::{
    LONGER_THAN_A_LEASE, NODE_A, NODE_B, failed, heartbeat, key, new_order, order_with_reference, retry_after,
};
use crate::support::postgres::{self, Server, TestDatabase};
use crate::support::proxy::{Action, Proxy};
use crate::support::{Harness, check, required};

/// Runs a test with a store of each kind as the source.
macro_rules! from_every_store {
    ($($claim:ident),+ $(,)?) => {
        mod from_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $claim() {
                    if super::possible() {
                        super::$claim(super::Harness::sqlite().await).await;
                    }
                }
            )+
        }
        mod from_postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $claim() {
                    if let Some(harness) = super::Harness::postgres().await {
                        super::$claim(harness).await;
                    }
                }
            )+
        }
    };
}

mod holes;
mod long;
mod ordering;
mod refused;

from_every_store! {
    orders_in_every_status_are_copied_with_their_histories,
    the_feed_keeps_its_order_including_unnumbered_events,
    ids_and_positions_continue_after_the_last_ones,
    idempotency_keys_keep_their_answers,
    copied_leases_stay_valid_until_they_expire,
    a_paused_queue_stays_paused,
    an_empty_store_can_be_copied,
    a_store_larger_than_one_page_is_copied,
    a_database_that_is_not_empty_is_left_unchanged,
}

fn possible() -> bool {
    required("a private PostgreSQL", postgres::is_installed())
}

/// Creates an order in each status, and one in each place where a Pending order can wait.
async fn busy_shop(harness: &Harness) {
    for status in OrderStatus::ALL {
        // First the orders that must be the only ones that can start.
        if ![OrderStatus::Pending, OrderStatus::Processing].contains(&status) {
            harness.order_in(status).await;
        }
    }
    harness.order_due_in(3_600).await;
    let suspect = harness.accept_one().await;
    harness.crash_all(&[suspect], 2).await;
    harness.cancel(suspect).await;
    let redriven = harness.attempt_once(failed()).await;
    harness.redrive(redriven).await;
    let processing = harness.claim_only(redriven).await;
    assert_eq!(processing.order.order_id, redriven);
    let held = harness.accept_held().await;
    harness.release(held).await;
    harness.hold(held).await;
    harness.accept_scheduled(Duration::from_mins(1)).await;
    harness
        .accept(vec![order_with_reference("réf \u{1f4e6} 'x'")])
        .await;
}

/// All data of the orders except the absolute positions of their events.
async fn contents(harness: &Harness) -> Vec<OrderRecord> {
    let mut records = harness.records().await;
    for record in &mut records {
        record.events.iter_mut().for_each(|stored| stored.position = 0);
    }
    records
}

async fn feed(harness: &Harness) -> Vec<(FeedPosition, Event)> {
    let mut feed: Vec<(FeedPosition, Event)> = Vec::new();
    loop {
        let after = feed.last().map(|(position, _)| *position);
        let page = harness
            .store()
            .events_after(after, FEED_EVENTS_MAX)
            .await
            .unwrap();
        if page.events.is_empty() {
            return feed;
        }
        let events = page.events.into_iter();
        feed.extend(events.map(|event| (event.position, event.event)));
    }
}

fn events(feed: &[(FeedPosition, Event)]) -> Vec<&Event> {
    feed.iter().map(|(_, event)| event).collect()
}

async fn orders_in_every_status_are_copied_with_their_histories(harness: Harness) {
    busy_shop(&harness).await;
    let (before, counters) = (contents(&harness).await, harness.counters().await);
    check(harness.move_to_postgres().await, async |copy: &mut Harness| {
        assert_eq!(contents(copy).await, before);
        assert_eq!(copy.counters().await, counters);
        assert_eq!(copy.recount().await, counters);
    })
    .await;
}

async fn the_feed_keeps_its_order_including_unnumbered_events(harness: Harness) {
    // A shared store numbers events when they are read: here the first half.
    let first = harness.accept_some(3).await;
    let read = feed(&harness).await;
    let later = harness.accept_some(2).await;
    for lease in harness.claim(10).await.iter().rev() {
        harness.settle(lease, Outcome::COMPLETED).await;
    }
    let mut expected: Vec<OrderId> = [&first[..], &later, &first, &later].concat();
    expected.extend(later.iter().rev().chain(first.iter().rev()));
    check(harness.move_to_postgres().await, async |copy: &mut Harness| {
        let copied = feed(copy).await;
        assert_eq!(events(&copied[..read.len()]), events(&read));
        let order_ids: Vec<OrderId> = copied.iter().map(|(_, event)| event.order_id).collect();
        assert_eq!(order_ids, expected);
        assert!(copied.is_sorted_by(|one, other| one.0 < other.0));
    })
    .await;
}

async fn ids_and_positions_continue_after_the_last_ones(harness: Harness) {
    let last = *harness.accept_some(5).await.last().unwrap();
    check(harness.move_to_postgres().await, async |copy: &mut Harness| {
        let before = feed(copy).await;
        let next = copy.accept_some(2).await;
        assert_eq!(next, [OrderId(last.0 + 1), OrderId(last.0 + 2)]);
        let after = feed(copy).await;
        assert_eq!(events(&after[..before.len()]), events(&before));
        assert_eq!(after.len(), before.len() + 2);
    })
    .await;
}

async fn idempotency_keys_keep_their_answers(harness: Harness) {
    let batch = vec![new_order(); 3];
    let store = harness.store().clone();
    let first = store
        .accept(batch.clone().into(), Some(key("ä key", 1)))
        .await
        .unwrap();
    let other = store
        .accept(vec![new_order()].into(), Some(key("Z key", 1)))
        .await
        .unwrap();
    check(harness.move_to_postgres().await, async |copy: &mut Harness| {
        for (orders, name, answer) in [
            (batch.clone(), "ä key", &first),
            (vec![new_order()], "Z key", &other),
        ] {
            let again = copy
                .store()
                .accept(orders.into(), Some(key(name, 1)))
                .await
                .unwrap();
            assert!(again.replayed, "{name}");
            assert_eq!(
                (&again.order_ids, again.created_at),
                (&answer.order_ids, answer.created_at)
            );
        }
        let reused = copy
            .store()
            .accept(vec![new_order()].into(), Some(key("Z key", 2)))
            .await;
        assert!(reused.is_err(), "{reused:?}");
    })
    .await;
}

async fn copied_leases_stay_valid_until_they_expire(harness: Harness) {
    let ids = harness.accept_some(2).await;
    let leases = harness.claim_as(NODE_B, 2).await;
    check(harness.move_to_postgres().await, async |copy: &mut Harness| {
        // A result in flight.
        copy.settle(&leases[0], Outcome::COMPLETED).await;
        copy.store().renew(heartbeat(NODE_A, &[])).await.unwrap();
        copy.advance(LONGER_THAN_A_LEASE).await;
        assert_eq!(copy.give_back().await.pending, 1);
        assert_eq!(copy.crashes(ids[1]).await, 1, "its node counts as dead");
        let again = copy.claim(10).await;
        assert_eq!(ids_of(&again), [ids[1]]);
        assert!(again[0].fence > leases[1].fence, "the copy has a new epoch");
    })
    .await;
}

async fn a_paused_queue_stays_paused(harness: Harness) {
    harness.accept_one().await;
    harness.store().pause(None).await.unwrap();
    check(harness.move_to_postgres().await, async |copy: &mut Harness| {
        assert!(copy.paused().await);
        assert!(copy.claim(10).await.is_empty());
        copy.store().resume().await.unwrap();
        assert_eq!(copy.claim(10).await.len(), 1);
    })
    .await;
}

async fn an_empty_store_can_be_copied(harness: Harness) {
    check(harness.move_to_postgres().await, async |copy: &mut Harness| {
        assert_eq!(copy.accept_one().await, OrderId(1));
        assert_eq!(feed(copy).await.len(), 1);
    })
    .await;
}

async fn a_store_larger_than_one_page_is_copied(harness: Harness) {
    for batch in 0..2 {
        harness.accept_some(BATCH_ORDERS_MAX).await;
        fail_all_once(&harness).await;
        for number in 0..300 {
            let key = key(&format!("key {batch} {number}"), 1);
            let orders = vec![new_order()].into();
            harness.store().accept(orders, Some(key)).await.unwrap();
        }
    }
    let (before, counters) = (contents(&harness).await, harness.counters().await);
    let read = feed(&harness).await;
    check(harness.move_to_postgres().await, async |copy: &mut Harness| {
        assert_eq!(contents(copy).await, before);
        assert_eq!(copy.counters().await, counters);
        assert_eq!(events(&feed(copy).await), events(&read));
        copy.advance(Duration::from_hours(1)).await;
        assert!(!copy.claim(10).await.is_empty());
    })
    .await;
}

/// Moves the orders of the first line to the second.
async fn fail_all_once(harness: &Harness) {
    loop {
        let leases = harness.claim(CLAIM_ORDERS_MAX).await;
        if leases.is_empty() {
            return;
        }
        join_all(
            leases
                .iter()
                .map(|lease| harness.settle(lease, retry_after(1_800))),
        )
        .await;
    }
}

async fn a_database_that_is_not_empty_is_left_unchanged(harness: Harness) {
    harness.accept_one().await;
    harness.store().close().await;
    let home = Server::shared().await.create_database().await;
    harness.copy_into(&home.url()).await.unwrap();
    let again = harness.copy_into(&home.url()).await;
    assert!(matches!(again, Err(CopyError::NotEmpty { .. })), "{again:?}");
    let orders = "select count(*) from orderly.orders";
    let stored: i64 = home.admin().await.query_one(orders, &[]).await.unwrap().get(0);
    assert_eq!(stored, 1);
}

/// A node was killed on the new database before the copy: it may or may not be alive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_used_by_a_node_is_not_empty() {
    let Some(target) = Harness::postgres().await else {
        return;
    };
    target.join(NODE_A).await;
    let source = Harness::sqlite().await;
    source.store().close().await;
    let refused = source.copy_into(&target.home().url()).await;
    assert!(
        matches!(&refused, Err(CopyError::NotEmpty { found, .. }) if found == "nodes"),
        "{refused:?}"
    );
    target
        .store()
        .leave(NODE_A, orderly::store::Leaving::ToStop)
        .await
        .unwrap();
    source.copy_into(&target.home().url()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_with_a_live_node_is_not_copied() {
    let Some(source) = Harness::postgres().await else {
        return;
    };
    source.join(NODE_A).await;
    let home = Server::shared().await.create_database().await;
    let refused = source.copy_into(&home.url()).await;
    assert!(
        matches!(refused, Err(CopyError::Open(OpenError::InUse { .. }))),
        "{refused:?}"
    );
    source.advance(LONGER_THAN_A_LEASE).await;
    source.copy_into(&home.url()).await.unwrap();
}

/// A closed store with a few orders, and an empty database behind a proxy.
async fn before_a_bad_connection() -> Option<(Harness, TestDatabase, Proxy)> {
    if !possible() {
        return None;
    }
    let source = Harness::sqlite().await;
    busy_shop(&source).await;
    source.store().close().await;
    let server = Server::shared().await;
    let home = server.create_database().await;
    let proxy = Proxy::before(server.address()).await;
    Some((source, home, proxy))
}

fn lost_when(lost: bool) -> Action {
    if lost { Action::LoseAnswer } else { Action::Forward }
}

fn through(proxy: &Proxy, home: &TestDatabase) -> String {
    home.url_at("127.0.0.1", proxy.address().port())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_lost_at_any_statement_leaves_the_database_empty() {
    let Some((source, home, proxy)) = before_a_bad_connection().await else {
        return;
    };
    for statement in [
        "lock table",
        "insert into orderly.orders",
        "insert into orderly.batches",
        "update orderly.queue",
        "from orderly.idempotency_keys",
        "setval",
    ] {
        proxy.on_flight(move |flight| lost_when(flight.sql().contains(statement)));
        let broken = source.copy_into(&through(&proxy, &home)).await;
        assert!(
            matches!(broken, Err(CopyError::Store(_) | CopyError::Open(_))),
            "{statement}: {broken:?}"
        );
    }
    proxy.on_flight(|_| Action::Forward);
    source.copy_into(&through(&proxy, &home)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_the_commit_is_reported_as_unknown_outcome() {
    let Some((source, home, proxy)) = before_a_bad_connection().await else {
        return;
    };
    // The last statement before the commit of the copy. The migration has its own commit.
    let written = AtomicBool::new(false);
    proxy.on_flight(move |flight| {
        let sql = flight.sql();
        written.fetch_or(sql.contains("setval"), Ordering::SeqCst);
        lost_when(sql == "commit" && written.load(Ordering::SeqCst))
    });
    let doubtful = source.copy_into(&through(&proxy, &home)).await.unwrap_err();
    assert!(doubtful.to_string().contains("orderly verify"), "{doubtful}");
    let again = source.copy_into(&home.url()).await;
    assert!(matches!(again, Err(CopyError::NotEmpty { .. })), "{again:?}");
}
