//! What users completed, which is nearly all that is ever stored: in spans of consecutive ids, by user within each, so that what
//! a result writes stays together however much is stored (docs/decisions/0015). Other orders of users are left to `listing`.

use rusqlite::{Connection, OptionalExtension};

use super::IdRange;
use crate::order::OrderId;

/// Spans have 2^18 ids.
const SPAN_BITS: u32 = 18;
const NEWEST_SPAN_COMPLETED: &str = "select order_id >> 18 from orders indexed by orders_user_completed
    where status = 2 and order_id >> 18 < ?1 order by order_id >> 18 desc limit 1";
const COMPLETED_OF_USER_IN_SPAN: &str = "select order_id from orders indexed by orders_user_completed
    where status = 2 and order_id >> 18 = ?1 and user_id = ?2 and order_id >= ?3 and order_id < ?4
    order by order_id desc limit ?5";

/// The newest completed orders of a user, newest first: span by span of `orders_user_completed`, from one that has orders to
/// the next that has.
pub(super) fn completed_of_user(
    connection: &Connection,
    user_id: i64,
    range: IdRange,
    limit: usize,
) -> Result<Vec<OrderId>, rusqlite::Error> {
    let mut newest_span = connection.prepare_cached(NEWEST_SPAN_COMPLETED)?;
    let mut in_span = connection.prepare_cached(COMPLETED_OF_USER_IN_SPAN)?;
    let mut found = Vec::new();
    let mut below = range.1;
    while found.len() < limit && range.0 < below {
        let span: Option<i64> = newest_span
            .query_row([span_of(OrderId(below.0 - 1)) + 1], |row| row.get(0))
            .optional()?;
        let Some(span) = span else {
            break;
        };
        let ids = in_span.query_map((span, user_id, range.0, below, limit - found.len()), |row| {
            row.get(0)
        })?;
        for id in ids {
            found.push(id?);
        }
        below = below.min(OrderId(span << SPAN_BITS));
    }
    Ok(found)
}

fn span_of(order_id: OrderId) -> i64 {
    order_id.0 >> SPAN_BITS
}

#[cfg(test)]
mod tests {
    use rusqlite::types::Value;

    use super::super::orders;
    use super::super::tests::{migrated, plan};
    use super::*;
    use crate::order::OrderStatus;
    use crate::store::OrderQuery;

    #[test]
    fn what_a_user_completed_is_found_span_by_span() {
        let (_folder, connection) = migrated();
        let span = OrderId(1 << SPAN_BITS);
        for (statement, values, range) in [
            (NEWEST_SPAN_COMPLETED, 1, "(<expr><?)"),
            (
                COMPLETED_OF_USER_IN_SPAN,
                5,
                "(<expr>=? AND user_id=? AND rowid>? AND rowid<?)",
            ),
        ] {
            let plan = plan(&connection, statement, vec![Value::Integer(1); values]);
            let found = format!("SEARCH orders USING COVERING INDEX orders_user_completed {range}\n");
            assert_eq!(plan, found);
        }

        // At the edges of spans, and far from them, with empty ones between; every third is of another user.
        let spans = [0, 1, 2, 5, 40, 41].map(|number| number * span.0);
        let ids = spans
            .iter()
            .flat_map(|first| [-2, -1, 0, 1, 7, 8].map(|place| first + place));
        let ids: Vec<i64> = ids.filter(|id| *id > 0).collect();
        for id in &ids {
            connection
                .execute(
                    "insert into orders (order_id, status, version, attempts, generation, crashes, fence, created_at,
                                         user_id, total_amount, item_ids, finished_at)
                     values (?1, 2, 1, 0, 0, 0, 0, ?1, ?2, 100, '1', ?1)",
                    (id, id % 3),
                )
                .unwrap();
        }
        for user_id in 0..3 {
            for status in [None, Some(OrderStatus::Completed)] {
                for limit in [1, 2, 50] {
                    let mut query = OrderQuery {
                        user_id: Some(user_id),
                        status,
                        limit,
                        ..OrderQuery::default()
                    };
                    let mut found = Vec::new();
                    loop {
                        let page = orders(&connection, &query).unwrap();
                        found.extend(page.orders.iter().map(|order| order.order_id.0));
                        query.before = page.next;
                        if page.next.is_none() {
                            break;
                        }
                    }
                    let expected = ids.iter().rev().copied().filter(|id| id % 3 == user_id);
                    assert_eq!(found, expected.collect::<Vec<_>>(), "{query:?}");
                }
            }
        }
        // A range that ends within a span and begins within another.
        let some = completed_of_user(&connection, 0, (OrderId(7), OrderId(span.0 + 7)), 50).unwrap();
        let expected = ids
            .iter()
            .rev()
            .copied()
            .filter(|id| id % 3 == 0 && (7..span.0 + 7).contains(id));
        assert!(some.iter().map(|id| id.0).eq(expected), "{some:?}");
    }
}
