//! Permanent refusals by the database: only the offending call fails, no other is affected.

use futures_util::future::join_all;
use orderly::lease::{Lease, Outcome};
use orderly::order::OrderStatus;
use orderly::store::{Settled, StoreError, StoreHealth};

use crate::support::make::{
    LONGER_THAN_A_LEASE, NODE_A, claim_by, failed, heartbeat, new_order, order_of, retry_after,
};
use crate::support::{Harness, until};

mod ends;
mod starts;
mod turns;

conformance! {
    a_result_refused_by_the_database_changes_nothing_and_stays_refused,
    one_refused_result_does_not_affect_other_results,
    one_refused_order_does_not_affect_other_orders,
    a_refused_renewal_does_not_affect_other_leases,
    a_refused_give_back_does_not_affect_other_orders,
    a_refused_give_back_does_not_stop_a_joining_node,
    a_store_that_refuses_every_order_is_not_ready,
}

fn assert_refused<T: std::fmt::Debug>(answer: Result<T, StoreError>) {
    let Err(StoreError::Refused { reason, .. }) = answer else {
        panic!("{answer:?} is not a permanent refusal")
    };
    // Every database can store such text.
    assert!(reason.is_ascii() && reason.len() < 50, "{reason}");
    assert!(!reason.contains("with us"), "{reason}");
}

async fn a_result_refused_by_the_database_changes_nothing_and_stays_refused(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    harness.refuse_updates("new.status = 2").await;
    for _ in 0..2 {
        assert_refused(harness.store().settle(lease.key(), Outcome::COMPLETED).await);
        assert_eq!(harness.order(id).await.status, OrderStatus::Processing);
    }
    assert_eq!(harness.settle(&lease, failed()).await, OrderStatus::Failed);
}

async fn one_refused_result_does_not_affect_other_results(harness: &mut Harness) {
    harness.accept_some(100).await;
    let leases = harness.claim(100).await;
    let bad = leases[41].order.order_id;
    harness
        .refuse_updates(&format!("new.order_id = {bad} and new.status <> 1"))
        .await;
    for outcome in [Outcome::COMPLETED, retry_after(0)] {
        let half = if outcome == Outcome::COMPLETED {
            0..70
        } else {
            30..100
        };
        let settles = leases[half].iter().map(|lease| {
            let store = harness.store().clone();
            let (key, outcome) = (lease.key(), outcome.clone());
            async move { (key.order_id, store.settle(key, outcome).await) }
        });
        for (id, settled) in join_all(settles).await {
            if id == bad {
                assert_refused(settled);
            } else {
                assert!(
                    matches!(settled, Ok(Settled::Done(_) | Settled::Stale)),
                    "{settled:?}"
                );
            }
        }
    }
    let counters = harness.counters().await;
    assert_eq!(
        (counters.processing, counters.completed, counters.pending),
        (1, 69, 30)
    );
}

async fn one_refused_order_does_not_affect_other_orders(harness: &mut Harness) {
    harness.refuse_inserts("new.user_id = 666").await;
    let accepts = (0..100).map(|number| {
        let order = if number == 41 { order_of(666) } else { new_order() };
        harness.store().accept(vec![order].into(), None)
    });
    for (number, accepted) in join_all(accepts).await.into_iter().enumerate() {
        if number == 41 {
            assert_refused(accepted);
        } else {
            assert_eq!(accepted.unwrap().order_ids.len(), 1);
        }
    }
    assert_eq!(harness.counters().await.pending, 99);
}

async fn a_refused_renewal_does_not_affect_other_leases(harness: &mut Harness) {
    harness.accept_some(10).await;
    let leases = harness.claim(10).await;
    let keys: Vec<_> = leases.iter().map(Lease::key).collect();
    harness.refuse_renewals(&[keys[4].order_id]).await;
    harness.advance(LONGER_THAN_A_LEASE / 2).await;
    let renewed = harness.store().renew(heartbeat(NODE_A, &keys)).await.unwrap();
    assert_eq!(renewed.lost, []);
    let refused: Vec<_> = renewed.refused.iter().map(|refused| refused.order_id).collect();
    assert_eq!(refused, [keys[4].order_id]);
    harness.advance(LONGER_THAN_A_LEASE / 2).await;
    harness.allow_renewals().await;
    assert_eq!(harness.give_back().await.pending, 1);
    assert_eq!(harness.order(keys[4].order_id).await.status, OrderStatus::Pending);
}

async fn a_refused_give_back_does_not_affect_other_orders(harness: &mut Harness) {
    harness.accept_some(20).await;
    let leases = harness.claim(20).await;
    let bad = leases[7].order.order_id;
    harness.refuse_updates(&format!("new.order_id = {bad}")).await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    for pending in [19, 0] {
        let given_back = harness.give_back().await;
        assert_eq!((given_back.pending, given_back.next), (pending, None));
        let refused: Vec<_> = given_back
            .refused
            .iter()
            .map(|refused| refused.order_id)
            .collect();
        assert_eq!(refused, [bad]);
    }
    harness.allow_updates().await;
    assert_eq!(harness.give_back().await.pending, 1);
}

async fn a_refused_give_back_does_not_stop_a_joining_node(harness: &mut Harness) {
    harness.join(NODE_A).await;
    harness.accept_some(3).await;
    let leases = harness.claim(3).await;
    let bad = leases[1].order.order_id;
    harness.refuse_updates(&format!("new.order_id = {bad}")).await;
    harness.reopen().await;
    let given_back = harness.join(NODE_A).await;
    if harness.is_embedded() {
        assert_eq!((given_back.pending, given_back.refused.len()), (2, 1));
    }
    assert_eq!(harness.order(bad).await.status, OrderStatus::Processing);
}

async fn a_store_that_refuses_every_order_is_not_ready(harness: &mut Harness) {
    let waiting = harness.accept_one().await;
    harness.refuse_inserts("new.user_id > 0").await;
    let store = harness.store().clone();
    assert_refused(store.accept([new_order()].into(), None).await);
    until("the store stops being ready", async || {
        store.health() != StoreHealth::Ready
    })
    .await;
    for _ in 0..5 {
        store.renew(heartbeat(NODE_A, &[])).await.unwrap();
        assert_ne!(store.health(), StoreHealth::Ready);
        // Issue 13, point 2: started attempts might be impossible to settle.
        let claimed = store.claim(claim_by(NODE_A, 1)).await;
        assert!(
            matches!(claimed, Err(StoreError::Unavailable { .. })),
            "{claimed:?}"
        );
    }
    harness.allow_inserts().await;
    until("the store is ready again", async || {
        store.renew(heartbeat(NODE_A, &[])).await.unwrap();
        store.health() == StoreHealth::Ready
    })
    .await;
    // Nothing is left of the probes.
    assert_eq!(harness.counters().await.pending, 1);
    harness.claim_only(waiting).await;
    harness.accept_one().await;
}
