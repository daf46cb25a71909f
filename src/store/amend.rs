//! Amending orders: the rule, and the answer. Drivers change the orders.

use crate::order::{Member, Order, OrderStatus, Patch};
use crate::time::Timestamp;

/// The answer to an amendment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Amended {
    /// Changed, or the same as before. Holds the order as it is now.
    Done(Order),
    /// The order has another version.
    Moved(Order),
    /// The order's status does not allow it.
    Refused(Order),
    /// The order is overdue, and its deadline cannot change.
    Overdue(Order),
    /// The new deadline has passed.
    DeadlinePassed,
    /// Clients have made as many events of the order as they may.
    TooManyEvents(Order),
    /// There is no such order.
    Unknown,
}

/// Returns the answer to an amendment that the order's version, status or deadline does not allow.
pub(super) fn refusal(order: &Order, version: u32, patch: &Patch, now: Timestamp) -> Option<Amended> {
    if order.version != version {
        return Some(Amended::Moved(order.clone()));
    }
    let may_change = matches!(order.status, OrderStatus::Pending | OrderStatus::Failed);
    if !may_change {
        return Some(Amended::Refused(order.clone()));
    }
    match patch.deadline {
        Member::Keep => None,
        _ if order.overdue => Some(Amended::Overdue(order.clone())),
        Member::Set(deadline) => (deadline <= now).then_some(Amended::DeadlinePassed),
        Member::Remove => None,
    }
}
