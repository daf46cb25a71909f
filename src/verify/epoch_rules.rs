//! Rules for the epochs of a store: no two epochs issue the same value.

use std::collections::HashSet;

use super::{Promise, Report};
use crate::epoch::FENCE_BITS;
use crate::order::OrderId;
use crate::store::snapshot::OrderRecord;
use crate::store::{Epochs, FeedPosition};

/// Checks the epochs; `last` and `last_order_id` are the highest values issued.
pub fn check(epochs: &Epochs, last: FeedPosition, last_order_id: OrderId, report: &mut Report) {
    let mut breach = |detail: String| report.breach(Promise::Epochs, None, detail);
    let mut identities = HashSet::new();
    for (epoch, before) in epochs
        .all()
        .iter()
        .zip([None].into_iter().chain(epochs.all().iter().map(Some)))
    {
        let number = epoch.number;
        if !identities.insert(epoch.identity) {
            breach(format!("epoch {number} has the identity of an earlier one"));
        }
        if epoch.after > last {
            let (after, last) = (epoch.after.0, last.0);
            breach(format!(
                "epoch {number} begins after position {after} of the feed, whose last position is {last}"
            ));
        }
        if epoch.first_order_id.0 > last_order_id.0 + 1 {
            let first = epoch.first_order_id;
            breach(format!(
                "epoch {number} begins with order {first}, but the last id issued is {last_order_id}"
            ));
        }
        if before
            .is_some_and(|before| epoch.after < before.after || epoch.first_order_id < before.first_order_id)
        {
            breach(format!("epoch {number} begins before its predecessor"));
        }
    }
}

/// Checks that a claim's fence belongs to an epoch of the store, no earlier than the epoch that accepted the order.
pub fn check_fence(record: &OrderRecord, epochs: &Epochs, report: &mut Report) {
    let fences: Vec<u64> = [record.fence]
        .into_iter()
        .chain(record.lease.map(|lease| lease.fence))
        .collect();
    let unknown = |fence: &u64| {
        *fence != 0
            && !epochs
                .all()
                .iter()
                .any(|epoch| epoch.number == fence >> FENCE_BITS)
    };
    if let Some(fence) = fences.iter().find(|fence| unknown(fence)) {
        let detail = format!(
            "its fence {fence} belongs to epoch {}, which the store does not have",
            fence >> FENCE_BITS
        );
        report.breach(Promise::Epochs, Some(record.order.order_id), detail);
        return;
    }
    let accepted_in = epochs.of_acceptance(record.order.order_id).number;
    if let Some(fence) = fences
        .into_iter()
        .find(|fence| *fence != 0 && fence >> FENCE_BITS < accepted_in)
    {
        let detail = format!(
            "its fence {fence} belongs to epoch {}, but it was accepted in epoch {accepted_in}",
            fence >> FENCE_BITS
        );
        report.breach(Promise::Epochs, Some(record.order.order_id), detail);
    }
}
