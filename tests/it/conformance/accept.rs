//! `accept`: rising ids, all or nothing, and the first event of every order.

use orderly::event::{Event, EventDetail, EventKind};
use orderly::money::{Currency, Money};
use orderly::order::{Code, Items, Line, NewOrder, Order, OrderStatus, UserId};
use orderly::store::{OrderQuery, StoreError};

use crate::support::Harness;
use crate::support::make::{new_order, order_of, order_with_reference};

conformance! {
    an_accepted_order_is_pending_with_the_requested_fields,
    every_field_is_stored_as_given,
    names_lines_and_currencies_are_stored_as_given,
    ids_rise_in_order_of_acceptance,
    a_batch_keeps_its_order,
    accept_returns_the_creation_time,
    an_accepted_order_has_one_event,
    concurrent_accepts_create_distinct_orders,
    accepted_orders_survive_a_restart,
    ids_rise_across_a_restart,
    a_full_queue_refuses_orders_and_stores_nothing,
    a_batch_that_does_not_fit_is_refused_as_a_whole,
    a_full_queue_accepts_again_once_an_order_starts,
    concurrent_accepts_cannot_overfill_the_queue,
}

async fn an_accepted_order_is_pending_with_the_requested_fields(harness: &mut Harness) {
    let before = harness.now().await;
    let id = harness.accept_one().await;
    let order = harness.order(id).await;
    assert!(before <= order.created_at && order.created_at <= harness.now().await);
    let expected = Order {
        order_id: id,
        request: new_order(),
        status: OrderStatus::Pending,
        version: 1,
        attempts: 0,
        generation: 0,
        created_at: order.created_at,
        processing_at: None,
        finished_at: None,
        next_attempt_at: None,
        held_at: None,
        milestone: None,
        overdue: false,
        last_error: None,
        result: None,
    };
    assert_eq!(order, expected);
}

async fn every_field_is_stored_as_given(harness: &mut Harness) {
    let request = NewOrder {
        user_id: UserId::Number(orderly::order::INTEGER_MAX),
        items: Items::of_ids(&[orderly::order::INTEGER_MAX, 3, 3, 1]).unwrap(),
        total_amount: Money::from_minor_units(orderly::money::max(2), 2).unwrap(),
        currency: None,
        metadata: Some(r#"{ "b": 1.0, "a":  "é\u0041" }"#.into()),
        ..order_with_reference("Größe 'x'; --日本")
    };
    let id = harness.accept(vec![request.clone()]).await[0];
    assert_eq!(harness.order(id).await.request, request);
}

/// In one batch with an order of integers, so that the columns of the others are filled in part.
async fn names_lines_and_currencies_are_stored_as_given(harness: &mut Harness) {
    let line = |sku: &str, price| Line {
        sku: Code::parse(sku).unwrap(),
        quantity: 3,
        unit_price: Some(Money::parse_signed(price, 0).unwrap()),
        name: Some("Becher \"blau\" 日本".into()),
    };
    let yen = Currency::parse("JPY").unwrap();
    let request = NewOrder {
        user_id: UserId::parse("cus_\"Zoë\"").unwrap(),
        items: Items::of_lines(&[line("012345678905", "1200"), line("DISCOUNT", "-200")]).unwrap(),
        total_amount: Money::parse("3000", 0).unwrap(),
        currency: Some(yen),
        ..new_order()
    };
    let ids = harness.accept(vec![request.clone(), new_order()]).await;
    assert_eq!(harness.order(ids[0]).await.request, request);
    assert_eq!(harness.order(ids[1]).await.request, new_order());
    let leases = harness.claim(2).await;
    assert_eq!(leases[0].order.request, request);
    assert_eq!(harness.history(ids[0], 0).await.len(), 2);
    harness.number_all_events().await;
    let page = harness.store().events_after(None, 10).await.unwrap();
    let users: Vec<_> = page
        .events
        .iter()
        .map(|event| event.user_id.to_string())
        .collect();
    assert_eq!(users, ["cus_\"Zoë\"", "104", "cus_\"Zoë\"", "104"]);
    let of_user = OrderQuery {
        user_id: Some(request.user_id.key()),
        limit: 10,
        ..OrderQuery::default()
    };
    let listed = harness.store().orders(of_user).await.unwrap().orders;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].request, request);
    harness.assert_sound().await;
}

async fn ids_rise_in_order_of_acceptance(harness: &mut Harness) {
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(harness.accept_one().await);
        ids.extend(harness.accept_some(2).await);
    }
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    assert!(ids[0].0 >= 1, "{ids:?}");
}

async fn a_batch_keeps_its_order(harness: &mut Harness) {
    let users: Vec<i64> = (1..=1_000).rev().collect();
    let ids = harness
        .accept(users.iter().map(|user| order_of(*user)).collect())
        .await;
    assert!(ids.is_sorted_by(|one, next| one < next));
    let stored: Vec<i64> = harness
        .records()
        .await
        .iter()
        .map(|record| record.order.request.user_id.key())
        .collect();
    assert_eq!(stored, users);
}

async fn accept_returns_the_creation_time(harness: &mut Harness) {
    let accepted = harness
        .store()
        .accept(vec![new_order(); 3].into(), None)
        .await
        .unwrap();
    for id in accepted.order_ids {
        assert_eq!(harness.order(id).await.created_at, accepted.created_at);
    }
}

async fn an_accepted_order_has_one_event(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let event = Event {
        order_id: id,
        version: 1,
        kind: EventKind::Accepted,
        status: OrderStatus::Pending,
        at: harness.order(id).await.created_at,
        attempt: 0,
        node: None,
        error: None,
        detail: EventDetail::default(),
    };
    assert_eq!(harness.history(id, 0).await, [event]);
}

async fn concurrent_accepts_create_distinct_orders(harness: &mut Harness) {
    let callers = (1..=64).map(|user| {
        let store = harness.store().clone();
        tokio::spawn(async move {
            let accepted = store.accept([order_of(user)].into(), None).await.unwrap();
            (accepted.order_ids[0], user)
        })
    });
    for caller in futures_util::future::join_all(callers).await {
        let (id, user) = caller.unwrap();
        assert_eq!(harness.order(id).await.request.user_id, user);
    }
    assert_eq!(harness.counters().await.pending, 64);
}

async fn accepted_orders_survive_a_restart(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let before = harness.order(id).await;
    harness.reopen().await;
    assert_eq!(harness.order(id).await, before);
}

async fn ids_rise_across_a_restart(harness: &mut Harness) {
    let before = harness.accept_one().await;
    harness.reopen().await;
    assert!(harness.accept_one().await > before);
}

async fn a_full_queue_refuses_orders_and_stores_nothing(harness: &mut Harness) {
    harness.reopen_with_pending_max(Some(2)).await;
    harness.accept_some(2).await;
    let refused = harness.store().accept([new_order()].into(), None).await;
    assert!(matches!(refused, Err(StoreError::QueueFull)), "{refused:?}");
    assert_eq!(harness.counters().await.total(), 2);
}

async fn a_batch_that_does_not_fit_is_refused_as_a_whole(harness: &mut Harness) {
    harness.reopen_with_pending_max(Some(3)).await;
    harness.accept_one().await;
    let refused = harness.store().accept(vec![new_order(); 3].into(), None).await;
    assert!(matches!(refused, Err(StoreError::QueueFull)), "{refused:?}");
    assert_eq!(harness.counters().await.total(), 1);
    harness.accept_some(2).await;
}

async fn a_full_queue_accepts_again_once_an_order_starts(harness: &mut Harness) {
    harness.reopen_with_pending_max(Some(1)).await;
    harness.accept_one().await;
    assert_eq!(harness.claim(1).await.len(), 1);
    harness.accept_one().await;
}

async fn concurrent_accepts_cannot_overfill_the_queue(harness: &mut Harness) {
    harness.reopen_with_pending_max(Some(5)).await;
    let callers = (0..32).map(|_| harness.store().accept([new_order()].into(), None));
    let answers = futures_util::future::join_all(callers).await;
    let accepted = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(accepted, 5);
    assert_eq!(harness.counters().await.pending, 5);
}
