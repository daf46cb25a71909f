//! A harness whose store has forgotten what ended long ago.

use std::time::Duration;

use orderly::store::Prune;

use super::Harness;

const RETENTION: Duration = Duration::from_hours(24);
const LONGER_THAN_THE_RETENTION: Duration = Duration::from_hours(25);

impl Harness {
    /// Forgets the orders that have ended by now, as the retention does after a day.
    pub async fn prune_all(&self) {
        self.place_all().await;
        self.advance(LONGER_THAN_THE_RETENTION).await;
        let mut after = None;
        loop {
            let older_than = RETENTION;
            let pruned = self.store.prune(Prune { older_than, after }).await.unwrap();
            after = pruned.next;
            if after.is_none() {
                return;
            }
        }
    }
}
