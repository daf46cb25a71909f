//! Estimated start of an order: a range around the time that the mean attempt and the slots of the live nodes suggest.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::{Reason, ReasonBody};
use crate::order_json::Time;
use crate::store::{AHEAD_MAX, Explanation};

/// Factor by which an estimate may be off: it rests on the mean of all orders ever completed.
const ESTIMATE_SPREAD: u32 = 2;

/// Earliest and latest expected start.
#[derive(Serialize, ToSchema)]
#[schema(as = EstimatedStart)]
pub struct EstimateBody {
    #[schema(value_type = String, format = DateTime)]
    earliest: Time,
    #[schema(value_type = String, format = DateTime)]
    latest: Time,
}

/// Estimates when the orders ahead will have made room.
pub(super) fn estimate(explanation: &Explanation, reasons: &[ReasonBody]) -> Option<EstimateBody> {
    const UNKNOWN: [Reason; 8] = [
        Reason::Paused,
        Reason::Locked,
        Reason::UserOrder,
        Reason::NoNode,
        Reason::WaitsForWorker,
        Reason::BreakerOpen,
        Reason::BreakerHalfOpen,
        Reason::Suspect,
    ];
    let place = explanation.place?;
    // Not by its reason: a refused result of an earlier attempt does not keep the order from starting.
    if explanation.refused.is_some() {
        return None;
    }
    if reasons.iter().any(|given| UNKNOWN.contains(&given.reason)) || place.ahead >= AHEAD_MAX {
        return None;
    }
    let counters = &explanation.queue.counters;
    let mean_micros = counters.processing_micros.checked_div(counters.completed)?;
    let alive = explanation
        .queue
        .nodes
        .iter()
        .filter(|node| node.alive && node.agrees);
    let (slots, busy) = alive.fold((0_u64, 0_u64), |(slots, busy), node| {
        (
            slots + u64::from(node.slots),
            busy + u64::from(node.busy.min(node.slots)),
        )
    });
    let free = slots - busy;
    // While both lines have orders, they take turns.
    let before_at_most = place.ahead + place.other_line.min(place.ahead + 1);
    let rounds = |before: u64| (before + 1).saturating_sub(free).div_ceil(slots.max(1));
    let mean = Duration::from_micros(mean_micros);
    let after = |rounds: u64| mean.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX));
    Some(EstimateBody {
        earliest: Time(
            explanation
                .read_at
                .plus(after(rounds(place.ahead).saturating_sub(1)) / ESTIMATE_SPREAD),
        ),
        latest: Time(
            explanation
                .read_at
                .plus(after(rounds(before_at_most) + 1) * ESTIMATE_SPREAD),
        ),
    })
}
