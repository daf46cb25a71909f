//! Limits how many attempts may start, by the state of the processor: the dispatcher asks, and the executors report how
//! attempts ended. The rules are in `guard/`.

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
mod given_back;
mod rate;

pub(super) use breaker::Evidence;
use breaker::{Begun, CircuitBreaker, Verdict};
use budget::RetryBudget;
use given_back::GivenBackOrders;
use rate::RateLimit;

/// Permission to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowance {
    /// This many attempts, at least one.
    Start(usize),
    /// None before this time, unless [`Guard::changed`] resolves.
    Wait(Instant),
}

pub(super) struct Guard {
    rules: Mutex<Rules>,
    state: watch::Sender<Breaker>,
    /// Notified when more attempts may start than before.
    changed: Notify,
    metrics: Metrics,
}

struct Rules {
    breaker: CircuitBreaker,
    rate: Option<RateLimit>,
    budget: RetryBudget,
    given_back: GivenBackOrders,
}

/// A started attempt; dropping it ends it without evidence.
pub(super) struct GuardedAttempt {
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
                given_back: GivenBackOrders::default(),
            }),
            state: watch::Sender::new(Breaker::Closed),
            changed: Notify::new(),
            metrics,
        })
    }

    /// Returns the permission for one claim with `free` slots, at least one.
    pub fn allowance(&self, free: usize) -> Allowance {
        let now = Instant::now();
        let rules = self.rules();
        match (rules.breaker.allowance(free, now), &rules.rate) {
            (Allowance::Start(attempts), Some(rate)) => rate.allowance(attempts, now),
            (allowance, _) => allowance,
        }
    }

    /// Resolves when asking again may pay off before the time returned by [`Guard::allowance`].
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Records the start of an attempt.
    pub fn begin(self: &Arc<Guard>, order: OrderId, number: u32) -> GuardedAttempt {
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
        GuardedAttempt {
            guard: self.clone(),
            order,
            begun: Some(begun),
        }
    }

    /// Records that a claim found fewer orders than it had slots.
    pub fn found_no_more(&self) {
        self.change(|rules| rules.breaker.found_no_more(), None);
    }

    /// Returns the delay before a retry whose backoff is `backoff`. The budget adds no delay beyond `longest`.
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

    /// Changes the rules, and reports a changed state.
    fn change<T>(&self, change: impl FnOnce(&mut Rules) -> T, reason: Option<Reason>) -> T {
        let mut rules = self.rules();
        let before = rules.breaker.state();
        let result = change(&mut rules);
        let after = rules.breaker.state();
        if before != after {
            // Under the lock, so that states are published in order.
            self.state.send_replace(after);
            show(&self.metrics, after);
        }
        drop(rules);
        if before != after || after != Breaker::Closed {
            self.changed.notify_one();
        }
        if before != after {
            self.report(before, after, reason);
        }
        result
    }

    fn report(&self, before: Breaker, after: Breaker, reason: Option<Reason>) {
        let status = reason.and_then(Reason::status);
        let reason = reason.map(Reason::name);
        if after == Breaker::Open {
            self.metrics.breaker_openings.inc();
        }
        match (before, after) {
            (Breaker::Closed, Breaker::Open) => tracing::warn!(
                reason,
                status,
                "the processor is down: orders stay pending; probing until it recovers. `orderly doctor` shows its last answer"
            ),
            (_, Breaker::Closed) => tracing::info!("the processor is back: orders start again"),
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

impl GuardedAttempt {
    pub fn good(mut self) {
        self.end(Some(Evidence::Good), None);
    }

    /// Reports a bad end; the log names `reason` if it opens the breaker.
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
                    rules.given_back.good(order);
                }
                let verdict = rules.breaker.end(begun, evidence, now, random);
                match (verdict, evidence) {
                    (Verdict::Counts, _) => Judged::Counts,
                    // Not caused by any order.
                    (_, Some(Evidence::Unreachable)) => Judged::GivenBack,
                    (Verdict::GivenBack, _) => match rules.given_back.go_back(order) {
                        Some(_) => Judged::GivenBack,
                        None => Judged::Counts,
                    },
                    (Verdict::PutOff, _) => match rules.given_back.go_back(order) {
                        Some(times) => Judged::PutOff { times },
                        None => Judged::Counts,
                    },
                }
            },
            reason,
        )
    }
}

/// Consequence of a badly ended attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// It counts as an attempt.
    Counts,
    /// It does not count, and the order is due again.
    GivenBack,
    /// It does not count, for the `times`-th time in a row, and the order waits before the next attempt.
    PutOff { times: u32 },
}

impl Drop for GuardedAttempt {
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
