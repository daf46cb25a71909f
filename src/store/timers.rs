//! What happens at a time that an order names: a scheduled order enters its line, and an order with a deadline becomes overdue.
//! Drivers change the orders.

use std::time::Duration;

use super::RefusedOrder;

/// Orders of each kind that one call changes, at most.
pub const TIMERS_FIRED_MAX: usize = 1_000;

/// Orders whose time had come.
#[derive(Clone, Debug, Default)]
pub struct Fired {
    /// Scheduled orders that entered their line.
    pub entered: usize,
    /// Orders that became overdue.
    pub overdue: usize,
    /// Orders that the database refused to change.
    pub refused: Vec<RefusedOrder>,
    /// The time until the next other order is due; zero if this call left some. `None` if no other order waits for a time.
    pub next_in: Option<Duration>,
}
