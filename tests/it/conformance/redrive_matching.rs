//! `redrive_matching`: many failed orders at once, oldest first, in bounded steps.

use std::time::Duration;

use orderly::lease::Outcome;
use orderly::order::{NewOrder, OrderId, OrderStatus, UserId};
use orderly::store::{RedriveOptions, RedriveQuery, Redriven, SWEEP_ORDERS_MAX};

use crate::support::Harness;
use crate::support::make::{failed, new_order, order_of};

conformance! {
    users_whose_names_share_a_key_are_told_apart,
    all_orders_with_the_status_are_redriven,
    a_dry_run_counts_and_changes_nothing,
    only_orders_of_the_user_are_redriven,
    only_orders_created_before_the_bound_are_redriven,
    filters_combine,
    a_redrive_without_matches_changes_nothing,
    one_call_redrives_the_oldest_orders_up_to_its_limit,
    a_mass_redrive_equals_single_redrives,
}

const FAILED: RedriveQuery = RedriveQuery {
    status: OrderStatus::Failed,
    user_id: None,
    user_name: None,
    created_before: None,
    options: RedriveOptions {
        reason: None,
        same_key: false,
    },
    dry_run: false,
};

async fn all_orders_with_the_status_are_redriven(harness: &mut Harness) {
    let failed = fail(harness, &[1, 2, 3]).await;
    let cancelled = harness.order_in(OrderStatus::Cancelled).await;
    let completed = harness.order_in(OrderStatus::Completed).await;
    assert_eq!(redrive(harness, FAILED).await, redriven(3));
    for id in failed {
        assert_eq!(harness.order(id).await.status, OrderStatus::Pending);
    }
    assert_eq!(harness.order(cancelled).await.status, OrderStatus::Cancelled);
    assert_eq!(harness.order(completed).await.status, OrderStatus::Completed);

    let cancelled_ones = RedriveQuery {
        status: OrderStatus::Cancelled,
        ..FAILED
    };
    assert_eq!(redrive(harness, cancelled_ones).await, redriven(1));
    assert_eq!(harness.order(cancelled).await.status, OrderStatus::Pending);
}

async fn a_dry_run_counts_and_changes_nothing(harness: &mut Harness) {
    fail(harness, &[1, 2, 3]).await;
    let before: Vec<_> = all_orders(harness).await;
    let dry_run = RedriveQuery {
        options: RedriveOptions::default(),
        dry_run: true,
        ..FAILED
    };
    let expected = Redriven {
        matched: 3,
        retried: 0,
        more: false,
    };
    assert_eq!(redrive(harness, dry_run).await, expected);
    assert_eq!(all_orders(harness).await, before);
}

async fn only_orders_of_the_user_are_redriven(harness: &mut Harness) {
    let ids = fail(harness, &[1, 2, 1]).await;
    let query = RedriveQuery {
        user_id: Some(1),
        ..FAILED
    };
    assert_eq!(redrive(harness, query.clone()).await, redriven(2));
    assert_eq!(harness.order(ids[1]).await.status, OrderStatus::Failed);
}

async fn only_orders_created_before_the_bound_are_redriven(harness: &mut Harness) {
    let early = fail(harness, &[1]).await[0];
    harness.advance(Duration::from_secs(10)).await;
    let late = fail(harness, &[1]).await[0];
    let query = RedriveQuery {
        created_before: Some(harness.order(late).await.created_at),
        ..FAILED
    };
    assert_eq!(redrive(harness, query.clone()).await, redriven(1));
    assert_eq!(harness.order(early).await.status, OrderStatus::Pending);
    assert_eq!(harness.order(late).await.status, OrderStatus::Failed);
}

async fn filters_combine(harness: &mut Harness) {
    let early = fail(harness, &[1, 2]).await;
    harness.advance(Duration::from_secs(10)).await;
    let late = fail(harness, &[1, 2]).await;
    let query = RedriveQuery {
        user_id: Some(2),
        created_before: Some(harness.order(late[0]).await.created_at),
        ..FAILED
    };
    assert_eq!(redrive(harness, query.clone()).await, redriven(1));
    assert_eq!(harness.order(early[1]).await.status, OrderStatus::Pending);
    assert_eq!(harness.counters().await.failed, 3);
}

async fn a_redrive_without_matches_changes_nothing(harness: &mut Harness) {
    harness.order_in(OrderStatus::Cancelled).await;
    assert_eq!(redrive(harness, FAILED).await, Redriven::default());
}

async fn one_call_redrives_the_oldest_orders_up_to_its_limit(harness: &mut Harness) {
    let mut ids = harness.accept_some(SWEEP_ORDERS_MAX).await;
    ids.push(harness.accept_one().await);
    harness.cancel_all(&ids).await;
    let query = RedriveQuery {
        status: OrderStatus::Cancelled,
        ..FAILED
    };
    let dry_run = RedriveQuery {
        dry_run: true,
        ..query.clone()
    };
    let counted = Redriven {
        matched: SWEEP_ORDERS_MAX,
        retried: 0,
        more: true,
    };
    assert_eq!(redrive(harness, dry_run).await, counted);
    let first = Redriven {
        more: true,
        ..redriven(SWEEP_ORDERS_MAX)
    };
    assert_eq!(redrive(harness, query.clone()).await, first);
    let newest = ids[SWEEP_ORDERS_MAX];
    assert_eq!(harness.order(newest).await.status, OrderStatus::Cancelled);
    assert_eq!(redrive(harness, query.clone()).await, redriven(1));
    assert_eq!(harness.counters().await.pending, ids.len() as u64);
}

async fn a_mass_redrive_equals_single_redrives(harness: &mut Harness) {
    let id = fail(harness, &[1]).await[0];
    redrive(harness, FAILED).await;
    let order = harness.order(id).await;
    assert_eq!((order.attempts, order.generation), (0, 1));
    assert_eq!((&order.last_error, order.finished_at), (&None, None));
    let lease = harness.claim_only(id).await;
    harness.settle(&lease, Outcome::COMPLETED).await;
}

fn redriven(orders: usize) -> Redriven {
    Redriven {
        matched: orders,
        retried: orders,
        more: false,
    }
}

async fn redrive(harness: &Harness, query: RedriveQuery) -> Redriven {
    harness.store().redrive_matching(query).await.unwrap()
}

/// Creates a Failed order for each user.
async fn fail(harness: &Harness, users: &[i64]) -> Vec<OrderId> {
    let ids = harness
        .accept(users.iter().map(|user| order_of(*user)).collect())
        .await;
    for lease in harness.claim(users.len()).await {
        harness.settle(&lease, failed()).await;
    }
    ids
}

async fn all_orders(harness: &Harness) -> Vec<orderly::order::Order> {
    let records = harness.records().await;
    records.into_iter().map(|record| record.order).collect()
}

/// A stored key that belongs to another name, as two texts with the same hash would have.
async fn users_whose_names_share_a_key_are_told_apart(harness: &mut Harness) {
    let user = UserId::parse("cus_1").unwrap();
    let order = NewOrder {
        user_id: user.clone(),
        ..new_order()
    };
    let id = harness.accept(vec![order]).await[0];
    harness.cancel(id).await;
    let of = |name: &str| RedriveQuery {
        status: OrderStatus::Cancelled,
        user_id: Some(user.key()),
        user_name: Some(name.into()),
        ..FAILED
    };
    assert_eq!(redrive(harness, of("cus_2")).await, redriven(0));
    assert_eq!(redrive(harness, of("cus_1")).await, redriven(1));
}
