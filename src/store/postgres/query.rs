//! Reading: single orders, pages of orders, numbers. The statement of a page is left to `listing`.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::connect::Parameters;
use super::created::id_range;
use super::failure::Failure;
use super::floor::KnownFloor;
use super::links::{Links, Reads};
use super::listing::{self, Listing};
use super::rows;
use super::shared::Shared;
use crate::order::{Order, OrderId, Ordering};
use crate::store::columns::order_columns;
use crate::store::{
    BLOCKED_MAX, Blocked, Counters, FeedBounds, FeedPosition, NODES_MAX, Node, OrderPage, OrderQuery,
    PAGE_ORDERS_MAX, QueueState,
};

pub(super) async fn order(source: &impl Reads, id: OrderId) -> Result<Option<Order>, Failure> {
    let statement = concat!(
        "select ",
        order_columns!(),
        " from orderly.order_state where order_id = $1"
    );
    let found = source.read(statement, &[(&id.0, Type::INT8)]).await?;
    found.first().map(rows::order).transpose()
}

/// The order and the end of the feed in one view of the database.
pub(super) async fn orders(
    source: &Links,
    shared: &Shared,
    query: &OrderQuery,
) -> Result<OrderPage, Failure> {
    let limit = query.limit.clamp(1, PAGE_ORDERS_MAX);
    // Read before the orders: what they do not show yet is committed later.
    let end = feed_end(source, shared).await?;
    let at = end.cursor(end.last);
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
    let (orders, next) = listing::page_of(&found, limit)?;
    Ok(OrderPage { orders, next, at })
}

/// The bounds of the feed. Behind its end lies everything that what is read from now on does not show.
pub(super) async fn feed_end(source: &Links, shared: &Shared) -> Result<FeedBounds, Failure> {
    let mut link = source.link();
    let statement = "select (select identity from orderly.epochs order by epoch desc limit 1), complete_after, last_position
         from orderly.queue";
    let found = link.read(statement, &[]).await?;
    let row = rows::only(&found)?;
    Ok(FeedBounds {
        epochs: shared.epochs.up_to(rows::identity(row, 0)?, &mut link).await?,
        complete_after: FeedPosition(rows::column(row, 1)?),
        last: FeedPosition(rows::column(row, 2)?),
    })
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

/// Reads what queue.sql reads, and then what blocked.sql reads, at one instant.
const QUEUE_AND_BLOCKED: &str = concat!(
    "select * from (",
    include_str!("queue.sql"),
    ") as numbers cross join (",
    include_str!("blocked.sql"),
    ") as blocked"
);

pub(super) async fn queue(source: &impl Reads, floor: &KnownFloor) -> Result<QueueState, Failure> {
    let blocked_max = i64::try_from(BLOCKED_MAX).unwrap_or(i64::MAX);
    let server: &str = &floor.server;
    let parameters: Parameters<'_> = &[
        (&floor.bound, Type::INT8),
        (&server, Type::TEXT),
        (&blocked_max, Type::INT8),
    ];
    let mut found = source.read(include_str!("queue.sql"), &parameters[..2]).await?;
    let (mut oldest_undecided, mut blocked) = (None, Blocked::default());
    if rows::ordering(rows::only(&found)?, 7)? != Ordering::None {
        // All anew, so that the numbers are of one instant.
        found = source.read(QUEUE_AND_BLOCKED, parameters).await?;
        let row = rows::only(&found)?;
        oldest_undecided = age(row, 9)?;
        blocked = Blocked {
            orders: rows::large_count(row, 10)?,
            oldest_age: age(row, 11)?,
        };
    }
    let row = rows::only(&found)?;
    let oldest_waiting = age(row, 8)?.max(oldest_undecided);
    let limit = rows::limit(NODES_MAX);
    let nodes = source
        .read(
            "select node, slots, busy, started_at, heartbeat_at, expires_at >= clock_timestamp(), breaker, processor,
                 exists (select from orderly.queue as q where q.id = 1 and q.ordering = nodes.ordering
                     and q.processor = coalesce(nodes.processor, q.processor))
             from orderly.nodes order by heartbeat_at desc, node limit $1",
            &[(&limit, Type::INT8)],
        )
        .await?;
    Ok(QueueState {
        counters: counters_of(row)?,
        paused: rows::column(row, 6)?,
        oldest_waiting,
        blocked,
        nodes: nodes.iter().map(node).collect::<Result<_, _>>()?,
    })
}

/// Reads a number of microseconds; a clock that was set back makes it no time at all.
fn age(row: &Row, index: usize) -> Result<Option<Duration>, Failure> {
    let micros: Option<i64> = rows::column(row, index)?;
    Ok(micros.map(|micros| Duration::from_micros(micros.max(0).cast_unsigned())))
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
        processor: rows::processor(row, 7)?,
        agrees: rows::column(row, 8)?,
    })
}
