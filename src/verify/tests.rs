//! One sound store, and one breach for each rule that must be found in it.

use std::time::Duration;

use super::*;
use crate::event::EventKind;
use crate::lease::NodeId;
use crate::time::Timestamp;

mod epochs;
mod hand;
mod many_writers;
mod turns;

use EventKind::{
    Accepted, Cancelled, Completed, Failed, LeaseLost, Redriven, Released, RetryScheduled, Started,
};
use hand::{
    COMPLETED, FAILED, GIVEN_BACK, Hand, NEW, NODE, PROCESSING, REDRIVEN, RETRIED, WAITING_FOR_RETRY, key,
    sound,
};

async fn found(mut hand: Hand) -> Vec<(Promise, Option<i64>)> {
    let report = verify(&mut hand).await.unwrap();
    assert_eq!(report.breaches.len() as u64, report.breaches_total, "{report}");
    report
        .breaches
        .iter()
        .map(|breach| (breach.promise, breach.order_id.map(|id| id.0)))
        .collect()
}

/// Breaks a sound store and expects exactly this to be found.
async fn check(spoil: impl FnOnce(&mut Hand), promise: Promise, id: impl Into<Option<i64>>) {
    let mut hand = sound();
    spoil(&mut hand);
    assert_eq!(found(hand).await, [(promise, id.into())]);
}

#[tokio::test]
async fn a_sound_store_has_no_breach() {
    let report = verify(&mut sound()).await.unwrap();
    assert!(report.is_sound(), "{report}");
    assert_eq!((report.orders, report.keys), (9, 2));
    assert_eq!(
        report.to_string(),
        "9 orders, 30 events, 2 idempotency keys: all promises kept"
    );
}

#[tokio::test]
async fn damage_is_found() {
    check(
        |hand| hand.damage.push("page 7 is torn".to_owned()),
        Promise::SoundFiles,
        None,
    )
    .await;
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_unless_the_damage_explains_it() {
    let mut hand = sound();
    hand.unreadable = true;
    assert!(verify(&mut hand).await.is_err());
    hand.damage.push("page 7 is torn".to_owned());
    assert_eq!(found(hand).await, [(Promise::SoundFiles, None); 2]);
}

#[tokio::test]
async fn wrong_counters_are_found() {
    let mut true_counters = sound().counters().await.unwrap();
    for status in 0..6 {
        let mut counters = true_counters;
        *[
            &mut counters.pending,
            &mut counters.processing,
            &mut counters.completed,
            &mut counters.failed,
            &mut counters.cancelled,
            &mut counters.processing_micros,
        ][status] += 1;
        check(|hand| hand.counters = Some(counters), Promise::Counters, None).await;
    }
    true_counters.completed += 1;
    let mut hand = sound();
    hand.counters = Some(true_counters);
    let report = verify(&mut hand).await.unwrap().to_string();
    assert!(
        report.ends_with("counters\n  Completed orders: 3 stored, 2 in the table"),
        "{report}"
    );
}

#[tokio::test]
async fn a_hole_in_the_versions_is_found() {
    let skip = |hand: &mut Hand| {
        hand.event(COMPLETED, 3).event.version = 4;
        hand.order(COMPLETED).order.version = 4;
    };
    check(skip, Promise::DenseEvents, COMPLETED).await;
}

#[tokio::test]
async fn an_order_without_events_is_found() {
    let mut hand = sound();
    hand.order(NEW).events.clear();
    hand.order(NEW).order.version = 0;
    assert_eq!(found(hand).await, [(Promise::DenseEvents, Some(NEW))]);
}

#[tokio::test]
async fn an_event_of_another_order_is_found() {
    let move_event = |hand: &mut Hand| hand.event(COMPLETED, 2).event.order_id = OrderId(RETRIED);
    check(move_event, Promise::DenseEvents, COMPLETED).await;
}

#[tokio::test]
async fn positions_that_do_not_rise_are_found() {
    let turn = |hand: &mut Hand| hand.event(RETRIED, 4).position = hand.event(RETRIED, 3).position;
    check(turn, Promise::DenseEvents, RETRIED).await;
}

#[tokio::test]
async fn an_order_that_does_not_begin_with_its_acceptance_is_found() {
    let begin = |hand: &mut Hand| hand.event(NEW, 1).event.kind = Released;
    check(begin, Promise::LegalSteps, NEW).await;
}

#[tokio::test]
async fn an_illegal_step_is_found() {
    // The first is not possible for a Pending order, the second leads elsewhere.
    for (kind, status) in [
        (Released, OrderStatus::Processing),
        (Started, OrderStatus::Cancelled),
    ] {
        let mut hand = sound();
        let event = &mut hand.event(PROCESSING, 2).event;
        (event.kind, event.status) = (kind, status);
        let found = found(hand).await;
        assert!(
            found.contains(&(Promise::LegalSteps, Some(PROCESSING))),
            "{found:?}"
        );
    }
}

#[tokio::test]
async fn a_second_end_is_found() {
    let mut hand = sound();
    hand.event(REDRIVEN, 4).event.kind = Completed;
    let found = found(hand).await;
    assert!(found.contains(&(Promise::OneEnd, Some(REDRIVEN))), "{found:?}");
}

#[tokio::test]
async fn an_order_unlike_its_last_event_is_found() {
    check(|hand| hand.order(NEW).order.version = 2, Promise::LastEvent, NEW).await;
    let mut hand = sound();
    hand.order(PROCESSING).order.status = OrderStatus::Cancelled;
    let found = found(hand).await;
    assert!(
        found.contains(&(Promise::LastEvent, Some(PROCESSING))),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_wrong_generation_is_found() {
    let spoil = |hand: &mut Hand| hand.order(REDRIVEN).order.generation = 0;
    check(spoil, Promise::LastEvent, REDRIVEN).await;
}

#[tokio::test]
async fn wrong_attempts_are_found() {
    for id in [REDRIVEN, GIVEN_BACK, RETRIED] {
        check(|hand| hand.order(id).order.attempts += 1, Promise::Attempts, id).await;
    }
    let of_event = |hand: &mut Hand| hand.event(RETRIED, 5).event.attempt = 1;
    check(of_event, Promise::Attempts, RETRIED).await;
}

#[tokio::test]
async fn times_that_are_not_those_of_the_events_are_found() {
    let wrong = Timestamp::from_micros(5);
    check(
        |hand| hand.order(NEW).order.created_at = wrong,
        Promise::Times,
        NEW,
    )
    .await;
    let id = PROCESSING;
    check(
        |hand| hand.order(id).order.processing_at = Some(wrong),
        Promise::Times,
        id,
    )
    .await;
    check(
        |hand| hand.order(id).order.finished_at = Some(wrong),
        Promise::Times,
        id,
    )
    .await;
    let id = FAILED;
    check(|hand| hand.order(id).order.finished_at = None, Promise::Times, id).await;
}

#[tokio::test]
async fn time_that_runs_backwards_is_found() {
    let spoil = |hand: &mut Hand| hand.event(RETRIED, 3).event.at = hand.event(RETRIED, 1).event.at;
    check(spoil, Promise::Times, RETRIED).await;
}

#[tokio::test]
async fn a_lease_too_few_or_too_many_is_found() {
    check(
        |hand| hand.order(PROCESSING).lease = None,
        Promise::Leases,
        PROCESSING,
    )
    .await;
    let spoil = |hand: &mut Hand| hand.order(COMPLETED).lease = hand.order(PROCESSING).lease;
    check(spoil, Promise::Leases, COMPLETED).await;
}

#[tokio::test]
async fn an_attempt_that_another_node_ended_is_found() {
    for (id, version, kind) in [
        (COMPLETED, 3, Completed),
        (RETRIED, 3, RetryScheduled),
        (FAILED, 3, Failed),
        (GIVEN_BACK, 5, LeaseLost),
        (GIVEN_BACK, 7, Released),
    ] {
        for node in [None, Some(NodeId(NODE.0 + 1))] {
            let usurp = |hand: &mut Hand| {
                let event = &mut hand.event(id, version).event;
                assert_eq!(event.kind, kind);
                event.node = node;
            };
            check(usurp, Promise::Fenced, id).await;
        }
    }
}

#[tokio::test]
async fn an_attempt_belongs_to_the_node_that_started_it_last() {
    let mut hand = sound();
    // Another node took over after the lease was lost, and handed the order back.
    for version in [6, 7] {
        hand.event(GIVEN_BACK, version).event.node = Some(NodeId(NODE.0 + 1));
    }
    assert_eq!(found(hand).await, []);
}

#[tokio::test]
async fn an_order_in_the_wrong_line_is_found() {
    for id in [REDRIVEN, GIVEN_BACK, WAITING_FOR_RETRY] {
        check(
            |hand| hand.order(id).order.next_attempt_at = None,
            Promise::SecondLine,
            id,
        )
        .await;
    }
    for id in [NEW, PROCESSING, FAILED] {
        let due = Some(Timestamp::from_micros(1));
        check(
            |hand| hand.order(id).order.next_attempt_at = due,
            Promise::SecondLine,
            id,
        )
        .await;
    }
}

#[tokio::test]
async fn an_error_that_does_not_apply_is_found() {
    for id in [COMPLETED, RETRIED, REDRIVEN, NEW] {
        let error = Some("refused".to_owned());
        check(
            |hand| hand.order(id).order.last_error = error,
            Promise::LastError,
            id,
        )
        .await;
    }
}

#[tokio::test]
async fn an_error_other_than_that_of_the_last_failed_attempt_is_found() {
    for id in [FAILED, WAITING_FOR_RETRY, GIVEN_BACK] {
        for error in [None, Some("another".to_owned())] {
            check(
                |hand| hand.order(id).order.last_error = error,
                Promise::LastError,
                id,
            )
            .await;
        }
    }
    // The event's own text is not the order's: a given-back attempt says nothing about it.
    let of_loss = |hand: &mut Hand| {
        let loss = hand.event(GIVEN_BACK, 5).event.error.clone();
        assert!(loss.is_some());
        hand.order(GIVEN_BACK).order.last_error = loss;
    };
    check(of_loss, Promise::LastError, GIVEN_BACK).await;
}

#[tokio::test]
async fn a_failure_without_an_error_is_found() {
    let forget = |hand: &mut Hand| {
        hand.event(FAILED, 3).event.error = None;
        hand.order(FAILED).order.last_error = None;
    };
    check(forget, Promise::LastError, FAILED).await;
}

#[tokio::test]
async fn an_order_that_overtook_another_is_found() {
    let mut hand = Hand::default();
    for (id, kind) in [(1, Accepted), (2, Accepted), (2, Started)] {
        hand.then(id, kind);
    }
    assert_eq!(found(hand.clone()).await, [(Promise::FifoStart, Some(2))]);
    hand.then(1, Started);
    assert_eq!(found(hand).await, [(Promise::FifoStart, Some(2))]);
}

#[tokio::test]
async fn an_order_cancelled_before_its_start_holds_up_nobody() {
    let mut hand = Hand::default();
    for (id, kind) in [(1, Accepted), (2, Accepted), (1, Cancelled), (2, Started)] {
        hand.then(id, kind);
    }
    hand.then(1, Redriven);
    hand.then(1, Started);
    assert_eq!(found(hand).await, []);
}

#[tokio::test]
async fn a_retry_of_an_order_that_backs_off_keeps_its_attempts() {
    let mut hand = sound();
    hand.then(WAITING_FOR_RETRY, Redriven);
    assert_eq!(found(hand.clone()).await, []);
    hand.event(WAITING_FOR_RETRY, 4).event.attempt = 0;
    assert_eq!(found(hand).await, [(Promise::Attempts, Some(WAITING_FOR_RETRY))]);
}

#[tokio::test]
async fn keys_that_name_no_orders_of_theirs_are_found() {
    for (ids, first) in [
        (vec![], None),
        (vec![0], Some(0)),
        (vec![1, 3], Some(1)),
        (vec![9, 10], Some(9)),
        (vec![2; BATCH_ORDERS_MAX + 1], Some(2)),
    ] {
        let spoil = |hand: &mut Hand| hand.keys.push(key("c", ids.into_iter()));
        check(spoil, Promise::IdempotencyKeys, first).await;
    }
}

#[tokio::test]
async fn a_key_that_is_answered_no_more_may_name_orders_that_are_gone() {
    let mut hand = sound();
    hand.keys.push(key("c", 10..=11));
    let past_its_retention = hand.keys[2].created_at.plus(IDEMPOTENCY_RETENTION);
    hand.read_at = Some(past_its_retention.minus(Duration::from_micros(1)));
    assert_eq!(found(hand.clone()).await, [(Promise::IdempotencyKeys, Some(10))]);
    hand.read_at = Some(past_its_retention);
    assert_eq!(found(hand).await, []);
}

#[tokio::test]
async fn many_breaches_are_counted_and_the_first_ones_shown() {
    let mut hand = Hand::default();
    for id in 1..=1_000 {
        hand.then(id, Accepted);
        hand.order(id).order.last_error = Some("none".to_owned());
    }
    let report = verify(&mut hand).await.unwrap();
    assert_eq!((report.orders, report.breaches_total), (1_000, 1_000));
    assert_eq!(report.breaches.len(), BREACHES_SHOWN_MAX);
    assert!(report.to_string().ends_with("and 900 more"));
}
