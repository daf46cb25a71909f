//! Growing pauses between retries of a failing operation.

use std::time::Duration;

pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Backoff {
        Backoff {
            first: first.min(longest),
            longest,
            next: first.min(longest),
        }
    }

    /// Returns twice the previous pause, shortened by up to half at random, so that nodes that lost the same database do
    /// not return together.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest_and_restart_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for _ in 0..2 {
            for seconds in [1, 2, 4, 5, 5] {
                let (pause, whole) = (backoff.pause(), Duration::from_secs(seconds));
                assert!(whole / 2 <= pause && pause <= whole, "{pause:?} of {whole:?}");
            }
            backoff.reset();
        }
    }
}
