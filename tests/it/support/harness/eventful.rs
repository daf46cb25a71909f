//! An order with a long history.

use orderly::lease::Outcome;
use orderly::order::OrderId;

use super::Harness;
use crate::support::make::{failed, retry_after};

/// More events of each kind than the row of an order holds.
const ROUNDS: usize = 40;

impl Harness {
    /// Cancels and redrives an order many times, retries it many times, lets it fail, and finally completes it. No
    /// other order may be ready to start.
    pub async fn eventful_order(&self) -> OrderId {
        let id = self.accept_one().await;
        for _ in 0..ROUNDS {
            self.cancel(id).await;
            self.redrive(id).await;
        }
        for _ in 0..ROUNDS {
            let lease = self.claim_only(id).await;
            self.settle(&lease, retry_after(0)).await;
        }
        let lease = self.claim_only(id).await;
        self.settle(&lease, failed()).await;
        self.redrive(id).await;
        let lease = self.claim_only(id).await;
        self.settle(&lease, Outcome::COMPLETED).await;
        id
    }
}
