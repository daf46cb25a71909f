//! How many attempts may begin where an operator set a limit per second: a token bucket. Pure: time is passed in.

use std::time::Duration;

use tokio::time::Instant;

use super::Turn;

/// What a pause saves up: so many seconds' worth begin at once after it, but one attempt at the least.
const BURST_SECONDS: f64 = 1.0;
/// Between two claims at a high rate: several attempts begin together, and the store is asked less often.
const CLAIM_PAUSE: Duration = Duration::from_millis(20);
/// Sums of fractions come out a little short.
const ROUNDING: f64 = 1e-6;

#[derive(Debug)]
pub struct RateLimit {
    per_second: f64,
    /// Attempts that may begin at `as_of`.
    saved: f64,
    as_of: Instant,
}

impl RateLimit {
    /// `per_second` is above zero.
    pub fn new(per_second: f64, now: Instant) -> RateLimit {
        RateLimit {
            per_second,
            saved: burst(per_second),
            as_of: now,
        }
    }

    /// How many of `free` may begin now.
    pub fn turn(&self, free: usize, now: Instant) -> Turn {
        let saved = self.saved_at(now);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a limit is a million at most, and less than nothing is nothing"
        )]
        let whole = (saved + ROUNDING) as usize;
        if whole > 0 {
            return Turn::Start(free.min(whole));
        }
        #[expect(clippy::cast_precision_loss, reason = "slots are few")]
        let together = (self.per_second * CLAIM_PAUSE.as_secs_f64())
            .min(free as f64)
            .max(1.0);
        Turn::Wait(now + Duration::from_secs_f64((together - saved) / self.per_second))
    }

    /// So many began.
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

    /// Times at which attempts begin when as many begin as may, with so many orders waiting.
    fn starts(per_second: f64, free: usize, span: Duration) -> (Vec<Duration>, usize) {
        let began = Instant::now();
        let mut limit = RateLimit::new(per_second, began);
        let (mut now, mut starts, mut asked) = (began, Vec::new(), 0);
        while now.duration_since(began) < span {
            asked += 1;
            match limit.turn(free, now) {
                Turn::Start(attempts) => {
                    limit.take(attempts, now);
                    starts.extend(std::iter::repeat_n(now.duration_since(began), attempts));
                }
                Turn::Wait(until) => {
                    assert!(until > now, "no waiting for what is over");
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
    fn a_second_is_saved_up_and_no_more() {
        let (starts, _) = starts(5.0, 100, Duration::from_secs(2));
        assert_eq!(starts.iter().filter(|at| at.is_zero()).count(), 5);
        assert!(starts.len() <= 15, "{starts:?}");
    }

    #[test]
    fn below_one_a_second_one_attempt_begins_at_a_time() {
        let (starts, asked) = starts(0.1, 100, Duration::from_secs(35));
        let seconds: Vec<u64> = starts.iter().map(Duration::as_secs).collect();
        assert_eq!(seconds, [0, 10, 20, 30]);
        assert!(asked <= 2 * starts.len() + 1, "{asked}");
    }

    #[test]
    fn a_high_rate_begins_several_at_once_instead_of_asking_for_each() {
        let (starts, asked) = starts(1_000.0, 100, Duration::from_secs(10));
        assert!(starts.len() >= 10_000, "{}", starts.len());
        assert!(asked <= 10 * 50 * 2 + 30, "{asked}");
    }

    proptest! {
        #[test]
        fn any_span_has_its_share_and_a_second_more_at_most(
            per_second in 0.01_f64..2_000.0, free in 1_usize..300, from in 0.0_f64..1.0, length in 0.0_f64..1.0,
        ) {
            let whole = Duration::from_secs_f64((100.0 / per_second).clamp(3.0, 1_000.0));
            let (starts, _) = starts(per_second, free, whole);
            let from = whole.mul_f64(from);
            let span = whole.mul_f64(length);
            let within = starts.iter().filter(|at| (from..from + span).contains(*at)).count();
            let most = burst(per_second) + per_second * span.as_secs_f64();
            prop_assert!(number(within) <= most + 1e-3, "{within} of {most}");
            // And it is no less where there is work.
            let due = per_second * whole.as_secs_f64();
            prop_assert!(number(starts.len()) >= due.floor() - 1.0, "{} of {due}", starts.len());
        }
    }
}
