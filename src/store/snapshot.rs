//! What `verify`, `doctor` and `copy` read: everything in the store at one instant, page by page. Judging it is left
//! to `verify.rs`.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;

use super::{Counters, FeedBounds, QueueState, StoreError};
use crate::event::Event;
use crate::lease::NodeId;
use crate::order::{Order, OrderId, Ordering};
use crate::time::Timestamp;

/// One instant of a store. Holds a read transaction open: drop it soon.
#[async_trait]
pub trait Snapshot: Send {
    /// The next orders above `after` with all their events, by rising id; empty at the end.
    async fn orders_after(
        &mut self,
        after: Option<OrderId>,
        limit: usize,
    ) -> Result<Vec<OrderRecord>, StoreError>;

    /// The one feed of all events: the next ones above the position `after`, by rising position; empty at the end.
    async fn events_after(
        &mut self,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<EventRecord>, StoreError>;

    /// Idempotency keys above `after` (scope and key), in that order, with the orders they name.
    async fn keys_after(
        &mut self,
        after: Option<KeyName>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, StoreError>;

    /// The highest order id given out; never given again, whatever is deleted.
    async fn last_order_id(&mut self) -> Result<OrderId, StoreError>;

    /// Whether all of these orders are stored.
    async fn has_orders(&mut self, ids: &[OrderId]) -> Result<bool, StoreError>;

    /// The longest time that passes between taking an order's `created_at` and its commit. Only orders further apart
    /// than that were certainly accepted one after the other; zero where one writer stores all orders.
    fn accept_time_max(&self) -> Duration;

    /// By which rule orders start.
    async fn start_rule(&mut self) -> Result<StartRule, StoreError>;

    /// The orders that any claim passed over; see [`EventRecord::passed_over`].
    async fn passed_over(&mut self) -> Result<HashSet<OrderId>, StoreError>;

    /// Settings under which a 201 is worth less than promised.
    async fn weaknesses(&mut self) -> Result<Vec<String>, StoreError>;

    /// The time of the store's clock, no earlier than the instant.
    async fn read_at(&mut self) -> Result<Timestamp, StoreError>;

    /// The stored counters, to be compared with the table.
    async fn counters(&mut self) -> Result<Counters, StoreError>;

    async fn queue(&mut self) -> Result<QueueState, StoreError>;

    /// Where the feed begins and ends, and what waits to get into it.
    async fn feed(&mut self) -> Result<FeedState, StoreError>;

    /// Returns why nothing can be stored, where the store can only be read.
    async fn only_reads(&mut self) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    /// Returns what there is of the standbys that commits wait for; `None` where they wait for none.
    async fn standbys(&mut self) -> Result<Option<Standbys>, StoreError> {
        Ok(None)
    }

    /// Returns how many connections the database's settings allow; `None` where that is no question.
    async fn room(&mut self) -> Result<Option<Room>, StoreError> {
        Ok(None)
    }

    /// What the database's own check of its files finds wrong; empty when it is sound.
    async fn damage(&mut self) -> Result<Vec<String>, StoreError>;
}

/// The latest time in the store that its nodes wrote: a heartbeat, or the last event of the last order.
pub async fn newest_time(snapshot: &mut dyn Snapshot) -> Result<Option<Timestamp>, StoreError> {
    let nodes = snapshot.queue().await?.nodes;
    let heartbeat = nodes.iter().map(|node| node.heartbeat_at).max();
    let last = snapshot.last_order_id().await?;
    // Empty where retention took out the last order.
    let record = snapshot.orders_after(Some(OrderId(last.0 - 1)), 1).await?.pop();
    let event = record.and_then(|record| Some(record.events.last()?.event.at));
    Ok(heartbeat.max(event))
}

/// The standbys of a shared database whose commits wait for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standbys {
    /// One is connected that may confirm commits.
    pub connected: bool,
    /// Sessions whose commits have waited for longer than a healthy standby takes.
    pub waiting: u64,
}

/// Connections that the settings of a shared database allow, beside what nodes want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    pub allowed: usize,
    /// The setting that allows no more.
    pub setting: String,
    /// The most connections that a node opens.
    pub node_wants: usize,
    /// The connections that a node needs so that no kind of work stands still for another.
    pub node_needs: usize,
}

impl Room {
    /// Describes what `nodes` nodes lack; `None` when there is enough for them.
    pub fn shortage(&self, nodes: usize) -> Option<String> {
        let wanted = nodes * self.node_wants;
        (self.allowed < wanted).then(|| {
            format!(
                "{} allows {} connections, {nodes} {} up to {wanted} and at least {}",
                self.setting,
                self.allowed,
                if nodes == 1 { "node wants" } else { "nodes want" },
                nodes * self.node_needs
            )
        })
    }

    /// Reports whether `nodes` nodes can work, if slowly.
    pub fn suffices(&self, nodes: usize) -> bool {
        self.allowed >= nodes * self.node_needs
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartRule {
    pub ordering: Ordering,
    /// The highest order id given out when the rule was last another one.
    pub from: OrderId,
}

/// Most waiting transactions that a [`FeedState`] counts.
pub const FEED_WAITING_MAX: u64 = 100_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedState {
    pub bounds: FeedBounds,
    /// What is committed and has no place in the feed yet; `None` when everything has.
    pub waiting: Option<FeedWaiting>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedWaiting {
    /// Up to [`FEED_WAITING_MAX`].
    pub transactions: u64,
    /// How long the oldest of them has waited, by the store's clock.
    pub oldest_age: Duration,
}

/// Scope and key of an idempotency key.
pub type KeyName = (String, String);

/// An order with what the API does not show of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderRecord {
    pub order: Order,
    /// The fence of the latest claim; 0 before the first.
    pub fence: u64,
    /// Who claimed it last.
    pub node: Option<NodeId>,
    /// The token was handed to others than that node.
    pub handed_out: bool,
    /// Set exactly while Processing.
    pub lease: Option<LeaseRecord>,
    pub crashes: u32,
    pub events: Vec<EventRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// Place in the one feed of all events: rises with the commits.
    pub position: i64,
    pub event: Event,
    /// The earlier orders that the claim of a first start passed over, because another session of the database had
    /// locked them. By rising id. [`EVERY_EARLIER`] where the caller of [`Store::start`](super::Store::start) chose the order.
    pub passed_over: Vec<OrderId>,
}

/// Stands for all earlier orders among those that a start passed over. No order has this id.
pub const EVERY_EARLIER: OrderId = OrderId(0);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    pub node: NodeId,
    pub fence: u64,
    pub expires_at: Timestamp,
    /// Held by a worker outside.
    pub outside: bool,
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
