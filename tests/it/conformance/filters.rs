//! `orders`: every combination of filters finds exactly the matching orders.

use std::time::Duration;

use orderly::lease::Outcome;
use orderly::order::{MilestoneName, NewOrder, Order, OrderId, OrderStatus, UserId};
use orderly::store::OrderQuery;
use orderly::time::Timestamp;

use super::listing::{list, page_of, walk};
use crate::support::Harness;
use crate::support::make::{failed, order_of, order_with_reference, retry_after};

conformance! {
    every_combination_of_filters_finds_exactly_the_matching_orders,
    several_statuses_holds_deadlines_and_milestones_are_found,
    filtered_pages_are_complete,
}

async fn every_combination_of_filters_finds_exactly_the_matching_orders(harness: &mut Harness) {
    let orders = varied_orders(harness).await;
    let times: Vec<Timestamp> = orders.iter().map(|order| order.created_at).collect();
    let mut found_orders = 0;
    for combination in 0..1 << 6 {
        let chosen = |filter: usize| combination & (1 << filter) != 0;
        for status in OrderStatus::ALL {
            let query = OrderQuery {
                statuses: chosen(0).then_some(status).into_iter().collect(),
                user_id: chosen(1).then_some(1),
                reference: chosen(2).then(|| "R-1".to_owned()),
                created_after: chosen(3).then_some(times[3]),
                created_before: chosen(4).then_some(times[orders.len() - 3]),
                before: chosen(5).then_some(orders[orders.len() - 5].order_id),
                limit: 50,
                ..OrderQuery::default()
            };
            let expected = matching(&orders, &query);
            assert_eq!(list(harness, query.clone()).await, expected, "{query:?}");
            found_orders += expected.len();
            if !chosen(0) {
                break;
            }
        }
    }
    assert!(
        found_orders > 100,
        "the combinations find too few orders: {found_orders}"
    );
}

async fn several_statuses_holds_deadlines_and_milestones_are_found(harness: &mut Harness) {
    use OrderStatus::{Cancelled, Completed, Failed, Pending, Processing};
    let orders = varied_orders(harness).await;
    for statuses in [
        vec![],
        vec![Pending],
        vec![Failed, Cancelled],
        vec![Pending, Processing, Failed],
        vec![Pending, Completed],
        OrderStatus::ALL.to_vec(),
    ] {
        for (user_id, reference) in [(None, None), (Some(1), None), (None, Some("R-1"))] {
            for extra in 0..5 {
                let query = OrderQuery {
                    statuses: statuses.clone(),
                    user_id,
                    reference: reference.map(str::to_owned),
                    held: extra == 1,
                    overdue: extra == 2 || extra == 4,
                    milestone: (extra > 2).then(|| MilestoneName::parse("packed").unwrap()),
                    ..page_of(2)
                };
                let expected = matching(&orders, &query);
                assert_eq!(walk(harness, query.clone()).await, expected, "{query:?}");
                if statuses.is_empty() && reference.is_none() {
                    assert!(!expected.is_empty(), "{query:?}");
                }
            }
        }
    }
}

async fn filtered_pages_are_complete(harness: &mut Harness) {
    let orders = varied_orders(harness).await;
    for status in OrderStatus::ALL {
        for user_id in [None, Some(1), Some(2)] {
            let query = OrderQuery {
                statuses: vec![status],
                user_id,
                ..page_of(1)
            };
            assert_eq!(walk(harness, query.clone()).await, matching(&orders, &query));
        }
    }
}

/// The orders that match the query, by a plain implementation.
fn matching(orders: &[Order], query: &OrderQuery) -> Vec<OrderId> {
    let reference = |order: &Order| {
        let reference = order.request.reference.as_ref();
        reference.map(|reference| reference.as_str().to_owned())
    };
    orders
        .iter()
        .rev()
        .filter(|order| query.statuses.is_empty() || query.statuses.contains(&order.status))
        .filter(|order| !query.held || order.held_at.is_some())
        .filter(|order| !query.overdue || order.overdue)
        .filter(|order| query.milestone.is_none() || order.milestone == query.milestone)
        .filter(|order| {
            query
                .user_id
                .is_none_or(|user| order.request.user_id.key() == user)
        })
        .filter(|order| query.reference.is_none() || reference(order) == query.reference)
        .filter(|order| query.created_after.is_none_or(|after| order.created_at > after))
        .filter(|order| {
            query
                .created_before
                .is_none_or(|before| order.created_at < before)
        })
        .filter(|order| query.before.is_none_or(|before| order.order_id < before))
        .map(|order| order.order_id)
        .collect()
}

/// Orders of two users in every status, with and without references, by rising id and time.
pub(super) async fn varied_orders(harness: &Harness) -> Vec<Order> {
    for user_id in [1, 2] {
        for reference in [None, Some("R-1"), Some("R-2")] {
            let request = NewOrder {
                user_id: UserId::Number(user_id),
                ..reference.map_or_else(|| order_of(user_id), order_with_reference)
            };
            for outcome in [Outcome::COMPLETED, failed(), retry_after(3600)] {
                start(harness, &request, Some(outcome)).await;
            }
            let cancelled = start(harness, &request, None).await;
            harness.cancel(cancelled).await;
            start(harness, &request, None).await;
        }
    }
    harness.accept(vec![order_of(1), order_of(2)]).await;
    let deadline = Some(harness.now().await.plus(Duration::from_secs(1)));
    for user_id in [1, 2] {
        let held = harness
            .accept(vec![NewOrder {
                deadline,
                ..order_of(user_id)
            }])
            .await[0];
        harness.hold(held).await;
        let late = harness
            .accept(vec![NewOrder {
                deadline,
                ..order_with_reference("R-1")
            }])
            .await[0];
        for id in [held, late, OrderId(user_id)] {
            harness.milestone(id, "packed").await;
        }
        harness.milestone(OrderId(user_id + 2), "shipped").await;
    }
    harness.advance(Duration::from_secs(1)).await;
    assert_eq!(harness.fire_timers().await.overdue, 4);
    let records = harness.records().await;
    records.into_iter().map(|record| record.order).collect()
}

async fn start(harness: &Harness, request: &NewOrder, outcome: Option<Outcome>) -> OrderId {
    harness.advance(Duration::from_secs(1)).await;
    let id = harness.accept(vec![request.clone()]).await[0];
    let lease = harness.claim_only(id).await;
    if let Some(outcome) = outcome {
        harness.settle(&lease, outcome).await;
    }
    id
}
