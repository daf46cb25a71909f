//! How many attempts may begin, as far as whatever processes the orders is concerned: asked by the dispatcher, told by the
//! executors how theirs ended. The rules are in `guard/`; free slots are left to the dispatcher.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::metrics::{BreakerLabels, BreakerState, Metrics};
use crate::order::OrderId;
use crate::processor::Reason;
use crate::store::Breaker;

mod breaker;
mod budget;
mod forgiven;
mod rate;

pub(super) use breaker::Evidence;
use breaker::{Begun, CircuitBreaker, Verdict};
use budget::RetryBudget;
use forgiven::Forgiven;
use rate::RateLimit;

/// Whether the dispatcher may claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// So many, at least one.
    Start(usize),
    /// None before then, unless [`Guard::changed`] resolves.
    Wait(Instant),
}

pub(super) struct Guard {
    rules: Mutex<Rules>,
    state: watch::Sender<Breaker>,
    /// More may begin than was said.
    changed: Notify,
    metrics: Metrics,
}

struct Rules {
    breaker: CircuitBreaker,
    rate: Option<RateLimit>,
    budget: RetryBudget,
    forgiven: Forgiven,
}

/// An attempt that began; one that is dropped ended without telling anything.
pub(super) struct Trial {
    guard: Arc<Guard>,
    order: OrderId,
    begun: Option<Begun>,
}

impl Guard {
    pub fn new(slots: u32, rate_limit: Option<f64>, metrics: Metrics) -> Arc<Guard> {
        let now = Instant::now();
        show(&metrics, Breaker::Closed);
        Arc::new(Guard {
            rules: Mutex::new(Rules {
                breaker: CircuitBreaker::new(slots),
                rate: rate_limit.map(|per_second| RateLimit::new(per_second, now)),
                budget: RetryBudget::new(now),
                forgiven: Forgiven::default(),
            }),
            state: watch::Sender::new(Breaker::Closed),
            changed: Notify::new(),
            metrics,
        })
    }

    /// For one claim, with so many free slots, at least one.
    pub fn turn(&self, free: usize) -> Turn {
        let now = Instant::now();
        let rules = self.rules();
        match (rules.breaker.turn(free, now), &rules.rate) {
            (Turn::Start(attempts), Some(rate)) => rate.turn(attempts, now),
            (turn, _) => turn,
        }
    }

    /// Resolves when it is worth while to ask again, before the time that was told.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Attempt `number` at the order begins.
    pub fn begin(self: &Arc<Guard>, order: OrderId, number: u32) -> Trial {
        let now = Instant::now();
        let mut rules = self.rules();
        let begun = rules.breaker.begin(order, now);
        if let Some(rate) = &mut rules.rate {
            rate.take(1, now);
        }
        if number == 1 {
            rules.budget.first_attempt(now);
        }
        drop(rules);
        Trial {
            guard: self.clone(),
            order,
            begun: Some(begun),
        }
    }

    /// A claim had places for more orders than it found.
    pub fn found_no_more(&self) {
        self.change(|rules| rules.breaker.found_no_more(), None);
    }

    /// When the failed attempt of an order may be repeated that wants to wait for `backoff`. The budget adds no wait
    /// beyond `longest`.
    pub fn retry_after(&self, backoff: Duration, longest: Duration) -> Duration {
        let mut rules = self.rules();
        let reserved = rules.budget.reserve(longest, Instant::now(), rand::random());
        backoff.max(reserved)
    }

    pub fn state(&self) -> Breaker {
        *self.state.borrow()
    }

    pub fn watch_state(&self) -> watch::Receiver<Breaker> {
        self.state.subscribe()
    }

    /// Changes the rules, and tells what came of it.
    fn change<T>(&self, change: impl FnOnce(&mut Rules) -> T, reason: Option<Reason>) -> T {
        let mut rules = self.rules();
        let before = rules.breaker.state();
        let result = change(&mut rules);
        let after = rules.breaker.state();
        if before != after {
            // Under the lock, so that states are told in the order in which they were.
            self.state.send_replace(after);
            show(&self.metrics, after);
        }
        drop(rules);
        if before != after || after != Breaker::Closed {
            self.changed.notify_one();
        }
        if before != after {
            self.tell(before, after, reason);
        }
        result
    }

    fn tell(&self, before: Breaker, after: Breaker, reason: Option<Reason>) {
        let status = reason.and_then(Reason::status);
        let reason = reason.map(Reason::name);
        if after == Breaker::Open {
            self.metrics.breaker_openings.inc();
        }
        match (before, after) {
            (Breaker::Closed, Breaker::Open) => tracing::warn!(
                reason,
                status,
                "what processes the orders is down: they stay pending; probing until it recovers"
            ),
            (_, Breaker::Closed) => tracing::info!("what processes the orders is back: they start again"),
            (_, Breaker::Open | Breaker::HalfOpen) => {
                tracing::debug!(?before, ?after, reason, status, "the breaker has changed");
            }
        }
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

impl Trial {
    pub fn good(mut self) {
        self.end(Some(Evidence::Good), None);
    }

    /// `reason` is what the log says should this open the breaker.
    pub fn bad(mut self, evidence: Evidence, reason: Reason) -> Judged {
        self.end(Some(evidence), Some(reason))
    }

    fn end(&mut self, evidence: Option<Evidence>, reason: Option<Reason>) -> Judged {
        let Some(begun) = self.begun.take() else {
            return Judged::Counts;
        };
        let (now, random) = (Instant::now(), rand::random());
        let order = self.order;
        self.guard.change(
            |rules| {
                if evidence == Some(Evidence::Good) {
                    rules.forgiven.good(order);
                }
                let verdict = rules.breaker.end(begun, evidence, now, random);
                match (verdict, evidence) {
                    (Verdict::Counts, _) => Judged::Counts,
                    // No order brings this about.
                    (_, Some(Evidence::Unreachable)) => Judged::GivenBack,
                    (Verdict::GivenBack, _) => match rules.forgiven.go_back(order) {
                        Some(_) => Judged::GivenBack,
                        None => Judged::Counts,
                    },
                    (Verdict::PutOff, _) => match rules.forgiven.go_back(order) {
                        Some(times) => Judged::PutOff { times },
                        None => Judged::Counts,
                    },
                }
            },
            reason,
        )
    }
}

/// Verdict on an attempt that ended badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// It was an attempt at the order.
    Counts,
    /// It was none, and the order is due again.
    GivenBack,
    /// It was none, so often in a row, and the order waits before the next.
    PutOff { times: u32 },
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.end(None, None);
    }
}

fn show(metrics: &Metrics, now: Breaker) {
    for (state, label) in [
        (Breaker::Closed, BreakerState::closed),
        (Breaker::Open, BreakerState::open),
        (Breaker::HalfOpen, BreakerState::half_open),
    ] {
        let gauge = metrics
            .breaker_state
            .get_or_create(&BreakerLabels { state: label });
        gauge.set(i64::from(state == now));
    }
}
