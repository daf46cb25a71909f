//! `hold`, `release` and `fire_timers`: orders in neither line, held ones and scheduled ones.

use std::time::Duration;

use orderly::event::EventKind;
use orderly::lease::Outcome;
use orderly::order::{OnFailure, OnHold, OrderId, OrderStatus, Ordering, Reason};
use orderly::store::Acted;

use crate::support::Harness;
use crate::support::harness::{held, ids_of};
use crate::support::make::{failed, order_of, retry_after};

conformance! {
    a_held_order_starts_only_once_released,
    an_order_can_be_held_from_the_start,
    a_scheduled_order_starts_once_its_time_has_come,
    a_time_in_the_past_means_now,
    released_and_scheduled_orders_start_by_the_time_of_their_acceptance,
    a_hold_keeps_the_backoff,
    a_released_order_still_waits_for_its_time,
    a_repeated_hold_or_release_returns_the_same_order,
    only_pending_orders_are_held_or_released,
    orders_that_are_set_aside_can_be_cancelled,
    a_redrive_makes_a_scheduled_order_due_at_once,
    a_redrive_leaves_a_held_order_alone,
    a_redrive_forgets_a_time_that_has_not_come,
    a_reason_is_kept,
    orders_that_are_set_aside_fill_no_place_of_the_queue,
    orders_that_are_set_aside_are_listed_as_pending,
    timers_tell_when_the_next_order_is_due,
    a_scheduled_order_that_cannot_move_holds_up_no_other,
    a_held_order_blocks_later_ones_of_its_user,
    a_scheduled_order_blocks_later_ones_of_its_user,
    later_orders_of_the_user_overtake_where_holds_are_skipped,
    explain_names_the_hold_and_the_time,
    a_start_of_a_given_order_leaves_out_those_set_aside,
}

const MINUTE: Duration = Duration::from_mins(1);

async fn a_held_order_starts_only_once_released(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let before = harness.order(id).await;
    let order = harness.hold(id).await;
    assert_eq!((order.status, order.version), (OrderStatus::Pending, 2));
    assert_eq!(order.held_at, Some(harness.now().await));
    assert_eq!(harness.order(id).await, order);
    harness.advance(MINUTE).await;
    assert_eq!(ids_of(&harness.claim(10).await), []);
    let order = harness.release(id).await;
    assert_eq!(
        (order.version, order.held_at, &order.request.hold),
        (3, None, &None)
    );
    assert_eq!(order.next_attempt_at, Some(before.created_at));
    assert_eq!(harness.order(id).await, order);
    harness.claim_only(id).await;
    assert_eq!(
        harness.events(id).await,
        [
            EventKind::Accepted,
            EventKind::Held,
            EventKind::Unheld,
            EventKind::Started
        ]
    );
}

async fn an_order_can_be_held_from_the_start(harness: &mut Harness) {
    let id = harness.accept_held().await;
    let order = harness.order(id).await;
    assert_eq!((order.version, order.held_at), (1, Some(order.created_at)));
    assert_eq!(order.request, held());
    assert_eq!(ids_of(&harness.claim(10).await), []);
    harness.release(id).await;
    harness.claim_only(id).await;
}

async fn a_scheduled_order_starts_once_its_time_has_come(harness: &mut Harness) {
    let id = harness.accept_scheduled(MINUTE).await;
    let order = harness.order(id).await;
    assert_eq!(order.request.start_after, Some(harness.now().await.plus(MINUTE)));
    assert_eq!(order.next_attempt_at, None);
    assert_eq!(harness.fire_timers().await.entered, 0);
    assert_eq!(ids_of(&harness.claim(10).await), []);
    harness.advance(MINUTE).await;
    assert_eq!(harness.fire_timers().await.entered, 1);
    let lease = harness.claim_only(id).await;
    assert_eq!(lease.order, harness.order(id).await);
    assert_eq!(
        harness.events(id).await,
        [EventKind::Accepted, EventKind::Started],
        "nothing but its line has changed"
    );
    assert_eq!(harness.fire_timers().await.entered, 0);
}

async fn a_time_in_the_past_means_now(harness: &mut Harness) {
    let mut order = harness.scheduled(Duration::ZERO).await;
    harness.advance(MINUTE).await;
    let id = harness.accept(vec![order.clone()]).await[0];
    assert_eq!(harness.order(id).await.request, order);
    order.start_after = Some(harness.now().await);
    let now = harness.accept(vec![order]).await[0];
    assert_eq!(ids_of(&harness.claim(10).await), [id, now]);
}

async fn released_and_scheduled_orders_start_by_the_time_of_their_acceptance(harness: &mut Harness) {
    let scheduled = harness.accept_scheduled(2 * MINUTE).await;
    harness.advance(MINUTE).await;
    let held = harness.accept_one().await;
    harness.hold(held).await;
    harness.advance(MINUTE).await;
    harness.release(held).await;
    harness.fire_timers().await;
    assert_eq!(ids_of(&harness.claim(10).await), [scheduled, held]);
}

async fn a_hold_keeps_the_backoff(harness: &mut Harness) {
    let id = harness.order_due_in(120).await;
    let due = harness.order(id).await.next_attempt_at;
    harness.hold(id).await;
    assert_eq!(harness.order(id).await.next_attempt_at, None);
    harness.advance(MINUTE).await;
    assert_eq!(harness.release(id).await.next_attempt_at, due);
    assert_eq!(ids_of(&harness.claim(10).await), []);
    harness.advance(MINUTE).await;
    harness.claim_only(id).await;
}

async fn a_released_order_still_waits_for_its_time(harness: &mut Harness) {
    let id = harness.accept_scheduled(2 * MINUTE).await;
    harness.hold(id).await;
    harness.advance(MINUTE).await;
    harness.release(id).await;
    assert_eq!(ids_of(&harness.claim(10).await), []);
    harness.hold(id).await;
    harness.advance(MINUTE).await;
    assert_eq!(harness.fire_timers().await.entered, 0);
    harness.release(id).await;
    harness.claim_only(id).await;
}

async fn a_repeated_hold_or_release_returns_the_same_order(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let plain = harness.order(id).await;
    assert_eq!(harness.release(id).await, plain);
    let held = harness.hold(id).await;
    harness.advance(MINUTE).await;
    assert_eq!(harness.hold(id).await, held);
    let released = harness.release(id).await;
    assert_eq!(harness.release(id).await, released);
    assert_eq!(harness.order(id).await, released);
}

async fn only_pending_orders_are_held_or_released(harness: &mut Harness) {
    for status in [
        OrderStatus::Completed,
        OrderStatus::Failed,
        OrderStatus::Cancelled,
        OrderStatus::Processing,
    ] {
        let id = harness.order_in(status).await;
        let order = harness.order(id).await;
        let store = harness.store();
        assert_eq!(store.hold(id, None).await.unwrap(), Acted::Refused(order.clone()));
        assert_eq!(
            store.release(id, None).await.unwrap(),
            Acted::Refused(order.clone())
        );
        assert_eq!(harness.order(id).await, order);
    }
    let unknown = OrderId(1_000_000);
    assert_eq!(harness.store().hold(unknown, None).await.unwrap(), Acted::Unknown);
    assert_eq!(
        harness.store().release(unknown, None).await.unwrap(),
        Acted::Unknown
    );
}

async fn orders_that_are_set_aside_can_be_cancelled(harness: &mut Harness) {
    let scheduled = harness.accept_scheduled(MINUTE).await;
    let held = harness.accept_held().await;
    for id in [scheduled, held] {
        let order = harness.cancel(id).await;
        assert_eq!((order.status, order.held_at), (OrderStatus::Cancelled, None));
        assert_eq!(harness.order(id).await, order);
    }
    harness.advance(MINUTE).await;
    assert_eq!(harness.fire_timers().await.entered, 0);
    assert_eq!(ids_of(&harness.claim(10).await), []);
    harness.redrive(held).await;
    harness.claim_only(held).await;
}

async fn a_redrive_makes_a_scheduled_order_due_at_once(harness: &mut Harness) {
    let id = harness.accept_scheduled(MINUTE).await;
    let order = harness.redrive(id).await;
    assert_eq!((order.version, order.generation, order.attempts), (2, 0, 0));
    assert_eq!(order.request.start_after, None);
    assert_eq!(harness.order(id).await, order);
    harness.claim_only(id).await;
    assert_eq!(harness.counters().await.scheduled, 0);
}

async fn a_redrive_forgets_a_time_that_has_not_come(harness: &mut Harness) {
    let id = harness.accept_scheduled(MINUTE).await;
    harness.cancel(id).await;
    let order = harness.redrive(id).await;
    assert_eq!(order.request.start_after, None);
    harness.hold(id).await;
    let released = harness.release(id).await;
    assert!(released.next_attempt_at.is_some(), "{released:?}");
    harness.claim_only(id).await;
}

async fn a_redrive_leaves_a_held_order_alone(harness: &mut Harness) {
    let first = harness.order_due_in(60).await;
    let second = harness.accept_scheduled(MINUTE).await;
    for id in [first, second] {
        let held = harness.hold(id).await;
        assert_eq!(harness.redrive(id).await, held);
    }
    assert_eq!(ids_of(&harness.claim(10).await), []);
}

async fn a_reason_is_kept(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let reason = Some(Reason::parse("fraud check").unwrap());
    harness.store().hold(id, reason.clone()).await.unwrap();
    assert_eq!(harness.order(id).await.request.hold.unwrap().reason, reason);
    let records = harness.records().await;
    assert_eq!(records[0].events[1].event.detail.reason, reason);
    harness.store().release(id, reason.clone()).await.unwrap();
    let records = harness.records().await;
    assert_eq!(records[0].events[2].event.detail.reason, reason);
}

async fn orders_that_are_set_aside_fill_no_place_of_the_queue(harness: &mut Harness) {
    harness.reopen_with_pending_max(Some(1)).await;
    harness.accept_held().await;
    harness.accept_scheduled(MINUTE).await;
    let id = harness.accept_one().await;
    assert!(harness.store().accept([order_of(1)].into(), None).await.is_err());
    harness.accept_held().await;
    harness.accept_scheduled(MINUTE).await;
    harness.hold(id).await;
    harness.accept_one().await;
}

async fn orders_that_are_set_aside_are_listed_as_pending(harness: &mut Harness) {
    let held = harness.accept_held().await;
    let scheduled = harness.accept_scheduled(MINUTE).await;
    let plain = harness.accept_one().await;
    let query = orderly::store::OrderQuery {
        statuses: vec![OrderStatus::Pending],
        limit: 10,
        ..orderly::store::OrderQuery::default()
    };
    let page = harness.store().orders(query.clone()).await.unwrap();
    let listed: Vec<OrderId> = page.orders.iter().map(|order| order.order_id).collect();
    assert_eq!(listed, [plain, scheduled, held]);
    for order in page.orders {
        assert_eq!(harness.order(order.order_id).await, order);
    }
}

async fn timers_tell_when_the_next_order_is_due(harness: &mut Harness) {
    assert_eq!(harness.fire_timers().await.next_in, None);
    harness.accept_scheduled(3 * MINUTE).await;
    let held = harness.accept_scheduled(MINUTE).await;
    harness.hold(held).await;
    harness.accept_scheduled(2 * MINUTE).await;
    assert_eq!(harness.fire_timers().await.next_in, Some(2 * MINUTE));
    harness.advance(2 * MINUTE).await;
    let fired = harness.fire_timers().await;
    assert_eq!((fired.entered, fired.next_in), (1, Some(MINUTE)));
}

async fn a_scheduled_order_that_cannot_move_holds_up_no_other(harness: &mut Harness) {
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(harness.accept_scheduled(MINUTE).await);
    }
    harness.refuse_to_enter_line(&ids[1..2]).await;
    harness.advance(MINUTE).await;
    let fired = harness.fire_timers().await;
    assert_eq!((fired.entered, fired.refused.len()), (4, 1));
    let bad = ids.remove(1);
    assert_eq!(ids_of(&harness.claim(10).await), ids);
    let fired = harness.fire_timers().await;
    assert_eq!((fired.entered, fired.refused.len()), (0, 1));
    let fired = harness.store().fire_timers([bad].into()).await.unwrap();
    assert_eq!((fired.entered, fired.refused.len()), (0, 0), "left alone");
    harness.cancel(bad).await;
}

async fn by_user(harness: &mut Harness, on_hold: OnHold) {
    let ordering = Ordering::User {
        on_failure: OnFailure::Skip,
        on_hold,
    };
    harness.reopen_with_ordering(ordering).await;
}

async fn a_held_order_blocks_later_ones_of_its_user(harness: &mut Harness) {
    by_user(harness, OnHold::Block).await;
    let ids = harness.accept(vec![order_of(1); 2]).await;
    let other = harness.accept(vec![order_of(2)]).await[0];
    harness.hold(ids[0]).await;
    assert_eq!(ids_of(&harness.claim(10).await), [other]);
    harness.release(ids[0]).await;
    let lease = harness.claim_only(ids[0]).await;
    assert_eq!(ids_of(&harness.claim(10).await), []);
    harness.settle(&lease, Outcome::COMPLETED).await;
    harness.claim_only(ids[1]).await;
}

async fn a_scheduled_order_blocks_later_ones_of_its_user(harness: &mut Harness) {
    by_user(harness, OnHold::Block).await;
    let mut order = harness.scheduled(MINUTE).await;
    order.user_id = 1.into();
    let first = harness.accept(vec![order.clone()]).await[0];
    let second = harness.accept(vec![order_of(1)]).await[0];
    assert_eq!(ids_of(&harness.claim(10).await), []);
    harness.advance(MINUTE).await;
    harness.fire_timers().await;
    let lease = harness.claim_only(first).await;
    harness.settle(&lease, retry_after(7)).await;
    assert_eq!(ids_of(&harness.claim(10).await), []);
    harness.cancel(first).await;
    let lease = harness.claim_only(second).await;
    harness.settle(&lease, failed()).await;
    // A cancel of the order that is set aside lets the others go on.
    let ids = [
        harness.accept_scheduled_of(1).await,
        harness.accept(vec![order_of(1)]).await[0],
    ];
    assert_eq!(ids_of(&harness.claim(10).await), []);
    harness.cancel(ids[0]).await;
    harness.claim_only(ids[1]).await;
}

async fn later_orders_of_the_user_overtake_where_holds_are_skipped(harness: &mut Harness) {
    by_user(harness, OnHold::Skip).await;
    let ids = harness.accept(vec![order_of(1); 3]).await;
    harness.hold(ids[0]).await;
    let lease = harness.claim_only(ids[1]).await;
    harness.release(ids[0]).await;
    assert_eq!(
        ids_of(&harness.claim(10).await),
        [],
        "one order of a user at a time"
    );
    harness.settle(&lease, Outcome::COMPLETED).await;
    let lease = harness.claim_only(ids[0]).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    harness.claim_only(ids[2]).await;
}

async fn explain_names_the_hold_and_the_time(harness: &mut Harness) {
    by_user(harness, OnHold::Block).await;
    let ids = [
        harness.accept_scheduled_of(1).await,
        harness.accept(vec![order_of(1)]).await[0],
    ];
    let explain = async |id| harness.store().explain(id).await.unwrap().unwrap();
    let explained = explain(ids[0]).await;
    assert!(explained.set_aside && explained.place.is_none());
    let blocked = explain(ids[1])
        .await
        .waits_for
        .expect("the first order blocks it");
    assert_eq!((blocked.order_id, blocked.set_aside), (ids[0], true));
    harness.hold(ids[0]).await;
    assert!(explain(ids[0]).await.order.held_at.is_some());
    harness.cancel(ids[0]).await;
    assert!(!explain(ids[1]).await.set_aside);
}

async fn a_start_of_a_given_order_leaves_out_those_set_aside(harness: &mut Harness) {
    let ids = [
        harness.accept_held().await,
        harness.accept_scheduled(MINUTE).await,
        harness.accept_one().await,
    ];
    let request = crate::support::make::claim_by(crate::support::make::NODE_A, 10);
    let started = harness.store().start(ids.into(), request).await.unwrap();
    assert_eq!(ids_of(&started.leases), [ids[2]]);
}
