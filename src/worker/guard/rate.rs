//! Rate limit on starting attempts, if an operator set one. Pure: time is passed in.

use std::time::Duration;

use tokio::time::Instant;

use super::Allowance;
use crate::token_bucket::{Rate, TokenBucket};

/// Pause between claims at a high rate: several attempts start together, and the store is called less often.
const CLAIM_PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct RateLimit {
    rate: Rate,
    bucket: TokenBucket,
}

impl RateLimit {
    /// Creates a limit; `per_second` is above zero. Unused starts of up to one second accumulate, at least one.
    pub fn new(per_second: f64, now: Instant) -> RateLimit {
        RateLimit {
            rate: Rate::new(Duration::from_secs_f64(1.0 / per_second), burst(per_second)),
            bucket: TokenBucket::full(now),
        }
    }

    /// Returns how many of `free` may start now.
    pub fn allowance(&self, free: usize, now: Instant) -> Allowance {
        let available = self.bucket.available(self.rate, now);
        if available > 0 {
            return Allowance::Start(free.min(available));
        }
        let together = self.rate.earned_in(CLAIM_PAUSE).min(free).max(1);
        Allowance::Wait(now + self.bucket.wait(count(together), self.rate, now))
    }

    /// Records started attempts.
    pub fn take(&mut self, attempts: usize, now: Instant) {
        self.bucket.take(count(attempts), self.rate, now);
    }
}

fn count(attempts: usize) -> u32 {
    u32::try_from(attempts).expect("a claim has few orders")
}

fn burst(per_second: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a limit is positive and at most a million"
    )]
    let starts = per_second as u32;
    starts.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns the start times, and the number of calls, when attempts always start as soon as allowed.
    fn starts(per_second: f64, free: usize, span: Duration) -> (Vec<Duration>, usize) {
        let began = Instant::now();
        let mut limit = RateLimit::new(per_second, began);
        let (mut now, mut starts, mut asked) = (began, Vec::new(), 0);
        while now.duration_since(began) < span {
            asked += 1;
            match limit.allowance(free, now) {
                Allowance::Start(attempts) => {
                    limit.take(attempts, now);
                    starts.extend(std::iter::repeat_n(now.duration_since(began), attempts));
                }
                Allowance::Wait(until) => {
                    assert!(until > now, "never waits for a time in the past");
                    now = until;
                }
            }
        }
        (starts, asked)
    }

    fn number(count: usize) -> f64 {
        f64::from(u32::try_from(count).unwrap())
    }

    #[test]
    fn at_most_one_second_is_saved_up() {
        let (starts, _) = starts(5.0, 100, Duration::from_secs(2));
        assert_eq!(starts.iter().filter(|at| at.is_zero()).count(), 5);
        assert!(starts.len() <= 15, "{starts:?}");
    }

    #[test]
    fn below_one_per_second_attempts_start_one_at_a_time() {
        let (starts, asked) = starts(0.1, 100, Duration::from_secs(35));
        let seconds: Vec<u64> = starts.iter().map(Duration::as_secs).collect();
        assert_eq!(seconds, [0, 10, 20, 30]);
        assert!(asked <= 2 * starts.len() + 1, "{asked}");
    }

    #[test]
    fn at_a_high_rate_several_attempts_start_per_claim() {
        let (starts, asked) = starts(1_000.0, 100, Duration::from_secs(10));
        assert!(starts.len() >= 10_000, "{}", starts.len());
        assert!(asked <= 10 * 50 * 2 + 30, "{asked}");
    }

    proptest! {
        #[test]
        fn any_span_has_its_share_plus_at_most_one_second(
            per_second in 0.01_f64..2_000.0, free in 1_usize..300, from in 0.0_f64..1.0, length in 0.0_f64..1.0,
        ) {
            let whole = Duration::from_secs_f64((100.0 / per_second).clamp(3.0, 1_000.0));
            let (starts, _) = starts(per_second, free, whole);
            let from = whole.mul_f64(from);
            let span = whole.mul_f64(length);
            let within = starts.iter().filter(|at| (from..from + span).contains(*at)).count();
            let most = f64::from(burst(per_second)) + per_second * span.as_secs_f64();
            // The interval is rounded to a nanosecond.
            prop_assert!(number(within) <= most + 1e-2, "{within} of {most}");
            // And not less while there is work.
            let due = per_second * whole.as_secs_f64();
            prop_assert!(number(starts.len()) >= due.floor() - 1.0, "{} of {due}", starts.len());
        }
    }
}
