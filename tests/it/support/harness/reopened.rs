//! Restarts, optionally with other settings.

use orderly::order::Ordering;
use orderly::store::open::begin_epoch;

use super::{Harness, ids_of, open_store};

impl Harness {
    /// Closes and reopens the store, like a restart.
    pub async fn reopen(&mut self) {
        self.reopen_with_pending_max(None).await;
    }

    pub async fn reopen_with_pending_max(&mut self, pending_max: Option<u64>) {
        self.store.close().await;
        self.store = open_store(&self.database, &self.clock, &self.metrics, pending_max, None).await;
    }

    /// Begins an epoch between a close and a restart, as after a restored backup.
    pub async fn begin_epoch(&mut self) {
        self.store.close().await;
        begin_epoch(&self.database).await.unwrap();
        self.reopen().await;
    }

    /// Reopens with another ordering, which a shared store applies from its next claim.
    pub async fn reopen_with_ordering(&mut self, ordering: Ordering) {
        self.store.close().await;
        self.store = open_store(&self.database, &self.clock, &self.metrics, None, Some(ordering)).await;
        assert_eq!(ids_of(&self.claim(0).await), []);
    }
}
