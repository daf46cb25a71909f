//! Retry budget: spaces retries so that an outage does not multiply the load on the processor. Retries are limited to a
//! share of recent first attempts ("Handling Overload" in "Site Reliability Engineering", 2016). Pure: time and
//! randomness are passed in. `retry` computes the backoff of a single order.

use std::time::Duration;

use tokio::time::Instant;

use crate::token_bucket::{Rate, TokenBucket};

/// Retries per first attempt.
const SHARE: f64 = 0.1;
/// Minimum rate of retries, as in Finagle's `RetryBudget`: harmless to any service, and enough for a quiet shop.
const PER_SECOND_MIN: f64 = 10.0;
/// Time constant of the count of recent first attempts.
const MEMORY: Duration = Duration::from_secs(10);
/// Minimum time over which a rate is measured.
const WATCHED_MIN: Duration = Duration::from_secs(1);
/// Retries that may come at once without spacing, so that a few orders failing together are not delayed.
const BURST: u32 = 10;
/// Retries beyond the budget are spread over this last part of the longest wait.
const LATE_SHARE: f64 = 0.5;

#[derive(Debug)]
pub struct RetryBudget {
    /// First attempts, decaying over time.
    firsts: f64,
    as_of: Instant,
    started: Instant,
    reserved: TokenBucket,
}

impl RetryBudget {
    pub fn new(now: Instant) -> RetryBudget {
        RetryBudget {
            firsts: 0.0,
            as_of: now,
            started: now,
            reserved: TokenBucket::full(now),
        }
    }

    pub fn first_attempt(&mut self, now: Instant) {
        self.firsts = self.firsts_at(now) + 1.0;
        self.as_of = now;
    }

    /// Reserves one retry and returns its delay, at most `longest`. `random` is uniform from 0 to 1.
    pub fn reserve(&mut self, longest: Duration, now: Instant, random: f64) -> Duration {
        let rate = Rate::new(Duration::from_secs_f64(1.0 / self.per_second(now)), BURST);
        let wait = self.reserved.wait(1, rate, now);
        if wait > longest {
            // Over budget: later retries must not wait for this one.
            return longest.mul_f64(1.0 - LATE_SHARE * random);
        }
        self.reserved.take(1, rate, now);
        wait
    }

    fn per_second(&self, now: Instant) -> f64 {
        let watched = now.saturating_duration_since(self.started).max(WATCHED_MIN);
        // A count younger than the memory covers less time.
        let lately = MEMORY.as_secs_f64() * (1.0 - left_after(watched));
        (SHARE * self.firsts_at(now) / lately).max(PER_SECOND_MIN)
    }

    fn firsts_at(&self, now: Instant) -> f64 {
        self.firsts * left_after(now.saturating_duration_since(self.as_of))
    }
}

/// Returns the share of a count that is left after a span.
fn left_after(span: Duration) -> f64 {
    (-span.as_secs_f64() / MEMORY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LONGEST: Duration = Duration::from_mins(5);

    fn most_within_a_second(mut times: Vec<Duration>) -> usize {
        times.sort_unstable();
        let second = Duration::from_secs(1);
        let within =
            |(at, from): (usize, &Duration)| times[at..].partition_point(|time| *time < *from + second);
        times.iter().enumerate().map(within).max().unwrap_or(0)
    }

    #[test]
    fn a_few_retries_are_not_delayed() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(now);
        for _ in 0..10 {
            assert_eq!(budget.reserve(LONGEST, now, 0.0), Duration::ZERO);
        }
        let later = now + Duration::from_secs(1);
        assert_eq!(budget.reserve(LONGEST, later, 0.0), Duration::ZERO);
    }

    #[test]
    fn many_failures_at_once_are_retried_at_the_minimum_rate() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(now);
        let waits: Vec<_> = (0..1_000).map(|_| budget.reserve(LONGEST, now, 0.0)).collect();
        let most = most_within_a_second(waits.clone());
        assert!((10..=21).contains(&most), "{most}");
        let last = waits.iter().max().unwrap().as_secs();
        assert!((98..=100).contains(&last), "{last}");
    }

    #[test]
    fn at_full_speed_a_tenth_of_the_attempts_are_retries() {
        let began = Instant::now();
        let mut budget = RetryBudget::new(began);
        let mut retries = Vec::new();
        // A thousand orders a second, every second one failing.
        for at in (0..120_000).map(Duration::from_millis) {
            budget.first_attempt(began + at);
            if at.as_millis() % 2 == 0 {
                retries.push(at + budget.reserve(LONGEST, began + at, 0.5));
            }
        }
        let lately = Duration::from_secs(90)..Duration::from_secs(110);
        let share = retries.iter().filter(|at| lately.contains(*at)).count();
        assert!((1_500..=2_500).contains(&share), "{share} of 20000");
    }

    #[test]
    fn retries_over_budget_are_spread_over_the_last_half_of_the_longest_wait() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(now);
        let longest = Duration::from_secs(10);
        for _ in 0..1_000 {
            budget.reserve(longest, now, 0.0);
        }
        assert_eq!(budget.reserve(longest, now, 0.0), longest);
        assert_eq!(budget.reserve(longest, now, 1.0), longest / 2);
        assert_eq!(budget.reserve(Duration::ZERO, now, 0.3), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn no_retry_waits_longer_than_the_longest_and_the_rate_holds_within_budget(
            steps in prop::collection::vec((0_u64..50, 0_u8..4, 0.0_f64..=1.0), 1..400), longest in 0_u64..100_000,
        ) {
            let began = Instant::now();
            let longest = Duration::from_millis(longest);
            let mut budget = RetryBudget::new(began);
            let (mut now, mut firsts, mut in_time) = (began, 0_u32, Vec::new());
            for (pause, what, random) in steps {
                now += Duration::from_millis(pause);
                if what == 0 {
                    budget.first_attempt(now);
                    firsts += 1;
                }
                let reserved = budget.reserved;
                let wait = budget.reserve(longest, now, random);
                prop_assert!(wait <= longest);
                if budget.reserved != reserved {
                    in_time.push(now.duration_since(began) + wait);
                }
            }
            let lately = MEMORY.as_secs_f64() * (1.0 - left_after(WATCHED_MIN));
            let most = PER_SECOND_MIN.max(SHARE * f64::from(firsts) / lately) + f64::from(BURST) + 1.0;
            let reached = most_within_a_second(in_time);
            prop_assert!(f64::from(u32::try_from(reached).unwrap()) <= most, "{reached} of {most}");
        }
    }
}
