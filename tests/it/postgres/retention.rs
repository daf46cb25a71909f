//! Retention on a shared store: concurrent nodes, and events that are numbered late.

use std::time::Duration;

use orderly::lease::Outcome;
use orderly::order::OrderStatus;
use orderly::store::{ExternalHold, ExternalLease, FeedPosition, Prune, Pruned, SettledExternal};

use super::setup::Setup;
use crate::support::gate::Gate;
use crate::support::make::{NODE_A, claim_by, new_order};
use crate::support::proxy::Action;
use crate::support::{Harness, until};

const DAY: Prune = Prune {
    older_than: Duration::from_hours(24),
    after: None,
};
const LATER: Duration = Duration::from_hours(25);
/// The store's advisory locks, as in `store/postgres/locks.rs`.
const FEED_LOCK: i64 = 7_239_846_511_032_003;
const PRUNE_LOCK: i64 = 7_239_846_511_032_004;

/// Runs `meanwhile` while another session holds the lock.
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
async fn an_order_stays_until_all_its_events_have_positions() {
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
async fn a_retention_step_does_not_wait_for_another_node() {
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
async fn retention_passes_over_a_locked_order() {
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

/// The remaining order has events before and after the removed ones, in batches that are partly left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_finds_undocumented_gaps_in_the_feed() {
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
        // Two of three events of the batch of accepts are removed, and so are the batches of the two cancels.
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
async fn a_stored_result_counts_even_if_its_order_is_removed_at_once() {
    const AT_ONCE: Prune = Prune {
        older_than: Duration::ZERO,
        after: None,
    };
    let Some(setup) = Setup::new().await else { return };
    setup.store.accept([new_order()].into(), None).await.unwrap();
    let lease = setup
        .store
        .claim(claim_by(NODE_A, 1))
        .await
        .unwrap()
        .leases
        .remove(0);
    let hold = ExternalHold {
        lease: Duration::from_mins(1),
        run_max: Duration::from_mins(1),
    };
    let taken = setup.store.hold_external(lease.key(), hold).await.unwrap();
    assert!(matches!(taken, ExternalLease::Until(_)), "{taken:?}");
    // The order is read only after its result is stored.
    let gate = Gate::closed();
    let reading = gate.clone();
    setup.proxy.on_flight(move |flight| {
        if !flight.sql().contains("orderly.view_orders") {
            return Action::Forward;
        }
        Action::KeepBack {
            gate: reading.clone(),
            then: Box::new(Action::Forward),
        }
    });
    let (store, id) = (setup.store.clone(), lease.order.order_id);
    let settled =
        tokio::spawn(async move { store.settle_external(id, lease.token, Outcome::COMPLETED).await });
    gate.arrival().await;
    until("the order is removed", async || {
        setup.store.events_after(None, 10).await.unwrap();
        setup.store.prune(AT_ONCE).await.unwrap().orders == 1
    })
    .await;
    gate.open();
    let settled = settled.await.unwrap().unwrap();
    assert!(matches!(settled, SettledExternal::Unread(_)), "{settled:?}");
    setup.end().await;
}
