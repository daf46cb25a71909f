//! Ordering by user: at most one order of a user in processing, the next once no earlier one is open, and users do not
//! wait for each other.

use std::collections::BTreeMap;
use std::time::Duration;

use orderly::lease::{Lease, Outcome};
use orderly::order::{NewOrder, OnFailure, OrderId, OrderStatus, Ordering};
use orderly::store::{Acted, RedriveOptions, RedriveQuery, Settled};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::support::Harness;
use crate::support::harness::ids_of;
use crate::support::make::{LONGER_THAN_A_LEASE, NODE_A, NODE_B, failed, heartbeat, order_of, retry_after};

conformance! {
    orders_of_a_user_start_one_after_another,
    a_retry_blocks_later_orders_of_its_user,
    a_lost_lease_keeps_the_order_of_the_user,
    a_user_with_blocked_orders_does_not_hold_up_others,
    a_failed_order_passes_its_turn_to_later_orders,
    a_failed_order_can_block_later_ones_until_cancelled_or_completed,
    a_cancelled_order_passes_its_turn_on,
    a_redriven_order_starts_before_later_waiting_ones,
    a_redriven_order_waits_for_the_one_in_processing,
    orders_redriven_together_keep_their_order,
    the_orders_of_one_batch_wait_for_each_other,
    orders_accepted_before_the_setting_are_ordered_too,
    blocked_orders_start_once_ordering_is_turned_off,
    the_end_of_an_order_wakes_waiting_dispatchers,
    random_operations_keep_the_order_of_each_user,
    random_operations_keep_the_order_when_failures_block,
    an_order_removed_by_retention_blocks_no_other,
    without_ordering_all_orders_of_a_user_start_at_once,
}

async fn begin(harness: &mut Harness, on_failure: OnFailure) {
    harness.reopen_with_ordering(Ordering::by_user(on_failure)).await;
}

async fn accept_of(harness: &Harness, user_id: i64) -> OrderId {
    harness.accept(vec![order_of(user_id)]).await[0]
}

/// Accepts this many orders for each user, one user after another.
async fn accept_of_each(harness: &Harness, users: &[i64], orders: usize) -> BTreeMap<i64, Vec<OrderId>> {
    let mut accepted = BTreeMap::new();
    for user_id in users {
        let ids = harness.accept(vec![order_of(*user_id); orders]).await;
        accepted.insert(*user_id, ids);
    }
    accepted
}

async fn orders_of_a_user_start_one_after_another(harness: &mut Harness) {
    begin(harness, OnFailure::Skip).await;
    let ids = [accept_of(harness, 1).await, accept_of(harness, 1).await];
    let lease = harness.claim_only(ids[0]).await;
    assert_eq!(ids_of(&harness.claim(10).await), []);
    harness.settle(&lease, Outcome::COMPLETED).await;
    harness.claim_only(ids[1]).await;
}

async fn a_retry_blocks_later_orders_of_its_user(harness: &mut Harness) {
    begin(harness, OnFailure::Skip).await;
    let ids = [accept_of(harness, 1).await, accept_of(harness, 1).await];
    let lease = harness.claim_only(ids[0]).await;
    harness.settle(&lease, retry_after(7)).await;
    assert_eq!(ids_of(&harness.claim(10).await), []);
    harness.advance(Duration::from_secs(7)).await;
    let lease = harness.claim_only(ids[0]).await;
    harness.settle(&lease, Outcome::Released).await;
    let lease = harness.claim_only(ids[0]).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    harness.claim_only(ids[1]).await;
}

async fn a_lost_lease_keeps_the_order_of_the_user(harness: &mut Harness) {
    begin(harness, OnFailure::Skip).await;
    let ids = [accept_of(harness, 1).await, accept_of(harness, 1).await];
    harness.claim_as(NODE_B, 10).await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    assert_eq!(harness.give_back().await.pending, 1);
    harness.claim_only(ids[0]).await;
}

async fn a_user_with_blocked_orders_does_not_hold_up_others(harness: &mut Harness) {
    begin(harness, OnFailure::Block).await;
    let stuck = harness.accept(vec![order_of(1); 300]).await;
    let others = accept_of_each(harness, &[2, 3, 4], 2).await;
    let first: Vec<OrderId> = others.values().map(|ids| ids[0]).collect();
    let leases = harness.claim(4).await;
    assert_eq!(ids_of(&leases), [&stuck[..1], &first[..]].concat());
    harness.settle(&leases[0], failed()).await;
    for lease in &leases[1..] {
        harness.settle(lease, Outcome::COMPLETED).await;
    }
    let second: Vec<OrderId> = others.values().map(|ids| ids[1]).collect();
    assert_eq!(ids_of(&harness.claim(10).await), second);
}

async fn a_failed_order_passes_its_turn_to_later_orders(harness: &mut Harness) {
    begin(harness, OnFailure::Skip).await;
    let ids = [accept_of(harness, 1).await, accept_of(harness, 1).await];
    let lease = harness.claim_only(ids[0]).await;
    harness.settle(&lease, failed()).await;
    harness.claim_only(ids[1]).await;
}

async fn a_failed_order_can_block_later_ones_until_cancelled_or_completed(harness: &mut Harness) {
    begin(harness, OnFailure::Block).await;
    let ids = harness.accept(vec![order_of(1); 3]).await;
    let lease = harness.claim_only(ids[0]).await;
    harness.settle(&lease, failed()).await;
    assert_eq!(ids_of(&harness.claim(10).await), []);
    harness.redrive(ids[0]).await;
    let lease = harness.claim_only(ids[0]).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    let lease = harness.claim_only(ids[1]).await;
    harness.settle(&lease, failed()).await;
    assert_eq!(ids_of(&harness.claim(10).await), []);
    harness.cancel(ids[1]).await;
    harness.claim_only(ids[2]).await;
}

async fn a_cancelled_order_passes_its_turn_on(harness: &mut Harness) {
    begin(harness, OnFailure::Skip).await;
    let ids = harness.accept(vec![order_of(1); 4]).await;
    harness.cancel(ids[0]).await;
    let stale = harness.claim_only(ids[1]).await;
    harness.cancel(ids[1]).await;
    harness.cancel(ids[2]).await;
    harness.claim_only(ids[3]).await;
    let late = harness.store().settle(stale.key(), Outcome::COMPLETED).await;
    assert_eq!(late.unwrap(), Settled::Stale);
}

async fn a_redriven_order_starts_before_later_waiting_ones(harness: &mut Harness) {
    begin(harness, OnFailure::Skip).await;
    let ids = harness.accept(vec![order_of(1); 3]).await;
    let lease = harness.claim_only(ids[0]).await;
    harness.settle(&lease, failed()).await;
    // The second order has its turn and has not started yet.
    assert_eq!(ids_of(&harness.claim(0).await), []);
    harness.redrive(ids[0]).await;
    for id in ids {
        let lease = harness.claim_only(id).await;
        harness.settle(&lease, Outcome::COMPLETED).await;
    }
}

async fn a_redriven_order_waits_for_the_one_in_processing(harness: &mut Harness) {
    begin(harness, OnFailure::Skip).await;
    let ids = harness.accept(vec![order_of(1); 3]).await;
    let lease = harness.claim_only(ids[0]).await;
    harness.settle(&lease, failed()).await;
    let second = harness.claim_only(ids[1]).await;
    harness.redrive(ids[0]).await;
    assert_eq!(ids_of(&harness.claim(10).await), []);
    harness.settle(&second, retry_after(0)).await;
    for id in ids {
        let lease = harness.claim_only(id).await;
        harness.settle(&lease, Outcome::COMPLETED).await;
    }
}

async fn orders_redriven_together_keep_their_order(harness: &mut Harness) {
    begin(harness, OnFailure::Skip).await;
    let users = accept_of_each(harness, &[1, 2], 4).await;
    for _ in 0..4 {
        for lease in harness.claim(10).await {
            harness.settle(&lease, failed()).await;
        }
    }
    let all = RedriveQuery {
        status: OrderStatus::Failed,
        user_id: None,
        user_name: None,
        created_before: None,
        options: RedriveOptions::default(),
        dry_run: false,
    };
    assert_eq!(harness.store().redrive_matching(all).await.unwrap().retried, 8);
    for (of_the_first, of_the_second) in users[&1].iter().zip(&users[&2]) {
        let leases = harness.claim(10).await;
        assert_eq!(ids_of(&leases), [*of_the_first, *of_the_second]);
        for lease in leases {
            harness.settle(&lease, Outcome::COMPLETED).await;
        }
    }
}

async fn the_orders_of_one_batch_wait_for_each_other(harness: &mut Harness) {
    begin(harness, OnFailure::Skip).await;
    let orders: Vec<NewOrder> = [1, 2, 1, 2, 3].map(order_of).to_vec();
    let ids = harness.accept(orders).await;
    assert_eq!(ids_of(&harness.claim(10).await), [ids[0], ids[1], ids[4]]);
}

async fn orders_accepted_before_the_setting_are_ordered_too(harness: &mut Harness) {
    let ids = harness.accept(vec![order_of(1); 3]).await;
    let lease = harness.claim(1).await.remove(0);
    harness.settle(&lease, retry_after(7)).await;
    begin(harness, OnFailure::Skip).await;
    assert_eq!(ids_of(&harness.claim(10).await), []);
    harness.advance(Duration::from_secs(7)).await;
    for id in ids {
        let lease = harness.claim_only(id).await;
        harness.settle(&lease, Outcome::COMPLETED).await;
    }
}

async fn blocked_orders_start_once_ordering_is_turned_off(harness: &mut Harness) {
    begin(harness, OnFailure::Block).await;
    let ids = harness.accept(vec![order_of(1); 3]).await;
    let lease = harness.claim_only(ids[0]).await;
    harness.settle(&lease, failed()).await;
    harness.reopen_with_ordering(Ordering::None).await;
    assert_eq!(ids_of(&harness.claim(10).await), ids[1..]);
    let later = harness.accept(vec![order_of(1); 2]).await;
    assert_eq!(ids_of(&harness.claim(10).await), later);
}

async fn the_end_of_an_order_wakes_waiting_dispatchers(harness: &mut Harness) {
    begin(harness, OnFailure::Skip).await;
    let ids = harness.accept(vec![order_of(1); 2]).await;
    let lease = harness.claim_only(ids[0]).await;
    let wakeups = harness.store().wakeups();
    // Discards an earlier wake-up.
    wakeups.notify_work();
    wakeups.work().await;
    harness.settle(&lease, Outcome::COMPLETED).await;
    wakeups.work().await;
    harness.claim_only(ids[1]).await;
}

async fn an_order_removed_by_retention_blocks_no_other(harness: &mut Harness) {
    begin(harness, OnFailure::Block).await;
    let ids = harness.accept(vec![order_of(1); 2]).await;
    let lease = harness.claim_only(ids[0]).await;
    harness.settle(&lease, failed()).await;
    assert_eq!(ids_of(&harness.claim(10).await), []);
    harness.advance(Duration::from_hours(48)).await;
    harness.number_all_events().await;
    harness.prune_all().await;
    assert_eq!(harness.store().order_view(ids[0]).await.unwrap(), None);
    harness.claim_only(ids[1]).await;
}

/// The control: without ordering the other tests would fail.
async fn without_ordering_all_orders_of_a_user_start_at_once(harness: &mut Harness) {
    let ids = harness.accept(vec![order_of(1); 3]).await;
    assert_eq!(ids_of(&harness.claim(10).await), ids);
}

async fn random_operations_keep_the_order_of_each_user(harness: &mut Harness) {
    random_operations(harness, OnFailure::Skip).await;
}

async fn random_operations_keep_the_order_when_failures_block(harness: &mut Harness) {
    random_operations(harness, OnFailure::Block).await;
}

const STEPS: usize = 150;
const USERS: i64 = 4;

/// Computes the allowed orders from the table before every claim, and checks the claimed ones afterwards.
async fn random_operations(harness: &mut Harness, on_failure: OnFailure) {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    begin(harness, on_failure).await;
    let mut leases: Vec<Lease> = Vec::new();
    let mut ids: Vec<OrderId> = Vec::new();
    for _ in 0..STEPS {
        match random.random_range(0..12) {
            0..3 => {
                let orders = (0..random.random_range(1..4))
                    .map(|_| order_of(random.random_range(1..=USERS)))
                    .collect();
                ids.extend(harness.accept(orders).await);
            }
            3..6 => {
                leases.extend(claim_as_the_table_says(harness, on_failure, random.random_range(1..6)).await);
            }
            6..9 if !leases.is_empty() => {
                let lease = leases.swap_remove(random.random_range(0..leases.len()));
                let outcome = match random.random_range(0..6) {
                    0..2 => Outcome::COMPLETED,
                    2..4 => failed(),
                    4 => retry_after(7 * random.random_range(0..3)),
                    _ => Outcome::Released,
                };
                // The order may have been cancelled.
                harness.store().settle(lease.key(), outcome).await.unwrap();
            }
            9 => {
                if let Some(id) = ids.choose(&mut random) {
                    harness.store().cancel(*id, None).await.unwrap();
                }
            }
            10 => {
                if let Some(id) = ids.choose(&mut random)
                    && let Acted::Done(order) = harness
                        .store()
                        .redrive(*id, RedriveOptions::default())
                        .await
                        .unwrap()
                {
                    leases.retain(|lease| lease.order.order_id != order.order_id);
                }
            }
            _ => {
                harness.advance(Duration::from_secs(7)).await;
                let held = leases.iter().map(Lease::key).collect::<Vec<_>>();
                let renewed = harness.store().renew(heartbeat(NODE_A, &held)).await.unwrap();
                leases.retain(|lease| !renewed.lost.contains(&lease.key()));
            }
        }
    }
}

async fn claim_as_the_table_says(harness: &Harness, on_failure: OnFailure, orders_max: usize) -> Vec<Lease> {
    let now = harness.now().await;
    let mut first_open: BTreeMap<i64, OrderId> = BTreeMap::new();
    let mut startable = Vec::new();
    let mut busy = Vec::new();
    for record in harness.records().await {
        let order = &record.order;
        let user_id = order.request.user_id.key();
        let is_open = !order.status.is_final()
            || (on_failure == OnFailure::Block && order.status == OrderStatus::Failed);
        if is_open && *first_open.entry(user_id).or_insert(order.order_id) == order.order_id {
            let is_due = order.next_attempt_at.is_none_or(|due| due <= now);
            if order.status == OrderStatus::Pending && is_due {
                startable.push((user_id, order.order_id));
            }
        }
        if order.status == OrderStatus::Processing {
            busy.push(user_id);
        }
    }
    startable.retain(|(user_id, _)| !busy.contains(user_id));
    let startable: Vec<OrderId> = startable.into_iter().map(|(_, id)| id).collect();
    let leases = harness.claim(orders_max).await;
    let started = ids_of(&leases);
    assert!(
        started.iter().all(|id| startable.contains(id)),
        "{started:?} of {startable:?}"
    );
    assert_eq!(
        started.len(),
        startable.len().min(orders_max),
        "{started:?} of {startable:?}"
    );
    leases
}
