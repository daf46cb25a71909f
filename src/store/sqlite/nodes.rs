//! Nodes: join, heartbeat and leave.

use super::give_back;
use super::group::{CallError, Group};
use super::sole_server::SoleServer;
use crate::lease::{LeaseKey, NodeId};
use crate::store::nodes::VERSION;
use crate::store::{GivenBack, Heartbeat, Renewed, codes};

/// Announces a node and takes back all leases of earlier nodes: a file has one server at a time, so those nodes are gone.
pub(super) fn join(
    group: &mut Group<'_>,
    sole_server: &SoleServer,
    heartbeat: &Heartbeat,
    crashes_max: u32,
) -> Result<GivenBack, CallError> {
    group
        .connection
        .prepare_cached("delete from nodes where node <> ?1")?
        .execute([heartbeat.node])?;
    let given_back = give_back::give_back_all(group, crashes_max)?;
    beat(group, sole_server, heartbeat)?;
    Ok(given_back)
}

pub(super) fn leave(group: &mut Group<'_>, node: NodeId) -> Result<(), CallError> {
    group
        .connection
        .prepare_cached("delete from nodes where node = ?1")?
        .execute([node])?;
    Ok(())
}

pub(super) fn renew(
    group: &mut Group<'_>,
    sole_server: &SoleServer,
    heartbeat: &Heartbeat,
) -> Result<Renewed, CallError> {
    sole_server.require_sole(group)?;
    beat(group, sole_server, heartbeat)?;
    let mut renewed = Renewed::default();
    for key in &heartbeat.leases {
        match group.in_savepoint(|group| extend(group, *key, heartbeat))? {
            Ok(true) => {}
            Ok(false) => renewed.lost.push(*key),
            Err(refusal) => renewed.refused.push(refusal.of_order(key.order_id)),
        }
    }
    Ok(renewed)
}

fn beat(group: &Group<'_>, sole_server: &SoleServer, heartbeat: &Heartbeat) -> Result<(), rusqlite::Error> {
    group
        .connection
        .prepare_cached(
            "insert into nodes (
                 node, slots, busy, started_at, heartbeat_at, expires_at, breaker, processor, name, version, last_start_at)
             values (?1, ?2, ?3, ?8, ?4, ?5, ?6, ?7, ?9, ?10, ?11)
             on conflict (node) do update set
                 slots = excluded.slots, busy = excluded.busy,
                 heartbeat_at = excluded.heartbeat_at, expires_at = excluded.expires_at,
                 breaker = excluded.breaker, processor = excluded.processor, name = excluded.name,
                 version = excluded.version, last_start_at = coalesce(excluded.last_start_at, last_start_at)",
        )?
        .execute((
            heartbeat.node,
            heartbeat.slots,
            heartbeat.busy,
            group.now,
            group.now.plus(heartbeat.lease),
            codes::breaker_code(heartbeat.breaker),
            heartbeat.processor.map(codes::processor_code),
            sole_server.node_started_at(heartbeat.node, group.now),
            &*heartbeat.report.name,
            VERSION,
            heartbeat.report.last_start_age.map(|age| group.now.minus(age)),
        ))?;
    Ok(())
}

/// Extends a lease; reports whether the node still has it. A lease that an external worker holds by now keeps its own expiry.
fn extend(group: &Group<'_>, key: LeaseKey, heartbeat: &Heartbeat) -> Result<bool, rusqlite::Error> {
    let extended = group
        .connection
        .prepare_cached(
            "update orders set lease_expires_at = case when outside then lease_expires_at else ?3 end
             where order_id = ?1 and fence = ?2 and status = 1",
        )?
        .execute((key.order_id, key.fence, group.now.plus(heartbeat.lease)))?;
    Ok(extended > 0)
}
