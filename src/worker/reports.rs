//! Log lines about attempts that did not complete, with a reason from a closed set and a status. The service's own text
//! is never logged: it may hold customer data and is stored in the order's `last_error`. Each reason is logged at most
//! once a minute.

use std::time::Duration;

use tokio::time::Instant;

use crate::lease::Lease;
use crate::log_lines::Throttle;
use crate::processor::{Cause, Reason};

#[derive(Default)]
pub(super) struct Reports {
    given_back: Throttle<Reason>,
    retried: Throttle<Reason>,
    handed_back: Throttle<()>,
}

impl Reports {
    pub fn given_back(&self, lease: &Lease, reason: Reason) {
        if let Some(more) = self.given_back.due(reason, Instant::now()) {
            let (order_id, status) = (lease.order.order_id, reason.status());
            tracing::warn!(order.id = %order_id, reason = reason.name(), status, more,
                "orders are given back: the service does not process them; order {order_id} and {more} more since the \
                 last line");
        }
    }

    pub fn retried(&self, lease: &Lease, reason: Reason, after: Duration) {
        if let Some(more) = self.retried.due(reason, Instant::now()) {
            let (order_id, status) = (lease.order.order_id, reason.status());
            tracing::info!(order.id = %order_id, attempt = lease.order.attempts, reason = reason.name(), status,
                retry_in = ?after, more,
                "attempts fail and will be retried: order {order_id} and {more} more since the last line");
        }
    }

    pub fn handed_back(&self, lease: &Lease) {
        if let Some(more) = self.handed_back.due((), Instant::now()) {
            let order_id = lease.order.order_id;
            tracing::info!(order.id = %order_id, more,
                "orders are given back unfinished: this node stops; order {order_id} and {more} more since the last line");
        }
    }

    /// Logs every failed order: each needs an operator.
    #[expect(clippy::unused_self, reason = "all log lines about attempts are methods here")]
    pub fn failed(&self, lease: &Lease, error: &Cause) {
        let (order_id, reason) = (lease.order.order_id, error.reason());
        tracing::warn!(order.id = %order_id, attempt = lease.order.attempts, reason = reason.name(),
            status = reason.status(), "order {order_id} failed for good; last_error says why (`orderly orders get {order_id}`)");
    }
}
