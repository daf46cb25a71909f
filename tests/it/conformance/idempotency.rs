//! `accept` with a key: one set of orders, however many requests repeat it.

use std::time::Duration;

use orderly::lease::Outcome;
use orderly::store::{IDEMPOTENCY_RETENTION, IdempotencyKey, StoreError};

use crate::support::Harness;
use crate::support::make::{key, new_order};

conformance! {
    a_repeated_key_gets_the_first_answer,
    a_repeated_batch_gets_the_same_orders,
    a_key_survives_a_restart,
    a_key_gets_the_same_answer_after_its_order_ended,
    a_key_with_another_request_is_refused,
    keys_of_different_scopes_are_distinct,
    keys_are_case_sensitive,
    a_key_is_kept_for_its_retention,
    a_key_is_forgotten_after_its_retention,
    a_full_queue_still_replays_a_known_key,
    a_refused_order_leaves_its_key_unused,
    sixty_four_concurrent_callers_make_one_order,
    one_of_two_different_concurrent_requests_with_one_key_is_refused,
}

const ALMOST_THE_RETENTION: Duration = IDEMPOTENCY_RETENTION.saturating_sub(Duration::from_mins(1));

async fn a_repeated_key_gets_the_first_answer(harness: &mut Harness) {
    let first = accept(harness, 1, key("k", 1)).await.unwrap();
    harness.advance(Duration::from_mins(1)).await;
    let second = accept(harness, 1, key("k", 1)).await.unwrap();
    assert!(!first.replayed && second.replayed);
    assert_eq!(
        (second.order_ids, second.created_at),
        (first.order_ids, first.created_at)
    );
    assert_eq!(harness.counters().await.total(), 1);
}

async fn a_repeated_batch_gets_the_same_orders(harness: &mut Harness) {
    harness.accept_some(3).await;
    let first = accept(harness, 1_000, key("k", 1)).await.unwrap();
    harness.accept_some(3).await;
    let second = accept(harness, 1_000, key("k", 1)).await.unwrap();
    assert!(second.replayed);
    assert_eq!(second.order_ids, first.order_ids);
    assert_eq!(second.order_ids.len(), 1_000);
    assert_eq!(harness.counters().await.total(), 1_006);
}

async fn a_key_survives_a_restart(harness: &mut Harness) {
    let first = accept(harness, 2, key("k", 1)).await.unwrap();
    harness.reopen().await;
    let second = accept(harness, 2, key("k", 1)).await.unwrap();
    assert_eq!(second.order_ids, first.order_ids);
}

async fn a_key_gets_the_same_answer_after_its_order_ended(harness: &mut Harness) {
    let first = accept(harness, 1, key("k", 1)).await.unwrap();
    let lease = harness.claim_only(first.order_ids[0]).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    let second = accept(harness, 1, key("k", 1)).await.unwrap();
    assert_eq!(
        (second.order_ids, second.created_at),
        (first.order_ids, first.created_at)
    );
}

async fn a_key_with_another_request_is_refused(harness: &mut Harness) {
    accept(harness, 1, key("k", 1)).await.unwrap();
    let refused = accept(harness, 1, key("k", 2)).await;
    assert!(matches!(refused, Err(StoreError::KeyReused)), "{refused:?}");
    assert_eq!(harness.counters().await.total(), 1);
    assert!(accept(harness, 1, key("k", 1)).await.unwrap().replayed);
}

async fn keys_of_different_scopes_are_distinct(harness: &mut Harness) {
    let other_scope = IdempotencyKey {
        scope: "orders/batch".to_owned(),
        ..key("k", 2)
    };
    let one = accept(harness, 1, key("k", 1)).await.unwrap();
    let other = accept(harness, 1, other_scope).await.unwrap();
    assert!(!other.replayed);
    assert_ne!(one.order_ids, other.order_ids);
}

async fn keys_are_case_sensitive(harness: &mut Harness) {
    accept(harness, 1, key("k", 1)).await.unwrap();
    assert!(!accept(harness, 1, key("K", 1)).await.unwrap().replayed);
}

async fn a_key_is_kept_for_its_retention(harness: &mut Harness) {
    accept(harness, 1, key("k", 1)).await.unwrap();
    harness.advance(ALMOST_THE_RETENTION).await;
    assert!(accept(harness, 1, key("k", 1)).await.unwrap().replayed);
    let refused = accept(harness, 1, key("k", 2)).await;
    assert!(matches!(refused, Err(StoreError::KeyReused)), "{refused:?}");
}

async fn a_key_is_forgotten_after_its_retention(harness: &mut Harness) {
    let first = accept(harness, 1, key("k", 1)).await.unwrap();
    harness
        .advance(IDEMPOTENCY_RETENTION + Duration::from_mins(1))
        .await;
    let second = accept(harness, 2, key("k", 2)).await.unwrap();
    assert!(!second.replayed);
    assert!(!second.order_ids.contains(&first.order_ids[0]));
    assert_eq!(
        accept(harness, 2, key("k", 2)).await.unwrap().order_ids,
        second.order_ids
    );
}

async fn a_full_queue_still_replays_a_known_key(harness: &mut Harness) {
    harness.reopen_with_pending_max(Some(1)).await;
    accept(harness, 1, key("k", 1)).await.unwrap();
    assert!(accept(harness, 1, key("k", 1)).await.unwrap().replayed);
}

async fn a_refused_order_leaves_its_key_unused(harness: &mut Harness) {
    harness.reopen_with_pending_max(Some(1)).await;
    harness.accept_one().await;
    let refused = accept(harness, 1, key("k", 1)).await;
    assert!(matches!(refused, Err(StoreError::QueueFull)), "{refused:?}");
    harness.claim(1).await;
    assert!(!accept(harness, 1, key("k", 2)).await.unwrap().replayed);
}

async fn sixty_four_concurrent_callers_make_one_order(harness: &mut Harness) {
    let callers = (0..64).map(|_| {
        let store = harness.store().clone();
        tokio::spawn(async move {
            store
                .accept([new_order()].into(), Some(key("k", 1)))
                .await
                .unwrap()
        })
    });
    let answers: Vec<_> = futures_util::future::join_all(callers)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    for answer in &answers {
        assert_eq!(
            (&answer.order_ids, answer.created_at),
            (&answers[0].order_ids, answers[0].created_at)
        );
    }
    assert_eq!(harness.counters().await.total(), 1);
}

async fn one_of_two_different_concurrent_requests_with_one_key_is_refused(harness: &mut Harness) {
    let (one, other) = tokio::join!(accept(harness, 1, key("k", 1)), accept(harness, 1, key("k", 2)));
    let refused = [one, other]
        .iter()
        .filter(|answer| matches!(answer, Err(StoreError::KeyReused)))
        .count();
    assert_eq!(refused, 1);
    assert_eq!(harness.counters().await.total(), 1);
}

async fn accept(
    harness: &Harness,
    orders: usize,
    key: IdempotencyKey,
) -> Result<orderly::store::Accepted, StoreError> {
    harness
        .store()
        .accept(vec![new_order(); orders].into(), Some(key))
        .await
}
