//! Nodes: the heartbeat, its answer, and the list of nodes.

use std::sync::Arc;
use std::time::Duration;

use super::RefusedOrder;
use crate::lease::{LeaseKey, NodeId, ProcessorKind};
use crate::time::Timestamp;

/// Version of this program, as its heartbeats say it.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Nodes listed in one `QueueState`, at most.
pub const NODES_MAX: usize = 1_000;

/// The reason for which a node leaves the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It sleeps, and wakes for scheduled orders by itself.
    ToSleep,
    ToStop,
}

#[derive(Clone, Debug)]
pub struct Heartbeat {
    pub node: NodeId,
    /// Attempts that the node may run at once.
    pub slots: u32,
    /// Attempts that the node runs now. Fewer than its leases while results wait to be stored.
    pub busy: u32,
    pub leases: Vec<LeaseKey>,
    /// Duration of the renewed leases and of the heartbeat's validity, from the moment the store carries out the call.
    pub lease: Duration,
    pub breaker: Breaker,
    pub processor: Option<ProcessorKind>,
    pub report: NodeReport,
}

/// A node's report about itself, for people who look for a node that is unlike the others.
#[derive(Clone, Debug, Default)]
pub struct NodeReport {
    /// `ORDERLY_NODE_NAME`.
    pub name: Arc<str>,
    /// Its own clock when it sent the heartbeat.
    pub clock: Option<Timestamp>,
    /// Time since it last started an order; `None` before the first.
    pub last_start_age: Option<Duration>,
}

/// The state of a node's breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Breaker {
    /// The node claims orders.
    #[default]
    Closed,
    /// The node claims no orders because the processor is down.
    Open,
    /// The node claims a few orders to find out whether the processor has recovered.
    HalfOpen,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Leases of the heartbeat that the node no longer has.
    pub lost: Vec<LeaseKey>,
    /// Leases that were not renewed because another session of the database has locked their orders. The node still has them,
    /// with their previous expiry.
    pub locked: Vec<LeaseKey>,
    /// Leases that the database refused to renew. The others are renewed.
    pub refused: Vec<RefusedOrder>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub node: NodeId,
    pub slots: u32,
    /// Attempts that it ran at its last heartbeat.
    pub busy: u32,
    pub started_at: Timestamp,
    pub heartbeat_at: Timestamp,
    /// Its last heartbeat has not expired.
    pub alive: bool,
    /// Its breaker at that heartbeat.
    pub breaker: Breaker,
    /// Its processor, if it named one.
    pub processor: Option<ProcessorKind>,
    /// Its configuration agrees with that of the store's other nodes. If not, it starts no order.
    pub agrees: bool,
    /// `ORDERLY_NODE_NAME`.
    pub name: String,
    /// Version of its program.
    pub version: String,
    /// Microseconds by which its clock was ahead of the store's at its last heartbeat; negative if it was behind.
    pub clock_ahead_micros: Option<i64>,
    /// Its latest start of an order.
    pub last_start_at: Option<Timestamp>,
}
