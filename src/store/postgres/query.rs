//! Reading: single orders, listings, numbers. Every listing is a page, served by one index from
//! the place where the page before ended.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::connect::Parameters;
use super::failure::Failure;
use super::links::Links;
use super::{ACCEPT_TIME_MAX, feed, rows};
use crate::order::{Order, OrderId, OrderStatus};
use crate::store::columns::{ORDER_COLUMNS, order_columns};
use crate::store::{
    Counters, NODES_MAX, Node, OrderPage, OrderQuery, OrderView, PAGE_ORDERS_MAX, QueueState, codes,
};
use crate::time::Timestamp;

/// Whatever statements that read are sent to: the pool, or the connection of a snapshot.
pub(super) trait Reads: Sync {
    fn read(
        &self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> impl Future<Output = Result<Vec<Row>, Failure>> + Send;
}

impl Reads for Links {
    async fn read(&self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        Links::read(self, statement, parameters).await
    }
}

pub(super) async fn order(source: &impl Reads, id: OrderId) -> Result<Option<Order>, Failure> {
    let statement = concat!(
        "select ",
        order_columns!(),
        " from orderly.orders where order_id = $1"
    );
    let found = source.read(statement, &[(&id.0, Type::INT8)]).await?;
    found.first().map(rows::order).transpose()
}

/// The order and the end of the feed in one view of the database.
pub(super) async fn order_view(source: &impl Reads, id: OrderId) -> Result<Option<OrderView>, Failure> {
    let statement = concat!(
        "select ",
        order_columns!(),
        ", feed_id, last_position from orderly.orders cross join orderly.queue where order_id = $1 and queue.id = 1"
    );
    let found = source.read(statement, &[(&id.0, Type::INT8)]).await?;
    let view = |row| {
        Ok(OrderView {
            order: rows::order(row)?,
            at: rows::feed_cursor(row, ORDER_COLUMNS)?,
        })
    };
    found.first().map(view).transpose()
}

pub(super) async fn orders(source: &impl Reads, query: &OrderQuery) -> Result<OrderPage, Failure> {
    let limit = query.limit.clamp(1, PAGE_ORDERS_MAX);
    // Read before the orders: what they do not show yet is committed later.
    let at = feed::end(source).await?;
    let Some(range) = id_range(source, query).await? else {
        return Ok(OrderPage {
            orders: Vec::new(),
            next: None,
            at,
        });
    };
    let page_and_one = rows::limit(limit + 1);
    let listing = Listing::new(query, &range, &page_and_one);
    let found = source.read(&listing.statement, &listing.parameters).await?;
    let mut orders = found.iter().map(rows::order).collect::<Result<Vec<_>, _>>()?;
    let more = orders.len() > limit;
    orders.truncate(limit);
    Ok(OrderPage {
        next: orders.last().map(|last| last.order_id).filter(|_| more),
        orders,
        at,
    })
}

/// Ids from the first on and below the second.
type IdRange = (i64, i64);

/// Bounds in time are bounds in ids up to what was accepted at the same moment; the times themselves are checked row
/// by row. `None` when no order can match.
async fn id_range(source: &impl Reads, query: &OrderQuery) -> Result<Option<IdRange>, Failure> {
    let mut range = (0, query.before.map_or(i64::MAX, |before| before.0));
    if let Some(time) = query.created_before
        && let Some(first) = first_created(source, Created::NotBefore(time)).await?
    {
        range.1 = range.1.min(first);
    }
    if let Some(time) = query.created_after {
        match first_created(source, Created::After(time)).await? {
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

/// An id from which on all orders were created so, or below which none was: not the first such order itself, since
/// orders that were accepted at the same moment do not have the times in the order of the ids. By bisection of the
/// primary key; `None` when there is none.
pub(super) async fn first_created(source: &impl Reads, bound: Created) -> Result<Option<i64>, Failure> {
    let (time, later) = match bound {
        Created::NotBefore(time) => (time.plus(ACCEPT_TIME_MAX), false),
        Created::After(time) => (time.minus(ACCEPT_TIME_MAX), true),
    };
    let found = source
        .read(
            include_str!("first_created.sql"),
            &[(&time, Type::TIMESTAMPTZ), (&later, Type::BOOL)],
        )
        .await?;
    found.first().map(|row| rows::column(row, 0)).transpose()
}

/// The statement of a page and its values: by the narrowest index, what it does not cover checked row by row.
struct Listing<'q> {
    statement: String,
    parameters: Vec<(&'q (dyn ToSql + Sync), Type)>,
}

impl<'q> Listing<'q> {
    fn new(query: &'q OrderQuery, range: &'q IdRange, limit: &'q i64) -> Listing<'q> {
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
        let after = query.created_after.as_ref().map_or(String::new(), |time| {
            format!(" and created_at > {}", bind(time, Type::TIMESTAMPTZ))
        });
        let before = query.created_before.as_ref().map_or(String::new(), |time| {
            format!(" and created_at < {}", bind(time, Type::TIMESTAMPTZ))
        });
        let times = after + &before;
        let status = query.status.map(|status| codes::status_code(status).to_string());
        let statement = match (reference, user, status) {
            (Some(reference), user, status) => {
                let user = user.map_or(String::new(), |user| format!(" and user_id = {user}"));
                let status = status.map_or(String::new(), |status| format!(" and status = {status}"));
                // The index has no others, which the planner does not conclude from a comparison of rows.
                let named = " and reference is not null";
                page(&[("reference", &reference)], &(times + &user + &status + named))
            }
            (None, Some(user), Some(status)) => page(&[("user_id", &user), ("status", &status)], &times),
            (None, Some(user), None) => {
                // The index has the status before the id: a page of each, and of those the newest.
                let per_status = OrderStatus::ALL.map(|status| {
                    let status = codes::status_code(status).to_string();
                    let of_status = page(&[("user_id", &user), ("status", &status)], &times);
                    format!("({of_status})")
                });
                let columns = order_columns!();
                let merged = per_status.join(" union all ");
                format!("select {columns} from ({merged}) as pages order by order_id desc limit $3")
            }
            (None, None, Some(status)) => page(&[("status", &status)], &times),
            (None, None, None) => page(&[], &times),
        };
        Listing {
            statement,
            parameters,
        }
    }
}

/// A range of the index on these columns and the id, newest first. Compared as rows and ordered by all of the columns,
/// so that no other index gives the order: with unlucky statistics the planner otherwise walks the primary key.
fn page(columns: &[(&str, &str)], further: &str) -> String {
    let names: Vec<&str> = columns
        .iter()
        .map(|(name, _)| *name)
        .chain(["order_id"])
        .collect();
    let row = |id: &str| {
        let values: Vec<&str> = columns.iter().map(|(_, value)| *value).chain([id]).collect();
        format!("({}) {{}} ({})", names.join(", "), values.join(", "))
    };
    let at_or_above = row("$1").replace("{}", ">=");
    let below = row("$2").replace("{}", "<");
    let newest_first: Vec<String> = names.iter().map(|name| format!("{name} desc")).collect();
    format!(
        "select {} from orderly.orders where {at_or_above} and {below}{further} order by {} limit $3",
        order_columns!(),
        newest_first.join(", ")
    )
}

pub(super) async fn counters(source: &impl Reads) -> Result<Counters, Failure> {
    let found = source
        .read(
            "select sum(pending)::int8, sum(processing)::int8, sum(completed)::int8, sum(failed)::int8,
                 sum(cancelled)::int8, sum(processing_micros)::int8
             from orderly.counters",
            &[],
        )
        .await?;
    counters_of(rows::only(&found)?)
}

fn counters_of(row: &Row) -> Result<Counters, Failure> {
    Ok(Counters {
        pending: rows::large_count(row, 0)?,
        processing: rows::large_count(row, 1)?,
        completed: rows::large_count(row, 2)?,
        failed: rows::large_count(row, 3)?,
        cancelled: rows::large_count(row, 4)?,
        processing_micros: rows::large_count(row, 5)?,
    })
}

pub(super) async fn queue(source: &impl Reads) -> Result<QueueState, Failure> {
    let found = source.read(include_str!("queue.sql"), &[]).await?;
    let row = rows::only(&found)?;
    let waiting_micros: Option<i64> = rows::column(row, 7)?;
    let oldest_waiting = waiting_micros.map(|micros| Duration::from_micros(micros.max(0).cast_unsigned()));
    let limit = rows::limit(NODES_MAX);
    let nodes = source
        .read(
            "select node, slots, busy, started_at, heartbeat_at, expires_at >= clock_timestamp(), breaker
             from orderly.nodes order by heartbeat_at desc, node limit $1",
            &[(&limit, Type::INT8)],
        )
        .await?;
    Ok(QueueState {
        counters: counters_of(row)?,
        paused: rows::column(row, 6)?,
        oldest_waiting,
        nodes: nodes.iter().map(node).collect::<Result<_, _>>()?,
    })
}

fn node(row: &Row) -> Result<Node, Failure> {
    Ok(Node {
        node: rows::node_of(rows::column(row, 0)?),
        slots: rows::count(row, 1)?,
        busy: rows::count(row, 2)?,
        started_at: rows::column(row, 3)?,
        heartbeat_at: rows::column(row, 4)?,
        alive: rows::column(row, 5)?,
        breaker: rows::breaker(row, 6)?,
    })
}
