//! The last bad answer of the service, in memory only: its text may hold a customer's data and never enters the log.

use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use super::Shared;
use super::guard::Allowance;
use crate::processor::Cause;
use crate::store::Breaker;
use crate::store::clock::system_clock;
use crate::time::Timestamp;

/// The reason why this node's breaker is not closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceTrouble {
    /// The service's last answer, or the reason for its absence, as in an order's `last_error`.
    pub error: String,
    /// Its HTTP status, if it answered with one.
    pub status: Option<u16>,
    pub at: Timestamp,
    /// The time before which this node sends the service nothing.
    pub next_try_at: Option<Timestamp>,
}

#[derive(Default)]
pub(super) struct LastFailure(Mutex<Option<Failed>>);

#[derive(Clone)]
struct Failed {
    error: Cause,
    at: Timestamp,
}

impl LastFailure {
    pub fn set(&self, error: &Cause) {
        let failed = Failed {
            error: error.clone(),
            at: system_clock()(),
        };
        *self.0.lock().expect("no code panics while it holds this lock") = Some(failed);
    }
}

/// Shows the trouble of a worker's service to others.
#[derive(Clone)]
pub struct ServiceWatch(pub(super) Arc<Shared>);

impl ServiceWatch {
    /// Returns the last bad answer while the breaker is not closed.
    pub fn trouble(&self) -> Option<ServiceTrouble> {
        if self.0.guard.state() == Breaker::Closed {
            return None;
        }
        let last = self.0.last_failure.0.lock();
        let failed = last.expect("no code panics while it holds this lock").clone()?;
        let next_try_at = match self.0.guard.allowance(1) {
            Allowance::Start(_) => None,
            Allowance::Wait(until) => {
                Some(system_clock()().plus(until.saturating_duration_since(Instant::now())))
            }
        };
        Some(ServiceTrouble {
            error: failed.error.to_string(),
            status: failed.error.reason().status(),
            at: failed.at,
            next_try_at,
        })
    }
}
