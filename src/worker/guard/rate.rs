//! Rate limit on starting attempts, if an operator set one: a token bucket. Pure: time is passed in.

use std::time::Duration;

use tokio::time::Instant;

use super::Allowance;

/// Seconds of unused starts that accumulate, at least one attempt.
const BURST_SECONDS: f64 = 1.0;
/// Pause between claims at a high rate: several attempts start together, and the store is called less often.
const CLAIM_PAUSE: Duration = Duration::from_millis(20);
/// Tolerance for rounding: sums of fractions come out slightly low.
const ROUNDING: f64 = 1e-6;

#[derive(Debug)]
pub struct RateLimit {
    per_second: f64,
    /// Attempts that may begin at `as_of`.
    saved: f64,
    as_of: Instant,
}

impl RateLimit {
    /// Creates a limit; `per_second` is above zero.
    pub fn new(per_second: f64, now: Instant) -> RateLimit {
        RateLimit {
            per_second,
            saved: burst(per_second),
            as_of: now,
        }
    }

    /// Returns how many of `free` may start now.
    pub fn allowance(&self, free: usize, now: Instant) -> Allowance {
        let saved = self.saved_at(now);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a limit is at most a million, and a negative number rounds to zero"
        )]
        let whole = (saved + ROUNDING) as usize;
        if whole > 0 {
            return Allowance::Start(free.min(whole));
        }
        #[expect(clippy::cast_precision_loss, reason = "slots are few")]
        let together = (self.per_second * CLAIM_PAUSE.as_secs_f64())
            .min(free as f64)
            .max(1.0);
        Allowance::Wait(now + Duration::from_secs_f64((together - saved) / self.per_second))
    }

    /// Records started attempts.
    pub fn take(&mut self, attempts: usize, now: Instant) {
        #[expect(clippy::cast_precision_loss, reason = "a claim has few orders")]
        let taken = attempts as f64;
        self.saved = self.saved_at(now) - taken;
        self.as_of = now;
    }

    fn saved_at(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.as_of).as_secs_f64();
        (self.saved + passed * self.per_second).min(burst(self.per_second))
    }
}

fn burst(per_second: f64) -> f64 {
    (per_second * BURST_SECONDS).max(1.0)
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
            let most = burst(per_second) + per_second * span.as_secs_f64();
            prop_assert!(number(within) <= most + 1e-3, "{within} of {most}");
            // And not less while there is work.
            let due = per_second * whole.as_secs_f64();
            prop_assert!(number(starts.len()) >= due.floor() - 1.0, "{} of {due}", starts.len());
        }
    }
}
