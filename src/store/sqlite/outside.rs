//! Leases that workers outside hold: looked up by whoever comes with a token, and kept for longer.

use rusqlite::{Connection, OptionalExtension};

use super::group::{CallError, Group};
use super::rows;
use crate::lease::LeaseKey;
use crate::order::OrderId;
use crate::store::columns::{ORDER_COLUMNS, order_columns};
use crate::store::{Held, LatestClaim, OutsideHold};
use crate::time::Timestamp;

pub(super) fn hold(group: &mut Group<'_>, key: LeaseKey, hold: OutsideHold) -> Result<Held, CallError> {
    let started: Option<Timestamp> = group
        .connection
        .prepare_cached("select processing_at from orders where order_id = ?1 and token = ?2 and status = 1")?
        .query_row((key.order_id, key.token), |row| row.get(0))
        .optional()?;
    let Some(started) = started else {
        return Ok(Held::Stale);
    };
    let expires = group.now.plus(hold.lease).min(started.plus(hold.run_max));
    if expires <= group.now {
        return Ok(Held::Stale);
    }
    group
        .connection
        .prepare_cached(
            "update orders set outside = 1, handed_out = 1, lease_expires_at = ?3
             where order_id = ?1 and token = ?2 and status = 1",
        )?
        .execute((key.order_id, key.token, expires))?;
    Ok(Held::Until(expires))
}

pub(super) fn latest_claim(
    connection: &Connection,
    id: OrderId,
) -> Result<Option<LatestClaim>, rusqlite::Error> {
    connection
        .prepare_cached(concat!(
            "select ",
            order_columns!(),
            ", token, node, handed_out from orders where order_id = ?1"
        ))?
        .query_row([id], |row| {
            let token = row.get(ORDER_COLUMNS)?;
            let node: Option<_> = row.get(ORDER_COLUMNS + 1)?;
            Ok(LatestClaim {
                order: rows::order(row)?,
                key: node.map(|node| LeaseKey {
                    order_id: id,
                    token,
                    node,
                }),
                handed_out: row.get(ORDER_COLUMNS + 2)?,
            })
        })
        .optional()
}
