//! A retention run consists of small steps and makes progress alongside other work.

use futures_util::future::join_all;
use orderly::order::{OrderId, OrderStatus};
use orderly::store::{Acted, Counters, PRUNE_EVENTS_MAX, PRUNE_ORDERS_MAX, Pruned, RedriveOptions};

use super::{LATER, bounds, ended_orders, round, step};
use crate::support::Harness;

conformance! {
    a_retention_run_works_in_small_steps,
    an_order_with_many_events_gets_its_own_retention_step,
    a_retention_run_ends_at_orders_that_are_too_young,
    a_concurrent_redrive_happens_before_the_removal_or_is_refused,
    concurrent_retention_runs_remove_each_order_once,
}

async fn a_retention_run_works_in_small_steps(harness: &mut Harness) {
    let mut ids = harness.accept_some(PRUNE_ORDERS_MAX + 100).await;
    ids.extend(harness.accept_some(PRUNE_ORDERS_MAX).await);
    let open = ids.remove(7);
    harness.cancel_all(&ids).await;
    harness.advance(LATER).await;
    harness.number_all_events().await;
    let first = step(harness, None).await;
    // The open order was looked at too.
    let last_of_first = ids[PRUNE_ORDERS_MAX - 2];
    assert_eq!(
        first,
        Pruned {
            orders: PRUNE_ORDERS_MAX - 1,
            next: Some(last_of_first),
            refused: Vec::new(),
        }
    );
    harness.assert_sound().await;
    let second = step(harness, first.next).await;
    assert_eq!(second.orders, PRUNE_ORDERS_MAX);
    harness.assert_sound().await;
    let third = step(harness, second.next).await;
    assert_eq!(
        third,
        Pruned {
            orders: 100,
            next: None,
            refused: Vec::new(),
        }
    );
    assert_eq!(harness.records().await.len(), 1);
    assert_eq!(harness.order(open).await.status, OrderStatus::Pending);
}

async fn an_order_with_many_events_gets_its_own_retention_step(harness: &mut Harness) {
    const EVENTS_EACH: u32 = 700;
    // Three of these orders fill a step, two do not.
    const { assert!(PRUNE_EVENTS_MAX > 2 * 700 && PRUNE_EVENTS_MAX <= 3 * 700) };
    let ids = harness.accept_some(4).await;
    join_all(ids.iter().map(async |id| {
        while harness.cancel(*id).await.version < EVENTS_EACH {
            harness.redrive(*id).await;
        }
    }))
    .await;
    harness.advance(LATER).await;
    harness.number_all_events().await;
    let first = step(harness, None).await;
    assert_eq!((first.orders, first.next), (3, Some(ids[2])));
    let second = step(harness, first.next).await;
    assert_eq!((second.orders, second.next), (1, None));
}

async fn a_retention_run_ends_at_orders_that_are_too_young(harness: &mut Harness) {
    let old = ended_orders(harness).await;
    harness.advance(LATER).await;
    harness.accept_some(PRUNE_ORDERS_MAX).await;
    harness.number_all_events().await;
    let pruned = step(harness, None).await;
    assert_eq!((pruned.orders, pruned.next), (old.len(), None));
}

async fn a_concurrent_redrive_happens_before_the_removal_or_is_refused(harness: &mut Harness) {
    let ids = harness.accept_some(200).await;
    harness.cancel_all(&ids).await;
    harness.advance(LATER).await;
    harness.number_all_events().await;
    let redrives = join_all(ids.iter().rev().map(async |id| {
        (
            *id,
            harness
                .store()
                .redrive(*id, RedriveOptions::default())
                .await
                .unwrap(),
        )
    }));
    let rounds = async {
        let mut orders = 0;
        for _ in 0..5 {
            orders += round(harness).await;
        }
        orders
    };
    let (answers, pruned) = tokio::join!(redrives, rounds);
    let mut stayed = Vec::new();
    for (id, acted) in answers {
        match acted {
            Acted::Done(order) => stayed.push(order.order_id),
            Acted::Unknown => assert_eq!(harness.store().order_view(id).await.unwrap(), None),
            Acted::Refused(order) | Acted::TooManyEvents(order) => panic!("order {id} is {:?}", order.status),
        }
    }
    assert_eq!(stayed.len() + pruned, ids.len());
    harness.assert_sound().await;
    stayed.sort_unstable();
    let left: Vec<OrderId> = harness
        .records()
        .await
        .iter()
        .map(|record| record.order.order_id)
        .collect();
    assert_eq!(left, stayed);
    assert_eq!(round(harness).await, 0);
}

async fn concurrent_retention_runs_remove_each_order_once(harness: &mut Harness) {
    let ids = harness.accept_some(300).await;
    harness.cancel_all(&ids).await;
    harness.advance(LATER).await;
    harness.number_all_events().await;
    let rounds = join_all((0..4).map(|_| round(harness))).await;
    let taken: usize = rounds.iter().sum();
    assert_eq!(taken + round(harness).await, ids.len());
    assert_eq!(harness.counters().await, Counters::default());
    let bounds = bounds(harness).await;
    assert_eq!(bounds.complete_after, bounds.last);
}
