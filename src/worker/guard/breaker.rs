//! Whether what processes the orders works, judged by how attempts end, and how many may begin meanwhile. A pure state
//! machine: time and chance are passed in. After Nygard, "Release It!" (2007), with a slow start at the end.

use std::time::Duration;

use tokio::time::Instant;

use super::Turn;
use crate::order::OrderId;
use crate::store::Breaker;

/// Attempts, since the last good answer, that found no service or were turned away: a handful, where two may be a restart.
const UNAVAILABLE_MIN: u32 = 3;
/// Orders that they were at, unless no service was there: what a service answers to one order may be about that order, however
/// often it is tried.
const ORDERS_MIN: usize = 3;
/// Bad ends of any kind since the last good answer. More, since each may be the fault of its order.
const BAD_MIN: u32 = 12;
/// The same on the way back, where few attempts are under way and the one before was a time when all of them failed.
const BAD_MIN_HALF_OPEN: u32 = 3;
/// No good answer for so long at the least, so that failures among good answers never open it however many they are.
const SILENCE_MIN: Duration = Duration::from_millis(250);
/// The same where somebody answers, though badly.
const AILING_SILENCE_MIN: Duration = Duration::from_secs(2);
/// Good answers that take long come far between: silence is judged by twice the longest of lately, up to this.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Good answers after which a long one is forgotten, more or less.
const TYPICAL_MEMORY: u32 = 16;
/// While it is in doubt, so many attempts begin in the silence it waits for: enough to find a good answer where there are
/// any, few where there are none.
const DOUBT_ATTEMPTS: u32 = 12;
/// A good answer this long ago or less shows that the service works: a 503 among such is about its order.
const LATELY: Duration = Duration::from_mins(1);
/// Longest time between two of them.
const DOUBT_PACE_MAX: Duration = Duration::from_secs(1);
/// Before the first probe; doubles with each that fails.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// Longest wait for a probe: what a service that is back may wait for us.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// A wait is shorter by up to this share at random: nodes that lost the same service do not come back to it in step.
const WAIT_JITTER: f64 = 0.5;
/// The longest wait that the service itself may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);
/// An attempt without an answer for so long keeps others from beginning no more: an order that hangs must not decide for
/// all until its time is over.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the end of an attempt tells of whatever processes the orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It works: it did as it was asked, or said why not.
    Good,
    /// It fell silent or failed: its own fault, or the order's.
    Ailing,
    /// It turned this program away: a wrong secret or address, or the order's fault.
    Denied,
    /// It says that it cannot work. It may have asked for time.
    Unavailable { retry_after: Option<Duration> },
    /// The service could not be reached.
    Unreachable,
}

/// What becomes of an attempt that ended badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was an attempt at the order.
    Counts,
    /// It was none: the order is given back.
    GivenBack,
    /// The same, but the order is not tried again at once: nothing else would keep it from that.
    PutOff,
}

/// An attempt as the breaker saw it begin.
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
    /// Rises whenever it opens. What began before that is no probe, and not counted among those under way.
    era: u64,
    under_way: u32,
    /// Since the last good answer.
    unreachable: u32,
    unavailable: u32,
    bad: u32,
    /// Those that ended badly since then, up to [`ORDERS_MIN`] of them.
    orders: Vec<OrderId>,
    last_good: Option<Instant>,
    asked_to_wait_until: Option<Instant>,
    /// Since when an answer is waited for: the last good one, or the first attempt after a time without any.
    waiting_since: Option<Instant>,
    /// How long good answers take, the longer ones of lately.
    typical: Duration,
    last_begun: Option<Instant>,
    /// Before the next probe, without jitter.
    wait: Duration,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed,
    Open {
        probe_at: Instant,
    },
    HalfOpen {
        /// Under way at once; one more with each good answer, so twice as many after each round.
        allowed: u32,
        /// An attempt of this era began or ended then.
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

    /// How many of `free` may begin now.
    pub fn turn(&self, free: usize, now: Instant) -> Turn {
        match self.state {
            State::Closed => self.pace_in_doubt(free, now),
            State::Open { probe_at } => one_from(probe_at, now),
            State::HalfOpen { allowed, heard_at } => match allowed.saturating_sub(self.under_way) {
                0 => one_from(heard_at + PATIENCE, now),
                room => self.pace_in_doubt(free.min(room as usize), now),
            },
        }
    }

    /// While it may be about to open, attempts begin one by one.
    fn pace_in_doubt(&self, free: usize, now: Instant) -> Turn {
        let (true, Some(last_begun)) = (self.is_in_doubt(), self.last_begun) else {
            return Turn::Start(free);
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

    /// A claim found fewer orders than might have begun: where all that began are answered there is no crowd to hold
    /// back.
    pub fn found_no_more(&mut self) {
        if matches!(self.state, State::HalfOpen { .. }) && self.under_way == 0 && self.bad == 0 {
            self.close();
        }
    }

    /// Without evidence when nobody waited for the end. `random` is uniform from 0 to 1.
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
                    // The probe told nothing.
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
        // What one order is asked to wait for is no wait for the others.
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
            // Never given back: an order whose own processing brings the service down would be tried for ever.
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

    /// It looks as if nobody were there, but not for long enough.
    fn is_in_doubt(&self) -> bool {
        let several = self.unavailable >= UNAVAILABLE_MIN && self.orders.len() >= ORDERS_MIN;
        self.unreachable >= UNAVAILABLE_MIN || several
    }

    /// Without a good answer, though somebody waited for one.
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

fn one_from(at: Instant, now: Instant) -> Turn {
    if at <= now { Turn::Start(1) } else { Turn::Wait(at) }
}

fn jittered(wait: Duration, random: f64) -> Duration {
    wait.mul_f64(1.0 - WAIT_JITTER * random)
}

#[cfg(test)]
mod tests;
