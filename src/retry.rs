//! Delays before retries: exponential backoff with full jitter, as a pure function of its inputs.

use std::time::Duration;

/// Exponential backoff with full jitter: a uniform share of an exponentially growing, capped ceiling
/// (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts before an order is Failed for good, at least 1.
    pub attempts_max: u32,
    /// Ceiling after the first failed attempt; doubles with each further one.
    pub base: Duration,
    /// Maximum ceiling.
    pub cap: Duration,
}

impl RetryPolicy {
    /// Returns the delay after failed attempt number `attempt` (from 1), or `None` if the attempts are used up.
    /// `random` is uniform over all of `u32`: the jitter.
    pub fn delay(&self, attempt: u32, random: u32) -> Option<Duration> {
        (attempt < self.attempts_max).then(|| jittered(self.ceiling(attempt), random))
    }

    /// Returns the delay after `tries` tries (from 1) that were no attempts.
    pub fn back_off(&self, tries: u32, random: u32) -> Duration {
        jittered(self.ceiling(tries), random)
    }

    fn ceiling(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.cap)
    }
}

fn jittered(ceiling: Duration, random: u32) -> Duration {
    let nanos = ceiling.as_nanos() * u128::from(random) / u128::from(u32::MAX);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: RetryPolicy = RetryPolicy {
        attempts_max: 5,
        base: Duration::from_secs(1),
        cap: Duration::from_secs(5),
    };

    #[test]
    fn the_ceiling_doubles_up_to_the_cap() {
        let ceilings: Vec<_> = (1..5)
            .map(|n| POLICY.delay(n, u32::MAX).unwrap().as_secs())
            .collect();
        assert_eq!(ceilings, [1, 2, 4, 5]);
    }

    #[test]
    fn the_last_attempt_has_no_successor() {
        assert_eq!(POLICY.delay(5, 0), None);
        assert_eq!(POLICY.delay(6, 0), None);
    }

    /// Issue 13, point 33: without jitter, orders that fail together come back together.
    #[test]
    fn jitter_covers_the_whole_ceiling() {
        for (random, ms) in [
            (0, 0),
            (u32::MAX / 4, 499),
            (u32::MAX / 2, 999),
            (u32::MAX, 2_000),
        ] {
            assert_eq!(POLICY.delay(2, random).unwrap().as_millis(), ms);
            assert_eq!(POLICY.back_off(2, random).as_millis(), ms);
        }
    }

    proptest! {
        #[test]
        fn jitter_never_exceeds_the_ceiling(attempt in 1u32..200, random: u32, base in 0u64..1 << 40, cap in 0u64..1 << 40) {
            let policy = RetryPolicy {
                attempts_max: u32::MAX,
                base: Duration::from_millis(base),
                cap: Duration::from_millis(cap),
            };
            prop_assert!(policy.delay(attempt, random).unwrap() <= policy.cap);
        }
    }
}
