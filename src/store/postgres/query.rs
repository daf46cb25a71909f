//! Reads single orders, pages of orders, and the numbers of the queue. `listing` writes the statement of a page.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::class_pool::{ClassPool, ReadSource};
use super::connect::Parameters;
use super::failure::{PgFailure, to_store_result};
use super::id_range::id_range;
use super::listing::{self, Listing};
use super::lower_bound::LowerBound;
use super::rows;
use super::shared::Shared;
use crate::epoch::EpochIdentity;
use crate::order::{Order, OrderId, Ordering, Reason};
use crate::store::columns::order_columns;
use crate::store::{
    BLOCKED_MAX, Blocked, Counters, FeedBounds, FeedPosition, LogPosition, NODES_MAX, Node, OrderPage,
    OrderQuery, PAGE_ORDERS_MAX, Pause, QueueState, StoreError,
};

pub(super) async fn order(source: &impl ReadSource, id: OrderId) -> Result<Option<Order>, PgFailure> {
    let statement = concat!(
        "select ",
        order_columns!(),
        " from orderly.order_state where order_id = $1"
    );
    let found = source.read(statement, &[(&id.0, Type::INT8)]).await?;
    found.first().map(rows::order).transpose()
}

/// Reads a page of orders and the end of the feed before it; `with_place` adds the place in the log, for pages that
/// may come from other servers.
pub(super) async fn orders(
    source: &ClassPool,
    shared: &Shared,
    query: &OrderQuery,
    with_place: bool,
) -> Result<OrderPage, PgFailure> {
    // Read before the orders: what they do not show yet is committed later.
    let (end, as_of) = end_and_place(source, shared, with_place).await?;
    let (orders, next) = orders_of(source, query).await?;
    let at = end.cursor(end.last);
    Ok(OrderPage {
        orders,
        next,
        as_of: query.as_of.or(as_of),
        at,
    })
}

/// Reads the orders of a page, and the id below which the next page begins.
pub(super) async fn orders_of(
    source: &impl ReadSource,
    query: &OrderQuery,
) -> Result<(Vec<Order>, Option<OrderId>), PgFailure> {
    let limit = query.limit.clamp(1, PAGE_ORDERS_MAX);
    let Some(range) = id_range(source, query).await? else {
        return Ok((Vec::new(), None));
    };
    let page_and_one = rows::limit(limit + 1);
    let listing = Listing::new(query, &range, &page_and_one);
    let found = source.read(&listing.statement, &listing.parameters).await?;
    listing::page_of(&found, limit)
}

/// Reads the bounds of the feed. Everything that later reads do not show comes after its end.
pub(super) async fn feed_end(source: &ClassPool, shared: &Shared) -> Result<FeedBounds, PgFailure> {
    let (end, _) = end_and_place(source, shared, false).await?;
    Ok(end)
}

async fn end_and_place(
    source: &ClassPool,
    shared: &Shared,
    with_place: bool,
) -> Result<(FeedBounds, Option<LogPosition>), PgFailure> {
    let mut connection = source.connection();
    let statement = if with_place { END_AND_PLACE } else { END };
    let end = end_of(&connection.read(statement, &[]).await?)?;
    let bounds = FeedBounds {
        epochs: shared.epochs.up_to(end.newest, &mut connection).await?,
        complete_after: end.complete_after,
        last: end.last,
    };
    Ok((bounds, end.place))
}

/// The end of the feed as a server shows it.
pub(super) struct End {
    /// The newest epoch on that server.
    pub newest: EpochIdentity,
    pub complete_after: FeedPosition,
    pub last: FeedPosition,
    /// The place in the log; later statements show everything up to it.
    pub place: Option<LogPosition>,
}

macro_rules! end {
    ($place:literal) => {
        concat!(
            "select (select identity from orderly.epochs order by epoch desc limit 1), complete_after, last_position, ",
            $place,
            " from orderly.queue"
        )
    };
}

const END: &str = end!("null::int8");
/// Reads the end of the feed and the place in the log. Some services lack the functions for the latter.
pub(super) const END_AND_PLACE: &str = end!(
    "(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end - '0/0'::pg_lsn)::int8"
);

/// Reads the answer to [`END_AND_PLACE`].
pub(super) fn end_of(found: &[Row]) -> Result<End, PgFailure> {
    let row = rows::only(found)?;
    Ok(End {
        newest: rows::identity(row, 0)?,
        complete_after: FeedPosition(rows::column(row, 1)?),
        last: FeedPosition(rows::column(row, 2)?),
        place: rows::column::<Option<i64>>(row, 3)?.map(LogPosition),
    })
}

pub(super) async fn counters(source: &impl ReadSource) -> Result<Counters, PgFailure> {
    let found = source
        .read(
            "select sum(pending)::int8, sum(processing)::int8, sum(completed)::int8, sum(failed)::int8,
                 sum(cancelled)::int8, sum(processing_micros)::int8, sum(held)::int8, sum(scheduled)::int8
             from orderly.counters",
            &[],
        )
        .await?;
    counters_of(rows::only(&found)?, 6)
}

/// Reads the numbers by status from the first columns, and those of orders that are set aside from the columns at `set_aside`.
fn counters_of(row: &Row, set_aside: usize) -> Result<Counters, PgFailure> {
    Ok(Counters {
        pending: rows::large_count(row, 0)?,
        processing: rows::large_count(row, 1)?,
        completed: rows::large_count(row, 2)?,
        failed: rows::large_count(row, 3)?,
        cancelled: rows::large_count(row, 4)?,
        held: rows::large_count(row, set_aside)?,
        scheduled: rows::large_count(row, set_aside + 1)?,
        processing_micros: rows::large_count(row, 5)?,
    })
}

/// Reads the columns of queue.sql and then those of blocked.sql, at one instant.
const QUEUE_AND_BLOCKED: &str = concat!(
    "select * from (",
    include_str!("queue.sql"),
    ") as numbers cross join (",
    include_str!("blocked.sql"),
    ") as blocked"
);

/// Reads the queue for a call of the store.
pub(super) async fn queue_state(pool: &ClassPool, shared: &Shared) -> Result<QueueState, StoreError> {
    to_store_result(queue(pool, &shared.lower_bound()).await, "read the queue")
}

pub(super) async fn queue(
    source: &impl ReadSource,
    lower_bound: &LowerBound,
) -> Result<QueueState, PgFailure> {
    let blocked_max = i64::try_from(BLOCKED_MAX).unwrap_or(i64::MAX);
    let server: &str = &lower_bound.server;
    let parameters: Parameters<'_> = &[
        (&lower_bound.bound, Type::INT8),
        (&server, Type::TEXT),
        (&blocked_max, Type::INT8),
    ];
    let mut found = source.read(include_str!("queue.sql"), &parameters[..2]).await?;
    let (mut oldest_undecided, mut blocked) = (None, Blocked::default());
    if rows::ordering(rows::only(&found)?, 7)? != Ordering::None {
        // Everything is read again, so that the numbers belong to one instant.
        found = source.read(QUEUE_AND_BLOCKED, parameters).await?;
        let row = rows::only(&found)?;
        oldest_undecided = age(row, 12)?;
        blocked = Blocked {
            orders: rows::large_count(row, 13)?,
            oldest_age: age(row, 14)?,
        };
    }
    let row = rows::only(&found)?;
    let oldest_waiting = age(row, 8)?.max(oldest_undecided);
    let limit = rows::limit(NODES_MAX);
    let nodes = source
        .read(
            "select node, slots, busy, started_at, heartbeat_at, expires_at >= clock_timestamp(), breaker, processor,
                 exists (select from orderly.queue as q where q.id = 1 and q.ordering = nodes.ordering
                     and q.processor = coalesce(nodes.processor, q.processor)),
                 name, version, clock_ahead, last_start_at
             from orderly.nodes order by heartbeat_at desc, node limit $1",
            &[(&limit, Type::INT8)],
        )
        .await?;
    Ok(QueueState {
        counters: counters_of(row, 10)?,
        pause: pause(row)?,
        oldest_waiting,
        blocked,
        handout: None,
        nodes: nodes.iter().map(node).collect::<Result<_, _>>()?,
    })
}

fn pause(row: &Row) -> Result<Option<Pause>, PgFailure> {
    let Some(at) = rows::column(row, 6)? else {
        return Ok(None);
    };
    let reason = rows::column::<Option<&str>>(row, 9)?;
    let reason = reason.map(Reason::parse).transpose();
    let reason = reason.map_err(|error| PgFailure::undecodable("a reason", error))?;
    Ok(Some(Pause { at, reason }))
}

/// Reads an age in microseconds. It is zero if a clock was set back.
fn age(row: &Row, index: usize) -> Result<Option<Duration>, PgFailure> {
    let micros: Option<i64> = rows::column(row, index)?;
    Ok(micros.map(|micros| Duration::from_micros(micros.max(0).cast_unsigned())))
}

fn node(row: &Row) -> Result<Node, PgFailure> {
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
        name: rows::column(row, 9)?,
        version: rows::column(row, 10)?,
        clock_ahead_micros: rows::column(row, 11)?,
        last_start_at: rows::column(row, 12)?,
    })
}
