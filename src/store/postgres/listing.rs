//! Statements for pages of orders, newest first. Each is served by one index, from the place where the previous page
//! ended. Where the index does not cover the whole filter, a page looks at a limited number of rows and tells how far
//! it came.

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::failure::PgFailure;
use super::id_range::IdRange;
use super::rows;
use crate::order::{MilestoneName, Order, OrderId, OrderStatus};
use crate::store::columns::{ORDER_COLUMNS, order_columns};
use crate::store::{OrderQuery, PAGE_ROWS_EXAMINED_MAX, codes};

/// The rows read in one step of a walk: so few that the index in its order is the cheapest plan, whatever the
/// statistics say. With thousands, the planner may collect and sort the whole range.
const STEP_ROWS: usize = 20;

/// The statement of a page and its parameters; `$3` is the number of orders. A row has the columns of an order. Where
/// rows may be read in vain, a last column has the id down to which all rows were read.
pub(super) struct Listing<'q> {
    pub statement: String,
    pub parameters: Vec<(&'q (dyn ToSql + Sync), Type)>,
}

impl<'q> Listing<'q> {
    pub fn new(query: &'q OrderQuery, range: &'q IdRange, limit: &'q i64) -> Listing<'q> {
        let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![
            (&range.0, Type::INT8),
            (&range.1, Type::INT8),
            (limit, Type::INT8),
        ];
        let mut bind = |value: &'q (dyn ToSql + Sync), ty: Type| {
            parameters.push((value, ty));
            format!("${}", parameters.len())
        };
        let user = query.user_id.as_ref().map(|user_id| bind(user_id, Type::INT8));
        let reference = query
            .reference
            .as_ref()
            .map(|reference| bind(reference, Type::TEXT));
        let mut further = Vec::new();
        if let Some(time) = &query.created_after {
            further.push(format!("created_at > {}", bind(time, Type::TIMESTAMPTZ)));
        }
        if let Some(time) = &query.created_before {
            further.push(format!("created_at < {}", bind(time, Type::TIMESTAMPTZ)));
        }
        let milestone = query.milestone.as_ref().map(MilestoneName::as_str);
        let ranges = if let Some(reference) = reference {
            further.extend(user.map(|user| format!("user_id = {user}")));
            further.extend(overdue(query));
            further.extend(milestone.map(has_milestone));
            further.extend(held(query));
            further.extend(condition(&query.statuses));
            vec![Range::of(ORDERS, &[("reference", &reference)])]
        } else if query.overdue {
            further.extend(milestone.map(has_milestone));
            further.extend(held(query));
            further.extend(condition(&query.statuses));
            vec![Range::of_user(OVERDUE, user.as_deref())]
        } else if let Some(milestone) = milestone {
            further.extend(user.map(|user| format!("user_id = {user}")));
            further.extend(held(query));
            further.extend(condition(&query.statuses));
            // A name has only letters and underscores.
            vec![Range::of(ORDERS, &[("milestone", &format!("'{milestone}'"))])]
        } else if query.held {
            further.extend(held(query));
            further.extend(condition(&query.statuses));
            vec![Range::of_user(SET_ASIDE, user.as_deref())]
        } else if let Some(tables) = tables_of(&query.statuses, user.is_some()) {
            let tables = tables.into_iter();
            tables
                .map(|table| Range::of_user(table, user.as_deref()))
                .collect()
        } else {
            further.extend(condition(&query.statuses));
            vec![Range::of_user(ORDERS, user.as_deref())]
        };
        let statement = if further.is_empty() {
            exact(&ranges)
        } else {
            filtered(&ranges, &further.join(" and "))
        };
        Listing {
            statement,
            parameters,
        }
    }
}

const ORDERS: &str = "orderly.orders";
const LEASES: &str = "orderly.leases";
const SET_ASIDE: &str = "orderly.set_aside";
const OVERDUE: &str = "orderly.overdue";
/// The tables of Pending orders.
const LINES: [&str; 4] = [
    "orderly.first_line",
    "orderly.second_line",
    "orderly.blocked",
    SET_ASIDE,
];

/// Returns the table that lists the orders with a status, if the status is rare; otherwise that of all orders.
pub(super) fn table_of(status: OrderStatus) -> &'static str {
    match status {
        OrderStatus::Failed => "orderly.failed",
        OrderStatus::Cancelled => "orderly.cancelled",
        OrderStatus::Processing => LEASES,
        OrderStatus::Pending | OrderStatus::Completed => ORDERS,
    }
}

/// Returns the tables that list the orders with these statuses and no others; `None` if only all orders do.
fn tables_of(statuses: &[OrderStatus], by_user: bool) -> Option<Vec<&'static str>> {
    let of = |status: &OrderStatus| match status {
        OrderStatus::Completed => None,
        // These do not list the orders of a user.
        OrderStatus::Pending | OrderStatus::Processing if by_user => None,
        OrderStatus::Pending => Some(LINES.to_vec()),
        other => Some(vec![table_of(*other)]),
    };
    let mut tables = statuses.iter().map(of).collect::<Option<Vec<_>>>()?.concat();
    tables.sort_unstable();
    tables.dedup();
    (!tables.is_empty()).then_some(tables)
}

/// Writes the condition for some statuses, if there are any. Pending and Processing orders differ only by a lease.
fn condition(statuses: &[OrderStatus]) -> Option<String> {
    let open = codes::status_code(OrderStatus::Pending);
    let runs = "exists (select from orderly.leases as l where l.order_id = looked_at.order_id offset 0)";
    let of = |status: &OrderStatus| match status {
        OrderStatus::Pending => format!("status = {open} and not {runs}"),
        OrderStatus::Processing => format!("status = {open} and {runs}"),
        OrderStatus::Completed | OrderStatus::Failed | OrderStatus::Cancelled => {
            format!("status = {}", codes::status_code(*status))
        }
    };
    let conditions: Vec<String> = statuses.iter().map(of).collect();
    (!conditions.is_empty()).then(|| format!("({})", conditions.join(" or ")))
}

fn overdue(query: &OrderQuery) -> Option<String> {
    query.overdue.then(|| "overdue".to_owned())
}

fn held(query: &OrderQuery) -> Option<String> {
    query.held.then(|| {
        format!("exists (select from {SET_ASIDE} as a where a.order_id = looked_at.order_id and a.held_at is not null offset 0)")
    })
}

fn has_milestone(name: &str) -> String {
    format!("milestone = '{name}'")
}

/// Reads the orders of a page, and the id below which the next page begins; `None` after the last page.
pub(super) fn page_of(found: &[Row], limit: usize) -> Result<(Vec<Order>, Option<OrderId>), PgFailure> {
    let mut orders = Vec::new();
    let mut complete_to = None;
    for row in found {
        if row.len() > ORDER_COLUMNS {
            complete_to = rows::column::<Option<i64>>(row, ORDER_COLUMNS)?.map(OrderId);
        }
        // Without orders there is one row, which has only the last column.
        let Some(order_id) = rows::column::<Option<i64>>(row, 0)?.map(OrderId) else {
            continue;
        };
        if complete_to.is_some_and(|complete_to| order_id < complete_to) {
            break;
        }
        if orders.len() == limit {
            let last = orders.last().map(|last: &Order| last.order_id);
            return Ok((orders, last));
        }
        orders.push(rows::order(row)?);
    }
    Ok((orders, complete_to))
}

/// A range of a table's index on some columns and the id, newest first. The columns are compared as a row and all of
/// them are in the sort order, so that no other index provides it: with unlucky statistics the planner would walk the
/// primary key.
struct Range {
    table: &'static str,
    /// The columns of the index; the last is the id.
    names: Vec<&'static str>,
    /// The values of the columns before the id, as SQL.
    values: Vec<String>,
}

impl Range {
    fn of(table: &'static str, columns: &[(&'static str, &str)]) -> Range {
        let names = columns.iter().map(|(name, _)| *name);
        Range {
            table,
            names: names.chain(["order_id"]).collect(),
            values: columns.iter().map(|(_, value)| (*value).to_owned()).collect(),
        }
    }

    fn of_user(table: &'static str, user: Option<&str>) -> Range {
        match user {
            None => Range::of(table, &[]),
            Some(user) => Range::of(table, &[("user_id", user)]),
        }
    }

    /// Writes the query for the ids of the range below an id.
    fn ids(&self, below: &str) -> String {
        self.select("order_id", below)
    }

    /// Writes the query for the rows of the range below an id, with the columns that conditions use.
    fn rows(&self, below: &str) -> String {
        const COLUMNS: &str = "status, user_id, created_at, milestone, overdue";
        if self.table == ORDERS {
            return self.select(&format!("order_id, {COLUMNS}"), below);
        }
        let listed = self.select("order_id", below);
        format!(
            "select ids.order_id, o.* from ({listed} limit {STEP_ROWS}) as ids
             cross join lateral (
                 select {COLUMNS} from {ORDERS} where orders.order_id = ids.order_id offset 0) as o"
        )
    }

    fn select(&self, columns: &str, below: &str) -> String {
        let newest_first: Vec<String> = self.names.iter().map(|name| format!("{name} desc")).collect();
        format!(
            "select {columns} from {table} as listed where {conditions} order by {newest_first}",
            table = self.table,
            conditions = self.conditions(below).join(" and "),
            newest_first = newest_first.join(", "),
        )
    }

    fn conditions(&self, below: &str) -> Vec<String> {
        // With two bounds on one column and no statistics, the planner expects hardly any row between them, and
        // collects and sorts the whole range for each step of a walk.
        let at_or_above = if self.values.is_empty() {
            "(order_id, 0) >= ($1, 0)".to_owned()
        } else {
            self.compared(">=", "$1")
        };
        let mut conditions = vec![at_or_above, self.compared("<", below)];
        // A partial index without nulls: the planner does not conclude from a row comparison that the column is not
        // null.
        if let column @ ("reference" | "milestone") = self.names[0] {
            conditions.push(format!("{column} is not null"));
        }
        conditions
    }

    /// Writes the comparison of the index's columns with their values and an id.
    fn compared(&self, comparison: &str, id: &str) -> String {
        let values: Vec<&str> = self.values.iter().map(String::as_str).chain([id]).collect();
        format!("({}) {comparison} ({})", self.names.join(", "), values.join(", "))
    }
}

/// Writes the statement of a page of all rows in the ranges.
fn exact(ranges: &[Range]) -> String {
    let pages: Vec<String> = ranges.iter().map(|range| range.ids("$2") + " limit $3").collect();
    format!(
        "select found.* from (select order_id from (({})) as pages order by order_id desc limit $3) as page {}",
        pages.join(") union all ("),
        orders_of("page.order_id"),
    )
}

/// Writes the join of orders to their ids, read one by one.
fn orders_of(id: &str) -> String {
    format!(
        "cross join lateral (select {} from orderly.order_state where order_id = {id} offset 0) as found
         order by {id} desc",
        order_columns!()
    )
}

/// Writes the statement of a page of the rows that meet a condition. Each range is walked in steps until a page is
/// full or too many rows were read. The last column is the highest id at which a walk ended early; down to it, no
/// order is missing.
fn filtered(ranges: &[Range], condition: &str) -> String {
    let rows_max = PAGE_ROWS_EXAMINED_MAX / ranges.len();
    let numbers = || 0..ranges.len();
    let walks: Vec<String> = numbers()
        .zip(ranges)
        .map(|(number, range)| walk(number, range, condition, rows_max))
        .collect();
    let ends: Vec<String> = numbers()
        .map(|number| {
            format!(
                "case when cardinality(end_{number}.ids) >= $3 or end_{number}.looked_at >= {rows_max}
                 then end_{number}.low end"
            )
        })
        .collect();
    let ids: Vec<String> = numbers().map(|number| format!("end_{number}.ids")).collect();
    let tables: Vec<String> = numbers().map(|number| format!("end_{number}")).collect();
    format!(
        "with recursive {walks}
         select found.*, complete_to
         from (select greatest({ends}) as complete_to, {ids} as ids from {tables}) as walked
         left join lateral (
             select found.*
             from (select id from unnest(walked.ids) as id order by id desc limit $3) as page {orders}) as found on true
         order by order_id desc",
        walks = walks.join(", "),
        ends = ends.join(", "),
        ids = ids.join(" || "),
        tables = tables.join(", "),
        orders = orders_of("page.id"),
    )
}

/// Writes the walk through a range, and where it ended.
fn walk(number: usize, range: &Range, condition: &str, rows_max: usize) -> String {
    let rows = range.rows(&format!("walk_{number}.low"));
    format!(
        "walk_{number} (low, ids, looked_at) as (
             select $2::int8, '{{}}'::int8[], 0::int8
             union all
             select step.low, walk_{number}.ids || step.ids, walk_{number}.looked_at + step.looked_at
             from walk_{number} cross join lateral (
                 select min(order_id) as low, count(*) as looked_at,
                     coalesce(array_agg(order_id) filter (where {condition}), '{{}}') as ids
                 from ({rows} limit {STEP_ROWS}) as looked_at) as step
             where cardinality(walk_{number}.ids) < $3 and walk_{number}.looked_at < {rows_max} and step.looked_at > 0
         ), end_{number} as (select * from walk_{number} order by looked_at desc limit 1)"
    )
}
