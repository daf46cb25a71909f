//! Accepting orders: a request with its idempotency key, its answer, and the limits. Drivers store the orders.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::StoreError;
use crate::order::{NewOrder, OrderId};
use crate::time::Timestamp;

/// The time that an idempotency key is kept.
pub const IDEMPOTENCY_RETENTION: Duration = Duration::from_hours(24);
/// Orders that may wait for their commit; requests beyond are refused. A batch counts as many as it holds.
pub const ORDERS_WAITING_MAX: usize = 16_384;

/// A caller's promise that a repeated request is the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// Caller and route; keys of different scopes never meet.
    pub scope: String,
    /// 1 to 255 printable ASCII characters.
    pub key: String,
    /// SHA-256 of route and body bytes.
    pub fingerprint: [u8; 32],
}

impl IdempotencyKey {
    /// The answer to a request whose key is stored: the one of the first request, or a refusal when that was another request.
    pub(super) fn answer(
        &self,
        stored_fingerprint: &[u8],
        order_ids: Vec<OrderId>,
        created_at: Timestamp,
    ) -> Result<Accepted, StoreError> {
        if self.fingerprint != stored_fingerprint {
            return Err(StoreError::KeyReused);
        }
        Ok(Accepted {
            order_ids,
            created_at,
            replayed: true,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// One per order, in the order given.
    pub order_ids: Vec<OrderId>,
    pub created_at: Timestamp,
    /// The key was known: this is the answer of the first request.
    pub replayed: bool,
}

/// Reports whether the queue takes `orders` more while `pending` are Pending and at most `pending_max` may be.
pub(super) fn has_room(pending: u64, orders: usize, pending_max: Option<u64>) -> bool {
    pending_max.is_none_or(|limit| pending + orders as u64 <= limit)
}

pub(super) struct WaitingOrders {
    places: Arc<Semaphore>,
}

/// Places in the line, to be held until the call is answered, also when its caller is gone.
pub(super) type Places = OwnedSemaphorePermit;

impl WaitingOrders {
    pub fn new() -> WaitingOrders {
        WaitingOrders {
            places: Arc::new(Semaphore::new(ORDERS_WAITING_MAX)),
        }
    }

    /// Busy when the line has no room for all of them.
    pub fn enter(&self, orders: &[NewOrder]) -> Result<Places, StoreError> {
        let count = u32::try_from(orders.len()).map_err(|_| StoreError::Busy)?;
        let places = self.places.clone().try_acquire_many_owned(count);
        places.map_err(|_| StoreError::Busy)
    }
}
