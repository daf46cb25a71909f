//! Retention: the request for one step of a round, and its answer. Drivers remove the orders.

use std::time::Duration;

use super::RefusedOrder;
use crate::order::OrderId;

/// Orders that one call of `prune` examines, at most.
pub const PRUNE_ORDERS_MAX: usize = 500;
/// Removed events after which one call of `prune` removes no further order. Most orders have three events, but some have
/// thousands, and other calls wait during the removal.
pub const PRUNE_EVENTS_MAX: usize = 2_000;

#[derive(Clone, Copy, Debug)]
pub struct Prune {
    /// Age from which ended orders are removed, by the store's clock. If it is shorter than [`IDEMPOTENCY_RETENTION`], a stored
    /// key may name removed orders.
    pub older_than: Duration,
    /// [`Pruned::next`] of the previous step; `None` begins a round.
    pub after: Option<OrderId>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Number of removed orders.
    pub orders: usize,
    /// Start of the next step of the round; `None` if the round is over, or another node is already making one.
    pub next: Option<OrderId>,
    /// Orders that the database refused to remove.
    pub refused: Vec<RefusedOrder>,
}
