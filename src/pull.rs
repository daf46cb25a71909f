//! Orders processed by external workers: grants leases and takes results with their tokens. `http/leases.rs` defines
//! requests and answers; `worker/outside.rs` claims for the waiting requests.

use std::sync::Arc;
use std::time::Duration;

use crate::metrics::Metrics;
use crate::retry::RetryPolicy;
use crate::store::Store;

mod requests;
mod results;

pub use requests::{ClaimBatch, Granted, LeaseRequests, TakeError, WAITING_MAX, Wanted};
pub use results::{Failure, ResultError};

/// Maximum number of leases per request.
pub const LEASES_MAX: usize = 100;
/// Maximum wait for an order: about the minute after which many proxies give up.
pub const WAIT_MAX: Duration = Duration::from_mins(1);
/// Maximum lease, as for a node of this program.
pub const LEASE_MAX: Duration = Duration::from_hours(1);
/// Maximum delay before the next attempt that a worker may ask for, equal to the operator's maximum.
pub const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

#[derive(Clone, Copy, Debug)]
pub struct OutsideSettings {
    /// Duration of a lease if the worker asks for none.
    pub lease: Duration,
    /// Maximum duration of one attempt, including renewals.
    pub attempt_timeout: Duration,
    pub retry: RetryPolicy,
}

/// Dependencies of the calls of external workers.
#[derive(Clone)]
pub struct Outside {
    pub store: Arc<dyn Store>,
    pub settings: OutsideSettings,
    /// Queue of lease requests; `None` if this node processes orders itself.
    pub lease_requests: Option<Arc<LeaseRequests>>,
    pub metrics: Metrics,
}
