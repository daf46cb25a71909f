//! Removal of old orders by retention.

use std::time::Duration;

use orderly::order::OrderId;
use orderly::store::Prune;

use super::Harness;

const RETENTION: Duration = Duration::from_hours(24);
const LONGER_THAN_THE_RETENTION: Duration = Duration::from_hours(25);

impl Harness {
    /// Removes all orders that are final now, as after a day of retention. Returns the orders that could not be
    /// removed.
    pub async fn prune_all(&self) -> Vec<OrderId> {
        self.number_all_events().await;
        self.advance(LONGER_THAN_THE_RETENTION).await;
        let mut after = None;
        let mut refused = Vec::new();
        loop {
            let older_than = RETENTION;
            let pruned = self.store.prune(Prune { older_than, after }).await.unwrap();
            after = pruned.next;
            refused.extend(pruned.refused.iter().map(|refused| refused.order_id));
            if after.is_none() {
                return refused;
            }
        }
    }
}
