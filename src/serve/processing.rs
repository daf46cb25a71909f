//! Chooses the processor by the configuration.

use std::sync::Arc;

use super::ServeError;
use crate::config::{Config, ProcessorChoice};
use crate::processor::Processor;
use crate::processor::http::Http;
use crate::processor::simulated::Simulated;

/// Returns the processor; `None` if external workers process the orders.
pub(super) fn processor(config: &Config) -> Result<Option<Arc<dyn Processor>>, ServeError> {
    Ok(match &config.processor {
        &ProcessorChoice::Simulated { speed, failure_rate } => {
            Some(Arc::new(Simulated { speed, failure_rate }))
        }
        ProcessorChoice::Http(service) => {
            let http = Http::new((**service).clone(), config.concurrency, config.attempt_timeout);
            Some(Arc::new(http.map_err(ServeError::Processor)?))
        }
        ProcessorChoice::Pull => None,
    })
}

/// Describes the choice in the log.
pub(super) fn by_whom(choice: &ProcessorChoice) -> String {
    match choice {
        ProcessorChoice::Simulated { .. } => {
            "processing is simulated: orders take time and have no effect".to_owned()
        }
        ProcessorChoice::Http(service) => format!("orders are processed by {}", service.url),
        ProcessorChoice::Pull => {
            "orders wait for external workers, which pull them with POST /leases".to_owned()
        }
    }
}
