//! Listings: pages of orders, newest first, each served by an index from the place where the page before ended.

mod spans;

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

use super::{feed, rows};
use crate::order::{Order, OrderId, OrderStatus};
use crate::store::codes;
use crate::store::columns::order_columns;
use crate::store::{OrderPage, OrderQuery, PAGE_ORDERS_MAX, PAGE_ROWS_LOOKED_AT_MAX};
use crate::time::Timestamp;

pub(super) fn orders(connection: &Connection, query: &OrderQuery) -> Result<OrderPage, rusqlite::Error> {
    let limit = query.limit.clamp(1, PAGE_ORDERS_MAX);
    let at = feed::end(connection)?;
    let Some(range) = id_range(connection, query)? else {
        return Ok(OrderPage {
            orders: Vec::new(),
            next: None,
            as_of: None,
            at,
        });
    };
    let completed = match asks_for_completed_of(query) {
        Some(user_id) => spans::completed_of_user(connection, user_id, range, limit + 1)?,
        None => Vec::new(),
    };
    let is_exact = query.reference.is_none() || (query.user_id.is_none() && query.status.is_none());
    let rows_max = if is_exact {
        limit + 1
    } else {
        PAGE_ROWS_LOOKED_AT_MAX
    };
    let (statement, values) = listing(query, range, rows_max, &completed);
    let mut statement = connection.prepare_cached(&statement)?;
    let mut found = statement.query(params_from_iter(values))?;
    let mut orders = Vec::new();
    let mut looked_at = 0;
    let mut last_looked_at = None;
    while let Some(row) = found.next()? {
        looked_at += 1;
        last_looked_at = Some(row.get(ORDER_ID)?);
        if !is_exact && !matches(row, query)? {
            continue;
        }
        if orders.len() == limit {
            let last = orders.last().map(|last: &Order| last.order_id);
            return Ok(OrderPage {
                next: last,
                orders,
                as_of: None,
                at,
            });
        }
        orders.push(rows::order(row)?);
    }
    Ok(OrderPage {
        // Not at the end: as many were looked at as one page may look at.
        next: last_looked_at.filter(|_| looked_at == rows_max),
        orders,
        as_of: None,
        at,
    })
}

/// Places of columns that [`order_columns`] names.
const ORDER_ID: usize = 0;
const STATUS: usize = 1;
const USER_ID: usize = 9;

/// Reports whether an order of the reference is one that is asked for.
fn matches(row: &Row<'_>, query: &OrderQuery) -> Result<bool, rusqlite::Error> {
    let has_status = match query.status {
        Some(status) => row.get::<_, OrderStatus>(STATUS)? == status,
        None => true,
    };
    let is_of_user = match query.user_id {
        Some(user_id) => row.get::<_, i64>(USER_ID)? == user_id,
        None => true,
    };
    Ok(has_status && is_of_user)
}

/// Ids from the first on and below the second.
type IdRange = (OrderId, OrderId);

/// `created_at` rises with the id, so bounds in time are bounds in ids. `None` when no order can match.
fn id_range(connection: &Connection, query: &OrderQuery) -> Result<Option<IdRange>, rusqlite::Error> {
    let mut range = (OrderId(0), query.before.unwrap_or(OrderId(i64::MAX)));
    if let Some(time) = query.created_before
        && let Some(first) = first_created(connection, Created::NotBefore(time))?
    {
        range.1 = range.1.min(first);
    }
    if let Some(time) = query.created_after {
        match first_created(connection, Created::After(time))? {
            Some(first) => range.0 = first,
            None => return Ok(None),
        }
    }
    Ok(Some(range))
}

#[derive(Clone, Copy)]
pub(super) enum Created {
    NotBefore(Timestamp),
    After(Timestamp),
}

/// The first order created so, by bisection of the primary key; `None` when there is none.
pub(super) fn first_created(
    connection: &Connection,
    bound: Created,
) -> Result<Option<OrderId>, rusqlite::Error> {
    let mut at_or_above = connection.prepare_cached(
        "select order_id, created_at from orders where order_id >= ?1 order by order_id limit 1",
    )?;
    let newest: Option<i64> = connection
        .prepare_cached("select max(order_id) from orders")?
        .query_row([], |row| row.get(0))?;
    let matches = |created_at: Timestamp| match bound {
        Created::NotBefore(time) => created_at >= time,
        Created::After(time) => created_at > time,
    };
    let mut found = None;
    let Some(newest) = newest else {
        return Ok(None);
    };
    // Every order below `low` was created too early; `high` is the last id that may still be the answer.
    let (mut low, mut high) = (0, newest);
    while low <= high {
        let middle = low + (high - low) / 2;
        let (order_id, created_at) = at_or_above.query_row([middle], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Timestamp>(1)?))
        })?;
        if matches(created_at) {
            found = Some(OrderId(order_id));
            high = middle - 1;
        } else {
            low = order_id + 1;
        }
    }
    Ok(found)
}

/// The statement of a page and its values: by the narrowest index. Orders of a reference are of any user and status. What the
/// user completed is given, where all or the completed orders of a user are asked for.
fn listing(query: &OrderQuery, range: IdRange, limit: usize, completed: &[OrderId]) -> (String, Vec<Value>) {
    let mut values = vec![
        Value::Integer(range.0.0),
        Value::Integer(range.1.0),
        Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX)),
    ];
    let mut bind = |value: Value| {
        values.push(value);
        format!("?{}", values.len())
    };
    let reference = query
        .reference
        .clone()
        .map(|reference| bind(Value::Text(reference)));
    let user = query
        .user_id
        .filter(|_| reference.is_none())
        .map(|user_id| bind(Value::Integer(user_id)));
    let in_range = "order_id >= ?1 and order_id < ?2";
    let newest_first = "order by order_id desc limit ?3";
    let columns = order_columns!();
    let statement = match (reference, user, query.status) {
        (Some(reference), _, _) => format!(
            "select {columns} from orders indexed by orders_reference
             where reference = {reference} and {in_range} {newest_first}"
        ),
        (None, Some(user), Some(status)) => match list_by_user(status) {
            Some(list) => {
                format!("select {columns} from {list} and user_id = {user} and {in_range} {newest_first}")
            }
            None => merged(&[given(&bind(json(completed)))]),
        },
        (None, Some(user), None) => {
            let completed = bind(json(completed));
            merged(&OrderStatus::ALL.map(|status| match list_by_user(status) {
                Some(list) => ids(&format!(
                    "{list} and user_id = {user} and {in_range} {newest_first}"
                )),
                None => given(&completed),
            }))
        }
        (None, None, Some(status)) => match status {
            OrderStatus::Pending => merged(
                &[FIRST_LINE_BY_ID, NOT_FIRST_BY_ID]
                    .map(|line| ids(&format!("{line} and {in_range} {newest_first}"))),
            ),
            // All of them are looked at, which are as many as are being processed.
            OrderStatus::Processing => merged(&[ids(&format!(
                "{PROCESSING_BY_USER} and {in_range} {newest_first}"
            ))]),
            OrderStatus::Completed | OrderStatus::Failed | OrderStatus::Cancelled => format!(
                "select {columns} from orders indexed by orders_ended
                 where finished_at is not null and status = {} and {in_range} {newest_first}",
                codes::status_code(status)
            ),
        },
        (None, None, None) => format!("select {columns} from orders where {in_range} {newest_first}"),
    };
    (statement, values)
}

/// The orders that wait, by id, as two lists.
const FIRST_LINE_BY_ID: &str =
    "orders indexed by orders_first where status = 0 and due_at is null and coalesce(turn, 0) = 0";
const NOT_FIRST_BY_ID: &str =
    "orders indexed by orders_not_first where status = 0 and (due_at is not null or turn = 1)";

/// The orders of users, by id: the table with the index that holds them, and the condition that makes it apply.
pub(super) const PENDING_BY_USER: &str = "orders indexed by orders_user_pending where status = 0";
pub(super) const PROCESSING_BY_USER: &str = "orders indexed by orders_processing where status = 1";
pub(super) const FAILED_BY_USER: &str =
    "orders indexed by orders_user_unsuccessful where status > 2 and status = 3";
const CANCELLED_BY_USER: &str = "orders indexed by orders_user_unsuccessful where status > 2 and status = 4";

/// The user whose completed orders are among those that [`listing`] needs to be given: of all statuses or of this one, unless
/// the reference leads to the orders.
fn asks_for_completed_of(query: &OrderQuery) -> Option<i64> {
    let lists_suffice = query.status.is_some_and(|status| list_by_user(status).is_some());
    query
        .user_id
        .filter(|_| query.reference.is_none() && !lists_suffice)
}

/// `None` for what is found by [`spans::completed_of_user`].
fn list_by_user(status: OrderStatus) -> Option<&'static str> {
    match status {
        OrderStatus::Pending => Some(PENDING_BY_USER),
        OrderStatus::Processing => Some(PROCESSING_BY_USER),
        OrderStatus::Completed => None,
        OrderStatus::Failed => Some(FAILED_BY_USER),
        OrderStatus::Cancelled => Some(CANCELLED_BY_USER),
    }
}

fn ids(list: &str) -> String {
    format!("select * from (select order_id from {list})")
}

/// What [`json`] holds.
fn given(order_ids: &str) -> String {
    format!("select value from json_each({order_ids})")
}

fn json(order_ids: &[OrderId]) -> Value {
    let order_ids: Vec<String> = order_ids.iter().map(OrderId::to_string).collect();
    Value::Text(format!("[{}]", order_ids.join(",")))
}

/// A page of several short lists of ids.
fn merged(lists: &[String]) -> String {
    format!(
        "select {} from orders where order_id in ({}) order by order_id desc limit ?3",
        order_columns!(),
        lists.join(" union all ")
    )
}

#[cfg(test)]
mod tests {
    use super::super::connection::open_writer;
    use super::super::migrations;
    use super::*;

    /// A new file of the current schema, and the folder it is in.
    pub fn migrated() -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        let mut connection = open_writer(&path).unwrap();
        migrations::apply(&path, &mut connection).unwrap();
        (folder, connection)
    }

    pub fn plan(connection: &Connection, statement: &str, values: Vec<Value>) -> String {
        connection
            .prepare(&format!("explain query plan {statement}"))
            .unwrap()
            .query_map(params_from_iter(values), |row| row.get::<_, String>(3))
            .unwrap()
            .map(|line| line.unwrap() + "\n")
            .collect()
    }

    /// Whatever the filters, a page is a range of one index in its order: nothing is sorted but the at most five
    /// short lists that some are merged from and what is in processing, and no table is scanned.
    #[test]
    fn every_page_is_served_by_an_index() {
        let (_folder, connection) = migrated();
        for status in OrderStatus::ALL.map(Some).into_iter().chain([None]) {
            for user_id in [None, Some(1)] {
                for reference in [None, Some("a".to_owned())] {
                    let query = OrderQuery {
                        status,
                        user_id,
                        reference,
                        ..OrderQuery::default()
                    };
                    let (statement, values) = listing(&query, (OrderId(0), OrderId(9)), 10, &[OrderId(1)]);
                    let plan = plan(&connection, &statement, values);
                    // All that is in processing is looked at, by an index that holds nothing else.
                    let scans = plan
                        .lines()
                        .filter(|line| line.contains("SCAN orders") && !line.ends_with("orders_processing"));
                    assert_eq!(scans.count(), 0, "{statement}\n{plan}");
                    let merges = match (query.user_id, query.status, &query.reference) {
                        (Some(_), None | Some(OrderStatus::Completed), None)
                        | (None, Some(OrderStatus::Pending | OrderStatus::Processing), None) => true,
                        (Some(_), Some(_), _) | (None, _, _) | (_, _, Some(_)) => false,
                    };
                    assert!(merges || !plan.contains("TEMP B-TREE"), "{statement}\n{plan}");
                }
            }
        }
    }

    #[test]
    fn a_claim_reads_only_the_heads_of_its_indexes() {
        let (_folder, connection) = migrated();
        for (statement, index, values) in [
            (include_str!("first_line.sql"), "orders_first", 1),
            (include_str!("second_line.sql"), "orders_due", 2),
            (include_str!("second_line_suspect.sql"), "orders_suspect", 2),
            (include_str!("give_back.sql"), "orders_processing", 4),
        ] {
            let plan = plan(&connection, statement, vec![Value::Integer(1); values]);
            assert!(plan.contains(&format!("INDEX {index}")), "{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        }
    }

    #[test]
    fn what_is_done_to_many_orders_at_once_reads_a_range_of_ids() {
        let (_folder, connection) = migrated();
        for (statement, values) in [
            (include_str!("start_run.sql"), 8),
            (include_str!("read_attempts.sql"), 4),
            (include_str!("complete_run.sql"), 4),
            (include_str!("insert_events.sql"), 6),
        ] {
            let plan = plan(&connection, statement, vec![Value::Integer(1); values]);
            let range = "SEARCH orders USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)\n";
            assert_eq!(plan, range, "{statement}");
        }
    }
}
