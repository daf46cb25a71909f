//! What only a shared store can get wrong about retention: other nodes at work, and a feed whose places are given late.

use std::time::Duration;

use orderly::order::OrderStatus;
use orderly::store::{FeedPosition, Prune, Pruned};

use crate::support::Harness;

const DAY: Prune = Prune {
    older_than: Duration::from_hours(24),
    after: None,
};
const LATER: Duration = Duration::from_hours(25);
/// As the store names its locks.
const FEED_LOCK: i64 = 7_239_846_511_032_003;
const PRUNE_LOCK: i64 = 7_239_846_511_032_004;

/// What others do while they hold the lock.
async fn while_held(harness: &Harness, lock: i64, meanwhile: impl AsyncFnOnce()) {
    let admin = harness.home().admin().await;
    admin
        .execute("select pg_advisory_lock($1)", &[&lock])
        .await
        .unwrap();
    meanwhile().await;
    admin
        .execute("select pg_advisory_unlock($1)", &[&lock])
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_stays_until_all_of_its_events_have_places_in_the_feed() {
    let Some(harness) = Harness::postgres().await else {
        return;
    };
    while_held(&harness, FEED_LOCK, async || {
        harness.order_in(OrderStatus::Completed).await;
        harness.advance(LATER).await;
        assert_eq!(harness.store().prune(DAY).await.unwrap(), Pruned::default());
        assert_eq!(harness.counters().await.completed, 1);
    })
    .await;
    harness.place_all().await;
    assert_eq!(harness.store().prune(DAY).await.unwrap().orders, 1);
    harness.assert_sound().await;
    harness.store().close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_does_not_wait_for_that_of_another_node() {
    let Some(harness) = Harness::postgres().await else {
        return;
    };
    harness.order_in(OrderStatus::Cancelled).await;
    harness.advance(LATER).await;
    harness.place_all().await;
    while_held(&harness, PRUNE_LOCK, async || {
        assert_eq!(harness.store().prune(DAY).await.unwrap(), Pruned::default());
    })
    .await;
    assert_eq!(harness.store().prune(DAY).await.unwrap().orders, 1);
    harness.assert_sound().await;
    harness.store().close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_another_transaction_holds_is_passed_over() {
    let Some(harness) = Harness::postgres().await else {
        return;
    };
    let ids = harness.accept_some(3).await;
    harness.cancel_all(&ids).await;
    harness.advance(LATER).await;
    harness.place_all().await;
    let admin = harness.home().admin().await;
    let hold = format!(
        "begin; select from orderly.orders where order_id = {} for update",
        ids[1]
    );
    admin.batch_execute(&hold).await.unwrap();
    assert_eq!(harness.store().prune(DAY).await.unwrap().orders, 2);
    assert_eq!(harness.order(ids[1]).await.status, OrderStatus::Cancelled);
    harness.assert_sound().await;
    admin.batch_execute("commit").await.unwrap();
    assert_eq!(harness.store().prune(DAY).await.unwrap().orders, 1);
    harness.store().close().await;
}

/// An order that is still there has events on both sides of those that went, in batches of which something is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_with_other_holes_than_it_tells_of_is_found() {
    for tampering in [
        None,
        Some("update orderly.queue set complete_after = 0"),
        Some("update orderly.queue set last_position = last_position + 1"),
        Some("update orderly.batches set order_ids = order_ids || 3::bigint where kind = 0"),
        Some("update orderly.batches set first_position = first_position - 4 where first_position = 6"),
        Some(
            "insert into orderly.batches (batch, first_position, kind, at, order_ids) values (1000000, 7, 0, now(), '{99}')",
        ),
        Some(
            "delete from orderly.batches where first_position = (select max(first_position) from orderly.batches)",
        ),
        Some("update orderly.batches set order_ids = '{}' where first_position = 6"),
    ] {
        let Some(harness) = Harness::postgres().await else {
            return;
        };
        let ids = harness.accept_some(3).await;
        harness.cancel_all(&ids[..2]).await;
        harness.advance(LATER).await;
        harness.place_all().await;
        assert_eq!(harness.store().prune(DAY).await.unwrap().orders, 2);
        harness.cancel_all(&ids[2..]).await;
        harness.place_all().await;
        let page = harness.store().events_after(None, 10).await.unwrap();
        let positions: Vec<FeedPosition> = page.events.iter().map(|event| event.position).collect();
        // The batch of the three acceptances has lost two of them, and those of the two cancellations are gone.
        assert_eq!(positions, [FeedPosition(3), FeedPosition(6)]);
        if let Some(tampering) = tampering {
            let admin = harness.home().admin().await;
            assert!(admin.execute(tampering, &[]).await.unwrap() > 0, "{tampering}");
        }
        let mut snapshot = harness.store().snapshot().await.unwrap();
        let damage = snapshot.damage().await.unwrap();
        assert_eq!(
            damage.is_empty(),
            tampering.is_none(),
            "{tampering:?}: {damage:?}"
        );
        harness.store().close().await;
    }
}
