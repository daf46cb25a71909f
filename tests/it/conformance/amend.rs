//! `amend`: a client corrects a Pending or Failed order.

use std::time::Duration;

use orderly::event::EventKind;
use orderly::money::Money;
use orderly::order::{
    AmendedField, Items, Member, OnFailure, Order, OrderId, OrderStatus, Ordering, Patch, Reference,
};
use orderly::store::Amended;

use crate::support::Harness;
use crate::support::harness::ids_of;
use crate::support::make::order_of;

conformance! {
    every_member_is_changed_and_named,
    an_amendment_without_a_difference_changes_nothing,
    another_version_changes_nothing,
    only_pending_and_failed_orders_are_amended,
    an_order_keeps_its_place_in_the_line,
    an_order_leaves_its_line_for_a_new_time_and_comes_back_without_it,
    a_held_order_takes_a_time,
    a_failed_order_is_amended_and_redriven,
    an_amended_time_blocks_later_orders_of_the_user,
    of_two_amendments_of_one_version_one_counts,
    an_unknown_order_is_unknown,
}

const MINUTE: Duration = Duration::from_mins(1);

fn amount(text: &str) -> Patch {
    Patch {
        total_amount: Some(Money::parse(text, 2).unwrap()),
        ..Patch::default()
    }
}

async fn at(harness: &Harness, span: Duration) -> Patch {
    Patch {
        start_after: Member::Set(harness.now().await.plus(span)),
        ..Patch::default()
    }
}

fn never_mind() -> Patch {
    Patch {
        start_after: Member::Remove,
        ..Patch::default()
    }
}

async fn amend(harness: &Harness, id: OrderId, patch: Patch) -> Order {
    let version = harness.order(id).await.version;
    match harness.store().amend(id, version, patch).await.unwrap() {
        Amended::Done(order) => order,
        other => panic!("order {id} can be amended: {other:?}"),
    }
}

async fn every_member_is_changed_and_named(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let before = harness.order(id).await;
    let patch = Patch {
        items: Some(Items::of_ids(&[7, 8]).unwrap()),
        total_amount: Some(Money::parse("9.99", 2).unwrap()),
        reference: Member::Set(Reference::parse("PO-8").unwrap()),
        metadata: Member::Set("{ \"a\": 1.10 }".into()),
        start_after: Member::Keep,
        deadline: Member::Keep,
    };
    let order = amend(harness, id, patch.clone()).await;
    let (request, fields) = patch.apply(&before.request);
    let expected = Order {
        request,
        version: 2,
        ..before
    };
    assert_eq!(order, expected);
    assert_eq!(harness.order(id).await, order);
    let records = harness.records().await;
    let event = &records[0].events[1].event;
    assert_eq!(
        (event.kind, event.status),
        (EventKind::Amended, OrderStatus::Pending)
    );
    assert_eq!(event.detail.fields, fields);
    let removed = Patch {
        reference: Member::Remove,
        metadata: Member::Remove,
        ..Patch::default()
    };
    let order = amend(harness, id, removed).await;
    assert_eq!((order.request.reference, order.request.metadata), (None, None));
    let lease = harness.claim_only(id).await;
    assert_eq!(lease.order.request.items.codes(), "7,8");
}

async fn an_amendment_without_a_difference_changes_nothing(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let before = harness.order(id).await;
    assert_eq!(amend(harness, id, amount("250.75")).await, before);
    assert_eq!(amend(harness, id, Patch::default()).await, before);
    assert_eq!(harness.order(id).await, before);
}

async fn another_version_changes_nothing(harness: &mut Harness) {
    let id = harness.accept_one().await;
    harness.hold(id).await;
    let order = harness.order(id).await;
    for version in [1, 3] {
        let amended = harness.store().amend(id, version, amount("1")).await.unwrap();
        assert_eq!(amended, Amended::Moved(order.clone()));
    }
    assert_eq!(harness.order(id).await, order);
}

async fn only_pending_and_failed_orders_are_amended(harness: &mut Harness) {
    for status in [
        OrderStatus::Completed,
        OrderStatus::Cancelled,
        OrderStatus::Processing,
    ] {
        let id = harness.order_in(status).await;
        let order = harness.order(id).await;
        let amended = harness
            .store()
            .amend(id, order.version, amount("1"))
            .await
            .unwrap();
        assert_eq!(amended, Amended::Refused(order.clone()));
        let amended = harness
            .store()
            .amend(id, order.version + 1, amount("1"))
            .await
            .unwrap();
        assert_eq!(amended, Amended::Moved(order), "the version comes first");
    }
}

async fn an_order_keeps_its_place_in_the_line(harness: &mut Harness) {
    let ids = harness.accept_some(3).await;
    amend(harness, ids[0], amount("1")).await;
    amend(harness, ids[1], amount("2")).await;
    assert_eq!(ids_of(&harness.claim(10).await), ids);
    let backs_off = harness.order_due_in(60).await;
    let due = harness.order(backs_off).await.next_attempt_at;
    assert_eq!(amend(harness, backs_off, amount("3")).await.next_attempt_at, due);
}

async fn an_order_leaves_its_line_for_a_new_time_and_comes_back_without_it(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let order = amend(harness, id, at(harness, MINUTE).await).await;
    assert_eq!(order.next_attempt_at, None);
    assert_eq!(ids_of(&harness.claim(10).await), []);
    assert_eq!(harness.counters().await.scheduled, 1);
    amend(harness, id, at(harness, 2 * MINUTE).await).await;
    harness.advance(MINUTE).await;
    assert_eq!(harness.fire_timers().await.entered, 0);
    let order = amend(harness, id, never_mind()).await;
    assert_eq!(order.next_attempt_at, Some(order.created_at));
    assert_eq!(harness.counters().await.scheduled, 0);
    harness.claim_only(id).await;
    let records = harness.records().await;
    assert_eq!(
        records[0].events[1].event.detail.fields,
        [AmendedField::StartAfter]
    );
}

async fn a_held_order_takes_a_time(harness: &mut Harness) {
    let id = harness.accept_held().await;
    amend(harness, id, at(harness, MINUTE).await).await;
    harness.release(id).await;
    assert_eq!(ids_of(&harness.claim(10).await), []);
    harness.advance(MINUTE).await;
    assert_eq!(harness.fire_timers().await.entered, 1);
    harness.claim_only(id).await;
}

async fn a_failed_order_is_amended_and_redriven(harness: &mut Harness) {
    let id = harness.order_in(OrderStatus::Failed).await;
    let order = amend(harness, id, amount("5")).await;
    assert_eq!(order.status, OrderStatus::Failed);
    assert!(order.finished_at.is_some() && order.last_error.is_some());
    harness.redrive(id).await;
    let lease = harness.claim_only(id).await;
    assert_eq!(lease.order.request.total_amount, Money::parse("5", 2).unwrap());
}

async fn an_amended_time_blocks_later_orders_of_the_user(harness: &mut Harness) {
    harness
        .reopen_with_ordering(Ordering::by_user(OnFailure::Skip))
        .await;
    let ids = harness.accept(vec![order_of(1); 2]).await;
    amend(harness, ids[0], at(harness, MINUTE).await).await;
    assert_eq!(ids_of(&harness.claim(10).await), []);
    amend(harness, ids[0], never_mind()).await;
    harness.claim_only(ids[0]).await;
}

async fn of_two_amendments_of_one_version_one_counts(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let store = harness.store();
    let (one, other) = tokio::join!(store.amend(id, 1, amount("1")), store.amend(id, 1, amount("2")));
    let done = |amended: &Amended| matches!(amended, Amended::Done(_));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(done(&one) != done(&other), "{one:?} {other:?}");
    assert_eq!(harness.order(id).await.version, 2);
}

async fn an_unknown_order_is_unknown(harness: &mut Harness) {
    let amended = harness.store().amend(OrderId(9), 1, amount("1")).await.unwrap();
    assert_eq!(amended, Amended::Unknown);
}
