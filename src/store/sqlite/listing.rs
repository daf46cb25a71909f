//! Pages of orders, newest first. Each page continues where the one before ended and is served by an index.

mod spans;

use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row, Rows, params_from_iter};

use super::{feed, rows};
use crate::order::{Order, OrderId, OrderStatus};
use crate::store::codes;
use crate::store::columns::order_columns;
use crate::store::{OrderPage, OrderQuery, PAGE_ORDERS_MAX, PAGE_ROWS_EXAMINED_MAX};
use crate::time::Timestamp;

pub(super) fn orders(connection: &Connection, query: &OrderQuery) -> Result<OrderPage, rusqlite::Error> {
    let at = feed::end_cursor(connection)?;
    let mut page = Page::of(query);
    if let Some(range) = id_range(connection, query)? {
        match query.user_id {
            Some(user_id) if needs_spans(query) => {
                spans::fill(connection, user_id, range, &mut page)?;
            }
            Some(_) | None => {
                let (statement, values) = listing(query, range, page.limit + 1);
                let mut statement = connection.prepare_cached(&statement)?;
                page.fill(statement.query(params_from_iter(values))?)?;
            }
        }
    }
    Ok(OrderPage {
        orders: page.orders,
        next: page.next,
        as_of: None,
        at,
    })
}

/// A page that is being filled.
struct Page<'q> {
    query: &'q OrderQuery,
    limit: usize,
    orders: Vec<Order>,
    rows_examined: usize,
    /// Set when the page is full or has examined the maximum number of rows. The next page continues below this id.
    next: Option<OrderId>,
}

impl Page<'_> {
    fn of(query: &OrderQuery) -> Page<'_> {
        Page {
            query,
            limit: query.limit.clamp(1, PAGE_ORDERS_MAX),
            orders: Vec::new(),
            rows_examined: 0,
            next: None,
        }
    }

    /// Adds the requested orders among these rows, which come newest first, until the page ends.
    fn fill(&mut self, mut found: Rows<'_>) -> Result<(), rusqlite::Error> {
        while self.next.is_none()
            && let Some(row) = found.next()?
        {
            if matches(row, self.query)? {
                if self.orders.len() == self.limit {
                    self.next = self.orders.last().map(|last| last.order_id);
                    break;
                }
                self.orders.push(rows::order(row)?);
            }
            self.count_row(row.get(ORDER_ID)?);
        }
        Ok(())
    }

    /// Counts an examined row. This page and the ones before have examined every order with this id or a later one.
    fn count_row(&mut self, seen_down_to: OrderId) {
        self.rows_examined += 1;
        if self.rows_examined >= PAGE_ROWS_EXAMINED_MAX {
            self.next = Some(seen_down_to);
        }
    }
}

/// Indexes of columns in [`order_columns`].
const ORDER_ID: usize = 0;
const STATUS: usize = 1;
const USER_ID: usize = 9;
const HELD_AT: usize = 20;
const MILESTONE: usize = 22;
const OVERDUE: usize = 24;

/// Reports whether an order is one of those that were asked for.
fn matches(row: &Row<'_>, query: &OrderQuery) -> Result<bool, rusqlite::Error> {
    let has_status = query.statuses.is_empty() || query.statuses.contains(&row.get(STATUS)?);
    let is_of_user = match query.user_id {
        Some(user_id) => row.get::<_, i64>(USER_ID)? == user_id,
        None => true,
    };
    let has_milestone = match &query.milestone {
        Some(name) => row.get_ref(MILESTONE)?.as_str_or_null()? == Some(name.as_str()),
        None => true,
    };
    let is_held = !query.held || row.get_ref(HELD_AT)? != ValueRef::Null;
    let is_overdue = !query.overdue || row.get(OVERDUE)?;
    Ok(has_status && is_of_user && has_milestone && is_held && is_overdue)
}

/// Ids from the first (inclusive) to the second (exclusive).
type IdRange = (OrderId, OrderId);

/// Turns the bounds in time into bounds in ids, since `created_at` rises with the id. `None` if no order can match.
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

/// The first order within the bound, found by binary search over the primary key; `None` if there is none.
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

/// The statement of a page and its values, served by the narrowest index. [`Page`] filters the rows. Where two indexes are
/// merged, each contributes at most `limit` orders.
fn listing(query: &OrderQuery, range: IdRange, limit: usize) -> (String, Vec<Value>) {
    let mut values = vec![Value::Integer(range.0.0), Value::Integer(range.1.0)];
    let mut bind = |value: Value| {
        values.push(value);
        format!("?{}", values.len())
    };
    let in_range = "order_id >= ?1 and order_id < ?2";
    let columns = order_columns!();
    let from = if let Some(reference) = &query.reference {
        let reference = bind(Value::Text(reference.clone()));
        format!("orders indexed by orders_reference where reference = {reference} and {in_range}")
    } else if query.overdue {
        format!("orders indexed by orders_overdue where overdue = 1 and {in_range}")
    } else if let Some(milestone) = &query.milestone {
        let milestone = bind(Value::Text(milestone.as_str().to_owned()));
        format!("orders indexed by orders_milestone where milestone = {milestone} and {in_range}")
    } else if let Some((user_id, list)) = list_by_user(query) {
        let user = bind(Value::Integer(user_id));
        format!("{list} and user_id = {user} and {in_range}")
    } else if query.held {
        format!("{NOT_FIRST_BY_ID} and {in_range}")
    } else if query.statuses.is_empty() || query.statuses.contains(&OrderStatus::Completed) {
        format!("orders where {in_range}")
    } else if let [status @ (OrderStatus::Failed | OrderStatus::Cancelled)] = query.statuses[..] {
        format!("{} and {in_range}", unsuccessful_by_id(status))
    } else {
        let limit = bind(Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
        let list = |from: &str| {
            format!(
                "select * from (select order_id from {from} and {in_range} order by order_id desc limit {limit})"
            )
        };
        let lists = query.statuses.iter().flat_map(|status| match status {
            OrderStatus::Pending => vec![list(FIRST_LINE_BY_ID), list(NOT_FIRST_BY_ID)],
            // Reads all running orders, whose number the slots limit.
            OrderStatus::Processing => vec![list(PROCESSING_BY_USER)],
            other => vec![list(&unsuccessful_by_id(*other))],
        });
        let lists: Vec<String> = lists.collect();
        format!("orders where order_id in ({})", lists.join(" union all "))
    };
    (
        format!("select {columns} from {from} order by order_id desc"),
        values,
    )
}

/// Pending orders by id, as two lists.
const FIRST_LINE_BY_ID: &str =
    "orders indexed by orders_first where status = 0 and due_at is null and coalesce(turn, 0) = 0";
const NOT_FIRST_BY_ID: &str =
    "orders indexed by orders_not_first where status = 0 and (due_at is not null or turn > 0)";

/// Lists of a user's orders by id: the table, the index that serves the list, and the condition of that partial index.
pub(super) const PROCESSING_BY_USER: &str = "orders indexed by orders_processing where status = 1";
pub(super) const FAILED_BY_USER: &str =
    "orders indexed by orders_user_unsuccessful where status > 2 and status = 3";
const CANCELLED_BY_USER: &str = "orders indexed by orders_user_unsuccessful where status > 2 and status = 4";

/// The list of failed or of cancelled orders by id.
fn unsuccessful_by_id(status: OrderStatus) -> String {
    let code = codes::status_code(status);
    format!("orders indexed by orders_unsuccessful where status > 2 and status = {code}")
}

/// The user, and the list of its orders with the status. `None` for several statuses, or one that most of a user's orders may have:
/// then all orders of the user are filtered.
fn list_by_user(query: &OrderQuery) -> Option<(i64, &'static str)> {
    let user_id = query.user_id?;
    let list = match query.statuses[..] {
        [OrderStatus::Processing] => PROCESSING_BY_USER,
        [OrderStatus::Failed] => FAILED_BY_USER,
        [OrderStatus::Cancelled] => CANCELLED_BY_USER,
        _ => return None,
    };
    Some((user_id, list))
}

/// Reports whether a listing by user must read [`spans`], because no narrower index serves it.
fn needs_spans(query: &OrderQuery) -> bool {
    query.reference.is_none() && !query.overdue && query.milestone.is_none() && list_by_user(query).is_none()
}

#[cfg(test)]
mod tests {
    use super::super::connection::open_writer;
    use super::super::migrations;
    use super::super::turns::{HAS_TURN_BY_USER, WAITING_BY_USER, first_of_user_sql};
    use super::*;
    use crate::order::MilestoneName;

    /// A new file with the current schema, and its folder.
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

    /// A page with any filters reads a range of one index in order. Only merged lists are sorted, which are short, and no table is
    /// scanned.
    #[test]
    fn every_page_is_served_by_an_index() {
        let (_folder, connection) = migrated();
        let mut several = vec![
            Vec::new(),
            OrderStatus::ALL.to_vec(),
            vec![OrderStatus::Failed, OrderStatus::Cancelled],
            vec![OrderStatus::Pending, OrderStatus::Processing, OrderStatus::Failed],
        ];
        several.extend(OrderStatus::ALL.map(|status| vec![status]));
        for statuses in several {
            for (user_id, choice) in [None, Some(1)]
                .into_iter()
                .flat_map(|user| (0..5).map(move |choice| (user, choice)))
            {
                let query = OrderQuery {
                    statuses: statuses.clone(),
                    user_id,
                    reference: (choice == 1).then(|| "a".to_owned()),
                    held: choice == 2,
                    overdue: choice == 3,
                    milestone: (choice == 4).then(|| MilestoneName::parse("packed").unwrap()),
                    ..OrderQuery::default()
                };
                if user_id.is_some() && needs_spans(&query) {
                    continue;
                }
                let (statement, values) = listing(&query, (OrderId(0), OrderId(9)), 10);
                let plan = plan(&connection, &statement, values);
                // All running orders are read, from an index that holds nothing else.
                let scans = plan
                    .lines()
                    .filter(|line| line.contains("SCAN orders") && !line.ends_with("orders_processing"));
                assert_eq!(scans.count(), 0, "{statement}\n{plan}");
                let merges = statement.contains("order_id in (");
                assert!(merges || !plan.contains("TEMP B-TREE"), "{statement}\n{plan}");
            }
        }
    }

    #[test]
    fn finding_a_users_first_order_reads_no_other_orders() {
        let (_folder, connection) = migrated();
        for (list, found) in [
            (HAS_TURN_BY_USER, "orders_turn (user_id=? AND turn=?)"),
            (WAITING_BY_USER, "orders_turn (user_id=? AND turn=?)"),
            (PROCESSING_BY_USER, "orders_processing (user_id=?)"),
            (
                FAILED_BY_USER,
                "orders_user_unsuccessful (user_id=? AND status=?)",
            ),
        ] {
            let plan = plan(&connection, &first_of_user_sql(list), vec![Value::Integer(1)]);
            assert!(plan.ends_with(&format!("INDEX {found}\n")), "{plan}");
            assert_eq!(plan.lines().count(), 1, "{plan}");
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
    fn statements_for_runs_of_orders_read_a_range_of_ids() {
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
