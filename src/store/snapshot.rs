//! Snapshots: the whole store at one instant, read page by page by `verify`, `doctor` and `copy`. `verify.rs` judges what they
//! show.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;

use super::vitals::LongTransaction;
use super::{Counters, FeedBounds, QueueState, StoreError, Vitals};
use crate::event::Event;
use crate::lease::NodeId;
use crate::order::{Order, OrderId, Ordering};
use crate::time::Timestamp;

/// A consistent read of the whole store at one instant. It holds a read transaction open, so it should be dropped soon.
#[async_trait]
pub trait Snapshot: Send {
    /// Reads the next orders after the id `after` with all their events, by rising id; none at the end.
    async fn orders_after(
        &mut self,
        after: Option<OrderId>,
        limit: usize,
    ) -> Result<Vec<OrderRecord>, StoreError>;

    /// Reads the next events of the feed after the position `after`, by rising position; none at the end.
    async fn events_after(
        &mut self,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<EventRecord>, StoreError>;

    /// Reads the next idempotency keys after `after`, sorted by scope and key, with the orders they name; none at the end.
    async fn keys_after(
        &mut self,
        after: Option<KeyName>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, StoreError>;

    /// Reads the highest order id given out, whether or not that order still exists.
    async fn last_order_id(&mut self) -> Result<OrderId, StoreError>;

    /// Reports whether all of these orders are stored.
    async fn has_orders(&mut self, ids: &[OrderId]) -> Result<bool, StoreError>;

    /// The longest time between reading the clock for an order's `created_at` and its commit. Two orders are known to have been
    /// accepted one after the other only if they are further apart. Zero if one writer stores all orders.
    fn accept_time_max(&self) -> Duration;

    /// Reads the ordering among the orders of one user, and since when it applies.
    async fn start_rule(&mut self) -> Result<StartRule, StoreError>;

    /// Reads the orders that any claim passed over; see [`EventRecord::passed_over`].
    async fn passed_over(&mut self) -> Result<HashSet<OrderId>, StoreError>;

    /// Reads the settings of the database that weaken the promise of a 201.
    async fn weaknesses(&mut self) -> Result<Vec<String>, StoreError>;

    /// Reads the store's clock. The time is no earlier than the snapshot.
    async fn read_at(&mut self) -> Result<Timestamp, StoreError>;

    /// Reads the stored counters, which a recount must equal.
    async fn counters(&mut self) -> Result<Counters, StoreError>;

    /// Reads the state of the queue.
    async fn queue(&mut self) -> Result<QueueState, StoreError>;

    /// Reads the vitals, like [`Store::vitals`](super::Store::vitals).
    async fn vitals(&mut self) -> Result<Vitals, StoreError>;

    /// Long transactions and those that others wait for, which can be read while tables are locked.
    async fn transactions(&mut self) -> Result<Vec<LongTransaction>, StoreError> {
        Ok(Vec::new())
    }

    /// Reads the bounds of the feed, and the committed events that wait for their positions.
    async fn feed(&mut self) -> Result<FeedState, StoreError>;

    /// Returns why the store can only be read; `None` if it can be written.
    async fn only_reads(&mut self) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    /// Reads the state of the standbys that commits wait for; `None` if commits wait for none.
    async fn standbys(&mut self) -> Result<Option<Standbys>, StoreError> {
        Ok(None)
    }

    /// Reads the number of connections that the database's settings allow; `None` for a store without connections.
    async fn connection_budget(&mut self) -> Result<Option<ConnectionBudget>, StoreError> {
        Ok(None)
    }

    /// Runs the database's own checks; returns its findings, none if it is sound.
    async fn damage(&mut self) -> Result<Vec<String>, StoreError>;
}

/// The latest time that the nodes wrote: that of a heartbeat or of the last event of the last order.
pub async fn newest_time(snapshot: &mut dyn Snapshot) -> Result<Option<Timestamp>, StoreError> {
    let nodes = snapshot.queue().await?.nodes;
    let heartbeat = nodes.iter().map(|node| node.heartbeat_at).max();
    let last = snapshot.last_order_id().await?;
    // None if retention removed the last order.
    let record = snapshot.orders_after(Some(OrderId(last.0 - 1)), 1).await?.pop();
    let event = record.and_then(|record| Some(record.events.last()?.event.at));
    Ok(heartbeat.max(event))
}

/// The synchronous standbys of a shared database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standbys {
    /// A standby that may confirm commits is connected.
    pub connected: bool,
    /// Sessions whose commits have waited for longer than a healthy standby needs.
    pub waiting: u64,
}

/// The connections that the settings of a shared database allow, and the connections that a node uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionBudget {
    pub allowed: usize,
    /// The setting that limits `allowed`.
    pub setting: String,
    /// Connections that a node opens at most.
    pub per_node_max: usize,
    /// Connections that a node needs so that no class of work waits for another.
    pub per_node_min: usize,
}

impl ConnectionBudget {
    /// Describes the shortage for this number of nodes; `None` if there are enough connections.
    pub fn shortage(&self, nodes: usize) -> Option<String> {
        let wanted = nodes * self.per_node_max;
        (self.allowed < wanted).then(|| {
            format!(
                "{} allows {} connections, {nodes} {} up to {wanted} and at least {}",
                self.setting,
                self.allowed,
                if nodes == 1 { "node wants" } else { "nodes want" },
                nodes * self.per_node_min
            )
        })
    }

    /// Reports whether this number of nodes can work, even if slowly.
    pub fn suffices(&self, nodes: usize) -> bool {
        self.allowed >= nodes * self.per_node_min
    }
}

/// The ordering among the orders of one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartRule {
    pub ordering: Ordering,
    /// The highest order id given out when the ordering last changed.
    pub from: OrderId,
}

/// Waiting transactions that a [`FeedState`] counts, at most.
pub const FEED_WAITING_MAX: u64 = 100_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedState {
    pub bounds: FeedBounds,
    /// Committed events without a position; `None` if every event has one.
    pub waiting: Option<FeedWaiting>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedWaiting {
    /// Number of transactions with such events, up to [`FEED_WAITING_MAX`].
    pub transactions: u64,
    /// Age of the oldest of them, by the store's clock.
    pub oldest_age: Duration,
}

/// Scope and key of an idempotency key.
pub type KeyName = (String, String);

/// An order with its internal columns and all its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderRecord {
    pub order: Order,
    /// The fence of the latest claim; 0 before the first.
    pub fence: u64,
    /// The node of the latest claim.
    pub node: Option<NodeId>,
    /// That node passed the token on, so that others may settle the attempt.
    pub handed_out: bool,
    /// Set exactly while Processing.
    pub lease: Option<LeaseRecord>,
    /// Leases that were lost with their holders.
    pub crashes: u32,
    /// The order is in neither line: it is held or scheduled.
    pub set_aside: bool,
    pub events: Vec<EventRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// Position in the feed. Rises in the order of commits.
    pub position: i64,
    pub event: Event,
    /// Set for a first start: the earlier orders that its claim passed over, by rising id. [`EVERY_EARLIER`] if the caller of
    /// [`Store::start`](super::Store::start) chose the order.
    pub passed_over: Vec<OrderId>,
}

/// Stands for all earlier orders in [`EventRecord::passed_over`]. No order has this id.
pub const EVERY_EARLIER: OrderId = OrderId(0);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    pub node: NodeId,
    pub fence: u64,
    pub expires_at: Timestamp,
    /// An external worker holds the lease.
    pub external: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    pub scope: String,
    pub key: String,
    /// SHA-256 of route and body bytes.
    pub fingerprint: [u8; 32],
    pub order_ids: Vec<OrderId>,
    pub created_at: Timestamp,
}
