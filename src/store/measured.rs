//! Times and traces every verb of a store: a histogram by verb and outcome, and a span at debug level. Drivers measure the parts of
//! a verb, such as its commit.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use prometheus_client::metrics::histogram::Histogram;
use tracing::Instrument;

use super::layer::{InnerCall, Layer, Layered, Verb};
use super::{Store, StoreError};
use crate::metrics::store_calls::{StoreCallLabels, StoreCallOutcome, StoreCalls};

/// Wraps a store. Methods that answer from memory, wait for a failure or close the store are not measured.
pub fn measured(store: Arc<dyn Store>, calls: StoreCalls) -> Arc<dyn Store> {
    Arc::new(Layered::new(store, Measured::new(calls)))
}

struct Measured {
    calls: StoreCalls,
    /// Histograms by verb and outcome, cached on first use so that later calls do not search the family.
    cached: [[OnceLock<Histogram>; StoreCallOutcome::COUNT]; Verb::ALL.len()],
}

impl Measured {
    fn new(calls: StoreCalls) -> Measured {
        Measured {
            calls,
            cached: std::array::from_fn(|_| Default::default()),
        }
    }

    fn histogram(&self, verb: Verb, outcome: StoreCallOutcome) -> &Histogram {
        self.cached[verb as usize][outcome as usize].get_or_init(|| {
            let verb = verb.name();
            self.calls
                .get_or_create(&StoreCallLabels { verb, outcome })
                .clone()
        })
    }
}

impl Layer for Measured {
    async fn around<T: Send>(&self, verb: Verb, call: InnerCall<'_, T>) -> Result<T, StoreError> {
        let span = tracing::debug_span!("store", verb = verb.name());
        let mut timing = Timing {
            measured: self,
            verb,
            outcome: StoreCallOutcome::abandoned,
            began: Instant::now(),
        };
        let answer = call.instrument(span).await;
        timing.outcome = outcome(&answer);
        answer
    }
}

/// Records the duration of a call when dropped, whether or not the call was answered.
struct Timing<'m> {
    measured: &'m Measured,
    verb: Verb,
    outcome: StoreCallOutcome,
    began: Instant,
}

impl Drop for Timing<'_> {
    fn drop(&mut self) {
        let took = self.began.elapsed().as_secs_f64();
        self.measured.histogram(self.verb, self.outcome).observe(took);
    }
}

fn outcome<T>(answer: &Result<T, StoreError>) -> StoreCallOutcome {
    match answer {
        Ok(_) => StoreCallOutcome::ok,
        Err(
            StoreError::Busy
            | StoreError::QueueFull
            | StoreError::DeadlinePassed { .. }
            | StoreError::Closed
            | StoreError::KeyReused
            | StoreError::Refused { .. },
        ) => StoreCallOutcome::refused,
        Err(StoreError::DiskFull | StoreError::Unavailable { .. } | StoreError::Unexpected { .. }) => {
            StoreCallOutcome::failed
        }
    }
}

#[cfg(test)]
mod tests;
