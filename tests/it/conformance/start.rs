//! `start`: orders chosen by the caller begin like claimed ones (issue 14, point 3).

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use orderly::event::EventKind;
use orderly::lease::{Lease, Outcome, ProcessorKind};
use orderly::order::{OnFailure, OrderId, OrderStatus, Ordering};
use orderly::store::{CLAIM_ORDERS_MAX, ClaimRequest, FEED_EVENTS_MAX, Settled};

use crate::support::harness::ids_of;
use crate::support::make::{FIRST_FENCE, NODE_A, NODE_B, claim_by, order_of};
use crate::support::{Harness, until};

conformance! {
    only_the_given_orders_start_in_the_given_order,
    orders_of_both_lines_start_in_the_given_order,
    an_order_that_cannot_start_does_not_affect_others,
    starting_no_orders_starts_nothing,
    at_most_the_requested_number_of_orders_start,
    a_started_order_is_leased_to_its_node,
    a_started_order_cannot_be_claimed_or_started_again,
    concurrent_starts_and_claims_never_share_an_order,
    a_start_raises_the_fence_like_a_claim,
    a_start_records_whether_it_hands_orders_out,
    no_given_order_starts_while_the_queue_is_paused,
    at_most_one_suspect_starts_and_only_on_request,
    a_suspect_that_may_not_start_does_not_count_against_the_limit,
    a_start_refused_by_the_database_does_not_affect_others,
    a_given_order_starts_only_in_its_turn,
    a_start_may_overtake_orders_accepted_long_before,
    a_claim_after_a_start_finds_earlier_waiting_orders,
    a_start_does_not_change_the_alternation_of_the_lines,
    each_of_many_starts_is_counted_and_in_the_feed,
}

async fn start(harness: &Harness, ids: &[OrderId]) -> Vec<OrderId> {
    ids_of(&start_by(harness, ids, claim_by(NODE_A, CLAIM_ORDERS_MAX)).await)
}

async fn start_by(harness: &Harness, ids: &[OrderId], request: ClaimRequest) -> Vec<Lease> {
    let ids: Arc<[OrderId]> = ids.into();
    harness.store().start(ids, request).await.unwrap().leases
}

/// Orders by their starts, according to the feed.
async fn starts_in_feed(harness: &Harness) -> Vec<OrderId> {
    harness.number_all_events().await;
    let page = harness.store().events_after(None, FEED_EVENTS_MAX).await.unwrap();
    let events = page.events.iter().map(|event| &event.event);
    let started = events.filter(|event| event.kind == EventKind::Started);
    started.map(|event| event.order_id).collect()
}

async fn only_the_given_orders_start_in_the_given_order(harness: &mut Harness) {
    let ids = harness.accept_some(9).await;
    let given = [ids[7], ids[2], ids[3], ids[4], ids[0], ids[2]];
    let expected = &given[..5];
    assert_eq!(start(harness, &given).await, expected);
    assert_eq!(starts_in_feed(harness).await, expected);
    harness.assert_sound().await;
    let rest = [ids[1], ids[5], ids[6], ids[8]];
    assert_eq!(ids_of(&harness.claim(9).await), rest);
}

async fn orders_of_both_lines_start_in_the_given_order(harness: &mut Harness) {
    let mut again = Vec::new();
    for _ in 0..3 {
        again.push(harness.order_due_in(60).await);
    }
    harness.advance(Duration::from_mins(2)).await;
    let new = harness.accept_some(3).await;
    let given = [again[2], new[1], new[2], again[0], new[0], again[1]];
    let already = starts_in_feed(harness).await.len();
    assert_eq!(start(harness, &given).await, given);
    assert_eq!(starts_in_feed(harness).await[already..], given);
}

async fn an_order_that_cannot_start_does_not_affect_others(harness: &mut Harness) {
    let completed = harness.order_in(OrderStatus::Completed).await;
    let failed = harness.order_in(OrderStatus::Failed).await;
    let not_due = harness.order_due_in(60).await;
    let running = harness.order_in(OrderStatus::Processing).await;
    let cancelled = harness.order_in(OrderStatus::Cancelled).await;
    let unknown = OrderId(1_000_000);
    let ids = harness.accept_some(3).await;
    let given = [
        completed, ids[1], failed, not_due, running, ids[0], cancelled, unknown, ids[2],
    ];
    assert_eq!(start(harness, &given).await, [ids[1], ids[0], ids[2]]);
    harness.advance(Duration::from_mins(1)).await;
    assert_eq!(start(harness, &given).await, [not_due]);
    assert_eq!(start(harness, &given).await, []);
}

async fn starting_no_orders_starts_nothing(harness: &mut Harness) {
    let request = claim_by(NODE_A, 10);
    let nothing = harness.store().start([].into(), request).await.unwrap();
    assert!(nothing.leases.is_empty() && nothing.idle);
    harness.accept_one().await;
    let nothing = harness.store().start([].into(), request).await.unwrap();
    assert!(nothing.leases.is_empty() && !nothing.idle && !nothing.paused);
}

async fn at_most_the_requested_number_of_orders_start(harness: &mut Harness) {
    let ids = harness.accept_some(CLAIM_ORDERS_MAX + 4).await;
    assert!(start_by(harness, &ids, claim_by(NODE_A, 0)).await.is_empty());
    // An order that cannot start does not count against the limit.
    let given = [OrderId(1_000_000), ids[2], ids[0], ids[1]];
    let two = start_by(harness, &given, claim_by(NODE_A, 2)).await;
    assert_eq!(ids_of(&two), [ids[2], ids[0]]);
    let rest = [&[ids[1]], &ids[3..]].concat();
    let many = start_by(harness, &rest, claim_by(NODE_A, usize::MAX)).await;
    assert_eq!(ids_of(&many), rest[..CLAIM_ORDERS_MAX]);
}

async fn a_started_order_is_leased_to_its_node(harness: &mut Harness) {
    let ids = harness.accept_some(2).await;
    let lease = start_by(harness, &ids[1..], claim_by(NODE_B, 1)).await.remove(0);
    assert_eq!(
        (lease.node, lease.fence, lease.suspect),
        (NODE_B, FIRST_FENCE, false)
    );
    assert_eq!(lease.order, harness.order(ids[1]).await);
    assert_eq!(lease.order.status, OrderStatus::Processing);
    assert_eq!((lease.order.attempts, lease.order.version), (1, 2));
    let started = harness.history(ids[1], 1).await.remove(0);
    assert_eq!((started.kind, started.node), (EventKind::Started, Some(NODE_B)));
    assert_eq!(
        (started.attempt, Some(started.at)),
        (1, lease.order.processing_at)
    );
    assert_eq!(
        harness.settle(&lease, Outcome::COMPLETED).await,
        OrderStatus::Completed
    );
}

async fn a_started_order_cannot_be_claimed_or_started_again(harness: &mut Harness) {
    let ids = harness.accept_some(3).await;
    assert_eq!(start(harness, &ids[1..2]).await, [ids[1]]);
    assert_eq!(start(harness, &ids[1..2]).await, []);
    assert_eq!(ids_of(&harness.claim_as(NODE_B, 3).await), [ids[0], ids[2]]);
    assert_eq!(start(harness, &ids).await, []);
}

async fn concurrent_starts_and_claims_never_share_an_order(harness: &mut Harness) {
    let ids = harness.accept_some(100).await;
    let calls = (0..20).map(|turn| {
        let (store, ids) = (harness.store().clone(), ids.clone());
        async move {
            if turn % 2 == 0 {
                return store.claim(claim_by(NODE_A, 7)).await;
            }
            let given = ids[turn..].iter().step_by(3).copied().collect();
            store.start(given, claim_by(NODE_B, 7)).await
        }
    });
    let mut granted = HashSet::new();
    for claimed in join_all(calls).await {
        for lease in claimed.unwrap().leases {
            assert!(granted.insert(lease.order.order_id), "an order was granted twice");
        }
    }
    assert!(granted.len() >= 70, "{}", granted.len());
    assert_eq!(harness.counters().await, harness.recount().await);
    // Claims took into account the orders that starts had left.
    for id in ids {
        assert_eq!(harness.order(id).await.attempts, u32::from(granted.contains(&id)));
    }
}

async fn a_start_raises_the_fence_like_a_claim(harness: &mut Harness) {
    let ids = harness.accept_some(1).await;
    let first = start_by(harness, &ids, claim_by(NODE_A, 1)).await.remove(0);
    harness.settle(&first, Outcome::Released).await;
    let second = start_by(harness, &ids, claim_by(NODE_B, 1)).await.remove(0);
    assert!(second.fence > first.fence);
    let stale = harness.store().settle(first.key(), Outcome::COMPLETED).await;
    assert_eq!(stale.unwrap(), Settled::Stale);
    harness.settle(&second, Outcome::COMPLETED).await;
}

async fn a_start_records_whether_it_hands_orders_out(harness: &mut Harness) {
    let ids = harness.accept_some(1).await;
    for (processor, handed_out) in [(ProcessorKind::Pull, true), (ProcessorKind::Simulated, false)] {
        let request = ClaimRequest {
            processor: Some(processor),
            ..claim_by(NODE_A, 1)
        };
        let lease = start_by(harness, &ids, request).await.remove(0);
        let latest = harness.store().claimed(ids[0]).await.unwrap().unwrap();
        assert_eq!((latest.handed_out, latest.key), (handed_out, Some(lease.key())));
        harness.settle(&lease, Outcome::Released).await;
    }
}

async fn no_given_order_starts_while_the_queue_is_paused(harness: &mut Harness) {
    let ids = harness.accept_some(2).await;
    harness.store().pause(None).await.unwrap();
    let claimed = harness
        .store()
        .start(ids.clone().into(), claim_by(NODE_A, 2))
        .await;
    let claimed = claimed.unwrap();
    assert!(claimed.paused && claimed.leases.is_empty() && !claimed.idle);
    harness.store().resume().await.unwrap();
    assert_eq!(start(harness, &ids).await, ids);
}

async fn at_most_one_suspect_starts_and_only_on_request(harness: &mut Harness) {
    let suspects = harness.accept_some(2).await;
    harness.crash_all(&suspects, 2).await;
    let innocent = harness.accept_one().await;
    let given = [suspects[1], innocent, suspects[0]];
    let without = ClaimRequest {
        suspect: false,
        ..claim_by(NODE_A, 10)
    };
    assert_eq!(ids_of(&start_by(harness, &given, without).await), [innocent]);
    let leases = start_by(harness, &given, claim_by(NODE_A, 10)).await;
    assert_eq!(ids_of(&leases), [suspects[1]]);
    assert!(leases[0].suspect);
    assert_eq!(start(harness, &given).await, [suspects[0]]);
}

async fn a_suspect_that_may_not_start_does_not_count_against_the_limit(harness: &mut Harness) {
    let innocent = harness.order_due_in(3_600).await;
    let suspects = harness.accept_some(2).await;
    harness.crash_all(&suspects, 2).await;
    harness.advance(Duration::from_hours(1)).await;
    let given = [suspects[0], suspects[1], innocent];
    let leases = start_by(harness, &given, claim_by(NODE_A, 2)).await;
    assert_eq!(ids_of(&leases), [suspects[0], innocent]);
}

async fn a_start_refused_by_the_database_does_not_affect_others(harness: &mut Harness) {
    let ids = harness.accept_some(6).await;
    let bad = [ids[1], ids[4]];
    harness.refuse_starts(&bad).await;
    let others = [ids[5], ids[3], ids[0], ids[2]];
    let given = [ids[5], ids[4], ids[3], ids[1], ids[0], ids[2]];
    assert_eq!(until_some_started(harness, &given).await, others);
    for id in bad {
        assert_eq!(harness.order(id).await.status, OrderStatus::Pending);
        let explanation = harness.store().explain(id).await.unwrap().unwrap();
        assert!(explanation.refused.is_some());
    }
    // Later starts do not explain this one.
    let later = harness.accept_one().await;
    assert_eq!(start(harness, &[later]).await, [later]);
    assert!(
        harness
            .store()
            .explain(bad[0])
            .await
            .unwrap()
            .unwrap()
            .refused
            .is_some()
    );
    harness.allow_starts().await;
    assert_eq!(until_some_started(harness, &given).await, [ids[4], ids[1]]);
}

/// Starts the orders until some have started: the store soon retries a refused start.
async fn until_some_started(harness: &Harness, given: &[OrderId]) -> Vec<OrderId> {
    let started = Mutex::new(Vec::new());
    until("some orders have started", async || {
        let more = start(harness, given).await;
        let some = !more.is_empty();
        started.lock().unwrap().extend(more);
        some
    })
    .await;
    started.into_inner().unwrap()
}

async fn a_given_order_starts_only_in_its_turn(harness: &mut Harness) {
    harness
        .reopen_with_ordering(Ordering::by_user(OnFailure::Skip))
        .await;
    let ids = harness.accept(vec![order_of(1); 3]).await;
    let other = harness.accept(vec![order_of(2)]).await[0];
    let given = [ids[2], other, ids[1], ids[0]];
    let leases = start_by(harness, &given, claim_by(NODE_A, 10)).await;
    assert_eq!(ids_of(&leases), [other, ids[0]]);
    assert_eq!(start(harness, &given).await, []);
    harness.settle(&leases[1], Outcome::COMPLETED).await;
    assert_eq!(start(harness, &given).await, [ids[1]]);
}

async fn a_start_may_overtake_orders_accepted_long_before(harness: &mut Harness) {
    let early = harness.accept_one().await;
    // Longer than any accept takes, so the order of acceptance is certain.
    harness.advance(Duration::from_mins(2)).await;
    let late = harness.accept_one().await;
    assert_eq!(start(harness, &[late]).await, [late]);
    harness.assert_sound().await;
    assert_eq!(start(harness, &[early]).await, [early]);
}

async fn a_claim_after_a_start_finds_earlier_waiting_orders(harness: &mut Harness) {
    let ids = harness.accept_some(40).await;
    for (number, id) in ids.iter().enumerate() {
        if number % 4 == 3 {
            assert_eq!(start(harness, &[*id]).await, [*id]);
            let lease = harness.claim(1).await.remove(0);
            assert_eq!(lease.order.order_id, next_of(&ids, number / 4));
        }
    }
    let claimed = harness.claim(40).await;
    assert_eq!(claimed.len(), 20);
}

/// The waiting order at this place, when every fourth was started early.
fn next_of(ids: &[OrderId], place: usize) -> OrderId {
    let waits = ids.iter().enumerate().filter(|(number, _)| number % 4 != 3);
    *waits.map(|(_, id)| id).nth(place).expect("many orders wait")
}

async fn a_start_does_not_change_the_alternation_of_the_lines(harness: &mut Harness) {
    for _ in 0..6 {
        harness.order_due_in(60).await;
    }
    harness.advance(Duration::from_mins(2)).await;
    let ids = harness.accept_some(6).await;
    let is_new = |leases: Vec<Lease>| ids.contains(&leases[0].order.order_id);
    let first = is_new(harness.claim(1).await);
    start(harness, &ids[5..]).await;
    assert_ne!(
        is_new(harness.claim(1).await),
        first,
        "the other line gets the odd place"
    );
}

async fn each_of_many_starts_is_counted_and_in_the_feed(harness: &mut Harness) {
    let ids = harness.accept_some(200).await;
    let mut given: Vec<OrderId> = ids.iter().rev().copied().collect();
    given.swap(3, 150);
    assert_eq!(start(harness, &given).await, given);
    assert_eq!(starts_in_feed(harness).await, given);
    let counters = harness.counters().await;
    assert_eq!((counters.pending, counters.processing), (0, 200));
    assert_eq!(counters, harness.recount().await);
    for record in harness.records().await {
        assert_eq!(record.lease.map(|lease| lease.node), Some(NODE_A));
    }
}
