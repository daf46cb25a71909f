//! `explain`: the lease holder of an order, the order it waits for, and the orders ahead.

use std::time::Duration;

use orderly::lease::{Outcome, ProcessorKind};
use orderly::order::{OnFailure, OrderId, OrderStatus, Ordering};
use orderly::store::{ClaimRequest, CurrentLease, Explanation, Place, Predecessor};

use crate::support::Harness;
use crate::support::make::{LEASE, NODE_A, claim_by, failed, order_of, retry_after};

conformance! {
    an_unknown_order_has_no_explanation,
    an_order_in_the_first_line_comes_after_earlier_ones,
    a_due_retry_has_a_place_in_the_second_line,
    an_order_in_backoff_has_no_place,
    an_order_in_processing_names_its_lease_holder,
    a_final_order_has_no_place,
    a_suspect_is_marked_as_one,
    a_blocked_order_names_the_order_of_its_user_ahead,
    a_blocked_order_waits_for_the_order_in_processing,
    places_in_line_count_only_orders_that_have_their_turn,
    slots_taken_since_the_last_heartbeat_are_counted,
}

async fn explain(harness: &Harness, id: OrderId) -> Explanation {
    harness
        .store()
        .explain(id)
        .await
        .unwrap()
        .expect("the order was accepted")
}

async fn an_unknown_order_has_no_explanation(harness: &mut Harness) {
    assert!(harness.store().explain(OrderId(7)).await.unwrap().is_none());
}

async fn an_order_in_the_first_line_comes_after_earlier_ones(harness: &mut Harness) {
    let ids = harness.accept_some(4).await;
    harness.cancel(ids[1]).await;
    let place = |ahead, behind| {
        Some(Place {
            ahead,
            behind,
            other_line: 0,
        })
    };
    assert_eq!(explain(harness, ids[0]).await.place, place(0, None));
    assert_eq!(explain(harness, ids[2]).await.place, place(1, Some(ids[0])));
    assert_eq!(explain(harness, ids[3]).await.place, place(2, Some(ids[2])));
    assert_eq!(explain(harness, ids[3]).await.order, harness.order(ids[3]).await);
    assert_eq!(explain(harness, ids[3]).await.read_at, harness.now().await);
}

async fn a_due_retry_has_a_place_in_the_second_line(harness: &mut Harness) {
    let retried = harness.accept_some(2).await;
    for lease in harness.claim(2).await {
        harness.settle(&lease, retry_after(0)).await;
    }
    let waiting = harness.accept_some(3).await;
    let place = |ahead, behind, other_line| {
        Some(Place {
            ahead,
            behind,
            other_line,
        })
    };
    assert_eq!(explain(harness, retried[0]).await.place, place(0, None, 3));
    assert_eq!(
        explain(harness, retried[1]).await.place,
        place(1, Some(retried[0]), 3)
    );
    assert_eq!(
        explain(harness, waiting[1]).await.place,
        place(1, Some(waiting[0]), 2)
    );
}

async fn an_order_in_backoff_has_no_place(harness: &mut Harness) {
    let id = harness.attempt_once(retry_after(60)).await;
    let found = explain(harness, id).await;
    assert_eq!((found.place, found.lease, found.waits_for), (None, None, None));
    harness.advance(Duration::from_mins(1)).await;
    assert_eq!(explain(harness, id).await.place.map(|place| place.ahead), Some(0));
}

async fn an_order_in_processing_names_its_lease_holder(harness: &mut Harness) {
    for external in [false, true] {
        let id = harness.accept_one().await;
        let request = ClaimRequest {
            processor: external.then_some(ProcessorKind::Pull),
            ..claim_by(NODE_A, 1)
        };
        assert_eq!(harness.store().claim(request).await.unwrap().leases.len(), 1);
        let lease = CurrentLease {
            node: NODE_A,
            expires_at: harness.now().await.plus(LEASE),
            external,
        };
        let found = explain(harness, id).await;
        assert_eq!((found.lease, found.place), (Some(lease), None));
    }
}

async fn a_final_order_has_no_place(harness: &mut Harness) {
    for outcome in [Outcome::COMPLETED, failed()] {
        let id = harness.attempt_once(outcome).await;
        let found = explain(harness, id).await;
        assert_eq!((found.lease, found.place), (None, None));
    }
}

async fn a_suspect_is_marked_as_one(harness: &mut Harness) {
    let id = harness.accept_one().await;
    assert!(!explain(harness, id).await.suspect);
    harness.crash_all(&[id], 2).await;
    assert!(explain(harness, id).await.suspect);
}

async fn a_blocked_order_names_the_order_of_its_user_ahead(harness: &mut Harness) {
    harness
        .reopen_with_ordering(Ordering::by_user(OnFailure::Block))
        .await;
    let ids = harness.accept(vec![order_of(1); 3]).await;
    let other = harness.accept(vec![order_of(2)]).await[0];
    assert_eq!(explain(harness, ids[0]).await.waits_for, None);
    assert_eq!(
        explain(harness, ids[2])
            .await
            .waits_for
            .map(|earlier| earlier.order_id),
        Some(ids[0])
    );
    assert_eq!(explain(harness, other).await.waits_for, None);
    let lease = harness.claim(1).await.remove(0);
    harness.settle(&lease, failed()).await;
    let found = explain(harness, ids[1]).await;
    let failed = Predecessor {
        order_id: ids[0],
        status: OrderStatus::Failed,
        set_aside: false,
    };
    assert_eq!((found.waits_for, found.place), (Some(failed), None));
}

async fn a_blocked_order_waits_for_the_order_in_processing(harness: &mut Harness) {
    harness
        .reopen_with_ordering(Ordering::by_user(OnFailure::Skip))
        .await;
    let ids = harness.accept(vec![order_of(1); 2]).await;
    let lease = harness.claim_only(ids[0]).await;
    harness.settle(&lease, failed()).await;
    harness.claim_only(ids[1]).await;
    harness.redrive(ids[0]).await;
    assert_eq!(
        explain(harness, ids[0])
            .await
            .waits_for
            .map(|earlier| earlier.order_id),
        Some(ids[1])
    );
}

async fn places_in_line_count_only_orders_that_have_their_turn(harness: &mut Harness) {
    harness
        .reopen_with_ordering(Ordering::by_user(OnFailure::Skip))
        .await;
    let stuck = harness.accept(vec![order_of(1); 5]).await;
    let other = harness.accept(vec![order_of(2)]).await[0];
    harness.claim(0).await;
    let place = Place {
        ahead: 1,
        behind: Some(stuck[0]),
        other_line: 0,
    };
    assert_eq!(explain(harness, other).await.place, Some(place));
}

/// Issue 13, point 17: heartbeats are seconds old, so slots are counted from the table. External workers occupy no
/// slot.
async fn slots_taken_since_the_last_heartbeat_are_counted(harness: &mut Harness) {
    harness.join(NODE_A).await;
    let ids = harness.accept_some(4).await;
    let busy = async |harness: &Harness| explain(harness, ids[3]).await.queue.nodes[0].busy;
    let leases = harness.claim(2).await;
    let pull = ClaimRequest {
        processor: Some(ProcessorKind::Pull),
        ..claim_by(NODE_A, 1)
    };
    assert_eq!(harness.store().claim(pull).await.unwrap().leases.len(), 1);
    assert_eq!(busy(harness).await, 2);
    harness.settle(&leases[0], Outcome::COMPLETED).await;
    assert_eq!(busy(harness).await, 1);
}
