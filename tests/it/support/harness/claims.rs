//! Tokens of claims, as the store under test computes them.

use orderly::epoch::Token;
use orderly::order::{Order, OrderId};
use orderly::store::Epochs;

use super::Harness;

impl Harness {
    pub async fn epochs(&self) -> Epochs {
        let mut snapshot = self.store().snapshot().await.unwrap();
        snapshot.feed().await.unwrap().bounds.epochs
    }

    /// The token of this claim of the order in the newest epoch, whether or not the claim happened.
    pub async fn token(&self, id: OrderId, claim: u64) -> Token {
        let epochs = self.epochs().await;
        epochs.newest().secret.token(id, epochs.fence_base() + claim)
    }

    /// The idempotency key of the order's attempts.
    pub async fn attempt_key(&self, id: i64, redrives: u32) -> String {
        let order = self.order(OrderId(id)).await;
        let order = Order {
            generation: redrives,
            ..order
        };
        self.epochs().await.attempt_key(&order).to_string()
    }

    /// The body of a worker's call with that token. `rest` holds further members, each after a comma.
    pub async fn call_body(&self, id: i64, claim: u64, rest: &str) -> String {
        let token = self.token(OrderId(id), claim).await;
        format!("{{\"token\":\"{token}\"{rest}}}")
    }
}
