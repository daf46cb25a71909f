//! Cancelling an order: from which statuses, and the answer to an operator. Drivers change the order.

use crate::event::EventKind;
use crate::order::{Order, OrderStatus};

/// The end of an operator's action on one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acted {
    /// Done now, or it already was (a second cancel).
    Done(Order),
    /// Not possible from the status the order has.
    Refused(Order),
    Unknown,
}

impl Acted {
    /// Answers an action that leaves the order as it is: done where the order is already where an event of this kind leads.
    pub(super) fn unchanged(order: Order, kind: EventKind) -> Acted {
        if order.status == kind.leads_to() {
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
