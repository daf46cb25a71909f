//! Runs one lease until it is settled, with a deadline and protection against panics. `results.rs` stores the result.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use futures_util::FutureExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Shared;
use super::guard::{Evidence, GuardedAttempt};
use super::judgement::{Failure, Judgement, RETRY_AFTER_MAX, judge};
use super::results;
use super::running::{Hold, HoldEnd};
use crate::epoch::FENCE_BITS;
use crate::lease::{Lease, LeaseKey, Outcome, bounded_error};
use crate::metrics::{AttemptLabels, AttemptResult};
use crate::processor::{Attempt, Cause, Processed, Reason};

pub(super) async fn run(
    shared: Arc<Shared>,
    lease: Lease,
    mut hold: Hold,
    guarded: GuardedAttempt,
    slot: OwnedSemaphorePermit,
) {
    let slot = BusySlot::new(&shared, slot);
    let _entry = RunningEntry::new(&shared, &lease);
    observe_wait(&shared, &lease);
    let started = Instant::now();
    let ended = process(&shared, &lease, guarded, &mut hold).await;
    if ended.is_some() {
        let took = started.elapsed().as_secs_f64();
        shared.metrics.order_processing.observe(took);
    }
    let kept = if ended.is_some() {
        tokio::select! {
            biased;
            kept = slot.release() => Some(kept),
            end = hold.end() => {
                log_abandoned(&lease, end);
                None
            }
        }
    } else {
        // There is nothing to store.
        None
    };
    let result = match ended.filter(|_| kept.is_some()) {
        None => AttemptResult::abandoned,
        Some(Ended::Here(outcome)) => results::settle(&shared, &lease, outcome, &mut hold).await,
        Some(Ended::HandedOver) => results::hand_over(&shared, &lease, &mut hold).await,
    };
    shared
        .metrics
        .attempts
        .get_or_create(&AttemptLabels { result })
        .inc();
}

/// Counts a slot as busy until dropped.
struct BusySlot<'s> {
    shared: &'s Shared,
    _permit: OwnedSemaphorePermit,
}

impl<'s> BusySlot<'s> {
    fn new(shared: &'s Shared, permit: OwnedSemaphorePermit) -> BusySlot<'s> {
        shared.metrics.slots_busy.inc();
        shared.busy.fetch_add(1, Ordering::Relaxed);
        BusySlot {
            shared,
            _permit: permit,
        }
    }

    /// Frees the slot of an ended attempt for the next order, whose claim may share a commit with the result. While the
    /// store is behind by one result per slot, the slot waits.
    async fn release(self) -> Keeps<'s> {
        let shared = self.shared;
        // With one slot, an order starts only after the result of the one before is stored, also in the events.
        if shared.settings.slots == 1 {
            return Keeps::Slot { _busy: self };
        }
        let place = shared.results.clone().acquire_owned().await;
        Keeps::Place {
            _place: place.expect("the semaphore of results is never closed"),
        }
    }
}

impl Drop for BusySlot<'_> {
    fn drop(&mut self) {
        self.shared.metrics.slots_busy.dec();
        self.shared.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Permits an attempt holds until its result is stored.
enum Keeps<'s> {
    Slot { _busy: BusySlot<'s> },
    Place { _place: OwnedSemaphorePermit },
}

/// End of the part of an attempt that runs here.
enum Ended {
    Here(Outcome),
    /// An external service settles it.
    HandedOver,
}

/// Removes the attempt from the running ones however its task ends.
struct RunningEntry<'s> {
    shared: &'s Shared,
    key: LeaseKey,
    suspect: bool,
}

impl<'s> RunningEntry<'s> {
    fn new(shared: &'s Shared, lease: &Lease) -> RunningEntry<'s> {
        RunningEntry {
            shared,
            key: lease.key(),
            suspect: lease.suspect,
        }
    }
}

impl Drop for RunningEntry<'_> {
    fn drop(&mut self) {
        self.shared.running.end(self.key);
        if self.suspect {
            // The dispatcher may claim the next suspect now.
            self.shared.store.wakeups().notify_work();
        }
    }
}

/// Reports whether the order never started before. Its fences count its claims, above the number of the epoch.
fn is_first_claim(lease: &Lease) -> bool {
    let claims = lease.fence & ((1 << FENCE_BITS) - 1);
    (claims, lease.order.attempts, lease.order.generation) == (1, 1, 0)
}

pub(super) fn observe_wait(shared: &Shared, lease: &Lease) {
    let order = &lease.order;
    if let Some(processing_at) = order.processing_at
        && is_first_claim(lease)
    {
        let could_start_at = order
            .request
            .start_after
            .map_or(order.created_at, |time| time.max(order.created_at));
        let wait = processing_at.since(could_start_at);
        shared.metrics.order_wait.observe(wait.as_secs_f64());
    }
}

/// Runs the attempt. Returns `None` if its result no longer matters: the lease is lost or the order was cancelled.
async fn process(shared: &Shared, lease: &Lease, guarded: GuardedAttempt, hold: &mut Hold) -> Option<Ended> {
    if let Some(end) = hold.ended() {
        log_abandoned(lease, end);
        return None;
    }
    let mut attempt = pin!(attempt(shared, lease, guarded));
    // An attempt that ends at once needs no watcher.
    if let Poll::Ready(ended) = poll_fn(|waking| Poll::Ready(attempt.as_mut().poll(waking))).await {
        return Some(ended);
    }
    let wakeups = shared.store.wakeups();
    // A cancel before this point is reported by the next heartbeat.
    let mut cancelled = wakeups.watch_final(lease.order.order_id);
    tokio::select! {
        biased;
        end = hold.end() => {
            log_abandoned(lease, end);
            None
        }
        () = cancelled.woken() => None,
        ended = attempt => Some(ended),
        () = shared.hand_back.cancelled() => {
            shared.reports.handed_back(lease);
            Some(Ended::Here(Outcome::Released))
        }
    }
}

async fn attempt(shared: &Shared, lease: &Lease, guarded: GuardedAttempt) -> Ended {
    let number = lease.order.attempts;
    let attempt = Attempt {
        number,
        fence: lease.fence,
        token: lease.token,
        key: lease.attempt_key,
    };
    let timeout = shared.settings.attempt_timeout;
    let processing = AssertUnwindSafe(shared.processor().process(&lease.order, attempt)).catch_unwind();
    let failure = match tokio::time::timeout(timeout, processing).await {
        Ok(Ok(Ok(processed))) => {
            guarded.good();
            return match processed {
                Processed::Completed { result } => Ended::Here(Outcome::Completed { result }),
                Processed::HandedOver => Ended::HandedOver,
            };
        }
        Ok(Ok(Err(error))) => match judge(shared, guarded, error) {
            Judgement::Failed(failure) => failure,
            Judgement::FailedForGood(error) => {
                shared.reports.failed(lease, &error);
                return Ended::Here(Outcome::Failed {
                    error: bounded_error(&error.to_string()),
                });
            }
            Judgement::GivenBack { after, error } => {
                shared.reports.given_back(lease, error.reason());
                return Ended::Here(Outcome::GivenBack {
                    after,
                    error: error.words().to_owned(),
                });
            }
        },
        // A bug, which says nothing about the service.
        Ok(Err(panic)) => {
            let words = format!("the processor panicked: {}", panic_text(&*panic));
            Failure::new(Cause::new(Reason::Panic, words), None)
        }
        Err(_) => {
            guarded.bad(Evidence::Ailing, Reason::AttemptTimeout);
            let words = format!("the attempt took longer than {timeout:?}");
            Failure::new(Cause::new(Reason::AttemptTimeout, words), None)
        }
    };
    Ended::Here(again_or_failed(shared, lease, &failure))
}

fn again_or_failed(shared: &Shared, lease: &Lease, failure: &Failure) -> Outcome {
    let policy = &shared.settings.retry;
    let error = bounded_error(&failure.error.to_string());
    let Some(delay) = policy.delay(lease.order.attempts, rand::random()) else {
        shared.reports.failed(lease, &failure.error);
        return Outcome::Failed { error };
    };
    // The delay is at least what the service asked for.
    let asked = failure.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
    let after = shared.guard.retry_after(delay.max(asked), policy.cap);
    shared.reports.retried(lease, failure.error.reason(), after);
    Outcome::Retry { after, error }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

pub(super) fn log_abandoned(lease: &Lease, end: HoldEnd) {
    let order_id = lease.order.order_id;
    match end {
        HoldEnd::Lost => {
            tracing::debug!(order.id = %order_id, "order {order_id} was cancelled or given back; its attempt is abandoned");
        }
        HoldEnd::Expired => {
            tracing::warn!(order.id = %order_id,
                "abandoned the attempt at order {order_id}: its lease could not be renewed in time; another attempt follows");
        }
    }
}
