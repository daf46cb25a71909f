//! Nodes: what a heartbeat tells the store, what it answers, and what the list of nodes shows.

use std::time::Duration;

use super::RefusedOrder;
use crate::lease::{LeaseKey, NodeId, ProcessorKind};
use crate::time::Timestamp;

/// Most nodes one `QueueState` lists.
pub const NODES_MAX: usize = 1_000;

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

/// Tells a node that claims orders from one that does not, by what processes them.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    pub node: NodeId,
    pub slots: u32,
    /// Orders it processed at its last heartbeat.
    pub busy: u32,
    pub started_at: Timestamp,
    pub heartbeat_at: Timestamp,
    /// Its heartbeat is younger than its lease time.
    pub alive: bool,
    /// The state at that heartbeat.
    pub breaker: Breaker,
    /// The processor of the node's orders, where the node named one.
    pub processor: Option<ProcessorKind>,
    /// It was told the same as the store's other nodes: otherwise it starts nothing.
    pub agrees: bool,
}
