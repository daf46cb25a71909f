//! What only a shared store can get wrong about retention: other nodes at work, and a feed whose places are given late.

use std::time::Duration;

use orderly::lease::Outcome;
use orderly::order::OrderStatus;
use orderly::store::{FeedPosition, Held, OutsideHold, Prune, Pruned, SettledOutside};

use super::scene::Scene;
use crate::support::gate::Gate;
use crate::support::make::{NODE_A, claim_by, new_order};
use crate::support::proxy::Action;
use crate::support::{Harness, until};

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
    harness.number_all_events().await;
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
    harness.number_all_events().await;
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
    harness.number_all_events().await;
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
        harness.number_all_events().await;
        assert_eq!(harness.store().prune(DAY).await.unwrap().orders, 2);
        harness.cancel_all(&ids[2..]).await;
        harness.number_all_events().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_result_counts_though_retention_takes_its_order_at_once() {
    const AT_ONCE: Prune = Prune {
        older_than: Duration::ZERO,
        after: None,
    };
    let Some(scene) = Scene::new().await else { return };
    scene.store.accept([new_order()].into(), None).await.unwrap();
    let lease = scene
        .store
        .claim(claim_by(NODE_A, 1))
        .await
        .unwrap()
        .leases
        .remove(0);
    let hold = OutsideHold {
        lease: Duration::from_mins(1),
        run_max: Duration::from_mins(1),
    };
    let taken = scene.store.hold_outside(lease.key(), hold).await.unwrap();
    assert!(matches!(taken, Held::Until(_)), "{taken:?}");
    // The order is read once its result is stored.
    let gate = Gate::closed();
    let reading = gate.clone();
    scene.proxy.on_flight(move |flight| {
        if !flight.sql().contains("orderly.view_orders") {
            return Action::Forward;
        }
        Action::KeepBack {
            gate: reading.clone(),
            then: Box::new(Action::Forward),
        }
    });
    let (store, id) = (scene.store.clone(), lease.order.order_id);
    let settled =
        tokio::spawn(async move { store.settle_outside(id, lease.token, Outcome::COMPLETED).await });
    gate.arrival().await;
    until("the order is taken out", async || {
        scene.store.events_after(None, 10).await.unwrap();
        scene.store.prune(AT_ONCE).await.unwrap().orders == 1
    })
    .await;
    gate.open();
    let settled = settled.await.unwrap().unwrap();
    assert!(matches!(settled, SettledOutside::Unread(_)), "{settled:?}");
    scene.end().await;
}
