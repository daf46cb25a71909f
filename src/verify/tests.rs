//! A sound store, and for each rule a breach that must be found.

use std::time::Duration;

use super::*;
use crate::event::EventKind;
use crate::lease::NodeId;
use crate::time::Timestamp;

mod deadlines;
mod epochs;
mod fake_store;
mod many_writers;
mod set_aside;
mod turns;

use EventKind::{
    Accepted, Cancelled, Completed, Failed, LeaseLost, Redriven, Released, RetryScheduled, Started,
};
use fake_store::{
    COMPLETED, FAILED, FakeStore, GIVEN_BACK, NEW, NODE, PROCESSING, REDRIVEN, RETRIED, WAITING_FOR_RETRY,
    key, sound,
};

async fn found(mut store: FakeStore) -> Vec<(Promise, Option<i64>)> {
    let report = verify(&mut store).await.unwrap();
    assert_eq!(report.breaches.len() as u64, report.breaches_total, "{report}");
    report
        .breaches
        .iter()
        .map(|breach| (breach.promise, breach.order_id.map(|id| id.0)))
        .collect()
}

/// Breaks a sound store and expects exactly this breach.
async fn check(spoil: impl FnOnce(&mut FakeStore), promise: Promise, id: impl Into<Option<i64>>) {
    let mut store = sound();
    spoil(&mut store);
    assert_eq!(found(store).await, [(promise, id.into())]);
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
        |store| store.damage.push("page 7 is torn".to_owned()),
        Promise::SoundFiles,
        None,
    )
    .await;
}

#[tokio::test]
async fn an_unreadable_store_is_an_error_unless_damage_explains_it() {
    let mut store = sound();
    store.unreadable = true;
    assert!(verify(&mut store).await.is_err());
    store.damage.push("page 7 is torn".to_owned());
    assert_eq!(found(store).await, [(Promise::SoundFiles, None); 2]);
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
        check(|store| store.counters = Some(counters), Promise::Counters, None).await;
    }
    true_counters.completed += 1;
    let mut store = sound();
    store.counters = Some(true_counters);
    let report = verify(&mut store).await.unwrap().to_string();
    assert!(
        report.ends_with("counters\n  Completed orders: 3 stored, 2 in the table"),
        "{report}"
    );
}

#[tokio::test]
async fn a_hole_in_the_versions_is_found() {
    let skip = |store: &mut FakeStore| {
        store.event(COMPLETED, 3).event.version = 4;
        store.order(COMPLETED).order.version = 4;
    };
    check(skip, Promise::DenseEvents, COMPLETED).await;
}

#[tokio::test]
async fn an_order_without_events_is_found() {
    let mut store = sound();
    store.order(NEW).events.clear();
    store.order(NEW).order.version = 0;
    assert_eq!(found(store).await, [(Promise::DenseEvents, Some(NEW))]);
}

#[tokio::test]
async fn an_event_of_another_order_is_found() {
    let move_event = |store: &mut FakeStore| store.event(COMPLETED, 2).event.order_id = OrderId(RETRIED);
    check(move_event, Promise::DenseEvents, COMPLETED).await;
}

#[tokio::test]
async fn positions_that_do_not_rise_are_found() {
    let turn = |store: &mut FakeStore| store.event(RETRIED, 4).position = store.event(RETRIED, 3).position;
    check(turn, Promise::DenseEvents, RETRIED).await;
}

#[tokio::test]
async fn an_order_that_does_not_begin_with_its_acceptance_is_found() {
    let begin = |store: &mut FakeStore| store.event(NEW, 1).event.kind = Released;
    check(begin, Promise::LegalSteps, NEW).await;
}

#[tokio::test]
async fn an_illegal_step_is_found() {
    // The first is illegal for a Pending order; the second leads to another status.
    for (kind, status) in [
        (Released, OrderStatus::Processing),
        (Started, OrderStatus::Cancelled),
    ] {
        let mut store = sound();
        let event = &mut store.event(PROCESSING, 2).event;
        (event.kind, event.status) = (kind, status);
        let found = found(store).await;
        assert!(
            found.contains(&(Promise::LegalSteps, Some(PROCESSING))),
            "{found:?}"
        );
    }
}

#[tokio::test]
async fn a_second_end_is_found() {
    let mut store = sound();
    store.event(REDRIVEN, 4).event.kind = Completed;
    let found = found(store).await;
    assert!(found.contains(&(Promise::OneEnd, Some(REDRIVEN))), "{found:?}");
}

#[tokio::test]
async fn an_order_that_differs_from_its_last_event_is_found() {
    check(
        |store| store.order(NEW).order.version = 2,
        Promise::LastEvent,
        NEW,
    )
    .await;
    let mut store = sound();
    store.order(PROCESSING).order.status = OrderStatus::Cancelled;
    let found = found(store).await;
    assert!(
        found.contains(&(Promise::LastEvent, Some(PROCESSING))),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_wrong_generation_is_found() {
    let spoil = |store: &mut FakeStore| store.order(REDRIVEN).order.generation = 0;
    check(spoil, Promise::LastEvent, REDRIVEN).await;
}

#[tokio::test]
async fn wrong_attempts_are_found() {
    for id in [REDRIVEN, GIVEN_BACK, RETRIED] {
        check(|store| store.order(id).order.attempts += 1, Promise::Attempts, id).await;
    }
    let of_event = |store: &mut FakeStore| store.event(RETRIED, 5).event.attempt = 1;
    check(of_event, Promise::Attempts, RETRIED).await;
}

#[tokio::test]
async fn times_that_are_not_those_of_the_events_are_found() {
    let wrong = Timestamp::from_micros(5);
    check(
        |store| store.order(NEW).order.created_at = wrong,
        Promise::Times,
        NEW,
    )
    .await;
    let id = PROCESSING;
    check(
        |store| store.order(id).order.processing_at = Some(wrong),
        Promise::Times,
        id,
    )
    .await;
    check(
        |store| store.order(id).order.finished_at = Some(wrong),
        Promise::Times,
        id,
    )
    .await;
    let id = FAILED;
    check(
        |store| store.order(id).order.finished_at = None,
        Promise::Times,
        id,
    )
    .await;
}

#[tokio::test]
async fn time_that_runs_backwards_is_found() {
    let spoil = |store: &mut FakeStore| store.event(RETRIED, 3).event.at = store.event(RETRIED, 1).event.at;
    check(spoil, Promise::Times, RETRIED).await;
}

#[tokio::test]
async fn a_missing_or_extra_lease_is_found() {
    check(
        |store| store.order(PROCESSING).lease = None,
        Promise::Leases,
        PROCESSING,
    )
    .await;
    let spoil = |store: &mut FakeStore| store.order(COMPLETED).lease = store.order(PROCESSING).lease;
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
            let usurp = |store: &mut FakeStore| {
                let event = &mut store.event(id, version).event;
                assert_eq!(event.kind, kind);
                event.node = node;
            };
            check(usurp, Promise::Fenced, id).await;
        }
    }
}

#[tokio::test]
async fn an_attempt_belongs_to_the_node_that_started_it_last() {
    let mut store = sound();
    // Another node took over after the lease was lost, and gave the order back.
    for version in [6, 7] {
        store.event(GIVEN_BACK, version).event.node = Some(NodeId(NODE.0 + 1));
    }
    assert_eq!(found(store).await, []);
}

#[tokio::test]
async fn an_order_in_the_wrong_line_is_found() {
    for id in [REDRIVEN, GIVEN_BACK, WAITING_FOR_RETRY] {
        check(
            |store| store.order(id).order.next_attempt_at = None,
            Promise::SecondLine,
            id,
        )
        .await;
    }
    for id in [NEW, PROCESSING, FAILED] {
        let due = Some(Timestamp::from_micros(1));
        check(
            |store| store.order(id).order.next_attempt_at = due,
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
            |store| store.order(id).order.last_error = error,
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
                |store| store.order(id).order.last_error = error,
                Promise::LastError,
                id,
            )
            .await;
        }
    }
    // A lost lease says nothing about the order, so the event's error is not the order's.
    let of_loss = |store: &mut FakeStore| {
        let loss = store.event(GIVEN_BACK, 5).event.error.clone();
        assert!(loss.is_some());
        store.order(GIVEN_BACK).order.last_error = loss;
    };
    check(of_loss, Promise::LastError, GIVEN_BACK).await;
}

#[tokio::test]
async fn a_failure_without_an_error_is_found() {
    let forget = |store: &mut FakeStore| {
        store.event(FAILED, 3).event.error = None;
        store.order(FAILED).order.last_error = None;
    };
    check(forget, Promise::LastError, FAILED).await;
}

#[tokio::test]
async fn an_order_that_overtook_another_is_found() {
    let mut store = FakeStore::default();
    for (id, kind) in [(1, Accepted), (2, Accepted), (2, Started)] {
        store.then(id, kind);
    }
    assert_eq!(found(store.clone()).await, [(Promise::FifoStart, Some(2))]);
    store.then(1, Started);
    assert_eq!(found(store).await, [(Promise::FifoStart, Some(2))]);
}

#[tokio::test]
async fn an_order_cancelled_before_its_start_blocks_no_other() {
    let mut store = FakeStore::default();
    for (id, kind) in [(1, Accepted), (2, Accepted), (1, Cancelled), (2, Started)] {
        store.then(id, kind);
    }
    store.then(1, Redriven);
    store.then(1, Started);
    assert_eq!(found(store).await, []);
}

#[tokio::test]
async fn a_redrive_during_the_backoff_keeps_the_attempts() {
    let mut store = sound();
    store.then(WAITING_FOR_RETRY, Redriven);
    assert_eq!(found(store.clone()).await, []);
    store.event(WAITING_FOR_RETRY, 4).event.attempt = 0;
    assert_eq!(found(store).await, [(Promise::Attempts, Some(WAITING_FOR_RETRY))]);
}

#[tokio::test]
async fn keys_that_name_wrong_orders_are_found() {
    for (ids, first) in [
        (vec![], None),
        (vec![0], Some(0)),
        (vec![1, 3], Some(1)),
        (vec![9, 10], Some(9)),
        (vec![2; BATCH_ORDERS_MAX + 1], Some(2)),
    ] {
        let spoil = |store: &mut FakeStore| store.keys.push(key("c", ids.into_iter()));
        check(spoil, Promise::IdempotencyKeys, first).await;
    }
}

#[tokio::test]
async fn an_expired_key_may_name_removed_orders() {
    let mut store = sound();
    store.keys.push(key("c", 10..=11));
    let past_its_retention = store.keys[2].created_at.plus(IDEMPOTENCY_RETENTION);
    store.read_at = Some(past_its_retention.minus(Duration::from_micros(1)));
    assert_eq!(found(store.clone()).await, [(Promise::IdempotencyKeys, Some(10))]);
    store.read_at = Some(past_its_retention);
    assert_eq!(found(store).await, []);
}

#[tokio::test]
async fn many_breaches_are_counted_and_the_first_ones_shown() {
    let mut store = FakeStore::default();
    for id in 1..=1_000 {
        store.then(id, Accepted);
        store.order(id).order.last_error = Some("none".to_owned());
    }
    let report = verify(&mut store).await.unwrap();
    assert_eq!((report.orders, report.breaches_total), (1_000, 1_000));
    assert_eq!(report.breaches.len(), BREACHES_SHOWN_MAX);
    assert!(report.to_string().ends_with("and 900 more"));
}
