//! Accepting orders: the idempotency key, the answer, and the limits. Drivers store the orders.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::StoreError;
use crate::order::{NewOrder, OrderId};
use crate::time::Timestamp;

/// Age at which a stored idempotency key expires.
pub const IDEMPOTENCY_RETENTION: Duration = Duration::from_hours(24);
/// Orders that may wait for their commit; beyond that requests are refused. A batch counts once per order.
pub const ORDERS_WAITING_MAX: usize = 16_384;

/// A client's name for a request. A repeated request with the same key gets the first answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// Caller and route. Equal keys of different scopes are different keys.
    pub scope: String,
    /// 1 to 255 printable ASCII characters.
    pub key: String,
    /// SHA-256 of route and body bytes.
    pub fingerprint: [u8; 32],
}

impl IdempotencyKey {
    /// The answer to a request whose key is stored: the first answer, or [`StoreError::KeyReused`] if the request differs.
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
    /// One id per order, in the order of the request.
    pub order_ids: Vec<OrderId>,
    pub created_at: Timestamp,
    /// True if the key was stored before: this is the answer to the first request.
    pub replayed: bool,
}

/// Reports whether the queue takes `orders` more while so many wait; the limit is `waiting_max`.
pub(super) fn has_room(waiting: u64, orders: u64, waiting_max: Option<u64>) -> bool {
    orders == 0 || waiting_max.is_none_or(|limit| waiting + orders <= limit)
}

/// Counts the orders that wait from `now` on; the others are set aside.
pub(super) fn waiting_from(orders: &[NewOrder], now: Timestamp) -> u64 {
    orders.iter().filter(|order| !order.is_set_aside(now)).count() as u64
}

/// Returns the error for a request with a deadline that has passed. Judged after the key, so that a repeated request gets its answer.
pub(super) fn late(orders: &[NewOrder], now: Timestamp) -> Option<StoreError> {
    let numbered = orders.iter().enumerate();
    let late = numbered.filter(|(_, order)| order.is_late(now));
    let places: Vec<usize> = late.map(|(place, _)| place).collect();
    (!places.is_empty()).then_some(StoreError::DeadlinePassed { places })
}

/// Counts the orders that wait for their commit, up to [`ORDERS_WAITING_MAX`].
pub(super) struct WaitingOrders {
    places: Arc<Semaphore>,
}

/// The places of a call's orders, to be held until the call is answered, even if its caller is gone.
pub(super) type Places = OwnedSemaphorePermit;

impl WaitingOrders {
    pub fn new() -> WaitingOrders {
        WaitingOrders {
            places: Arc::new(Semaphore::new(ORDERS_WAITING_MAX)),
        }
    }

    /// Reserves a place for each order. Fails with [`StoreError::Busy`] if there is no room for all of them.
    pub fn enter(&self, orders: &[NewOrder]) -> Result<Places, StoreError> {
        let count = u32::try_from(orders.len()).map_err(|_| StoreError::Busy)?;
        let places = self.places.clone().try_acquire_many_owned(count);
        places.map_err(|_| StoreError::Busy)
    }
}
