//! Rate limits of a client's messages, in messages and in bytes.

use std::time::Duration;

use tokio::time::Instant;

use crate::token_bucket::{Rate, TokenBucket};

/// Maximum number of messages at once, pings included: starting and ending every subscription.
pub const MESSAGES_BURST: u32 = 200;
/// Maximum rate of messages in the long run.
const MESSAGES_PER_SECOND: u32 = 20;

/// Messages or bytes that a client may send.
pub struct Allowance {
    rate: Rate,
    bucket: TokenBucket,
}

impl Allowance {
    pub fn of_messages(now: Instant) -> Allowance {
        Allowance::new(1, now)
    }

    /// Allows as many bytes as the allowed messages have at `message_bytes` each.
    pub fn of_bytes(message_bytes: u32, now: Instant) -> Allowance {
        Allowance::new(message_bytes, now)
    }

    fn new(per_message: u32, now: Instant) -> Allowance {
        let interval = Duration::from_secs(1) / MESSAGES_PER_SECOND / per_message;
        Allowance {
            rate: Rate::new(interval, MESSAGES_BURST * per_message),
            bucket: TokenBucket::full(now),
        }
    }

    /// Takes `count` from the allowance. Returns `false` and takes nothing if less is left.
    pub fn take(&mut self, count: u32, now: Instant) -> bool {
        let has_them = self.bucket.wait(count, self.rate, now).is_zero();
        if has_them {
            self.bucket.take(count, self.rate, now);
        }
        has_them
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_and_refills_over_time() {
        let now = Instant::now();
        let mut allowance = Allowance::of_messages(now);
        assert!((0..MESSAGES_BURST).all(|_| allowance.take(1, now)));
        assert!(!allowance.take(1, now));
        let later = now + Duration::from_secs(1);
        assert!((0..MESSAGES_PER_SECOND).all(|_| allowance.take(1, later)));
        assert!(!allowance.take(1, later));
        let much_later = now + Duration::from_hours(1);
        assert!((0..MESSAGES_BURST).all(|_| allowance.take(1, much_later)));
        assert!(!allowance.take(1, much_later), "at most one burst is saved");
    }

    #[test]
    fn the_limit_in_bytes_matches_the_limit_in_messages() {
        let now = Instant::now();
        let mut allowance = Allowance::of_bytes(4_000, now);
        assert!(allowance.take(MESSAGES_BURST * 4_000, now));
        assert!(!allowance.take(1, now));
        let later = now + Duration::from_secs(1);
        assert!(allowance.take(MESSAGES_PER_SECOND * 4_000, later));
        assert!(!allowance.take(1_000, later));
        assert!(!allowance.take(u32::MAX, later));
    }
}
