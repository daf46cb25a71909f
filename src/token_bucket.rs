//! A token bucket, which limits a rate and allows bursts. Pure: time is passed in.

use std::time::Duration;

use tokio::time::Instant;

/// Rate at which a bucket earns tokens, and the most that it saves.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Time to earn one token.
    interval: Duration,
    /// Time to earn a full bucket.
    burst: Duration,
}

impl Rate {
    /// Creates a rate of one token per `interval`, which is above zero; a full bucket has `burst` tokens.
    pub fn new(interval: Duration, burst: u32) -> Rate {
        Rate {
            interval,
            burst: interval * burst,
        }
    }

    /// Returns the number of whole tokens earned in this span.
    pub fn earned_in(&self, span: Duration) -> usize {
        let tokens = span.as_nanos() / self.interval.as_nanos();
        usize::try_from(tokens).unwrap_or(usize::MAX)
    }
}

/// Tokens in the form of one instant (the generic cell rate algorithm, ITU-T I.371).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    /// Time when all tokens taken so far will have been earned.
    earned_at: Instant,
}

impl TokenBucket {
    pub fn full(now: Instant) -> TokenBucket {
        TokenBucket { earned_at: now }
    }

    /// Returns the number of tokens that may be taken now.
    pub fn available(&self, rate: Rate, now: Instant) -> usize {
        rate.earned_in(rate.burst.saturating_sub(self.owed(now)))
    }

    /// Returns the time until the bucket has `count` tokens; zero if it has them now.
    pub fn wait(&self, count: u32, rate: Rate, now: Instant) -> Duration {
        (self.owed(now) + rate.interval * count).saturating_sub(rate.burst)
    }

    /// Takes tokens, even if the bucket has fewer.
    pub fn take(&mut self, count: u32, rate: Rate, now: Instant) {
        self.earned_at = self.earned_at.max(now) + rate.interval * count;
    }

    /// Returns the time to earn what a full bucket lacks.
    fn owed(&self, now: Instant) -> Duration {
        self.earned_at.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_bucket_saves_one_burst_and_refills_over_time() {
        let now = Instant::now();
        let rate = Rate::new(SECOND, 3);
        let mut bucket = TokenBucket::full(now);
        assert_eq!(bucket.available(rate, now), 3);
        bucket.take(3, rate, now);
        assert_eq!(bucket.available(rate, now), 0);
        assert_eq!(bucket.wait(2, rate, now), SECOND * 2);
        let later = now + SECOND * 2;
        assert_eq!(bucket.available(rate, later), 2);
        assert_eq!(bucket.wait(2, rate, later), Duration::ZERO);
        assert_eq!(bucket.available(rate, now + SECOND * 3_600), 3);
    }

    #[test]
    fn tokens_taken_beyond_the_bucket_are_owed() {
        let now = Instant::now();
        let rate = Rate::new(SECOND, 3);
        let mut bucket = TokenBucket::full(now);
        bucket.take(5, rate, now);
        assert_eq!(bucket.available(rate, now + SECOND * 2), 0);
        assert_eq!(bucket.wait(1, rate, now), SECOND * 3);
    }
}
