//! What `verify` and `doctor` read: everything in the store at one instant, page by page. Judging it is left to
//! `verify.rs`.

use async_trait::async_trait;

use super::{Counters, QueueState, StoreError};
use crate::event::Event;
use crate::lease::NodeId;
use crate::order::{Order, OrderId};
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

    /// Idempotency keys above `after` (scope and key), in that order, with the orders they name.
    async fn keys_after(
        &mut self,
        after: Option<(String, String)>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, StoreError>;

    /// The stored counters, to be compared with the table.
    async fn counters(&mut self) -> Result<Counters, StoreError>;

    async fn queue(&mut self) -> Result<QueueState, StoreError>;

    /// What the database's own check of its files finds wrong; empty when it is sound.
    async fn damage(&mut self) -> Result<Vec<String>, StoreError>;
}

/// An order with what the API does not show of it.
#[derive(Clone, Debug)]
pub struct OrderRecord {
    pub order: Order,
    pub lease: Option<LeaseRecord>,
    pub crashes: u32,
    pub events: Vec<EventRecord>,
}

#[derive(Clone, Debug)]
pub struct EventRecord {
    /// Place in the one feed of all events: rises with the commits.
    pub position: i64,
    pub event: Event,
}

#[derive(Clone, Copy, Debug)]
pub struct LeaseRecord {
    pub node: NodeId,
    pub token: u64,
    pub expires_at: Timestamp,
}

#[derive(Clone, Debug)]
pub struct KeyRecord {
    pub scope: String,
    pub key: String,
    pub order_ids: Vec<OrderId>,
}
