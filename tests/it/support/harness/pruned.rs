//! A harness whose store has forgotten what ended long ago.

use std::time::Duration;

use orderly::order::OrderId;
use orderly::store::Prune;

use super::Harness;

const RETENTION: Duration = Duration::from_hours(24);
const LONGER_THAN_THE_RETENTION: Duration = Duration::from_hours(25);

impl Harness {
    /// Forgets the orders that have ended by now, as the retention does after a day. Answers those that may not go.
    pub async fn prune_all(&self) -> Vec<OrderId> {
        self.place_all().await;
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
