//! Results, releases, redrives and retention that the database refuses for one order among others.

use std::collections::BTreeSet;

use orderly::lease::Outcome;
use orderly::order::{OrderId, OrderStatus};
use orderly::store::{RedriveOptions, RedriveQuery, SWEEP_ORDERS_MAX, StoreError};

use crate::support::Harness;
use crate::support::make::{LONGER_THAN_A_LEASE, failed};

conformance! {
    a_result_on_which_a_trigger_fails_is_refused,
    a_cancel_or_redrive_on_which_a_trigger_fails_is_refused,
    retention_skips_an_order_that_cannot_be_deleted,
    a_mass_redrive_skips_an_order_that_cannot_change,
    a_sweep_continues_past_many_orders_that_cannot_be_given_back,
}

async fn a_result_on_which_a_trigger_fails_is_refused(harness: &mut Harness) {
    harness.accept_some(3).await;
    let leases = harness.claim(3).await;
    let bad = leases[1].order.order_id;
    harness
        .fail_updates(&format!("new.order_id = {bad} and new.status = 2"))
        .await;
    for lease in &leases {
        let settled = harness.store().settle(lease.key(), Outcome::COMPLETED).await;
        assert_eq!(settled.is_err(), lease.order.order_id == bad, "{settled:?}");
        if let Err(error) = settled {
            assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
        }
    }
    assert_eq!(harness.settle(&leases[1], failed()).await, OrderStatus::Failed);
}

async fn a_cancel_or_redrive_on_which_a_trigger_fails_is_refused(harness: &mut Harness) {
    let (waiting, ended) = (harness.attempt_once(failed()).await, harness.accept_one().await);
    harness.fail_updates("new.status in (0, 4)").await;
    for refused in [
        harness.store().redrive(waiting, RedriveOptions::default()).await,
        harness.store().cancel(ended, None).await,
    ] {
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    }
}

async fn retention_skips_an_order_that_cannot_be_deleted(harness: &mut Harness) {
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(harness.order_in(OrderStatus::Completed).await);
    }
    let bad = [ids[0], ids[11], ids[19]];
    let condition = format!("old.order_id in ({}, {}, {})", bad[0], bad[1], bad[2]);
    harness.refuse_deletes(&condition).await;
    let refused = harness.prune_all().await;
    assert_eq!(left(harness).await, bad);
    assert_eq!(refused, bad);
    assert_eq!(harness.counters().await, harness.recount().await);
    harness.allow_deletes().await;
    assert_eq!(harness.prune_all().await, []);
    assert_eq!(left(harness).await, []);
}

async fn left(harness: &Harness) -> Vec<OrderId> {
    let records = harness.records().await;
    records.iter().map(|record| record.order.order_id).collect()
}

async fn a_mass_redrive_skips_an_order_that_cannot_change(harness: &mut Harness) {
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(harness.order_in(OrderStatus::Failed).await);
    }
    let bad = ids[6];
    harness.refuse_updates(&format!("new.order_id = {bad}")).await;
    let query = RedriveQuery {
        status: OrderStatus::Failed,
        user_id: None,
        user_name: None,
        created_before: None,
        options: RedriveOptions::default(),
        dry_run: false,
    };
    for (matched, retried) in [(20, 19), (1, 0)] {
        let redriven = harness.store().redrive_matching(query.clone()).await.unwrap();
        assert_eq!((redriven.matched, redriven.retried), (matched, retried));
    }
    assert_eq!(harness.order(bad).await.status, OrderStatus::Failed);
    harness.allow_updates().await;
    let redriven = harness.store().redrive_matching(query.clone()).await.unwrap();
    assert_eq!(redriven.retried, 1);
}

async fn a_sweep_continues_past_many_orders_that_cannot_be_given_back(harness: &mut Harness) {
    let mut ids = harness.accept_some(SWEEP_ORDERS_MAX).await;
    ids.extend(harness.accept_some(10).await);
    let mut held = 0;
    while held < ids.len() {
        held += harness.claim(100).await.len();
    }
    let last_bad = ids[SWEEP_ORDERS_MAX + 4];
    harness
        .refuse_updates(&format!("new.order_id <= {last_bad}"))
        .await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    let (mut pending, mut refused) = (0, BTreeSet::new());
    // An order locked by a refused step until its rollback is left to the next sweep.
    while refused.len() < SWEEP_ORDERS_MAX + 5 {
        let swept = harness.sweep().await;
        pending += swept.pending;
        refused.extend(swept.refused.iter().map(|order| order.order_id));
    }
    assert_eq!((pending, refused.len()), (5, SWEEP_ORDERS_MAX + 5));
    harness.allow_updates().await;
    assert_eq!(harness.sweep().await.pending, SWEEP_ORDERS_MAX + 5);
}
