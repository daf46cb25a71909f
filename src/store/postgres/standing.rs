//! The reason why an order waits: what holds it, which order of its user it waits for, and what is before it in its
//! line.

use tokio_postgres::types::Type;

use super::class_pool::ReadSource;
use super::failure::PgFailure;
use super::lock_holders::lock_holders;
use super::lower_bound::LowerBound;
use super::query;
use super::rows;
use crate::lease::NodeId;
use crate::order::OrderId;
use crate::store::columns::{ORDER_COLUMNS, order_columns};
use crate::store::{AHEAD_MAX, CurrentLease, Explanation, Place, Predecessor, SUSPECT_CRASHES};
use crate::time::Timestamp;

/// Reads where an order stands; `None` when there is no such order.
pub(super) async fn standing(
    source: &impl ReadSource,
    id: OrderId,
    lower_bound: &LowerBound,
) -> Result<Option<Explanation>, PgFailure> {
    let statement = concat!(
        include_str!("standing.sql"),
        "select ",
        order_columns!(),
        ", crashes, node, lease_expires_at, outside, moment.at, waits_for, ahead, behind, other_line,
         (select earlier.status from orderly.order_state as earlier where earlier.order_id = waits_for),
         (select earlier.set_aside from orderly.order_state as earlier where earlier.order_id = waits_for), subject.set_aside
         from subject, moment, waiting, place"
    );
    let ahead_max = i64::try_from(AHEAD_MAX).unwrap_or(i64::MAX);
    let found = source
        .read(statement, &[(&id.0, Type::INT8), (&ahead_max, Type::INT8)])
        .await?;
    let Some(row) = found.first() else {
        return Ok(None);
    };
    let read_at: Timestamp = rows::column(row, ORDER_COLUMNS + 4)?;
    let node: Option<NodeId> = rows::column::<Option<i64>>(row, ORDER_COLUMNS + 1)?.map(rows::node_of);
    let expires_at: Option<Timestamp> = rows::column(row, ORDER_COLUMNS + 2)?;
    let external = rows::column(row, ORDER_COLUMNS + 3)?;
    let lease = |(node, expires_at)| CurrentLease {
        node,
        expires_at,
        external,
    };
    let earlier: Option<i64> = rows::column(row, ORDER_COLUMNS + 5)?;
    let waits_for = earlier
        .map(|order_id| {
            Ok::<_, PgFailure>(Predecessor {
                order_id: OrderId(order_id),
                status: rows::status(row, ORDER_COLUMNS + 9)?,
                set_aside: rows::column(row, ORDER_COLUMNS + 10)?,
            })
        })
        .transpose()?;
    let place = match rows::column::<Option<i64>>(row, ORDER_COLUMNS + 6)? {
        Some(_) if waits_for.is_none() => Some(Place {
            ahead: rows::large_count(row, ORDER_COLUMNS + 6)?,
            behind: rows::column::<Option<i64>>(row, ORDER_COLUMNS + 7)?.map(OrderId),
            other_line: rows::large_count(row, ORDER_COLUMNS + 8)?,
        }),
        _ => None,
    };
    let mut queue = query::queue(source, lower_bound).await?;
    let running = source
        .read(
            "select node, count(*)::int8 from (
                 select node, outside from orderly.leases order by order_id limit $1) as running
             where not outside group by node",
            &[(&ahead_max, Type::INT8)],
        )
        .await?;
    for node in &mut queue.nodes {
        node.busy = 0;
    }
    for row in &running {
        let of: NodeId = rows::node_of(rows::column(row, 0)?);
        for node in queue.nodes.iter_mut().filter(|node| node.node == of) {
            node.busy = u32::try_from(rows::large_count(row, 1)?).unwrap_or(u32::MAX);
        }
    }
    Ok(Some(Explanation {
        order: rows::order(row)?,
        lease: Option::zip(node, expires_at).map(lease),
        suspect: rows::count(row, ORDER_COLUMNS)? >= SUSPECT_CRASHES,
        set_aside: rows::column(row, ORDER_COLUMNS + 11)?,
        waits_for,
        place,
        refused: None,
        locked_by: lock_holders(source, &[id])
            .await?
            .pop()
            .map(|locked| locked.holder),
        queue,
        read_at,
    }))
}
