//! The desk where workers outside ask for orders: a bounded line of requests, of which the node's one dispatcher takes
//! the first and claims for them. Nothing is lost with a request that is gone: its leases come back to the dispatcher.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::lease::Lease;
use crate::metrics::Metrics;
use crate::store::{CLAIM_ORDERS_MAX, StoreError, Wakeups};

/// Most requests that wait at one desk. Each holds a connection and a few hundred bytes; a worker that finds the line
/// full has hundreds before it, and comes back later.
pub const WAITING_MAX: usize = 1_000;

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// 1 to [`LEASES_MAX`](super::LEASES_MAX).
    pub orders_max: usize,
    /// How long it is willing to wait for the first order; zero asks once.
    pub wait: Duration,
    pub lease: Duration,
}

/// Why a request got no answer.
#[derive(Clone, Debug)]
pub enum TakeError {
    /// As many wait as may.
    Full,
    /// The node stops.
    Closed,
    /// The store could not be asked, or what it did is not known.
    Store(Arc<StoreError>),
}

pub struct Desk {
    state: Mutex<State>,
    wakeups: Arc<Wakeups>,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    /// By the number of arrival.
    line: BTreeMap<u64, Waiting>,
    arrivals: u64,
    /// Leases whose requests are gone.
    returned: Vec<Lease>,
    /// The last claim found fewer orders than were asked for: who comes now waits behind others for the same news.
    dry: bool,
    /// Of the last claim.
    failure: Option<Arc<StoreError>>,
    closed: bool,
}

struct Waiting {
    wanted: Wanted,
    /// Of one that does not wait, when it came: the next claim is the last for it.
    deadline: Instant,
    answer: oneshot::Sender<Result<Granted, TakeError>>,
}

impl Desk {
    /// The dispatcher listens to `wakeups`, the store's.
    pub fn new(wakeups: Arc<Wakeups>, metrics: Metrics) -> Arc<Desk> {
        Arc::new(Desk {
            state: Mutex::default(),
            wakeups,
            metrics,
        })
    }

    /// Waits in line. No leases when none came in time, while the queue is paused, and when the node begins to stop.
    ///
    /// Cancel safe: what was granted to a request that is dropped goes back.
    pub async fn take(self: &Arc<Self>, wanted: Wanted) -> Result<Granted, TakeError> {
        let deadline = Instant::now() + wanted.wait;
        let mut place = self.line_up(wanted, deadline)?;
        tokio::select! {
            biased;
            answer = &mut place.answer => return answer.unwrap_or(Err(TakeError::Closed)),
            // One that does not wait is answered by the next claim, which is for all who stand in line.
            () = sleep_until(deadline), if !wanted.wait.is_zero() => {}
        }
        if self.leave(place.number) {
            return match self.state().failure.clone() {
                Some(failure) => Err(TakeError::Store(failure)),
                None => Ok(self.grant(Vec::new())),
            };
        }
        // It is being claimed for.
        let answer = (&mut place.answer).await;
        answer.unwrap_or(Err(TakeError::Closed))
    }

    fn line_up(self: &Arc<Self>, wanted: Wanted, deadline: Instant) -> Result<Place, TakeError> {
        let (answer, receiver) = oneshot::channel();
        let mut state = self.state();
        if state.closed {
            return Err(TakeError::Closed);
        }
        if state.line.len() >= WAITING_MAX {
            return Err(TakeError::Full);
        }
        let follows_others = state.dry && !state.line.is_empty() && !wanted.wait.is_zero();
        let number = state.arrivals;
        state.arrivals += 1;
        let waiting = Waiting {
            wanted,
            deadline,
            answer,
        };
        state.line.insert(number, waiting);
        self.count(&state);
        drop(state);
        if !follows_others {
            self.wakeups.notify_work();
        }
        Ok(Place {
            desk: self.clone(),
            number,
            answer: receiver,
        })
    }

    /// Whether the request still stood in line.
    fn leave(&self, number: u64) -> bool {
        let mut state = self.state();
        let left = state.line.remove(&number).is_some();
        self.count(&state);
        left
    }

    fn grant(self: &Arc<Self>, leases: Vec<Lease>) -> Granted {
        Granted {
            leases,
            desk: self.clone(),
        }
    }

    fn count(&self, state: &State) {
        let waiting = i64::try_from(state.line.len()).unwrap_or(i64::MAX);
        self.metrics.lease_requests_waiting.set(waiting);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

/// The dispatcher's side.
impl Desk {
    pub fn has_waiting(&self) -> bool {
        !self.state().line.is_empty()
    }

    /// The first in line, as many of them as one claim may serve; none where nobody waits.
    pub fn next_turn(&self) -> Turn {
        let mut state = self.state();
        state.dry = false;
        let mut turn = Turn {
            served: Vec::new(),
            before: state.arrivals,
            orders_max: 0,
            lease: Duration::ZERO,
        };
        while let Some((&number, first)) = state.line.first_key_value() {
            let wanted = first.wanted;
            if turn.served.is_empty() {
                turn.lease = wanted.lease;
            } else if wanted.lease != turn.lease || turn.orders_max + wanted.orders_max > CLAIM_ORDERS_MAX {
                break;
            }
            turn.orders_max += wanted.orders_max;
            turn.served
                .extend(state.line.remove(&number).map(|waiting| (number, waiting)));
        }
        turn
    }

    /// Hands over what a claim granted, first come, first served. Who gets nothing goes on to wait in its old place, or
    /// hears that there is nothing, where its time is over.
    pub fn serve(self: &Arc<Self>, turn: Turn, leases: Vec<Lease>) {
        let dry = leases.len() < turn.orders_max;
        let mut leases = leases.into_iter();
        let mut unserved = Vec::new();
        for (number, waiting) in turn.served {
            if waiting.answer.is_closed() {
                continue;
            }
            let granted: Vec<Lease> = leases.by_ref().take(waiting.wanted.orders_max).collect();
            if granted.is_empty() {
                unserved.push((number, waiting));
            } else {
                // To a request that has just gone: then they are dropped, which returns them.
                drop(waiting.answer.send(Ok(self.grant(granted))));
            }
        }
        // Of requests that are gone. Returned as well.
        drop(self.grant(leases.collect()));
        let over = {
            let mut state = self.state();
            state.failure = None;
            state.dry = dry;
            state.line.extend(unserved);
            let over = if dry {
                state.take_overdue(turn.before)
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

    /// The claim failed: who waits goes on, until its time is over.
    pub fn put_off(&self, turn: Turn, failure: StoreError) {
        let failure = Arc::new(failure);
        let over = {
            let mut state = self.state();
            state.failure = Some(failure.clone());
            state.line.extend(turn.served);
            let over = state.take_overdue(turn.before);
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

    /// Leases that nobody took, to be given back.
    pub fn returned(&self) -> Vec<Lease> {
        std::mem::take(&mut self.state().returned)
    }

    /// Nobody claims any more: who waits hears that there is nothing, who comes is refused.
    pub fn close(self: &Arc<Self>) {
        let waiting = {
            let mut state = self.state();
            state.closed = true;
            let waiting = std::mem::take(&mut state.line);
            self.count(&state);
            waiting
        };
        for waiting in waiting.into_values() {
            drop(waiting.answer.send(Ok(self.grant(Vec::new()))));
        }
    }
}

impl State {
    /// Takes those out of the line who came before that arrival and whose time is over.
    fn take_overdue(&mut self, before: u64) -> Vec<Waiting> {
        let now = Instant::now();
        let numbers: Vec<u64> = self
            .line
            .range(..before)
            .filter(|(_, waiting)| waiting.deadline <= now)
            .map(|(number, _)| *number)
            .collect();
        numbers
            .iter()
            .filter_map(|number| self.line.remove(number))
            .collect()
    }
}

/// The requests that one claim is for.
pub struct Turn {
    served: Vec<(u64, Waiting)>,
    /// Who came later has not been claimed for.
    before: u64,
    orders_max: usize,
    lease: Duration,
}

impl Turn {
    /// 0 where nobody waits.
    pub fn orders_max(&self) -> usize {
        self.orders_max
    }

    pub fn lease(&self) -> Duration {
        self.lease
    }
}

/// A request's place in the line, given up when it is dropped.
struct Place {
    desk: Arc<Desk>,
    number: u64,
    answer: oneshot::Receiver<Result<Granted, TakeError>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.desk.leave(self.number);
    }
}

/// Leases on their way to a worker; dropped before somebody took them, they go back.
pub struct Granted {
    leases: Vec<Lease>,
    desk: Arc<Desk>,
}

impl Granted {
    /// They are the worker's from now on.
    pub fn into_leases(mut self) -> Vec<Lease> {
        let leases = std::mem::take(&mut self.leases);
        self.desk.metrics.leases_granted.inc_by(leases.len() as u64);
        leases
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        self.desk.state().returned.append(&mut self.leases);
        self.desk.wakeups.notify_work();
    }
}

#[cfg(test)]
mod tests;
