//! The rules for the epochs of a store: what one gave out, no other gives out again.

use std::collections::HashSet;

use super::{Promise, Report};
use crate::epoch::FENCE_BITS;
use crate::order::OrderId;
use crate::store::snapshot::OrderRecord;
use crate::store::{Epochs, FeedPosition};

/// `last` and `last_order_id` are the highest that were given out.
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
                "epoch {number} begins behind place {after} of the feed, whose last place is {last}"
            ));
        }
        if epoch.first_order_id.0 > last_order_id.0 + 1 {
            let first = epoch.first_order_id;
            breach(format!(
                "epoch {number} begins with order {first}, and the last id given out is {last_order_id}"
            ));
        }
        if before
            .is_some_and(|before| epoch.after < before.after || epoch.first_order_id < before.first_order_id)
        {
            breach(format!("epoch {number} begins before the one before it"));
        }
    }
}

/// A claim has a fence of an epoch that the store knows, and that began no earlier than the one that accepted the order.
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
            "its fence {fence} is of epoch {}, which is not one of the store",
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
            "its fence {fence} is of epoch {}, and it was accepted in epoch {accepted_in}",
            fence >> FENCE_BITS
        );
        report.breach(Promise::Epochs, Some(record.order.order_id), detail);
    }
}
