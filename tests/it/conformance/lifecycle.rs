//! The store as a whole: snapshots, wake-ups, health and closing.

use std::sync::Arc;

use futures_util::future::{FutureExt, join_all};
use orderly::event::EventKind;
use orderly::lease::{LeaseKey, Outcome};
use orderly::order::OrderStatus;
use orderly::store::{OrderQuery, RedriveOptions, RedriveQuery, StoreError, StoreHealth};

use crate::support::Harness;
use crate::support::make::{
    FIRST_FENCE, LONGER_THAN_A_LEASE, NODE_A, claim_by, failed, give_back_by, heartbeat, key, new_order,
};

conformance! {
    settings_that_weaken_a_store_are_reported,
    a_snapshot_shows_one_instant,
    a_snapshot_includes_data_hidden_by_the_api,
    a_snapshot_comes_in_pages,
    a_snapshot_lists_the_idempotency_keys,
    events_of_all_orders_share_one_feed,
    a_new_store_is_ready_and_has_not_failed,
    settings_that_weaken_durability_are_named,
    accepted_orders_wake_waiting_dispatchers,
    redriven_orders_wake_waiting_dispatchers,
    given_back_orders_wake_waiting_dispatchers,
    a_resumed_queue_wakes_waiting_dispatchers,
    a_final_order_wakes_its_held_reads,
    a_closed_store_refuses_everything,
    closing_carries_out_queued_calls,
    closing_twice_has_no_further_effect,
}

async fn settings_that_weaken_a_store_are_reported(harness: &mut Harness) {
    harness.accept_one().await;
    let weaknesses = harness.store().weaknesses();
    if harness.is_embedded() {
        assert!(weaknesses.is_empty(), "{weaknesses:?}");
    } else {
        // The test server does not sync.
        assert_eq!(weaknesses.len(), 1, "{weaknesses:?}");
        assert!(weaknesses[0].contains("fsync"), "{weaknesses:?}");
    }
}

async fn a_snapshot_shows_one_instant(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let mut snapshot = harness.store().snapshot().await.unwrap();
    harness.accept_some(3).await;
    harness.claim(2).await;
    harness.store().pause(None).await.unwrap();

    let records = snapshot.orders_after(None, 10).await.unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].order.order_id, id);
    assert_eq!(records[0].order.status, OrderStatus::Pending);
    assert_eq!(records[0].events.len(), 1);
    let counters = snapshot.counters().await.unwrap();
    assert_eq!((counters.pending, counters.total()), (1, 1));
    assert!(snapshot.queue().await.unwrap().pause.is_none());
}

async fn a_snapshot_includes_data_hidden_by_the_api(harness: &mut Harness) {
    let id = harness.accept_one().await;
    harness.accept_one().await;
    let lease = harness.claim(1).await.remove(0);
    let records = harness.records().await;
    assert_eq!(records[0].order, harness.order(id).await);
    let held = records[0].lease.expect("an order in processing has a lease");
    assert_eq!((held.node, held.fence), (NODE_A, lease.fence));
    assert!(held.expires_at > harness.now().await);
    assert!(records[1].lease.is_none());
    harness.settle(&lease, Outcome::COMPLETED).await;
    assert!(harness.records().await[0].lease.is_none());
}

async fn a_snapshot_comes_in_pages(harness: &mut Harness) {
    let ids = harness.accept_some(7).await;
    let mut snapshot = harness.store().snapshot().await.unwrap();
    let mut seen = Vec::new();
    loop {
        let page = snapshot.orders_after(seen.last().copied(), 3).await.unwrap();
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        seen.extend(page.iter().map(|record| record.order.order_id));
    }
    assert_eq!(seen, ids);
}

async fn a_snapshot_lists_the_idempotency_keys(harness: &mut Harness) {
    let mut expected = Vec::new();
    for name in ["a", "b", "c"] {
        let orders = vec![new_order(); 2];
        let accepted = harness.store().accept(orders.into(), Some(key(name, 1))).await;
        expected.push((name.to_owned(), accepted.unwrap().order_ids));
    }
    let mut snapshot = harness.store().snapshot().await.unwrap();
    let mut after = None;
    let mut seen = Vec::new();
    loop {
        let page = snapshot.keys_after(after.clone(), 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.scope.clone(), last.key.clone()));
        seen.extend(page.into_iter().map(|record| (record.key, record.order_ids)));
    }
    assert_eq!(seen, expected);
}

async fn events_of_all_orders_share_one_feed(harness: &mut Harness) {
    harness.accept_some(3).await;
    for lease in harness.claim(3).await {
        harness.settle(&lease, Outcome::COMPLETED).await;
    }
    let records = harness.records().await;
    let mut events: Vec<_> = records.iter().flat_map(|record| &record.events).collect();
    events.sort_by_key(|event| event.position);
    assert!(events.windows(2).all(|pair| pair[0].position < pair[1].position));
    let kinds: Vec<EventKind> = events.iter().map(|event| event.event.kind).collect();
    let expected = [
        [EventKind::Accepted; 3],
        [EventKind::Started; 3],
        [EventKind::Completed; 3],
    ];
    assert_eq!(kinds, expected.concat());
}

async fn a_new_store_is_ready_and_has_not_failed(harness: &mut Harness) {
    assert_eq!(harness.store().health(), StoreHealth::Ready);
    harness.accept_one().await;
    assert_eq!(harness.store().health(), StoreHealth::Ready);
    assert_eq!(harness.store().failed().now_or_never(), None);
}

async fn settings_that_weaken_durability_are_named(harness: &mut Harness) {
    let mut snapshot = harness.store().snapshot().await.unwrap();
    for weaknesses in [harness.store().weaknesses(), snapshot.weaknesses().await.unwrap()] {
        if harness.is_embedded() {
            assert!(weaknesses.is_empty(), "{weaknesses:?}");
        } else {
            // The shared test server does not sync.
            assert!(
                weaknesses.iter().any(|weakness| weakness.contains("fsync")),
                "{weaknesses:?}"
            );
        }
    }
}

async fn accepted_orders_wake_waiting_dispatchers(harness: &mut Harness) {
    drain_work(harness);
    harness.accept_one().await;
    harness.store().wakeups().work().await;
}

async fn redriven_orders_wake_waiting_dispatchers(harness: &mut Harness) {
    let id = harness.order_in(OrderStatus::Cancelled).await;
    drain_work(harness);
    harness.redrive(id).await;
    harness.store().wakeups().work().await;
    harness.cancel(id).await;
    drain_work(harness);
    let query = RedriveQuery {
        status: OrderStatus::Cancelled,
        user_id: None,
        user_name: None,
        created_before: None,
        options: RedriveOptions::default(),
        dry_run: false,
    };
    harness.store().redrive_matching(query).await.unwrap();
    harness.store().wakeups().work().await;
}

async fn given_back_orders_wake_waiting_dispatchers(harness: &mut Harness) {
    harness.order_in(OrderStatus::Processing).await;
    drain_work(harness);
    harness.advance(LONGER_THAN_A_LEASE).await;
    harness.give_back().await;
    harness.store().wakeups().work().await;
}

async fn a_resumed_queue_wakes_waiting_dispatchers(harness: &mut Harness) {
    harness.store().pause(None).await.unwrap();
    harness.accept_one().await;
    drain_work(harness);
    harness.store().resume().await.unwrap();
    harness.store().wakeups().work().await;
}

async fn a_final_order_wakes_its_held_reads(harness: &mut Harness) {
    let wakeups = harness.store().wakeups();
    for outcome in [Some(Outcome::COMPLETED), Some(failed()), None] {
        let id = harness.accept_one().await;
        let lease = harness.claim_only(id).await;
        let mut waiter = wakeups.watch_final(id);
        assert!(waiter.woken().now_or_never().is_none());
        match outcome {
            Some(outcome) => {
                harness.settle(&lease, outcome).await;
            }
            None => {
                harness.cancel(id).await;
            }
        }
        waiter.woken().await;
        assert!(harness.order(id).await.status.is_final());
    }
}

async fn a_closed_store_refuses_everything(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let store = harness.store().clone();
    store.close().await;
    let lease = LeaseKey {
        order_id: id,
        fence: FIRST_FENCE,
        node: NODE_A,
    };
    let redrive = RedriveQuery {
        status: OrderStatus::Failed,
        user_id: None,
        user_name: None,
        created_before: None,
        options: RedriveOptions::default(),
        dry_run: true,
    };
    let list = OrderQuery {
        limit: 1,
        ..OrderQuery::default()
    };
    for (call, error) in [
        ("accept", store.accept([new_order()].into(), None).await.err()),
        ("claim", store.claim(claim_by(NODE_A, 1)).await.err()),
        ("settle", store.settle(lease, Outcome::COMPLETED).await.err()),
        ("renew", store.renew(heartbeat(NODE_A, &[])).await.err()),
        (
            "give_back_expired",
            store.give_back_expired(give_back_by(NODE_A)).await.err(),
        ),
        ("join", store.join(heartbeat(NODE_A, &[]), 5).await.err()),
        (
            "leave",
            store.leave(NODE_A, orderly::store::Leaving::ToStop).await.err(),
        ),
        ("cancel", store.cancel(id, None).await.err()),
        (
            "redrive",
            store.redrive(id, RedriveOptions::default()).await.err(),
        ),
        ("redrive_matching", store.redrive_matching(redrive).await.err()),
        ("pause", store.pause(None).await.err()),
        ("resume", store.resume().await.err()),
        ("order", store.order_view(id).await.err()),
        ("orders", store.orders(list).await.err()),
        ("history", store.history(id, 0).await.err()),
        ("counters", store.counters().await.err()),
        ("queue", store.queue().await.err()),
        ("snapshot", store.snapshot().await.err()),
    ] {
        assert!(matches!(error, Some(StoreError::Closed)), "{call}: {error:?}");
    }
    assert_ne!(store.health(), StoreHealth::Ready);
    harness.reopen().await;
    assert_eq!(harness.order(id).await.version, 1);
}

async fn closing_carries_out_queued_calls(harness: &mut Harness) {
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let store = Arc::clone(harness.store());
            tokio::spawn(async move { store.accept([new_order()].into(), None).await })
        })
        .collect();
    tokio::task::yield_now().await;
    harness.store().close().await;
    let mut accepted = Vec::new();
    for answer in join_all(callers).await {
        match answer.unwrap() {
            Ok(answer) => accepted.extend(answer.order_ids),
            Err(StoreError::Closed) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    accepted.sort();
    harness.reopen().await;
    let records = harness.records().await;
    let stored: Vec<_> = records.iter().map(|record| record.order.order_id).collect();
    assert_eq!(stored, accepted);
}

async fn closing_twice_has_no_further_effect(harness: &mut Harness) {
    harness.store().close().await;
    harness.store().close().await;
    harness.reopen().await;
}

/// Discards wake-ups of earlier steps.
fn drain_work(harness: &Harness) {
    let wakeups = harness.store().wakeups();
    while wakeups.work().now_or_never().is_some() {}
}
