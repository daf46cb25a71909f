//! Cancelling an order: the statuses that allow it, and the answer. Drivers change the order.

use crate::event::EventKind;
use crate::order::{Order, OrderStatus};

/// The answer to an operator's action on one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acted {
    /// The action is done, now or before (a second cancel). Holds the order as it is now.
    Done(Order),
    /// The order's status does not allow the action.
    Refused(Order),
    /// Clients have made as many events of the order as they may.
    TooManyEvents(Order),
    /// There is no such order.
    Unknown,
}

impl Acted {
    /// The answer to an action that changes nothing: `Done` if the order already has the status to which `kind` leads.
    pub(super) fn unchanged(order: Order, kind: EventKind) -> Acted {
        if kind.leads_to() == Some(order.status) {
            Acted::Done(order)
        } else {
            Acted::Refused(order)
        }
    }
}

/// Reports whether a cancel changes an order with this status.
pub(super) fn changes(status: OrderStatus) -> bool {
    OrderStatus::after(Some(status), EventKind::Cancelled).is_some()
}
