//! Queue of lease requests from external workers. The queue is bounded; the node's dispatcher takes the first requests
//! and claims orders for them. Leases of a request that is gone return to the dispatcher.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::lease::Lease;
use crate::metrics::Metrics;
use crate::store::{CLAIM_ORDERS_MAX, StoreError, Wakeups};

/// Maximum number of waiting requests per node. Each holds a connection and a few hundred bytes; beyond that workers
/// retry later.
pub const WAITING_MAX: usize = 1_000;

/// A request for leases.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// 1 to [`LEASES_MAX`](super::LEASES_MAX).
    pub orders_max: usize,
    /// Time to wait for the first order; zero asks once.
    pub wait: Duration,
    pub lease: Duration,
}

/// The reason why a request failed.
#[derive(Clone, Debug)]
pub enum TakeError {
    /// The queue is full.
    Full,
    /// The node is stopping.
    Closed,
    /// The store failed, or the outcome of the claim is unknown.
    Store(Arc<StoreError>),
}

pub struct LeaseRequests {
    state: Mutex<State>,
    wakeups: Arc<Wakeups>,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    /// Waiting requests by their number of arrival.
    waiting: BTreeMap<u64, Waiting>,
    arrivals: u64,
    /// Granted leases whose requests are gone.
    returned: Vec<Lease>,
    /// True if the last claim found fewer orders than requested: a new request then waits for the same wake-up as the
    /// others.
    dry: bool,
    /// Error of the last claim.
    failure: Option<Arc<StoreError>>,
    closed: bool,
}

struct Waiting {
    wanted: Wanted,
    /// End of the wait; the time of arrival for a request that does not wait, which the next claim answers.
    deadline: Instant,
    answer: oneshot::Sender<Result<Granted, TakeError>>,
}

impl LeaseRequests {
    /// Creates a queue; `wakeups`, those of the store, wake the dispatcher.
    pub fn new(wakeups: Arc<Wakeups>, metrics: Metrics) -> Arc<LeaseRequests> {
        Arc::new(LeaseRequests {
            state: Mutex::default(),
            wakeups,
            metrics,
        })
    }

    /// Waits for leases. Returns none if no order came in time, while the queue is paused, and when the node begins to
    /// stop.
    ///
    /// Cancel safe: leases granted to a dropped request are returned.
    pub async fn take(self: &Arc<Self>, wanted: Wanted) -> Result<Granted, TakeError> {
        let deadline = Instant::now() + wanted.wait;
        let mut place = self.enqueue(wanted, deadline)?;
        tokio::select! {
            biased;
            answer = &mut place.answer => return answer.unwrap_or(Err(TakeError::Closed)),
            // A request that does not wait is answered by the next claim, which serves all waiting requests.
            () = sleep_until(deadline), if !wanted.wait.is_zero() => {}
        }
        if self.leave(place.number) {
            return match self.state().failure.clone() {
                Some(failure) => Err(TakeError::Store(failure)),
                None => Ok(self.grant(Vec::new())),
            };
        }
        // A claim for it is running.
        let answer = (&mut place.answer).await;
        answer.unwrap_or(Err(TakeError::Closed))
    }

    fn enqueue(self: &Arc<Self>, wanted: Wanted, deadline: Instant) -> Result<Place, TakeError> {
        let (answer, receiver) = oneshot::channel();
        let mut state = self.state();
        if state.closed {
            return Err(TakeError::Closed);
        }
        if state.waiting.len() >= WAITING_MAX {
            return Err(TakeError::Full);
        }
        let follows_others = state.dry && !state.waiting.is_empty() && !wanted.wait.is_zero();
        let number = state.arrivals;
        state.arrivals += 1;
        let waiting = Waiting {
            wanted,
            deadline,
            answer,
        };
        state.waiting.insert(number, waiting);
        self.count(&state);
        drop(state);
        if !follows_others {
            self.wakeups.notify_work();
        }
        Ok(Place {
            requests: self.clone(),
            number,
            answer: receiver,
        })
    }

    /// Reports whether the request was still waiting, and removes it.
    fn leave(&self, number: u64) -> bool {
        let mut state = self.state();
        let left = state.waiting.remove(&number).is_some();
        self.count(&state);
        left
    }

    fn grant(self: &Arc<Self>, leases: Vec<Lease>) -> Granted {
        Granted {
            leases,
            requests: self.clone(),
        }
    }

    fn count(&self, state: &State) {
        let waiting = i64::try_from(state.waiting.len()).unwrap_or(i64::MAX);
        self.metrics.lease_requests_waiting.set(waiting);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

/// The dispatcher's side.
impl LeaseRequests {
    pub fn has_waiting(&self) -> bool {
        !self.state().waiting.is_empty()
    }

    /// Removes the first requests, as many as one claim may serve; none if no request waits.
    pub fn next_batch(&self) -> ClaimBatch {
        let mut state = self.state();
        state.dry = false;
        let mut batch = ClaimBatch {
            served: Vec::new(),
            before: state.arrivals,
            orders_max: 0,
            lease: Duration::ZERO,
        };
        while let Some((&number, first)) = state.waiting.first_key_value() {
            let wanted = first.wanted;
            if batch.served.is_empty() {
                batch.lease = wanted.lease;
            } else if wanted.lease != batch.lease || batch.orders_max + wanted.orders_max > CLAIM_ORDERS_MAX {
                break;
            }
            batch.orders_max += wanted.orders_max;
            batch
                .served
                .extend(state.waiting.remove(&number).map(|waiting| (number, waiting)));
        }
        batch
    }

    /// Hands out granted leases in order of arrival. Requests without a lease keep their place, or get an empty answer if
    /// their time is over.
    pub fn serve(self: &Arc<Self>, batch: ClaimBatch, leases: Vec<Lease>) {
        let dry = leases.len() < batch.orders_max;
        let mut leases = leases.into_iter();
        let mut unserved = Vec::new();
        for (number, waiting) in batch.served {
            if waiting.answer.is_closed() {
                continue;
            }
            let granted: Vec<Lease> = leases.by_ref().take(waiting.wanted.orders_max).collect();
            if granted.is_empty() {
                unserved.push((number, waiting));
            } else {
                // If the request is gone, the dropped leases are returned.
                drop(waiting.answer.send(Ok(self.grant(granted))));
            }
        }
        // Leases of requests that are gone are returned too.
        drop(self.grant(leases.collect()));
        let over = {
            let mut state = self.state();
            state.failure = None;
            state.dry = dry;
            state.waiting.extend(unserved);
            let over = if dry {
                state.take_overdue(batch.before)
            } else {
                Vec::new()
            };
            self.count(&state);
            over
        };
        for waiting in over {
            drop(waiting.answer.send(Ok(self.grant(Vec::new()))));
        }
    }

    /// Puts the requests back after a failed claim; those whose time is over get the error.
    pub fn put_off(&self, batch: ClaimBatch, failure: StoreError) {
        let failure = Arc::new(failure);
        let over = {
            let mut state = self.state();
            state.failure = Some(failure.clone());
            state.waiting.extend(batch.served);
            let over = state.take_overdue(batch.before);
            self.count(&state);
            over
        };
        for waiting in over {
            drop(waiting.answer.send(Err(TakeError::Store(failure.clone()))));
        }
    }

    pub fn has_returned(&self) -> bool {
        !self.state().returned.is_empty()
    }

    /// Takes the leases that were not picked up, to be given back.
    pub fn returned(&self) -> Vec<Lease> {
        std::mem::take(&mut self.state().returned)
    }

    /// Stops the queue: waiting requests get an empty answer, new ones are refused.
    pub fn close(self: &Arc<Self>) {
        let waiting = {
            let mut state = self.state();
            state.closed = true;
            let waiting = std::mem::take(&mut state.waiting);
            self.count(&state);
            waiting
        };
        for waiting in waiting.into_values() {
            drop(waiting.answer.send(Ok(self.grant(Vec::new()))));
        }
    }
}

impl State {
    /// Removes the requests that arrived before `before` and whose time is over.
    fn take_overdue(&mut self, before: u64) -> Vec<Waiting> {
        let now = Instant::now();
        let numbers: Vec<u64> = self
            .waiting
            .range(..before)
            .filter(|(_, waiting)| waiting.deadline <= now)
            .map(|(number, _)| *number)
            .collect();
        numbers
            .iter()
            .filter_map(|number| self.waiting.remove(number))
            .collect()
    }
}

/// Requests served by one claim.
pub struct ClaimBatch {
    served: Vec<(u64, Waiting)>,
    /// Arrival number from which requests came after this claim.
    before: u64,
    orders_max: usize,
    lease: Duration,
}

impl ClaimBatch {
    /// Returns 0 if no request waits.
    pub fn orders_max(&self) -> usize {
        self.orders_max
    }

    pub fn lease(&self) -> Duration {
        self.lease
    }
}

/// Place of a request in the queue, given up on drop.
struct Place {
    requests: Arc<LeaseRequests>,
    number: u64,
    answer: oneshot::Receiver<Result<Granted, TakeError>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.requests.leave(self.number);
    }
}

/// Leases on their way to a worker; returned if dropped before they are taken.
pub struct Granted {
    leases: Vec<Lease>,
    requests: Arc<LeaseRequests>,
}

impl Granted {
    /// Hands the leases over to the worker.
    pub fn into_leases(mut self) -> Vec<Lease> {
        let leases = std::mem::take(&mut self.leases);
        self.requests.metrics.leases_granted.inc_by(leases.len() as u64);
        leases
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        self.requests.state().returned.append(&mut self.leases);
        self.requests.wakeups.notify_work();
    }
}

#[cfg(test)]
mod tests;
