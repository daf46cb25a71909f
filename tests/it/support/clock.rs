//! A wall clock that stands still until a test moves it. The harness applies its time to databases.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use orderly::store::clock::WallClock;
use orderly::time::Timestamp;

/// 2026-01-01T00:00:00Z, which makes times in failures readable.
const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

/// Clones show the same time.
#[derive(Clone)]
pub struct FakeClock {
    micros: Arc<AtomicI64>,
}

impl FakeClock {
    pub fn new() -> FakeClock {
        FakeClock {
            micros: Arc::new(AtomicI64::new(START.micros())),
        }
    }

    /// The clock in the form that `OpenOptions` takes.
    pub fn wall(&self) -> WallClock {
        let clock = self.clone();
        Arc::new(move || clock.now())
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.micros.load(Ordering::SeqCst))
    }

    pub fn advance(&self, span: Duration) {
        self.set(self.now().plus(span));
    }

    /// Sets the clock back, as an operator or time service corrects a fast clock.
    pub fn step_back(&self, span: Duration) {
        self.set(self.now().minus(span));
    }

    fn set(&self, time: Timestamp) {
        self.micros.store(time.micros(), Ordering::SeqCst);
    }
}
