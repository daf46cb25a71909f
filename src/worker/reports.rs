//! Log lines about attempts that did not complete, with a reason from a closed set and a status. The service's own text
//! is never logged: it may hold customer data and is stored in the order's `last_error`. Each reason is logged at most
//! once a minute.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::lease::Lease;
use crate::processor::{Cause, Reason};

/// Minimum time between two lines for the same reason.
const EVERY: Duration = Duration::from_mins(1);

#[derive(Default)]
pub(super) struct Reports {
    given_back: Group,
    retried: Group,
    handed_back: Group,
}

impl Reports {
    pub fn given_back(&self, lease: &Lease, reason: Reason) {
        if let Some(more) = self.given_back.says(Some(reason), Instant::now()) {
            let (order_id, status) = (lease.order.order_id, reason.status());
            tracing::warn!(order.id = %order_id, reason = reason.name(), status, more,
                "orders are given back: the service does not process them; order {order_id} and {more} more since the \
                 last line");
        }
    }

    pub fn retried(&self, lease: &Lease, reason: Reason, after: Duration) {
        if let Some(more) = self.retried.says(Some(reason), Instant::now()) {
            let (order_id, status) = (lease.order.order_id, reason.status());
            tracing::info!(order.id = %order_id, attempt = lease.order.attempts, reason = reason.name(), status,
                retry_in = ?after, more,
                "attempts fail and will be retried: order {order_id} and {more} more since the last line");
        }
    }

    pub fn handed_back(&self, lease: &Lease) {
        if let Some(more) = self.handed_back.says(None, Instant::now()) {
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
            status = reason.status(), "order {order_id} failed for good; last_error says why");
    }
}

/// Lines of one kind, by reason. The number of reasons is bounded by the HTTP statuses plus a few.
#[derive(Default)]
struct Group(Mutex<HashMap<Option<Reason>, Said>>);

struct Said {
    at: Instant,
    /// Reports since then without a line.
    unsaid: u64,
}

impl Group {
    /// Returns the number of reports withheld since the last line with this reason; `None` to withhold this one too.
    fn says(&self, reason: Option<Reason>, now: Instant) -> Option<u64> {
        let mut by_reason = self.0.lock().expect("no code panics while it holds this lock");
        let last = by_reason.get_mut(&reason);
        if let Some(said) = last
            && now.saturating_duration_since(said.at) < EVERY
        {
            said.unsaid += 1;
            return None;
        }
        let last = by_reason.insert(reason, Said { at: now, unsaid: 0 });
        Some(last.map_or(0, |said| said.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_logged_at_most_once_a_minute() {
        let group = Group::default();
        let now = Instant::now();
        let (refused, busy) = (Some(Reason::ConnectionRefused), Some(Reason::Status(503)));
        assert_eq!(group.says(refused, now), Some(0));
        for second in 1..60 {
            assert_eq!(group.says(refused, now + Duration::from_secs(second)), None);
        }
        assert_eq!(group.says(refused, now + EVERY), Some(59));
        assert_eq!(group.says(busy, now + EVERY), Some(0));
        assert_eq!(group.says(Some(Reason::Status(502)), now + EVERY), Some(0));
        assert_eq!(group.says(Some(Reason::Status(502)), now + EVERY), None);
        // Alternating reasons do not shorten the interval.
        assert_eq!(group.says(busy, now + EVERY), None);
        assert_eq!(group.says(busy, now + EVERY * 2), Some(1));
    }
}
