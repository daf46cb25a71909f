//! Server with its own processor in Rust, as a complete program. It is configured like `orderly serve`, by the
//! environment, `.env` and `orderly.toml`.
//!
//! ```text
//! cargo run --example own_processor
//! curl -X POST http://127.0.0.1:5000/orders -H 'Content-Type: application/json' \
//!   -d '{"user_id": 104, "item_ids": [101,102,103], "total_amount": 250.75}'
//! curl http://127.0.0.1:5000/orders/1 -H 'Prefer: wait=30'
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use orderly::config::{self, Loaded, Sources};
use orderly::metrics::Metrics;
use orderly::order::Order;
use orderly::portable_json::JsonText;
use orderly::processor::{Attempt, Processed, ProcessingError, Processor};
use orderly::{serve, telemetry};
use serde_json::json;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Loaded { config, warnings } = config::load(&Sources::of_process(Vec::new(), None))?;
    let _telemetry = telemetry::start(&config.log)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    serve::run_with(config, Arc::new(Warehouse::default()), Metrics::new()).await?;
    Ok(())
}

/// Packs orders.
#[derive(Default)]
pub struct Warehouse {
    /// Parcel numbers by the order's idempotency key, so that a repeated attempt finds its parcel.
    parcels: Mutex<HashMap<String, usize>>,
}

#[async_trait]
impl Processor for Warehouse {
    /// Dropped at its await points when the order is cancelled or the attempt times out.
    async fn process(&self, order: &Order, attempt: Attempt) -> Result<Processed, ProcessingError> {
        let items: Vec<&str> = order.request.items.codes().split(',').collect();
        if items.contains(&"13") {
            // Another attempt cannot succeed: Failed, until an operator acts.
            return Err(ProcessingError::Permanent {
                error: "item 13 is not for sale".into(),
            });
        }
        if items.contains(&"7") && attempt.number == 1 {
            // Pending again, and retried after the backoff.
            return Err(ProcessingError::Transient {
                error: "item 7 is being restocked".into(),
                retry_after: Some(Duration::from_millis(100)),
            });
        }
        let parcel = {
            let mut parcels = self.parcels.lock().expect("no holder of it panics");
            let next = parcels.len() + 1;
            *parcels.entry(attempt.key.to_string()).or_insert(next)
        };
        // Stored with the order and visible to its readers.
        let result = json!({"parcel": parcel, "items": items.len()}).to_string();
        Ok(Processed::Completed {
            result: JsonText::parse(&result).ok(),
        })
    }
}
