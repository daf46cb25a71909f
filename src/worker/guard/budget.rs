//! When failed attempts may be repeated, so that an outage does not multiply what is asked of whoever processes the orders:
//! a share of the first attempts of lately ("Handling Overload" in "Site Reliability Engineering", 2016). Pure: time and
//! chance are passed in. The back-off of a single order is left to `retry`.

use std::time::Duration;

use tokio::time::Instant;

/// Retries per first attempt.
const SHARE: f64 = 0.1;
/// Retries per second whatever else goes on, as in Finagle's `RetryBudget`: harmless to any service, and more than a quiet
/// shop needs.
const PER_SECOND_MIN: f64 = 10.0;
/// First attempts of about so long count as lately.
const MEMORY: Duration = Duration::from_secs(10);
/// A rate is not judged by less than so much time.
const WATCHED_MIN: Duration = Duration::from_secs(1);
/// Retries of one moment that are not spaced: a few orders that fail together notice nothing.
const BURST: f64 = 10.0;
/// Those for whom there is no room before the longest wait come back over its last half: not all at once.
const LATE_SHARE: f64 = 0.5;

#[derive(Debug)]
pub struct RetryBudget {
    /// First attempts, each forgotten by and by.
    firsts: f64,
    as_of: Instant,
    started: Instant,
    /// When the last place that was given is used up.
    given_until: Instant,
}

impl RetryBudget {
    pub fn new(now: Instant) -> RetryBudget {
        RetryBudget {
            firsts: 0.0,
            as_of: now,
            started: now,
            given_until: now,
        }
    }

    pub fn first_attempt(&mut self, now: Instant) {
        self.firsts = self.firsts_at(now) + 1.0;
        self.as_of = now;
    }

    /// A place for one retry: how long it has to wait for it, `longest` at most. `random` is uniform from 0 to 1.
    pub fn reserve(&mut self, longest: Duration, now: Instant, random: f64) -> Duration {
        let spacing = Duration::from_secs_f64(1.0 / self.per_second(now));
        let free_from = self.given_until.max(now);
        let wait = free_from
            .duration_since(now)
            .saturating_sub(spacing.mul_f64(BURST - 1.0));
        if wait > longest {
            // There is no room: later retries must not wait for this one.
            return longest.mul_f64(1.0 - LATE_SHARE * random);
        }
        self.given_until = free_from + spacing;
        wait
    }

    fn per_second(&self, now: Instant) -> f64 {
        let watched = now.saturating_duration_since(self.started).max(WATCHED_MIN);
        // What has been counted for less than the memory lasts stands for less.
        let lately = MEMORY.as_secs_f64() * (1.0 - left_after(watched));
        (SHARE * self.firsts_at(now) / lately).max(PER_SECOND_MIN)
    }

    fn firsts_at(&self, now: Instant) -> f64 {
        self.firsts * left_after(now.saturating_duration_since(self.as_of))
    }
}

/// What is left of a count after so long.
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
    fn a_quiet_shop_notices_nothing() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(now);
        for _ in 0..10 {
            assert_eq!(budget.reserve(LONGEST, now, 0.0), Duration::ZERO);
        }
        let later = now + Duration::from_secs(1);
        assert_eq!(budget.reserve(LONGEST, later, 0.0), Duration::ZERO);
    }

    #[test]
    fn very_many_failures_at_once_are_tried_again_at_the_least_rate() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(now);
        let waits: Vec<_> = (0..1_000).map(|_| budget.reserve(LONGEST, now, 0.0)).collect();
        let most = most_within_a_second(waits.clone());
        assert!((10..=21).contains(&most), "{most}");
        let last = waits.iter().max().unwrap().as_secs();
        assert!((98..=100).contains(&last), "{last}");
    }

    #[test]
    fn at_full_speed_a_tenth_of_it_are_retries() {
        let began = Instant::now();
        let mut budget = RetryBudget::new(began);
        let mut retries = Vec::new();
        // A thousand orders a second, of which every second one fails.
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
    fn with_no_room_left_retries_come_over_the_last_half_of_the_longest_wait() {
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
        fn nobody_waits_longer_than_the_longest_and_the_rate_holds_where_there_is_room(
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
                let given = budget.given_until;
                let wait = budget.reserve(longest, now, random);
                prop_assert!(wait <= longest);
                if budget.given_until > given {
                    in_time.push(now.duration_since(began) + wait);
                }
            }
            let lately = MEMORY.as_secs_f64() * (1.0 - left_after(WATCHED_MIN));
            let most = PER_SECOND_MIN.max(SHARE * f64::from(firsts) / lately) + BURST + 1.0;
            let reached = most_within_a_second(in_time);
            prop_assert!(f64::from(u32::try_from(reached).unwrap()) <= most, "{reached} of {most}");
        }
    }
}
