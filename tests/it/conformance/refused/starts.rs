//! Orders whose start the database refuses: they wait with an explanation, and every other order starts.

use std::time::Duration;

use orderly::lease::Outcome;
use orderly::order::{OnFailure, OrderId, OrderStatus, Ordering};

use crate::support::make::{LONGER_THAN_A_LEASE, NODE_A, NODE_B, claim_by, heartbeat, order_of, retry_after};
use crate::support::{Harness, harness::ids_of, until};

conformance! {
    a_refused_start_does_not_hold_up_other_orders,
    a_trigger_failing_at_one_start_does_not_hold_up_others,
    a_refused_start_in_the_second_line_does_not_hold_up_others,
    a_refused_suspect_does_not_hold_up_others,
    more_refused_starts_than_requested_orders_do_not_hold_up_others,
    an_unchangeable_order_holds_up_only_its_own_user,
    a_claim_that_finds_only_refused_orders_is_repeated_soon,
    a_refused_start_is_explained_until_it_succeeds,
    claims_stop_polling_once_the_refused_order_has_started,
    claims_of_a_paused_queue_do_not_poll_refused_orders,
}

/// Claims until exactly these orders have started, in this order.
async fn assert_started(harness: &Harness, places: usize, expected: &[OrderId]) {
    let mut started = Vec::new();
    loop {
        let claimed = harness.store().claim(claim_by(NODE_A, places)).await.unwrap();
        started.extend(ids_of(&claimed.leases));
        let looks_at_once = claimed.next_due_in.is_some_and(|due| due.is_zero());
        if claimed.leases.is_empty() && !looks_at_once {
            break;
        }
    }
    assert_eq!(started, expected);
}

fn without(ids: &[OrderId], bad: &[OrderId]) -> Vec<OrderId> {
    ids.iter().copied().filter(|id| !bad.contains(id)).collect()
}

/// Claims until exactly these orders have started: the store soon retries a refused start.
async fn until_started(harness: &Harness, ids: &[OrderId]) {
    until("the orders have started", async || {
        harness.claim(CLAIMED_AT_ONCE).await;
        for id in ids {
            if harness.order(*id).await.status != OrderStatus::Processing {
                return false;
            }
        }
        true
    })
    .await;
}

const CLAIMED_AT_ONCE: usize = 10;

async fn a_refused_start_does_not_hold_up_other_orders(harness: &mut Harness) {
    let ids = harness.accept_some(30).await;
    let bad = [ids[0], ids[7], ids[29]];
    harness.refuse_starts(&bad).await;
    assert_started(harness, CLAIMED_AT_ONCE, &without(&ids, &bad)).await;
    // Later orders start too, and their start records the skipped order.
    let later = harness.accept_some(3).await;
    assert_started(harness, 2, &later).await;
    let passed_over = async |id: OrderId| {
        let records = harness.records().await;
        let record = records.into_iter().find(|record| record.order.order_id == id);
        record.expect("the order was accepted").events[1]
            .passed_over
            .clone()
    };
    assert_eq!(passed_over(ids[1]).await, bad[..1]);
    assert_eq!(passed_over(later[0]).await, bad);
    harness.assert_sound().await;
    for id in bad {
        assert_eq!(harness.order(id).await.status, OrderStatus::Pending);
    }
    harness.allow_starts().await;
    until_started(harness, &bad).await;
}

async fn a_trigger_failing_at_one_start_does_not_hold_up_others(harness: &mut Harness) {
    let ids = harness.accept_some(12).await;
    let bad = [ids[3]];
    harness.fail_starts(&bad).await;
    assert_started(harness, CLAIMED_AT_ONCE, &without(&ids, &bad)).await;
    harness.allow_starts().await;
    until_started(harness, &bad).await;
}

async fn a_refused_start_in_the_second_line_does_not_hold_up_others(harness: &mut Harness) {
    let ids = harness.accept_some(6).await;
    for lease in harness.claim(6).await {
        harness.settle(&lease, retry_after(0)).await;
    }
    let bad = [ids[0], ids[4]];
    harness.refuse_starts(&bad).await;
    assert_started(harness, 3, &without(&ids, &bad)).await;
    harness.allow_starts().await;
    until_started(harness, &bad).await;
}

async fn a_refused_suspect_does_not_hold_up_others(harness: &mut Harness) {
    let ids = harness.accept_some(2).await;
    harness.crash_all(&ids, 2).await;
    let bad = [ids[0]];
    harness.refuse_starts(&bad).await;
    let later = harness.accept_one().await;
    assert_started(harness, 3, &[later, ids[1]]).await;
}

async fn more_refused_starts_than_requested_orders_do_not_hold_up_others(harness: &mut Harness) {
    let ids = harness.accept_some(300).await;
    let bad = &ids[10..290];
    harness.refuse_starts(bad).await;
    assert_started(harness, 5, &without(&ids, bad)).await;
}

/// No change of the order is allowed, not even its turn among its user's orders.
async fn an_unchangeable_order_holds_up_only_its_own_user(harness: &mut Harness) {
    harness
        .reopen_with_ordering(Ordering::by_user(OnFailure::Skip))
        .await;
    let orders = [1, 2, 2, 3].map(order_of);
    let ids = harness.accept(orders.into()).await;
    harness.refuse_changes(&ids[1..2]).await;
    assert_started(harness, CLAIMED_AT_ONCE, &[ids[0], ids[3]]).await;
    harness.allow_changes().await;
    until_started(harness, &[ids[1]]).await;
}

async fn a_claim_that_finds_only_refused_orders_is_repeated_soon(harness: &mut Harness) {
    let ids = harness.accept_some(2).await;
    for lease in harness.claim(1).await {
        harness.settle(&lease, retry_after(0)).await;
    }
    harness.refuse_starts(&ids).await;
    assert_started(harness, CLAIMED_AT_ONCE, &[]).await;
    let claimed = harness.store().claim(claim_by(NODE_A, 5)).await.unwrap();
    assert!(!claimed.idle && !claimed.paused);
    let next = claimed.next_due_in.expect("refused orders are polled");
    assert!(
        Duration::ZERO < next && next <= Duration::from_secs(10),
        "{next:?}"
    );
    // Another node is not held up by the refusal, nor by this node's memory of it.
    harness.store().renew(heartbeat(NODE_B, &[])).await.unwrap();
    let later = harness.accept_one().await;
    assert_eq!(ids_of(&harness.claim_as(NODE_B, 5).await), [later]);
}

async fn a_refused_start_is_explained_until_it_succeeds(harness: &mut Harness) {
    let ids = harness.accept_some(2).await;
    harness.refuse_starts(&ids[..1]).await;
    assert_started(harness, CLAIMED_AT_ONCE, &ids[1..]).await;
    let refusal = async |id| harness.store().explain(id).await.unwrap().unwrap().refused;
    let reason = refusal(ids[0]).await.expect("its start was refused");
    assert!(
        reason.contains("error 1811") || reason.contains("P0001"),
        "{reason}"
    );
    assert_eq!(refusal(ids[1]).await, None);
    harness.allow_starts().await;
    until_started(harness, &ids[..1]).await;
    assert_eq!(refusal(ids[0]).await, None);
    // A refused settle is explained too.
    harness
        .refuse_updates(&format!("new.order_id = {}", ids[1]))
        .await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    assert_eq!(harness.give_back().await.pending, 1);
    assert!(refusal(ids[1]).await.is_some());
    harness.allow_updates().await;
    assert_eq!(harness.give_back().await.pending, 1);
    assert_eq!(refusal(ids[1]).await, None);
    for lease in harness.claim(2).await {
        harness.settle(&lease, Outcome::COMPLETED).await;
    }
}

/// Issue 13, point 1: claims then came about a thousand times per second.
async fn claims_stop_polling_once_the_refused_order_has_started(harness: &mut Harness) {
    let bad = harness.accept_some(1).await;
    harness.refuse_starts(&bad).await;
    assert_started(harness, CLAIMED_AT_ONCE, &[]).await;
    harness.allow_starts().await;
    until("the order has started", async || {
        let leases = harness.claim(CLAIMED_AT_ONCE).await;
        let Some(lease) = leases.first() else { return false };
        harness.settle(lease, retry_after(0)).await;
        true
    })
    .await;
    let explanation = harness.store().explain(bad[0]).await.unwrap().unwrap();
    assert_eq!(explanation.refused, None);
    harness.claim_only(bad[0]).await;
    let claimed = harness.store().claim(claim_by(NODE_A, 1)).await.unwrap();
    assert_eq!(claimed.next_due_in, None);
}

async fn claims_of_a_paused_queue_do_not_poll_refused_orders(harness: &mut Harness) {
    let bad = harness.accept_some(1).await;
    harness.refuse_starts(&bad).await;
    assert_started(harness, CLAIMED_AT_ONCE, &[]).await;
    harness.store().pause(None).await.unwrap();
    let claimed = harness.store().claim(claim_by(NODE_A, 1)).await.unwrap();
    assert!(claimed.paused);
    assert_eq!(claimed.next_due_in, None);
}
