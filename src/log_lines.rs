//! Limits on repeated log lines: one when a state begins and one when it ends, or one a minute for each subject. Callers
//! write the lines.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Minimum time between two lines about one subject.
const EVERY: Duration = Duration::from_mins(1);

/// A state that is logged when it begins or ends, such as a failure that lasts. Cleared at first.
#[derive(Debug, Default)]
pub struct Latch(AtomicBool);

impl Latch {
    /// Sets the latch. Returns true if it was cleared, so that a line is due.
    pub fn set(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }

    /// Clears the latch. Returns true if it was set, so that a line may be due.
    pub fn clear(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    /// Sets the latch after a failure and clears it after a success. Returns the error of a failure that follows a success,
    /// so that a line is due.
    pub fn new_failure<'r, T, E>(&self, result: &'r Result<T, E>) -> Option<&'r E> {
        match result {
            Ok(_) => {
                self.clear();
                None
            }
            Err(error) => self.set().then_some(error),
        }
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Lines that come at most once in [`EVERY`] for each subject. Subjects are never forgotten: `K` is a closed set.
#[derive(Debug)]
pub struct Throttle<K>(Mutex<HashMap<K, LastLine>>);

#[derive(Debug)]
struct LastLine {
    at: Instant,
    /// Lines withheld since then.
    withheld: u64,
}

impl<K> Default for Throttle<K> {
    fn default() -> Throttle<K> {
        Throttle(Mutex::default())
    }
}

impl<K: Eq + Hash> Throttle<K> {
    /// Returns the number of lines withheld since the last one about this subject; `None` to withhold this one too.
    pub fn due(&self, subject: K, now: Instant) -> Option<u64> {
        // Every change leaves the map whole, even if a thread panicked.
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = lines.get_mut(&subject)
            && now.saturating_duration_since(last.at) < EVERY
        {
            last.withheld += 1;
            return None;
        }
        let last = lines.insert(subject, LastLine { at: now, withheld: 0 });
        Some(last.map_or(0, |last| last.withheld))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latch_tells_only_changes() {
        let latch = Latch::default();
        assert!(!latch.clear());
        assert!(latch.set() && !latch.set() && latch.is_set());
        assert!(latch.clear() && !latch.clear() && !latch.is_set());
        let failures = [Err("down"), Err("still down"), Ok(()), Err("down again")];
        let new: Vec<&str> = failures
            .iter()
            .filter_map(|ended| latch.new_failure(ended).copied())
            .collect();
        assert_eq!(new, ["down", "down again"]);
    }

    #[test]
    fn each_subject_is_logged_at_most_once_a_minute() {
        let throttle = Throttle::default();
        let now = Instant::now();
        assert_eq!(throttle.due("refused", now), Some(0));
        for second in 1..60 {
            assert_eq!(throttle.due("refused", now + Duration::from_secs(second)), None);
        }
        assert_eq!(throttle.due("refused", now + EVERY), Some(59));
        assert_eq!(throttle.due("busy", now + EVERY), Some(0));
        assert_eq!(throttle.due("away", now + EVERY), Some(0));
        assert_eq!(throttle.due("away", now + EVERY), None);
        // Alternating subjects do not shorten the interval.
        assert_eq!(throttle.due("busy", now + EVERY), None);
        assert_eq!(throttle.due("busy", now + EVERY * 2), Some(1));
    }
}
