//! How often a held read looks at its order by itself, behind the signals of the store.

use std::time::Duration;

/// The signal that an order became final comes from this process's store only, and a signal is only an
/// optimisation; so whoever waits also looks, with growing pauses, since thousands may wait at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polling {
    /// Before the second look.
    pub first: Duration,
    /// What the pauses grow to.
    pub longest: Duration,
}

impl Default for Polling {
    /// A change by another node is seen after five seconds at most, and as many readers as there may be
    /// connections (4,096) ask the store for some thousand orders a second.
    fn default() -> Polling {
        Polling {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(5),
        }
    }
}

impl Polling {
    pub fn pauses(self) -> Pauses {
        Pauses {
            next: self.first,
            longest: self.longest,
        }
    }
}

/// The pauses of one reader.
pub struct Pauses {
    next: Duration,
    longest: Duration,
}

impl Pauses {
    /// Twice the one before, and up to half shorter at random, so that readers who came together part.
    pub fn next(&mut self) -> Duration {
        let pause = self.next.min(self.longest);
        self.next = pause * 2;
        pause.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let mut pauses = Polling::default().pauses();
        for seconds in [1, 2, 4, 5, 5, 5] {
            let (pause, whole) = (pauses.next(), Duration::from_secs(seconds));
            assert!(whole / 2 <= pause && pause <= whole, "{pause:?} of {whole:?}");
        }
    }
}
