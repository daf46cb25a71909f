//! Leases of external workers: transfer, lookup by token, and settling.

use rusqlite::{Connection, OptionalExtension};

use super::group::{CallError, Group};
use super::{epochs, rows, settle};
use crate::epoch::Token;
use crate::lease::{LeaseKey, NodeId, Outcome};
use crate::order::OrderId;
use crate::store::columns::{ORDER_COLUMNS, order_columns};
use crate::store::{ExternalHold, ExternalLease, LatestClaim, Settled, SettledExternal};
use crate::time::Timestamp;

pub(super) fn hold(
    group: &mut Group<'_>,
    key: LeaseKey,
    hold: ExternalHold,
) -> Result<ExternalLease, CallError> {
    let started: Option<Timestamp> = group
        .connection
        .prepare_cached("select processing_at from orders where order_id = ?1 and fence = ?2 and status = 1")?
        .query_row((key.order_id, key.fence), |row| row.get(0))
        .optional()?;
    let Some(started) = started else {
        return Ok(ExternalLease::Stale);
    };
    let expires = group.now.plus(hold.lease).min(started.plus(hold.run_max));
    if expires <= group.now {
        return Ok(ExternalLease::Stale);
    }
    group
        .connection
        .prepare_cached(
            "update orders set outside = 1, handed_out = 1, lease_expires_at = ?3
             where order_id = ?1 and fence = ?2 and status = 1",
        )?
        .execute((key.order_id, key.fence, expires))?;
    Ok(ExternalLease::Until(expires))
}

/// Ends the attempt that the token identifies, if its order was handed out.
pub(super) fn settle(
    group: &mut Group<'_>,
    id: OrderId,
    token: Token,
    outcome: &Outcome,
) -> Result<SettledExternal, CallError> {
    let fence = token.fence();
    let node: Option<NodeId> = if epochs::read(group.connection)?.gave(id, token) {
        group
            .connection
            .prepare_cached(
                "select node from orders where order_id = ?1 and fence = ?2 and status = 1 and handed_out",
            )?
            .query_row((id, fence), |row| row.get(0))
            .optional()?
    } else {
        None
    };
    let settled = match node {
        Some(node) => {
            let key = LeaseKey {
                order_id: id,
                fence,
                node,
            };
            settle::settle(group, key, outcome)?
        }
        None => Settled::Stale,
    };
    let latest = latest_claim(group.connection, id)?;
    Ok(match (settled, latest) {
        (_, None) => SettledExternal::UnknownOrder,
        (Settled::Done(_), Some(latest)) => SettledExternal::Done(latest.order),
        (Settled::Stale, Some(latest)) => SettledExternal::Lost(latest),
    })
}

pub(super) fn latest_claim(
    connection: &Connection,
    id: OrderId,
) -> Result<Option<LatestClaim>, rusqlite::Error> {
    connection
        .prepare_cached(concat!(
            "select ",
            order_columns!(),
            ", fence, node, handed_out from orders where order_id = ?1"
        ))?
        .query_row([id], |row| {
            let fence = row.get(ORDER_COLUMNS)?;
            let token = epochs::read(connection)?.token(id, fence);
            let node: Option<_> = row.get(ORDER_COLUMNS + 1)?;
            Ok(LatestClaim {
                order: rows::order(row)?,
                key: node.map(|node| LeaseKey {
                    order_id: id,
                    fence,
                    node,
                }),
                token,
                handed_out: row.get(ORDER_COLUMNS + 2)?,
            })
        })
        .optional()
}
