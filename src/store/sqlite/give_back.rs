//! Takes back orders whose leases expired or whose nodes are gone.

use super::group::{CallError, Group};
use super::settle;
use crate::lease::{LeaseKey, NodeId};
use crate::order::OrderId;
use crate::store::give_back::LostLease;
use crate::store::{GiveBack, GivenBack, SWEEP_ORDERS_MAX};

pub(super) fn give_back_expired(group: &mut Group<'_>, request: &GiveBack) -> Result<GivenBack, CallError> {
    let mut leases = lost_leases(group, Some(request.node), request.after)?;
    let more = leases.len() > SWEEP_ORDERS_MAX;
    leases.truncate(SWEEP_ORDERS_MAX);
    let mut given_back = give_back(group, &leases, request.crashes_max)?;
    given_back.next = leases.last().map(|last| last.key.order_id).filter(|_| more);
    Ok(given_back)
}

/// Takes back all leases that nodes hold. Allowed only while no other node can be alive.
pub(super) fn give_back_all(group: &mut Group<'_>, crashes_max: u32) -> Result<GivenBack, CallError> {
    let mut total = GivenBack::default();
    let mut after = None;
    loop {
        let leases = lost_leases(group, None, after)?;
        let Some(last) = leases.last() else {
            return Ok(total);
        };
        after = Some(last.key.order_id);
        let given_back = give_back(group, &leases, crashes_max)?;
        total.pending += given_back.pending;
        total.poisoned += given_back.poisoned;
        total.refused.extend(given_back.refused);
    }
}

/// Expired leases, or all leases held by nodes if `asking` is `None`. At most one more than [`SWEEP_ORDERS_MAX`], which shows
/// that there are more. The node `asking` counts as alive.
fn lost_leases(
    group: &Group<'_>,
    asking: Option<NodeId>,
    after: Option<OrderId>,
) -> Result<Vec<LostLease>, rusqlite::Error> {
    let after = after.unwrap_or(OrderId(0));
    group
        .connection
        .prepare_cached(include_str!("give_back.sql"))?
        .query_map(
            (asking.map(|_| group.now), SWEEP_ORDERS_MAX + 1, after, asking),
            |row| {
                Ok(LostLease {
                    key: LeaseKey {
                        order_id: row.get(0)?,
                        fence: row.get(1)?,
                        node: row.get(2)?,
                    },
                    external: row.get(3)?,
                    crashes: row.get(4)?,
                    node_died: row.get(5)?,
                })
            },
        )?
        .collect()
}

fn give_back(group: &mut Group<'_>, leases: &[LostLease], crashes_max: u32) -> Result<GivenBack, CallError> {
    let mut given_back = GivenBack::default();
    for lease in leases {
        let end = lease.end(crashes_max);
        let is_poison = end.status().is_final();
        match group.in_savepoint(|group| settle::end_attempt(group, lease.key, end))? {
            Ok(_) if is_poison => given_back.poisoned += 1,
            Ok(_) => given_back.pending += 1,
            Err(refusal) => given_back.refused.push(refusal.of_order(lease.key.order_id)),
        }
    }
    group.effects.leases_lost += (given_back.pending + given_back.poisoned) as u64;
    Ok(given_back)
}
