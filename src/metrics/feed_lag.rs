//! Lag of the feed, combined from the parts that measure it.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::Gauge;

/// The larger of two lags, each reported by its part when it changes. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct FeedLag {
    gauge: Gauge<f64, AtomicU64>,
    known: Arc<Mutex<KnownLag>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct KnownLag {
    read: Duration,
    unplaced: Duration,
}

impl FeedLag {
    /// Sets the age of the oldest change when the end of the feed was read for subscribers.
    pub fn read(&self, lag: Duration) {
        self.update(|known| known.read = lag);
    }

    /// Sets the time the oldest commit has waited for its position, in a store that numbers events after the commit; with
    /// or without subscribers.
    pub fn unplaced(&self, lag: Duration) {
        self.update(|known| known.unplaced = lag);
    }

    /// Returns the lag in seconds.
    pub fn get(&self) -> f64 {
        self.gauge.get()
    }

    fn update(&self, change: impl FnOnce(&mut KnownLag)) {
        let mut known = self
            .known
            .lock()
            .expect("no code panics while it holds this lock");
        change(&mut known);
        self.gauge.set(known.read.max(known.unplaced).as_secs_f64());
    }
}

impl EncodeMetric for FeedLag {
    fn encode(&self, encoder: MetricEncoder<'_>) -> std::fmt::Result {
        self.gauge.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        self.gauge.metric_type()
    }
}
