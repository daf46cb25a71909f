//! Retention: how much one step takes out, and where the next goes on. Drivers take the orders out.

use std::time::Duration;

use super::RefusedOrder;
use crate::order::OrderId;

/// Most orders one call of `prune` looks at.
pub const PRUNE_ORDERS_MAX: usize = 500;
/// Events after which one call of `prune` takes out no further order: most orders have three, a few have thousands, and
/// others wait meanwhile.
pub const PRUNE_EVENTS_MAX: usize = 2_000;

#[derive(Clone, Copy, Debug)]
pub struct Prune {
    /// Orders that ended longer ago than this, by the store's clock, go. Shorter than [`IDEMPOTENCY_RETENTION`], and keys
    /// that are still answered name orders that are gone.
    pub older_than: Duration,
    /// The end of the step before; `None` begins a round.
    pub after: Option<OrderId>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Orders that were taken out; the step looked at [`PRUNE_ORDERS_MAX`] at most.
    pub orders: usize,
    /// The place where the next step of the round begins; `None` when the round is over, or left to another node that is at it.
    pub next: Option<OrderId>,
    /// Orders that the store refused to take out.
    pub refused: Vec<RefusedOrder>,
}
