//! A clock that never goes backwards, for SQLite. PostgreSQL has a clock of its own.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use crate::time::Timestamp;

/// Reads the wall clock. Tests pass their own.
pub type WallClock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

pub fn system_clock() -> WallClock {
    Arc::new(|| {
        let since_epoch = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("the clock of a machine that runs this is past 1970");
        Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    })
}

/// A clock that never goes backwards, so that `created_at` rises with the order id and a lease never gains time. It follows the
/// wall clock forward. After a backward step of the wall clock it runs at half speed until the wall clock catches up, so that
/// retries and leases still fall due.
pub struct SteadyClock {
    wall: WallClock,
    last: Mutex<Reading>,
}

struct Reading {
    shown: Timestamp,
    wall: Timestamp,
}

impl SteadyClock {
    /// Starts no earlier than `newest_stored`, the newest time in the store.
    pub fn new(wall: WallClock, newest_stored: Timestamp) -> SteadyClock {
        let now = wall();
        SteadyClock {
            wall,
            last: Mutex::new(Reading {
                shown: now.max(newest_stored),
                wall: now,
            }),
        }
    }

    pub fn now(&self) -> Timestamp {
        let mut last = self.last.lock().expect("no code panics while it holds this lock");
        let wall = (self.wall)();
        let passed = wall.since(last.wall);
        last.shown = wall.max(last.shown.plus(passed / 2));
        last.wall = wall;
        last.shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicI64, Ordering};

    #[test]
    fn a_backward_step_slows_the_clock_but_never_reverses_it() {
        let wall = Arc::new(AtomicI64::new(1_000));
        let reader = wall.clone();
        let clock = SteadyClock::new(
            Arc::new(move || Timestamp::from_micros(reader.load(Ordering::SeqCst))),
            Timestamp::from_micros(0),
        );
        let at = |micros: i64| {
            wall.store(micros, Ordering::SeqCst);
            clock.now().micros()
        };
        assert_eq!(at(1_000), 1_000);
        assert_eq!(at(2_000), 2_000);
        assert_eq!(at(500), 2_000);
        assert_eq!(at(700), 2_100);
        assert_eq!(at(1_900), 2_700);
        assert_eq!(at(4_000), 4_000);
    }

    #[test]
    fn the_clock_starts_no_earlier_than_the_newest_stored_time() {
        let clock = SteadyClock::new(Arc::new(|| Timestamp::from_micros(5)), Timestamp::from_micros(9));
        assert_eq!(clock.now().micros(), 9);
    }
}
