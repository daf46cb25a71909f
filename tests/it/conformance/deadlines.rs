//! Deadlines: an order that is not final by then becomes overdue, once, whatever it waits for.

use std::time::Duration;

use orderly::event::EventKind;
use orderly::lease::Outcome;
use orderly::order::{Member, NewOrder, Order, OrderId, OrderStatus, Patch};
use orderly::store::{Amended, StoreError};

use crate::support::Harness;
use crate::support::harness::held;
use crate::support::make::{failed, key, new_order, retry_after};

conformance! {
    an_open_order_becomes_overdue_once,
    an_order_becomes_overdue_while_an_attempt_runs,
    orders_that_are_set_aside_in_backoff_or_blocked_become_overdue,
    an_order_that_ends_in_time_does_not_become_overdue,
    a_redriven_order_has_its_deadline_again,
    a_deadline_that_has_passed_is_refused_after_the_key,
    an_amended_deadline_counts_from_then_on,
    timers_tell_the_next_deadline,
    an_order_that_cannot_be_marked_holds_up_no_other,
    many_deadlines_at_one_instant_fire_once_each,
}

const MINUTE: Duration = Duration::from_mins(1);

/// Ends an order that is ready to start.
async fn end(harness: &Harness, id: OrderId, status: OrderStatus) {
    if status == OrderStatus::Cancelled {
        harness.cancel(id).await;
        return;
    }
    let lease = harness.claim_only(id).await;
    let outcome = match status {
        OrderStatus::Completed => Outcome::COMPLETED,
        _ => failed(),
    };
    harness.settle(&lease, outcome).await;
}

/// Fires the timers and checks that so many orders became overdue.
async fn fire(harness: &Harness, overdue: usize) {
    let fired = harness.fire_timers().await;
    assert_eq!((fired.overdue, fired.refused), (overdue, Vec::new()));
}

async fn an_open_order_becomes_overdue_once(harness: &mut Harness) {
    let id = harness.accept_due(MINUTE).await;
    let before = harness.order(id).await;
    fire(harness, 0).await;
    harness.advance(MINUTE).await;
    fire(harness, 1).await;
    let order = harness.order(id).await;
    let expected = Order {
        version: 2,
        overdue: true,
        ..before
    };
    assert_eq!(order, expected);
    let records = harness.records().await;
    let last = &records[0].events[1].event;
    assert_eq!(
        (last.kind, last.status),
        (EventKind::Overdue, OrderStatus::Pending)
    );
    fire(harness, 0).await;
    let lease = harness.claim_only(id).await;
    assert_eq!(lease.order, harness.order(id).await);
    harness.settle(&lease, Outcome::COMPLETED).await;
    fire(harness, 0).await;
    assert!(harness.order(id).await.overdue);
}

async fn an_order_becomes_overdue_while_an_attempt_runs(harness: &mut Harness) {
    for outcome in [Outcome::COMPLETED, retry_after(0), Outcome::Released] {
        let id = harness.accept_due(Duration::from_secs(10)).await;
        let lease = harness.claim_only(id).await;
        harness.advance(Duration::from_secs(10)).await;
        fire(harness, 1).await;
        assert_eq!(harness.order(id).await.status, OrderStatus::Processing);
        let kinds = [EventKind::Accepted, EventKind::Started, EventKind::Overdue];
        assert_eq!(harness.events(id).await, kinds);
        harness.settle(&lease, outcome).await;
        if !harness.order(id).await.status.is_final() {
            harness.cancel(id).await;
        }
    }
}

async fn orders_that_are_set_aside_in_backoff_or_blocked_become_overdue(harness: &mut Harness) {
    let deadline = Some(harness.now().await.plus(MINUTE));
    let held = harness.accept(vec![NewOrder { deadline, ..held() }]).await[0];
    let backs_off = harness.accept_due(MINUTE).await;
    let lease = harness.claim_only(backs_off).await;
    harness.settle(&lease, retry_after(600)).await;
    harness.store().pause(None).await.unwrap();
    let waits = harness.accept_due(MINUTE).await;
    harness.advance(MINUTE).await;
    fire(harness, 3).await;
    for id in [held, backs_off, waits] {
        let order = harness.order(id).await;
        assert!(order.overdue && order.status == OrderStatus::Pending, "{order:?}");
    }
    assert!(harness.order(held).await.held_at.is_some());
}

async fn an_order_that_ends_in_time_does_not_become_overdue(harness: &mut Harness) {
    for status in [
        OrderStatus::Completed,
        OrderStatus::Failed,
        OrderStatus::Cancelled,
    ] {
        let id = harness.accept_due(MINUTE).await;
        end(harness, id, status).await;
    }
    assert_eq!(harness.fire_timers().await.next_in, None);
    harness.advance(MINUTE).await;
    fire(harness, 0).await;
}

async fn a_redriven_order_has_its_deadline_again(harness: &mut Harness) {
    let id = harness.accept_due(MINUTE).await;
    end(harness, id, OrderStatus::Failed).await;
    harness.redrive(id).await;
    assert_eq!(harness.fire_timers().await.next_in, Some(MINUTE));
    end(harness, id, OrderStatus::Failed).await;
    harness.advance(MINUTE).await;
    fire(harness, 0).await;
    harness.redrive(id).await;
    fire(harness, 1).await;
    harness.cancel(id).await;
    harness.redrive(id).await;
    fire(harness, 0).await;
}

async fn a_deadline_that_has_passed_is_refused_after_the_key(harness: &mut Harness) {
    let deadline = Some(harness.now().await.plus(MINUTE));
    let orders = || -> std::sync::Arc<[NewOrder]> {
        [
            new_order(),
            NewOrder {
                deadline,
                ..new_order()
            },
        ]
        .into()
    };
    let accepted = harness.store().accept(orders(), Some(key("k", 1))).await.unwrap();
    harness.advance(MINUTE).await;
    let again = harness.store().accept(orders(), Some(key("k", 1))).await.unwrap();
    assert_eq!((again.order_ids, again.replayed), (accepted.order_ids, true));
    for key in [None, Some(key("other", 1))] {
        let refused = harness.store().accept(orders(), key).await;
        assert!(
            matches!(&refused, Err(StoreError::DeadlinePassed { places }) if places[..] == [1]),
            "{refused:?}"
        );
    }
    assert_eq!(harness.records().await.len(), 2);
}

async fn an_amended_deadline_counts_from_then_on(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let amend = async |version: u32, deadline| {
        let patch = Patch {
            deadline,
            ..Patch::default()
        };
        harness.store().amend(id, version, patch).await.unwrap()
    };
    let now = harness.now().await;
    let at = |minutes: u32| Member::Set(now.plus(minutes * MINUTE));
    assert!(matches!(amend(1, at(2)).await, Amended::Done(_)));
    assert_eq!(harness.fire_timers().await.next_in, Some(2 * MINUTE));
    assert!(matches!(amend(2, at(1)).await, Amended::Done(_)));
    assert_eq!(harness.fire_timers().await.next_in, Some(MINUTE));
    assert!(matches!(amend(3, Member::Remove).await, Amended::Done(_)));
    assert_eq!(harness.fire_timers().await.next_in, None);
    assert!(matches!(amend(4, at(1)).await, Amended::Done(_)));
    harness.advance(MINUTE).await;
    fire(harness, 1).await;
    assert!(matches!(amend(6, Member::Remove).await, Amended::Overdue(_)));
    let order = harness.order(id).await;
    assert_eq!((order.version, order.overdue), (6, true));
}

async fn timers_tell_the_next_deadline(harness: &mut Harness) {
    harness.accept_due(3 * MINUTE).await;
    harness.accept_scheduled(2 * MINUTE).await;
    harness.accept_due(MINUTE).await;
    assert_eq!(harness.fire_timers().await.next_in, Some(MINUTE));
    harness.advance(MINUTE).await;
    let fired = harness.fire_timers().await;
    assert_eq!((fired.overdue, fired.next_in), (1, Some(MINUTE)));
    harness.advance(2 * MINUTE).await;
    let fired = harness.fire_timers().await;
    assert_eq!((fired.entered, fired.overdue, fired.next_in), (1, 1, None));
}

async fn an_order_that_cannot_be_marked_holds_up_no_other(harness: &mut Harness) {
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(harness.accept_due(MINUTE).await);
    }
    harness
        .refuse_updates(&format!(
            "new.order_id = {} and new.overdue <> old.overdue",
            ids[1]
        ))
        .await;
    harness.advance(MINUTE).await;
    let fired = harness.fire_timers().await;
    assert_eq!((fired.overdue, fired.refused.len()), (4, 1));
    let bad = fired.refused[0].order_id;
    assert_eq!(bad, ids[1]);
    let fired = harness.store().fire_timers([bad].into()).await.unwrap();
    assert_eq!((fired.overdue, fired.refused.len()), (0, 0), "left alone");
    harness.cancel(bad).await;
}

async fn many_deadlines_at_one_instant_fire_once_each(harness: &mut Harness) {
    let deadline = Some(harness.now().await.plus(MINUTE));
    let orders = vec![
        NewOrder {
            deadline,
            ..new_order()
        };
        1_000
    ];
    harness.accept(orders.clone()).await;
    harness.accept(orders[..200].to_vec()).await;
    harness.advance(MINUTE).await;
    let first = harness.fire_timers().await;
    assert_eq!((first.overdue, first.next_in), (1_000, Some(Duration::ZERO)));
    fire(harness, 200).await;
    fire(harness, 0).await;
}
