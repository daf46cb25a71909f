//! Redriving orders: the statuses that allow it, and the query for many. Drivers change the orders.

use super::SWEEP_ORDERS_MAX;
use crate::event::{EventDetail, EventKind};
use crate::order::{OrderStatus, Reason};
use crate::time::Timestamp;

/// What a client asks of a redrive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedriveOptions {
    /// The reason that was given, for the event.
    pub reason: Option<Reason>,
    /// A Failed or Cancelled order keeps the idempotency key of its attempts, so that a service that remembers it does nothing twice.
    pub same_key: bool,
}

impl RedriveOptions {
    pub(super) fn detail(&self) -> EventDetail {
        EventDetail {
            reason: self.reason.clone(),
            same_key: self.same_key,
            ..EventDetail::default()
        }
    }
}

#[derive(Clone, Debug)]
pub struct RedriveQuery {
    /// `Failed` or `Cancelled`.
    pub status: OrderStatus,
    /// [`UserId::key`](crate::order::UserId::key).
    pub user_id: Option<i64>,
    /// The user's name, if it has one: names may share a key.
    pub user_name: Option<Box<str>>,
    pub created_before: Option<Timestamp>,
    pub options: RedriveOptions,
    /// Counts the matching orders and changes nothing.
    pub dry_run: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redriven {
    /// Number of matching orders, up to [`SWEEP_ORDERS_MAX`].
    pub matched: usize,
    /// Number of orders that were redriven.
    pub retried: usize,
    /// More orders match than one call redrives.
    pub more: bool,
}

impl Redriven {
    /// Truncates the matching orders to [`SWEEP_ORDERS_MAX`] and counts them. Expects one more if there are more.
    pub(super) fn of_matching<T>(matching: &mut Vec<T>) -> Redriven {
        let more = matching.len() > SWEEP_ORDERS_MAX;
        matching.truncate(SWEEP_ORDERS_MAX);
        Redriven {
            matched: matching.len(),
            retried: 0,
            more,
        }
    }
}

/// Reports whether a redrive changes an order with this status. A Failed or Cancelled order starts again; a Pending one that waits
/// for a time, in backoff or scheduled, becomes due.
pub(super) fn changes(status: OrderStatus, waits_for_time: bool) -> bool {
    match status {
        OrderStatus::Pending => waits_for_time,
        ended_or_running => OrderStatus::after(Some(ended_or_running), EventKind::Redriven).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::cancel;
    use super::*;

    #[test]
    fn cancel_and_redrive_change_only_the_statuses_they_may() {
        use OrderStatus::{Cancelled, Completed, Failed, Pending, Processing};
        let changeable = |changes: &dyn Fn(OrderStatus) -> bool| -> Vec<OrderStatus> {
            OrderStatus::ALL
                .into_iter()
                .filter(|status| changes(*status))
                .collect()
        };
        assert_eq!(changeable(&cancel::changes), [Pending, Processing, Failed]);
        assert_eq!(changeable(&|status| changes(status, false)), [Failed, Cancelled]);
        assert_eq!(
            changeable(&|status| changes(status, true)),
            [Pending, Failed, Cancelled]
        );
        assert!(!changes(Completed, true));
    }
}
