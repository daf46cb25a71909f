//! Circuit breaker: judges by the ends of attempts whether the processor works, and limits how many may start. A pure
//! state machine: time and randomness are passed in. After Nygard, "Release It!" (2007), with a slow start at the end.

use std::time::Duration;

use tokio::time::Instant;

use super::Allowance;
use crate::order::OrderId;
use crate::store::Breaker;

/// Attempts since the last good answer that were unreachable or turned away before the breaker is in doubt; two may be a
/// restart.
const UNAVAILABLE_MIN: u32 = 3;
/// Distinct orders among them, unless the service was unreachable: an answer to one order may concern only that order,
/// however often it is tried.
const ORDERS_MIN: usize = 3;
/// Bad ends of any kind since the last good answer. Higher, since each may be the order's fault.
const BAD_MIN: u32 = 12;
/// Bad ends while half open, where few attempts run and all earlier ones failed.
const BAD_MIN_HALF_OPEN: u32 = 3;
/// Minimum time without a good answer, so that failures among good answers never open the breaker, however many they are.
const SILENCE_MIN: Duration = Duration::from_millis(250);
/// Minimum silence when the processor answers, though badly.
const AILING_SILENCE_MIN: Duration = Duration::from_secs(2);
/// Slow good answers are far apart: the silence required is twice the longest recent one, at most this.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Approximate number of good answers after which a long one is forgotten.
const TYPICAL_MEMORY: u32 = 16;
/// Attempts that start during the required silence while in doubt: enough to find a good answer, few if there are none.
const DOUBT_ATTEMPTS: u32 = 12;
/// Maximum age of a good answer that shows the service works: a 503 then concerns its own order.
const LATELY: Duration = Duration::from_mins(1);
/// Maximum interval of attempts while in doubt.
const DOUBT_PACE_MAX: Duration = Duration::from_secs(1);
/// Wait before the first probe; doubles with each failed probe.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// Maximum wait for a probe, which bounds the delay after the service returns.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Maximum share by which a wait is shortened at random, so that nodes that lost the same service do not return in step.
const WAIT_JITTER: f64 = 0.5;
/// Maximum wait that the service may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);
/// Time after which an unanswered attempt no longer keeps others from starting: one hanging order must not block all
/// until it times out.
const PATIENCE: Duration = Duration::from_secs(10);

/// Evidence about the processor from the end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It works: it did as asked, or said why not.
    Good,
    /// It fell silent or failed; its own fault or the order's.
    Ailing,
    /// It turned this program away: a wrong secret or address, or the order's fault.
    Denied,
    /// It says that it cannot work, and may have asked for time.
    Unavailable { retry_after: Option<Duration> },
    /// The service could not be reached.
    Unreachable,
}

/// Consequence of a badly ended attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts as an attempt.
    Counts,
    /// It does not count; the order is given back.
    GivenBack,
    /// It does not count; the order waits before its next attempt, since nothing else would delay that.
    PutOff,
}

/// Start of an attempt as recorded by the breaker.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    at: Instant,
    era: u64,
    order: OrderId,
}

#[derive(Debug)]
pub struct CircuitBreaker {
    slots: u32,
    state: State,
    /// Incremented whenever the breaker opens. Attempts started earlier are not probes and not counted in `under_way`.
    era: u64,
    under_way: u32,
    /// Attempts since the last good answer.
    unreachable: u32,
    unavailable: u32,
    bad: u32,
    /// Orders of the bad ends since then, at most [`ORDERS_MIN`].
    orders: Vec<OrderId>,
    last_good: Option<Instant>,
    asked_to_wait_until: Option<Instant>,
    /// Start of the wait for an answer: the last good one, or the first attempt after a time without any.
    waiting_since: Option<Instant>,
    /// Typical duration of recent good answers, weighted to the longer ones.
    typical: Duration,
    last_begun: Option<Instant>,
    /// Wait before the next probe, without jitter.
    wait: Duration,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed,
    Open {
        probe_at: Instant,
    },
    HalfOpen {
        /// Maximum number of running attempts; one more with each good answer, which doubles it each round.
        allowed: u32,
        /// Time of the last start or end of an attempt of this era.
        heard_at: Instant,
    },
}

impl CircuitBreaker {
    pub fn new(slots: u32) -> CircuitBreaker {
        CircuitBreaker {
            slots,
            state: State::Closed,
            era: 0,
            under_way: 0,
            unreachable: 0,
            unavailable: 0,
            bad: 0,
            orders: Vec::with_capacity(ORDERS_MIN),
            last_good: None,
            asked_to_wait_until: None,
            waiting_since: None,
            typical: Duration::ZERO,
            last_begun: None,
            wait: WAIT_MIN,
        }
    }

    pub fn state(&self) -> Breaker {
        match self.state {
            State::Closed => Breaker::Closed,
            State::Open { .. } => Breaker::Open,
            State::HalfOpen { .. } => Breaker::HalfOpen,
        }
    }

    /// Returns how many of `free` may start now.
    pub fn allowance(&self, free: usize, now: Instant) -> Allowance {
        match self.state {
            State::Closed => self.pace_in_doubt(free, now),
            State::Open { probe_at } => one_from(probe_at, now),
            State::HalfOpen { allowed, heard_at } => match allowed.saturating_sub(self.under_way) {
                0 => one_from(heard_at + PATIENCE, now),
                room => self.pace_in_doubt(free.min(room as usize), now),
            },
        }
    }

    /// Starts attempts one by one while the breaker may be about to open.
    fn pace_in_doubt(&self, free: usize, now: Instant) -> Allowance {
        let (true, Some(last_begun)) = (self.is_in_doubt(), self.last_begun) else {
            return Allowance::Start(free);
        };
        let silence = self.silence(last_begun).max(self.silence_min());
        one_from(last_begun + (silence / DOUBT_ATTEMPTS).min(DOUBT_PACE_MAX), now)
    }

    pub fn begin(&mut self, order: OrderId, now: Instant) -> Begun {
        self.under_way += 1;
        self.last_begun = Some(now);
        self.waiting_since.get_or_insert(now);
        match &mut self.state {
            State::Closed => {}
            State::Open { probe_at } => *probe_at = now + PATIENCE,
            State::HalfOpen { heard_at, .. } => *heard_at = now,
        }
        Begun {
            at: now,
            era: self.era,
            order,
        }
    }

    /// Records that a claim found fewer orders than allowed: if all started attempts are answered, no backlog needs to be
    /// held back.
    pub fn found_no_more(&mut self) {
        if matches!(self.state, State::HalfOpen { .. }) && self.under_way == 0 && self.bad == 0 {
            self.close();
        }
    }

    /// Records the end of an attempt; no evidence if it was dropped. `random` is uniform from 0 to 1.
    pub fn end(&mut self, begun: Begun, evidence: Option<Evidence>, now: Instant, random: f64) -> Verdict {
        let of_this_era = begun.era == self.era;
        if of_this_era {
            self.under_way = self.under_way.saturating_sub(1);
            if let State::HalfOpen { heard_at, .. } = &mut self.state {
                *heard_at = now;
            }
        }
        match evidence {
            Some(Evidence::Good) => {
                self.note_good(begun, now);
                self.recover(of_this_era, now);
                Verdict::Counts
            }
            Some(bad) => {
                self.note_bad(bad, begun.order, now);
                self.worsen(of_this_era, now, random);
                self.judge(bad, now)
            }
            None => {
                if let (true, State::Open { probe_at }) = (of_this_era, &mut self.state) {
                    // The probe gave no evidence.
                    *probe_at = now + jittered(WAIT_MIN, random);
                }
                Verdict::Counts
            }
        }
    }

    fn note_good(&mut self, begun: Begun, now: Instant) {
        let took = now.saturating_duration_since(begun.at);
        let forgotten = self.typical.saturating_sub(took) / TYPICAL_MEMORY;
        self.typical = self.typical.saturating_sub(forgotten).max(took);
        self.waiting_since = (self.under_way > 0).then_some(now);
        self.unreachable = 0;
        self.unavailable = 0;
        self.bad = 0;
        self.orders.clear();
        self.last_good = Some(now);
        self.asked_to_wait_until = None;
    }

    fn note_bad(&mut self, bad: Evidence, order: OrderId, now: Instant) {
        self.bad = self.bad.saturating_add(1);
        if self.orders.len() < ORDERS_MIN && !self.orders.contains(&order) {
            self.orders.push(order);
        }
        match bad {
            Evidence::Good | Evidence::Ailing => {}
            Evidence::Denied | Evidence::Unavailable { .. } => {
                self.unavailable = self.unavailable.saturating_add(1);
            }
            Evidence::Unreachable => {
                self.unreachable = self.unreachable.saturating_add(1);
                self.unavailable = self.unavailable.saturating_add(1);
            }
        }
        // A delay requested for one order does not apply to others.
        let of_the_service = self.is_in_doubt() || !matches!(self.state, State::Closed);
        if let (Evidence::Unavailable { retry_after }, true) = (bad, of_the_service) {
            let asked = retry_after.map(|asked| now + asked.min(RETRY_AFTER_MAX));
            self.asked_to_wait_until = self.asked_to_wait_until.max(asked);
        }
    }

    fn recover(&mut self, of_this_era: bool, now: Instant) {
        let allowed = match self.state {
            State::Closed => return,
            State::Open { .. } => 1,
            State::HalfOpen { allowed, .. } if of_this_era => allowed.saturating_add(1),
            State::HalfOpen { allowed, .. } => allowed,
        };
        if allowed >= self.slots {
            self.close();
        } else {
            self.state = State::HalfOpen {
                allowed,
                heard_at: now,
            };
        }
    }

    fn worsen(&mut self, of_this_era: bool, now: Instant, random: f64) {
        let down = match self.state {
            State::Closed => self.is_down(BAD_MIN, now),
            State::HalfOpen { .. } => self.is_down(BAD_MIN_HALF_OPEN, now),
            State::Open { probe_at } => {
                if of_this_era {
                    self.wait_on(now, random);
                } else {
                    self.state = State::Open {
                        probe_at: self.not_before(probe_at),
                    };
                }
                return;
            }
        };
        if down {
            self.open(now, random);
        }
    }

    fn judge(&self, bad: Evidence, now: Instant) -> Verdict {
        let of_the_service = match self.state {
            State::Closed => self.is_in_doubt(),
            State::Open { .. } | State::HalfOpen { .. } => true,
        };
        let works = self
            .last_good
            .is_some_and(|good| now.saturating_duration_since(good) <= LATELY);
        match bad {
            Evidence::Unreachable => Verdict::GivenBack,
            Evidence::Unavailable { .. } if of_the_service => Verdict::GivenBack,
            Evidence::Unavailable { .. } if !works => Verdict::PutOff,
            // Counts, or an order whose own processing brings the service down would be tried forever.
            Evidence::Unavailable { .. } | Evidence::Denied | Evidence::Ailing | Evidence::Good => {
                Verdict::Counts
            }
        }
    }

    fn is_down(&self, bad_min: u32, now: Instant) -> bool {
        let silence = self.silence(now);
        let unavailable = self.is_in_doubt() && silence >= self.silence_min();
        let several = self.orders.len() >= ORDERS_MIN || !matches!(self.state, State::Closed);
        let ailing = self.bad >= bad_min && several && silence >= self.silence_min().max(AILING_SILENCE_MIN);
        unavailable || ailing
    }

    /// Reports whether the service seems to be down, but not yet for long enough.
    fn is_in_doubt(&self) -> bool {
        let several = self.unavailable >= UNAVAILABLE_MIN && self.orders.len() >= ORDERS_MIN;
        self.unreachable >= UNAVAILABLE_MIN || several
    }

    /// Returns the time without a good answer while one was awaited.
    fn silence(&self, now: Instant) -> Duration {
        let since = self.waiting_since.unwrap_or(now);
        now.saturating_duration_since(since)
    }

    fn silence_min(&self) -> Duration {
        (self.typical * 2).clamp(SILENCE_MIN, SILENCE_MAX)
    }

    fn open(&mut self, now: Instant, random: f64) {
        self.era += 1;
        self.under_way = 0;
        self.wait_on(now, random);
    }

    fn wait_on(&mut self, now: Instant, random: f64) {
        self.state = State::Open {
            probe_at: self.not_before(now + jittered(self.wait, random)),
        };
        self.wait = (self.wait * 2).min(WAIT_MAX);
    }

    fn not_before(&self, probe_at: Instant) -> Instant {
        self.asked_to_wait_until
            .map_or(probe_at, |asked| asked.max(probe_at))
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.wait = WAIT_MIN;
    }
}

fn one_from(at: Instant, now: Instant) -> Allowance {
    if at <= now {
        Allowance::Start(1)
    } else {
        Allowance::Wait(at)
    }
}

fn jittered(wait: Duration, random: f64) -> Duration {
    wait.mul_f64(1.0 - WAIT_JITTER * random)
}

#[cfg(test)]
mod tests;
