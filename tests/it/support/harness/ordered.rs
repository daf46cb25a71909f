//! Stores whose orders wait for others of their user.

use orderly::order::Ordering;

use super::{Harness, ids_of, open_store};

impl Harness {
    /// With the orders of a user waiting for each other, or not. A shared store goes by it from the next claim on.
    pub async fn reopen_with_ordering(&mut self, ordering: Ordering) {
        self.store.close().await;
        self.store = open_store(&self.database, &self.clock, &self.metrics, None, Some(ordering)).await;
        assert_eq!(ids_of(&self.claim(0).await), []);
    }
}
