//! Amending orders: the rule, and the answer. Drivers change the orders.

use crate::order::{Order, OrderStatus};

/// The answer to an amendment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Amended {
    /// Changed, or the same as before. Holds the order as it is now.
    Done(Order),
    /// The order has another version.
    Moved(Order),
    /// The order's status does not allow it.
    Refused(Order),
    /// Clients have made as many events of the order as they may.
    TooManyEvents(Order),
    /// There is no such order.
    Unknown,
}

/// Returns the answer to an amendment that the order's version or status does not allow.
pub(super) fn refusal(order: &Order, version: u32) -> Option<Amended> {
    if order.version != version {
        return Some(Amended::Moved(order.clone()));
    }
    let may_change = matches!(order.status, OrderStatus::Pending | OrderStatus::Failed);
    (!may_change).then(|| Amended::Refused(order.clone()))
}
