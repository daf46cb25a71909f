//! What workers and the store tell each other: claims, results, heartbeats, and leases that ran out.

use std::collections::HashSet;
use std::time::Duration;

use super::{CLAIM_ORDERS_MAX, StoreError};
use crate::lease::{Lease, LeaseKey, NodeId, ProcessorKind};
use crate::order::{Order, OrderId, OrderStatus};
use crate::time::Timestamp;

#[derive(Clone, Copy, Debug)]
pub struct ClaimRequest {
    pub node: NodeId,
    pub orders_max: usize,
    /// How long the leases last unless renewed.
    pub lease: Duration,
    /// Whether a suspect order may be among them (at most one is).
    pub suspect: bool,
    /// The processor of the orders. A store that nodes share grants nothing while a node with another processor lives;
    /// a caller that names none gets orders as from a processor that runs here alone.
    pub processor: Option<ProcessorKind>,
}

impl ClaimRequest {
    /// Reports whether an external worker holds the leases, as with [`super::Store::hold_outside`].
    pub(super) fn outside(&self) -> bool {
        self.processor.is_some_and(ProcessorKind::is_outside)
    }

    /// Reports whether the tokens are handed to others than this node, so that their results count.
    pub(super) fn hands_out(&self) -> bool {
        self.processor.is_some_and(ProcessorKind::hands_out)
    }
}

/// The orders that [`super::Store::start`] looks at: each once, in the order given.
pub(super) fn given_once(order_ids: &[OrderId]) -> Vec<OrderId> {
    let mut seen = HashSet::new();
    let looked_at = order_ids.iter().take(CLAIM_ORDERS_MAX);
    looked_at.copied().filter(|id| seen.insert(*id)).collect()
}

#[derive(Clone, Copy, Debug)]
pub struct OutsideHold {
    /// From now.
    pub lease: Duration,
    /// From the start of the attempt.
    pub run_max: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// By the store's clock.
    Until(Timestamp),
    /// The lease was no longer valid, or its attempt has no time left: nothing changed.
    Stale,
}

/// Who claimed an order last; whether it still holds it, the status tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatestClaim {
    pub order: Order,
    /// `None` before the first claim.
    pub key: Option<LeaseKey>,
    /// The token was handed to others than the node that claimed, so they may bring a result.
    pub handed_out: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Claimed {
    /// First attempts first, in order of acceptance; where orders were given, in the order given.
    pub leases: Vec<Lease>,
    /// Time until the next order of the second line is due that such a claim may take; `None` when there is none
    /// or the queue is paused.
    pub next_due_in: Option<Duration>,
    /// No order of the store is Pending or Processing, on any node: nothing to claim, to sweep or to wait for.
    pub idle: bool,
    /// Nothing starts, on any node, before somebody resumes the queue.
    pub paused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The outcome is stored and this is the order's status now.
    Done(OrderStatus),
    /// The lease was no longer valid: nothing changed.
    Stale,
}

/// The answer to the result of an external worker.
#[derive(Debug)]
pub enum SettledOutside {
    /// The outcome is stored. Holds the order as it is afterwards.
    Done(Order),
    /// The outcome is stored, but the order could not be read afterwards.
    Unread(StoreError),
    /// Nothing changed: the token is not the latest, its attempt has ended, or the order was not handed out.
    Lost(LatestClaim),
    UnknownOrder,
}

#[derive(Clone, Debug)]
pub struct Heartbeat {
    pub node: NodeId,
    /// Orders the node processes at once at most.
    pub slots: u32,
    /// Orders it processes now: fewer than its leases while results wait to be stored.
    pub busy: u32,
    pub leases: Vec<LeaseKey>,
    /// Counted from the moment the store takes the heartbeat.
    pub lease: Duration,
    pub breaker: Breaker,
    pub processor: Option<ProcessorKind>,
}

/// Whether a node claims orders, as far as what processes them is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Breaker {
    #[default]
    Closed,
    /// It claims none: what processes them is plainly down.
    Open,
    /// It finds out, with a few, whether that is over.
    HalfOpen,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Leases of the heartbeat that the node no longer has.
    pub lost: Vec<LeaseKey>,
    /// Leases that were not renewed, because another session of the database has locked their orders: the node still has
    /// them, for no longer than before.
    pub locked: Vec<LeaseKey>,
    /// Leases that the store refused to extend; the others are extended.
    pub refused: Vec<RefusedOrder>,
}

/// An order that the store refuses to change for good, among others that it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedOrder {
    pub order_id: OrderId,
    /// The kind of the refusal, as in [`super::StoreError::Refused`].
    pub code: String,
    /// The database's own words, for the log.
    pub reason: String,
}

#[derive(Clone, Copy, Debug)]
pub struct GiveBack {
    /// Who asks: certainly alive, whatever its last heartbeat says.
    pub node: NodeId,
    /// Leases lost to dead nodes before an order is Failed as poison.
    pub crashes_max: u32,
    /// The last order that the call before looked at; `None` begins a sweep.
    pub after: Option<OrderId>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenBack {
    /// Back to Pending.
    pub pending: usize,
    /// Failed as poison.
    pub poisoned: usize,
    /// Orders that the store refused to take back; they stay Processing, without a lease.
    pub refused: Vec<RefusedOrder>,
    /// Where the next call of the sweep begins; `None` when there are no more.
    pub next: Option<OrderId>,
}
