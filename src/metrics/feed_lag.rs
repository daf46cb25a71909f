//! The lateness of the feed, put together from the parts that know it.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;

/// The worse of two lags, each reported by the part that knows it whenever it changes. Cheap to clone.
#[derive(Clone, Default)]
pub struct FeedLag {
    pub(super) gauge: Gauge<f64, AtomicU64>,
    known: Arc<Mutex<KnownLag>>,
}

#[derive(Clone, Copy, Default)]
struct KnownLag {
    read: Duration,
    unplaced: Duration,
}

impl FeedLag {
    /// Reports how old the oldest change was when the end of the feed was read for its subscribers.
    pub fn read(&self, lag: Duration) {
        self.tell(|known| known.read = lag);
    }

    /// Reports how long the oldest commit has waited for its place, in a store that gives places after the commit;
    /// subscribers or not.
    pub fn unplaced(&self, lag: Duration) {
        self.tell(|known| known.unplaced = lag);
    }

    /// Reads the lag in seconds.
    pub fn get(&self) -> f64 {
        self.gauge.get()
    }

    fn tell(&self, change: impl FnOnce(&mut KnownLag)) {
        let mut known = self
            .known
            .lock()
            .expect("no code panics while it holds this lock");
        change(&mut known);
        self.gauge.set(known.read.max(known.unplaced).as_secs_f64());
    }
}
