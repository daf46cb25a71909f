//! `orders`: every combination of filters, newest first, in pages without gaps or repeats.

use std::time::Duration;

use orderly::order::{NewOrder, OnFailure, OrderId, OrderStatus, Ordering, UserId};
use orderly::store::{OrderQuery, PAGE_ORDERS_MAX};

use super::filters::varied_orders;
use crate::support::Harness;
use crate::support::make::{new_order, order_of, order_with_reference, retry_after};

conformance! {
    orders_are_listed_newest_first,
    a_listed_order_is_the_whole_order,
    an_empty_store_has_an_empty_page,
    a_filter_without_matches_finds_nothing,
    creation_time_bounds_are_exclusive,
    references_match_exactly,
    pages_are_complete_and_without_repeats,
    pages_are_complete_while_orders_arrive,
    pages_are_complete_with_blocked_orders,
    a_full_last_page_is_marked_as_last,
    a_page_of_the_maximum_size_is_returned,
    a_page_by_reference_looks_at_no_more_than_ten_thousand_orders,
    a_page_by_time_looks_at_no_more_than_ten_thousand_orders,
    a_page_of_completed_orders_looks_at_no_more_than_ten_thousand_orders,
}

async fn orders_are_listed_newest_first(harness: &mut Harness) {
    let mut ids = harness.accept_some(5).await;
    ids.reverse();
    assert_eq!(list(harness, page_of(50)).await, ids);
}

async fn a_listed_order_is_the_whole_order(harness: &mut Harness) {
    for order in varied_orders(harness).await {
        let query = OrderQuery {
            before: Some(OrderId(order.order_id.0 + 1)),
            ..page_of(1)
        };
        let page = harness.store().orders(query).await.unwrap();
        assert_eq!(page.orders, [order]);
    }
}

async fn an_empty_store_has_an_empty_page(harness: &mut Harness) {
    let page = harness.store().orders(page_of(50)).await.unwrap();
    assert!(page.orders.is_empty());
    assert_eq!(page.next, None);
}

async fn a_filter_without_matches_finds_nothing(harness: &mut Harness) {
    let orders = varied_orders(harness).await;
    let newest = orders.last().unwrap().created_at;
    for query in [
        OrderQuery {
            user_id: Some(99),
            ..page_of(50)
        },
        OrderQuery {
            reference: Some("no such reference".to_owned()),
            ..page_of(50)
        },
        OrderQuery {
            created_after: Some(newest),
            ..page_of(50)
        },
        OrderQuery {
            created_before: Some(orders[0].created_at),
            ..page_of(50)
        },
        OrderQuery {
            before: Some(orders[0].order_id),
            ..page_of(50)
        },
    ] {
        assert_eq!(list(harness, query.clone()).await, [], "{query:?}");
    }
}

async fn creation_time_bounds_are_exclusive(harness: &mut Harness) {
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(harness.accept_one().await);
        harness.advance(Duration::from_micros(1)).await;
    }
    let middle = harness.order(ids[1]).await.created_at;
    let after = OrderQuery {
        created_after: Some(middle),
        ..page_of(50)
    };
    let before = OrderQuery {
        created_before: Some(middle),
        ..page_of(50)
    };
    assert_eq!(list(harness, after).await, [ids[2]]);
    assert_eq!(list(harness, before).await, [ids[0]]);
}

async fn references_match_exactly(harness: &mut Harness) {
    let requests = ["A-1", "a-1", "A-1 ", "A-10", "A%", "A-1"];
    let ids = harness.accept(requests.map(order_with_reference).to_vec()).await;
    harness.accept_one().await;
    let query = |reference: &str| OrderQuery {
        reference: Some(reference.to_owned()),
        ..page_of(50)
    };
    assert_eq!(list(harness, query("A-1")).await, [ids[5], ids[0]]);
    assert_eq!(list(harness, query("A%")).await, [ids[4]]);
}

async fn pages_are_complete_and_without_repeats(harness: &mut Harness) {
    let mut ids = harness.accept_some(100).await;
    ids.reverse();
    for limit in [1, 7, 33, 99, 100, 101] {
        assert_eq!(walk(harness, page_of(limit)).await, ids, "pages of {limit}");
    }
}

async fn pages_are_complete_while_orders_arrive(harness: &mut Harness) {
    let mut ids = harness.accept_some(20).await;
    ids.reverse();
    let mut query = page_of(3);
    let mut seen = Vec::new();
    loop {
        let page = harness.store().orders(query.clone()).await.unwrap();
        seen.extend(page.orders.iter().map(|order| order.order_id));
        harness.accept_some(2).await;
        match page.next {
            Some(next) => query.before = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, ids);
}

async fn pages_are_complete_with_blocked_orders(harness: &mut Harness) {
    harness
        .reopen_with_ordering(Ordering::by_user(OnFailure::Skip))
        .await;
    let ids = harness.accept([1, 1, 2, 2, 3].map(order_of).to_vec()).await;
    // A retry that has its turn, and one blocked by an earlier order that was redriven.
    harness.cancel(ids[2]).await;
    let leases = harness.claim(10).await;
    let started: Vec<OrderId> = leases.iter().map(|lease| lease.order.order_id).collect();
    assert_eq!(started, [ids[0], ids[3], ids[4]]);
    harness.redrive(ids[2]).await;
    for lease in &leases[..2] {
        harness.settle(lease, retry_after(60)).await;
    }
    let pending = [ids[3], ids[2], ids[1], ids[0]];
    for limit in [1, 2, 50] {
        let mut query = OrderQuery {
            statuses: vec![OrderStatus::Pending],
            ..page_of(limit)
        };
        assert_eq!(walk(harness, query.clone()).await, pending);
        query.user_id = Some(2);
        assert_eq!(walk(harness, query).await, pending[..2]);
    }
}

async fn a_full_last_page_is_marked_as_last(harness: &mut Harness) {
    harness.accept_some(6).await;
    let first = harness.store().orders(page_of(3)).await.unwrap();
    assert_eq!(first.next, Some(first.orders[2].order_id));
    let query = OrderQuery {
        before: first.next,
        ..page_of(3)
    };
    let second = harness.store().orders(query).await.unwrap();
    assert_eq!((second.orders.len(), second.next), (3, None));
}

async fn a_page_of_the_maximum_size_is_returned(harness: &mut Harness) {
    harness.accept_some(PAGE_ORDERS_MAX + 1).await;
    let page = harness.store().orders(page_of(PAGE_ORDERS_MAX)).await.unwrap();
    assert_eq!(page.orders.len(), PAGE_ORDERS_MAX);
    assert!(page.next.is_some());
}

async fn a_page_by_reference_looks_at_no_more_than_ten_thousand_orders(harness: &mut Harness) {
    let of_user = |user_id| NewOrder {
        user_id: UserId::Number(user_id),
        ..order_with_reference("web")
    };
    let wanted = harness.accept(vec![of_user(2), of_user(2)]).await;
    harness.cancel(wanted[1]).await;
    harness.accept_more_than_a_page_looks_at(&of_user(1)).await;
    for (status, user_id, expected) in [
        (None, Some(2), vec![wanted[1], wanted[0]]),
        (Some(OrderStatus::Cancelled), None, vec![wanted[1]]),
        (Some(OrderStatus::Cancelled), Some(2), vec![wanted[1]]),
        (Some(OrderStatus::Failed), None, vec![]),
    ] {
        let query = OrderQuery {
            statuses: status.into_iter().collect(),
            user_id,
            reference: Some("web".to_owned()),
            ..page_of(50)
        };
        let first = harness.store().orders(query.clone()).await.unwrap();
        assert_eq!(first.orders, [], "{query:?} looked at too many orders");
        assert!(first.next.is_some(), "{query:?}");
        assert_eq!(walk(harness, query).await, expected);
    }
    // Matching orders are found at once, however many follow.
    let query = OrderQuery {
        user_id: Some(1),
        reference: Some("web".to_owned()),
        ..page_of(50)
    };
    let page = harness.store().orders(query).await.unwrap();
    let last = page.orders.last().map(|order| order.order_id);
    assert_eq!((page.orders.len(), page.next), (50, last));
}

/// A shared store finds an instant by id only roughly: orders accepted concurrently have times in any order.
async fn a_page_by_time_looks_at_no_more_than_ten_thousand_orders(harness: &mut Harness) {
    let wanted = harness.accept_one().await;
    let cancelled = harness.accept_one().await;
    harness.cancel(cancelled).await;
    harness.advance(Duration::from_secs(1)).await;
    let later = harness.accept_more_than_a_page_looks_at(&new_order()).await;
    let created_before = Some(harness.order(later).await.created_at);
    let user = new_order().user_id.key();
    for (status, user_id, expected) in [
        (None, None, vec![cancelled, wanted]),
        (None, Some(user), vec![cancelled, wanted]),
        (Some(OrderStatus::Pending), None, vec![wanted]),
        (Some(OrderStatus::Pending), Some(user), vec![wanted]),
        (Some(OrderStatus::Cancelled), None, vec![cancelled]),
    ] {
        let query = OrderQuery {
            statuses: status.into_iter().collect(),
            user_id,
            created_before,
            ..page_of(1)
        };
        let first = harness.store().orders(query.clone()).await.unwrap();
        let looks_at_others = status != Some(OrderStatus::Cancelled) && !harness.is_embedded();
        assert_eq!(first.orders.is_empty(), looks_at_others, "{query:?}");
        assert_eq!(walk(harness, query).await, expected);
    }
}

async fn a_page_of_completed_orders_looks_at_no_more_than_ten_thousand_orders(harness: &mut Harness) {
    let completed = harness.order_in(OrderStatus::Completed).await;
    let failed = harness.order_in(OrderStatus::Failed).await;
    harness.accept_more_than_a_page_looks_at(&new_order()).await;
    for user_id in [None, Some(new_order().user_id.key())] {
        let query = |status| OrderQuery {
            statuses: vec![status],
            user_id,
            ..page_of(50)
        };
        let first = harness
            .store()
            .orders(query(OrderStatus::Completed))
            .await
            .unwrap();
        assert_eq!(first.orders, [], "it looked at too many");
        assert!(first.next.is_some());
        assert_eq!(walk(harness, query(OrderStatus::Completed)).await, [completed]);
        // Those that failed are found at once.
        assert_eq!(list(harness, query(OrderStatus::Failed)).await, [failed]);
    }
}

pub(super) fn page_of(limit: usize) -> OrderQuery {
    OrderQuery {
        limit,
        ..OrderQuery::default()
    }
}

pub(super) async fn list(harness: &Harness, query: OrderQuery) -> Vec<OrderId> {
    let page = harness.store().orders(query).await.unwrap();
    page.orders.iter().map(|order| order.order_id).collect()
}

/// All pages from first to last.
pub(super) async fn walk(harness: &Harness, mut query: OrderQuery) -> Vec<OrderId> {
    let mut seen = Vec::new();
    loop {
        let page = harness.store().orders(query.clone()).await.unwrap();
        assert!(page.orders.len() <= query.limit);
        seen.extend(page.orders.iter().map(|order| order.order_id));
        match page.next {
            Some(next) => query.before = Some(next),
            None => return seen,
        }
    }
}
