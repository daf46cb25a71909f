//! How fast a client may talk.

use std::time::Duration;

use tokio::time::Instant;

/// Messages a client may send at once, pings included: every subscription begun and ended.
pub const MESSAGES_BURST: u32 = 200;
/// And so many per second in the long run.
const MESSAGES_PER_SECOND: u32 = 20;

/// The generic cell rate algorithm (ITU-T I.371): a token bucket in one instant.
pub struct Allowance {
    /// When everything taken so far will have been earned.
    earned_at: Instant,
}

impl Allowance {
    pub fn full(now: Instant) -> Allowance {
        Allowance { earned_at: now }
    }

    /// For one message; `false` when it comes too soon.
    pub fn take(&mut self, now: Instant) -> bool {
        let interval = Duration::from_secs(1) / MESSAGES_PER_SECOND;
        let earned_at = self.earned_at.max(now) + interval;
        if earned_at - now > interval * MESSAGES_BURST {
            return false;
        }
        self.earned_at = earned_at;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_and_then_what_time_gives_back() {
        let now = Instant::now();
        let mut allowance = Allowance::full(now);
        assert!((0..MESSAGES_BURST).all(|_| allowance.take(now)));
        assert!(!allowance.take(now));
        let later = now + Duration::from_secs(1);
        assert!((0..MESSAGES_PER_SECOND).all(|_| allowance.take(later)));
        assert!(!allowance.take(later));
        let much_later = now + Duration::from_hours(1);
        assert!((0..MESSAGES_BURST).all(|_| allowance.take(much_later)));
        assert!(!allowance.take(much_later), "no more is saved than a burst");
    }
}
