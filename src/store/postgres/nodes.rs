//! Who processes: nodes come, say that they live, and go.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::MutexGuard;
use tokio_postgres::types::Type;

use super::Postgres;
use super::answered::ANSWER_TIME_MAX;
use super::durability::Durability;
use super::failure::Failure;
use super::halves::Halves;
use super::link::Link;
use super::rows;
use super::settle::micros;
use super::shared::Shared;
use super::state::State;
use crate::lease::NodeId;
use crate::order::OrderId;
use crate::store::{Heartbeat, Renewed, StoreError, codes};

/// Of a lease, for the answer to a heartbeat: what hangs for longer is given up while there is time for another one.
const LEASE_SHARE: u32 = 3;
/// Of the shortest lease there is; a validity that means nothing, as tests have it, leaves the answer time to come.
const ANSWER_TIME_MIN: Duration = Duration::from_millis(330);

impl Postgres {
    /// Returns the connection of heartbeats, unless the store closes.
    pub(super) async fn heart(&self) -> Result<MutexGuard<'_, Link>, StoreError> {
        let link = self.heart.lock().await;
        if self.shared.closing.is_cancelled() {
            return Err(StoreError::Closed);
        }
        Ok(link)
    }
}

/// A heartbeat. When the database refuses it for what may be one order's fault, the node lives all the same, and the leases
/// are extended by halves.
pub(super) async fn renew(
    link: &mut Link,
    shared: &Shared,
    state: &State,
    heartbeat: &Heartbeat,
) -> Result<Renewed, Failure> {
    let only = |leases| Heartbeat {
        leases,
        ..heartbeat.clone()
    };
    let mut beaten = renew_all(link, shared, state, heartbeat).await;
    let mut halves = Halves::of(heartbeat.leases.clone());
    if let Err(failure) = &beaten
        && failure.may_be_of_one()
        && let Some(all) = halves.next()
    {
        halves.failed(all, failure.clone())?;
        beaten = renew_all(link, shared, state, &only(Vec::new())).await;
    } else {
        halves = Halves::of(Vec::new());
    }
    // Whatever becomes of the leases.
    shared.listed.send_replace(beaten.is_ok());
    let mut renewed = beaten?;
    while let Some(some) = halves.next() {
        match renew_all(link, shared, state, &only(some.clone())).await {
            Ok(part) => {
                renewed.lost.extend(part.lost);
                renewed.locked.extend(part.locked);
            }
            Err(failure) => halves.failed(some, failure)?,
        }
    }
    renewed.refused = halves.refused("renew a lease");
    Ok(renewed)
}

async fn renew_all(
    link: &mut Link,
    shared: &Shared,
    state: &State,
    heartbeat: &Heartbeat,
) -> Result<Renewed, Failure> {
    let held = &heartbeat.leases;
    let order_ids: Vec<i64> = held.iter().map(|key| key.order_id.0).collect();
    let fences: Vec<i64> = held.iter().map(|key| rows::fence_code(key.fence)).collect();
    let lease_micros = micros(heartbeat.lease);
    let node = rows::node_code(heartbeat.node);
    let slots = i32::try_from(heartbeat.slots).unwrap_or(i32::MAX);
    let busy = i32::try_from(heartbeat.busy).unwrap_or(i32::MAX);
    let breaker = codes::breaker_code(heartbeat.breaker);
    let ordering = codes::ordering_code(shared.told_ordering());
    let processor = heartbeat.processor.map(codes::processor_code);
    let beaten = link
        .repeatable_within(
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
            ],
        )
        .await;
    let answer = beaten?;
    state.stored();
    let row = rows::only(&answer)?;
    let extended: Vec<i64> = rows::column(row, 0)?;
    let extended_fences: Vec<i64> = rows::column(row, 1)?;
    let others = rows::large_count(row, 2)?;
    shared.found_others(others > 0);
    let nodes = usize::try_from(others).unwrap_or(usize::MAX).saturating_add(1);
    shared.nodes.send_replace(nodes);
    if rows::column(row, 3)? {
        // Whoever committed it may be gone, and have told nobody.
        shared.changed();
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

/// `word` is what wakes those who sleep, where there is something left to do.
pub(super) async fn leave(link: &mut Link, shared: &Shared, node: NodeId, word: &str) -> Result<(), Failure> {
    // From now on the others may no longer tell this one.
    shared.listed.send_replace(false);
    link.repeatable(
        include_str!("leave.sql"),
        &[(&rows::node_code(node), Type::INT8), (&word, Type::TEXT)],
    )
    .await
    .map(drop)
}
