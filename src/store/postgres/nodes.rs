//! Nodes of the store: they join, send heartbeats, and leave.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::MutexGuard;
use tokio_postgres::types::Type;

use super::Postgres;
use super::await_answer::ANSWER_TIME_MAX;
use super::bisection::Bisection;
use super::class_connection::ClassConnection;
use super::database_state::DatabaseState;
use super::durability::Durability;
use super::failure::PgFailure;
use super::rows;
use super::settle::micros;
use super::shared::Shared;
use crate::lease::NodeId;
use crate::order::OrderId;
use crate::store::nodes::VERSION;
use crate::store::{Heartbeat, Leaving, Renewed, StoreError, codes};

/// The limit for the answer to a heartbeat as a fraction of the lease: there must be time for another heartbeat after
/// one that hangs.
const LEASE_SHARE: u32 = 3;
/// The lowest limit, for the shortest possible lease. Tests use shorter ones, whose answers must have time to arrive.
const ANSWER_TIME_MIN: Duration = Duration::from_millis(330);

impl Postgres {
    /// Returns the connection for heartbeats. Fails when the store is closing.
    pub(super) async fn heartbeat_connection(&self) -> Result<MutexGuard<'_, ClassConnection>, StoreError> {
        let connection = self.heartbeat_connection.lock().await;
        if self.shared.closing.is_cancelled() {
            return Err(StoreError::Closed);
        }
        Ok(connection)
    }
}

/// Sends a heartbeat. When the database refuses it and one order may be to blame, the node is kept alive without
/// leases, and its leases are renewed in halves.
pub(super) async fn renew(
    connection: &mut ClassConnection,
    shared: &Shared,
    state: &DatabaseState,
    heartbeat: &Heartbeat,
) -> Result<Renewed, PgFailure> {
    let only = |leases| Heartbeat {
        leases,
        ..heartbeat.clone()
    };
    let mut renewed_all = renew_all(connection, shared, state, heartbeat).await;
    let mut bisection = Bisection::of(heartbeat.leases.clone());
    if let Err(failure) = &renewed_all
        && failure.may_concern_one_call()
        && let Some(all) = bisection.next_part()
    {
        bisection.split_refused(all, failure.clone())?;
        renewed_all = renew_all(connection, shared, state, &only(Vec::new())).await;
    } else {
        bisection = Bisection::of(Vec::new());
    }
    // The node is on the list whatever happens to the leases.
    shared.listed.send_replace(renewed_all.is_ok());
    let mut renewed = renewed_all?;
    while let Some(part_of_leases) = bisection.next_part() {
        match renew_all(connection, shared, state, &only(part_of_leases.clone())).await {
            Ok(part) => {
                renewed.lost.extend(part.lost);
                renewed.locked.extend(part.locked);
            }
            Err(failure) => bisection.split_refused(part_of_leases, failure)?,
        }
    }
    renewed.refused = bisection.refused("renew a lease");
    Ok(renewed)
}

async fn renew_all(
    connection: &mut ClassConnection,
    shared: &Shared,
    state: &DatabaseState,
    heartbeat: &Heartbeat,
) -> Result<Renewed, PgFailure> {
    let held = &heartbeat.leases;
    let order_ids: Vec<i64> = held.iter().map(|key| key.order_id.0).collect();
    let fences: Vec<i64> = held.iter().map(|key| rows::fence_code(key.fence)).collect();
    let lease_micros = micros(heartbeat.lease);
    let node = rows::node_code(heartbeat.node);
    let slots = i32::try_from(heartbeat.slots).unwrap_or(i32::MAX);
    let busy = i32::try_from(heartbeat.busy).unwrap_or(i32::MAX);
    let breaker = codes::breaker_code(heartbeat.breaker);
    let ordering = codes::ordering_code(shared.configured_ordering());
    let processor = heartbeat.processor.map(codes::processor_code);
    let report = &heartbeat.report;
    let (name, clock) = (&*report.name, report.clock);
    let last_start_micros = report.last_start_age.map(micros);
    let answer = connection
        .execute_idempotent_within(
            answer_time_max(heartbeat.lease),
            include_str!("renew.sql"),
            &[
                (&order_ids, Type::INT8_ARRAY),
                (&fences, Type::INT8_ARRAY),
                (&lease_micros, Type::INT8),
                (&node, Type::INT8),
                (&slots, Type::INT4),
                (&busy, Type::INT4),
                (&breaker, Type::INT2),
                (&ordering, Type::INT2),
                (&processor, Type::INT2),
                (&name, Type::TEXT),
                (&VERSION, Type::TEXT),
                (&clock, Type::TIMESTAMPTZ),
                (&last_start_micros, Type::INT8),
            ],
        )
        .await;
    let answer = answer?;
    state.stored();
    let row = rows::only(&answer)?;
    let extended: Vec<i64> = rows::column(row, 0)?;
    let extended_fences: Vec<i64> = rows::column(row, 1)?;
    let others = rows::large_count(row, 2)?;
    shared.set_has_peers(others > 0);
    let nodes = usize::try_from(others).unwrap_or(usize::MAX).saturating_add(1);
    shared.live_nodes.send_replace(nodes);
    if rows::column(row, 3)? {
        // The node that committed them may be dead without having announced them.
        shared.events_committed();
    }
    let durability = Durability::read(|index| rows::column(row, 4 + index))?;
    state.found(&durability);
    let extended: HashSet<(i64, i64)> = extended.into_iter().zip(extended_fences).collect();
    state.server_answers(rows::column(row, 11)?, heartbeat.lease);
    let locked: Vec<i64> = rows::column(row, 9)?;
    let locked_fences: Vec<i64> = rows::column(row, 10)?;
    shared.locked.found(locked.iter().copied().map(OrderId));
    let locked: HashSet<(i64, i64)> = locked.into_iter().zip(locked_fences).collect();
    let (mut lost, mut unrenewed) = (Vec::new(), Vec::new());
    for key in &heartbeat.leases {
        let row = (key.order_id.0, rows::fence_code(key.fence));
        match (extended.contains(&row), locked.contains(&row)) {
            (true, _) => {}
            (false, true) => unrenewed.push(*key),
            (false, false) => lost.push(*key),
        }
    }
    Ok(Renewed {
        lost,
        locked: unrenewed,
        refused: Vec::new(),
    })
}

fn answer_time_max(lease: Duration) -> Duration {
    (lease / LEASE_SHARE).clamp(ANSWER_TIME_MIN, ANSWER_TIME_MAX)
}

/// Takes the node off the list. `message` wakes sleeping nodes while orders are open.
pub(super) async fn leave(
    connection: &mut ClassConnection,
    shared: &Shared,
    (node, leaving): (NodeId, Leaving),
    message: &str,
) -> Result<(), PgFailure> {
    let counts_scheduled = leaving == Leaving::ToStop;
    // From now on, peers may no longer notify this node.
    shared.listed.send_replace(false);
    connection
        .execute_idempotent(
            include_str!("leave.sql"),
            &[
                (&rows::node_code(node), Type::INT8),
                (&message, Type::TEXT),
                (&counts_scheduled, Type::BOOL),
            ],
        )
        .await
        .map(drop)
}
