//! Estimated start of an order: a range around the time that the mean attempt and the slots of the live nodes suggest.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::{Reason, ReasonBody};
use crate::order::OrderStatus;
use crate::order_json::Time;
use crate::store::{AHEAD_MAX, Explanation, Place};

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
/// `rate_limit` is the starts per second that each node allows itself.
pub(super) fn estimate(
    explanation: &Explanation,
    reasons: &[ReasonBody],
    rate_limit: Option<f64>,
) -> Option<EstimateBody> {
    const UNKNOWN: [Reason; 7] = [
        Reason::Paused,
        Reason::Locked,
        Reason::NoNode,
        Reason::WaitsForWorker,
        Reason::BreakerOpen,
        Reason::BreakerHalfOpen,
        Reason::Suspect,
    ];
    // A user's next order starts after the one in processing; all others wait for somebody, or for an unknown number of orders.
    let follows_a_running_order = explanation
        .waits_for
        .is_some_and(|earlier| earlier.status == OrderStatus::Processing);
    let place = match explanation.waits_for {
        None => explanation.place?,
        Some(_) if follows_a_running_order => Place::default(),
        Some(_) => return None,
    };
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
    let (nodes, slots, busy) = alive.fold((0_u32, 0_u64, 0_u64), |(nodes, slots, busy), node| {
        (
            nodes + 1,
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
    let by_rate = |before: u64| match rate_limit {
        Some(limit) => allowed_after(before, limit * f64::from(nodes)),
        None => Duration::ZERO,
    };
    let earliest = after(rounds(place.ahead).saturating_sub(1)).max(by_rate(place.ahead));
    let latest = after(rounds(before_at_most) + 1).max(by_rate(before_at_most + 1));
    Some(EstimateBody {
        earliest: Time(explanation.read_at.plus(earliest / ESTIMATE_SPREAD)),
        latest: Time(explanation.read_at.plus(latest * ESTIMATE_SPREAD)),
    })
}

/// Time in which `before` orders start at a rate per second.
fn allowed_after(before: u64, rate: f64) -> Duration {
    #[expect(
        clippy::cast_precision_loss,
        reason = "at most AHEAD_MAX orders, and an estimate"
    )]
    let seconds = before as f64 / rate;
    // Rates of almost nothing give more than a span can hold.
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / ESTIMATE_SPREAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_limit_stretches_the_time_of_the_orders_ahead() {
        assert_eq!(allowed_after(108, 0.5), Duration::from_secs(216));
        assert_eq!(allowed_after(0, 0.5), Duration::ZERO);
        assert!(allowed_after(1, 0.0) > Duration::from_hours(24));
    }
}
