//! Holding and releasing orders, and the orders that are set aside, in neither line: held and scheduled ones. Drivers change the
//! orders.

use std::time::Duration;

use super::{Acted, RefusedOrder};
use crate::order::{Order, OrderStatus};

/// Scheduled orders that one call moves to their line, at most.
pub const TIMERS_FIRED_MAX: usize = 1_000;

/// Orders whose time had come.
#[derive(Clone, Debug, Default)]
pub struct Fired {
    /// Scheduled orders that entered their line.
    pub entered: usize,
    /// Scheduled orders that the database refused to change.
    pub refused: Vec<RefusedOrder>,
    /// The time until the next other scheduled order is due; zero if this call left some. `None` if no other order is scheduled.
    pub next_in: Option<Duration>,
}

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
