//! Every read of a store without orders: a fresh store, and one emptied by retention. A read that finds nothing
//! succeeds.

use std::time::Duration;

use orderly::order::{OrderId, OrderStatus};
use orderly::store::{
    Counters, FeedPosition, OrderQuery, Prune, Pruned, RedriveOptions, RedriveQuery, Redriven,
    SWEEP_ORDERS_MAX,
};
use orderly::time::Timestamp;

use crate::support::Harness;
use crate::support::make::{NODE_A, claim_by, give_back_by};

conformance! {
    every_read_of_a_fresh_store_finds_nothing,
    every_read_of_an_emptied_store_finds_nothing,
}

async fn every_read_of_a_fresh_store_finds_nothing(harness: &mut Harness) {
    assert_every_read_finds_nothing(harness).await;
}

async fn every_read_of_an_emptied_store_finds_nothing(harness: &mut Harness) {
    for status in [
        OrderStatus::Completed,
        OrderStatus::Failed,
        OrderStatus::Cancelled,
    ] {
        harness.order_in(status).await;
    }
    harness.prune_all().await;
    assert_eq!(harness.counters().await, Counters::default());
    assert_every_read_finds_nothing(harness).await;
}

async fn assert_every_read_finds_nothing(harness: &Harness) {
    let mut wrong = Vec::new();
    let now = harness.now().await;
    for query in listings(now) {
        match harness.store().orders(query.clone()).await {
            Ok(page) if page.orders.is_empty() && page.next.is_none() => {}
            answer => wrong.push(format!("{query:?}: {answer:?}")),
        }
    }
    for query in redrives(now) {
        match harness.store().redrive_matching(query.clone()).await {
            Ok(redriven) if redriven == Redriven::default() => {}
            answer => wrong.push(format!("{query:?}: {answer:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_no_single_order_is_found(harness).await;
    assert_no_order_is_offered(harness).await;
    assert_a_snapshot_is_empty(harness).await;
}

/// Every combination of filters.
fn listings(now: Timestamp) -> Vec<OrderQuery> {
    let statuses = OrderStatus::ALL.map(Some).into_iter().chain([None]);
    let times = [None, Some(now), Some(Timestamp::from_micros(0))];
    let mut queries = Vec::new();
    for status in statuses {
        for combination in 0..1 << 3 {
            let chosen = |filter: usize| combination & (1 << filter) != 0;
            for created_after in times {
                for created_before in times {
                    queries.push(OrderQuery {
                        statuses: status.into_iter().collect(),
                        user_id: chosen(0).then_some(1),
                        reference: chosen(1).then(|| "R-1".to_owned()),
                        created_after,
                        created_before,
                        before: chosen(2).then_some(OrderId(3)),
                        limit: 50,
                        ..OrderQuery::default()
                    });
                }
            }
        }
    }
    queries
}

fn redrives(now: Timestamp) -> Vec<RedriveQuery> {
    let mut queries = Vec::new();
    for status in [OrderStatus::Failed, OrderStatus::Cancelled] {
        for user_id in [None, Some(1)] {
            for created_before in [None, Some(now), Some(Timestamp::from_micros(0))] {
                for dry_run in [true, false] {
                    queries.push(RedriveQuery {
                        status,
                        user_id,
                        user_name: None,
                        created_before,
                        options: RedriveOptions::default(),
                        dry_run,
                    });
                }
            }
        }
    }
    queries
}

async fn assert_no_single_order_is_found(harness: &Harness) {
    let store = harness.store();
    for id in [OrderId(1), OrderId(i64::MAX)] {
        assert_eq!(store.order_view(id).await.unwrap(), None);
        assert!(store.explain(id).await.unwrap().is_none());
        assert_eq!(store.history(id, 0).await.unwrap(), None);
        assert!(store.claimed(id).await.unwrap().is_none());
    }
    for after in [None, Some(FeedPosition(0)), Some(FeedPosition(i64::MAX))] {
        for limit in [0, 1, 50] {
            let page = store.events_after(after, limit).await.unwrap();
            assert_eq!(page.events, [], "{after:?}, {limit}");
        }
    }
    assert_eq!(store.counters().await.unwrap(), Counters::default());
    let queue = store.queue().await.unwrap();
    assert_eq!(
        (queue.counters, queue.oldest_waiting),
        (Counters::default(), None)
    );
}

async fn assert_no_order_is_offered(harness: &Harness) {
    let store = harness.store();
    assert!(store.claim(claim_by(NODE_A, 9)).await.unwrap().leases.is_empty());
    let given_back = store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    assert_eq!((given_back.pending, given_back.poisoned), (0, 0));
    let step = Prune {
        older_than: Duration::from_hours(24),
        after: None,
    };
    assert_eq!(store.prune(step).await.unwrap(), Pruned::default());
}

async fn assert_a_snapshot_is_empty(harness: &Harness) {
    let mut snapshot = harness.store().snapshot().await.unwrap();
    let limit = SWEEP_ORDERS_MAX;
    for after in [None, Some(OrderId(1))] {
        assert!(snapshot.orders_after(after, limit).await.unwrap().is_empty());
    }
    for after in [None, Some(1)] {
        assert!(snapshot.events_after(after, limit).await.unwrap().is_empty());
    }
    assert!(snapshot.keys_after(None, limit).await.unwrap().is_empty());
    assert!(!snapshot.has_orders(&[OrderId(1)]).await.unwrap());
    assert!(snapshot.has_orders(&[]).await.unwrap());
    snapshot.last_order_id().await.unwrap();
    snapshot.start_rule().await.unwrap();
    snapshot.read_at().await.unwrap();
    assert_eq!(snapshot.counters().await.unwrap(), Counters::default());
    assert_eq!(snapshot.queue().await.unwrap().oldest_waiting, None);
    assert_eq!(snapshot.feed().await.unwrap().waiting, None);
    assert_eq!(snapshot.damage().await.unwrap(), Vec::<String>::new());
}
