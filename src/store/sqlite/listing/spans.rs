//! A user's orders, read span by span. A span is a block of consecutive ids; the index sorts by span, then by user, so that
//! inserts stay close together with any number of orders and users (docs/decisions/0015).

use rusqlite::{Connection, OptionalExtension};

use super::{IdRange, Page};
use crate::order::OrderId;
use crate::store::columns::order_columns;

/// Binary logarithm of the ids per span: a span has 4096 ids.
const SPAN_BITS: u32 = 12;
const NEWEST_SPAN: &str = "select order_id >> 12 from orders indexed by orders_user
    where order_id >> 12 < ?1 order by order_id >> 12 desc limit 1";
const USER_ORDERS_IN_SPAN: &str = concat!(
    "select ",
    order_columns!(),
    " from orders indexed by orders_user
    where order_id >> 12 = ?1 and user_id = ?2 and order_id >= ?3 and order_id < ?4 order by order_id desc"
);

/// Fills the page with a user's orders, newest first, skipping empty spans. Each span counts as an examined row, so that a page
/// also ends when the user has few orders among very many.
pub(super) fn fill(
    connection: &Connection,
    user_id: i64,
    range: IdRange,
    page: &mut Page<'_>,
) -> Result<(), rusqlite::Error> {
    let mut newest_span = connection.prepare_cached(NEWEST_SPAN)?;
    let mut user_orders_in_span = connection.prepare_cached(USER_ORDERS_IN_SPAN)?;
    let mut below = range.1;
    while page.next.is_none() && range.0 < below {
        let span: Option<i64> = newest_span
            .query_row([((below.0 - 1) >> SPAN_BITS) + 1], |row| row.get(0))
            .optional()?;
        let Some(span) = span else {
            break;
        };
        page.count_row(below);
        page.fill(user_orders_in_span.query((span, user_id, range.0, below))?)?;
        below = below.min(OrderId(span << SPAN_BITS));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::types::Value;

    use super::super::orders;
    use super::super::tests::{migrated, plan};
    use super::*;
    use crate::order::OrderStatus;
    use crate::store::{OrderQuery, PAGE_ROWS_EXAMINED_MAX};

    const SPAN: i64 = 1 << SPAN_BITS;

    #[test]
    fn the_orders_of_a_user_are_found_span_by_span() {
        let (_folder, connection) = migrated();
        for (statement, values, index) in [
            (NEWEST_SPAN, 1, "COVERING INDEX orders_user (<expr><?)"),
            (
                USER_ORDERS_IN_SPAN,
                4,
                "INDEX orders_user (<expr>=? AND user_id=? AND rowid>? AND rowid<?)",
            ),
        ] {
            let plan = plan(&connection, statement, vec![Value::Integer(1); values]);
            assert_eq!(plan, format!("SEARCH orders USING {index}\n"));
        }

        // Ids at the edges of spans and inside them, with empty spans between. Three users take turns; every fifth order is
        // Pending.
        let spans = [0, 1, 2, 5, 40, 41].map(|number| number * SPAN);
        let ids = spans
            .iter()
            .flat_map(|first| [-2, -1, 0, 1, 7, 8].map(|place| first + place));
        let ids: Vec<i64> = ids.filter(|id| *id > 0).collect();
        for id in &ids {
            insert(&connection, *id, id % 3 + 1, if id % 5 == 0 { 0 } else { 2 });
        }
        // A range that begins and ends inside spans.
        let inner = (OrderId(7), OrderId(40 * SPAN + 7));
        for user_id in 1..=3 {
            for status in [None, Some(OrderStatus::Completed), Some(OrderStatus::Pending)] {
                for limit in [1, 2, 50] {
                    let query = OrderQuery {
                        user_id: Some(user_id),
                        statuses: status.into_iter().collect(),
                        limit,
                        ..OrderQuery::default()
                    };
                    let expected = ids.iter().rev().copied().filter(|id| id % 3 + 1 == user_id);
                    let expected: Vec<i64> = match status {
                        None => expected.collect(),
                        Some(status) => expected
                            .filter(|id| (id % 5 == 0) == (status == OrderStatus::Pending))
                            .collect(),
                    };
                    assert_eq!(walk(&connection, &query), expected, "{query:?}");

                    let mut page = Page::of(&query);
                    fill(&connection, user_id, inner, &mut page).unwrap();
                    let expected = expected.into_iter().map(OrderId);
                    let expected = expected.filter(|id| inner.0 <= *id && *id < inner.1).take(limit);
                    assert!(
                        page.orders.iter().map(|order| order.order_id).eq(expected),
                        "{query:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_page_by_user_examines_at_most_ten_thousand_spans() {
        let (_folder, mut connection) = migrated();
        let transaction = connection.transaction().unwrap();
        for span in (0_i64..).take(PAGE_ROWS_EXAMINED_MAX + 1) {
            insert(&transaction, span * SPAN + 1, 1 + i64::from(span == 0), 2);
        }
        transaction.commit().unwrap();
        let query = OrderQuery {
            user_id: Some(2),
            limit: 50,
            ..OrderQuery::default()
        };
        let first = orders(&connection, &query).unwrap();
        assert_eq!(first.orders, [], "it examined too many spans");
        assert!(first.next.is_some());
        assert_eq!(walk(&connection, &query), [1]);
    }

    fn insert(connection: &Connection, id: i64, user_id: i64, status: i64) {
        connection
            .execute(
                "insert into orders (order_id, status, version, attempts, generation, crashes, fence, created_at,
                                     user_id, total_amount, item_ids, finished_at)
                 values (?1, ?3, 1, 0, 0, 0, 0, ?1, ?2, 100, '1', ?1)",
                (id, user_id, status),
            )
            .unwrap();
    }

    /// Orders of all pages.
    fn walk(connection: &Connection, query: &OrderQuery) -> Vec<i64> {
        let mut query = query.clone();
        let mut found = Vec::new();
        loop {
            let page = orders(connection, &query).unwrap();
            assert!(page.orders.len() <= query.limit);
            found.extend(page.orders.iter().map(|order| order.order_id.0));
            query.before = page.next;
            if page.next.is_none() {
                return found;
            }
        }
    }
}
