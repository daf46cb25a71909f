//! Stores what this node did: a row a minute, and only if something happened.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Shared, jittered};
use crate::metrics::Metrics;
use crate::store::{Activity, StoreError};

/// Time between two rows.
const INTERVAL: Duration = Duration::from_mins(1);

/// Remembers the node's latest start of an order.
#[derive(Default)]
pub(super) struct Starts(Mutex<Option<Instant>>);

impl Starts {
    /// Counts orders that a claim started.
    pub fn count(&self, orders: usize, metrics: &Metrics) {
        if orders > 0 {
            metrics.orders_started.inc_by(orders as u64);
            *self.0.lock().expect("no code panics while it holds this lock") = Some(Instant::now());
        }
    }

    /// Returns the time since the latest start.
    pub fn age(&self) -> Option<Duration> {
        let latest = *self.0.lock().expect("no code panics while it holds this lock");
        latest.map(|at| at.elapsed())
    }
}

/// Stores this process's counts until the worker stops, and once more then.
pub(super) async fn run(shared: Arc<Shared>) {
    let (mut stored, mut number) = (Activity::default(), 1);
    let mut failing = false;
    loop {
        let stops = tokio::select! {
            () = shared.stopped.cancelled() => true,
            () = sleep(jittered(INTERVAL)) => false,
        };
        let counted = Activity::of_process(&shared.metrics);
        let new = counted.since(stored);
        if new != Activity::default() {
            match shared
                .store
                .record_activity(shared.settings.node, number, new)
                .await
            {
                Ok(()) => {
                    stored = counted;
                    *shared
                        .metrics
                        .counts_stored
                        .lock()
                        .expect("no code panics while it holds this lock") = counted.to_array();
                    number += 1;
                    failing = false;
                }
                // The next attempt writes the same row with what came since, whether or not this one was stored.
                Err(error) => {
                    if !failing && !matches!(error, StoreError::Closed) {
                        tracing::warn!(%error, "cannot store this minute's counts of orders; the next minute's row includes them");
                    }
                    failing = true;
                }
            }
        }
        if stops {
            return;
        }
    }
}
