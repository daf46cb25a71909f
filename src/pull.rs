//! Orders that workers outside process: handing out leases, and taking what comes back under their tokens. How requests
//! and answers look is left to `http/leases.rs`; claiming for those who wait, to `worker/outside.rs`.

use std::sync::Arc;
use std::time::Duration;

use crate::metrics::Metrics;
use crate::retry::RetryPolicy;
use crate::store::Store;

mod desk;
mod results;

pub use desk::{Desk, Granted, TakeError, Turn, WAITING_MAX, Wanted};
pub use results::{Failure, ResultError};

/// Most leases that one request gets.
pub const LEASES_MAX: usize = 100;
/// Longest wait for an order: below the minute after which many proxies give up, but for a moment.
pub const WAIT_MAX: Duration = Duration::from_mins(1);
/// Longest lease, as for a node of this program.
pub const LEASE_MAX: Duration = Duration::from_hours(1);
/// Longest wait that a worker may ask for before the next attempt: as long as the longest that an operator may set.
pub const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

#[derive(Clone, Copy, Debug)]
pub struct OutsideSettings {
    /// How long a lease lasts unless its worker asks for another time.
    pub lease: Duration,
    /// Longest run of one attempt, however often its lease is renewed.
    pub attempt_timeout: Duration,
    pub retry: RetryPolicy,
}

/// What the calls of workers outside work with.
#[derive(Clone)]
pub struct Outside {
    pub store: Arc<dyn Store>,
    pub settings: OutsideSettings,
    /// Where leases are handed out; `None` where this node processes by itself.
    pub desk: Option<Arc<Desk>>,
    pub metrics: Metrics,
}
