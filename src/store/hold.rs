//! Holding and releasing orders, and the orders that are set aside, in neither line: held and scheduled ones. Drivers change the
//! orders.

use super::Acted;
use crate::order::{Order, OrderStatus};

/// Reports whether a hold changes the order.
pub(super) fn holds(order: &Order) -> bool {
    order.status == OrderStatus::Pending && order.held_at.is_none()
}

/// Reports whether a release changes the order.
pub(super) fn releases(order: &Order) -> bool {
    order.held_at.is_some()
}

/// The answer to a hold or a release that changes nothing.
pub(super) fn unchanged(order: Order) -> Acted {
    if order.status == OrderStatus::Pending {
        Acted::Done(order)
    } else {
        Acted::Refused(order)
    }
}
