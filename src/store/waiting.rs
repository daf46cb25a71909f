//! The line of orders that wait for their commit, and its limit. Committing them is left to the drivers.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::StoreError;
use crate::order::NewOrder;

/// Orders that may wait for their commit; requests beyond are refused. A batch counts as many as it holds.
pub const ORDERS_WAITING_MAX: usize = 16_384;

pub(super) struct WaitingOrders {
    places: Arc<Semaphore>,
}

/// Places in the line, to be held until the call is answered, also when nobody waits for it any more.
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
