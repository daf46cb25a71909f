//! Redriving orders: from which statuses, and which of many. Drivers change the orders.

use super::SWEEP_ORDERS_MAX;
use crate::event::EventKind;
use crate::order::OrderStatus;
use crate::time::Timestamp;

#[derive(Clone, Copy, Debug)]
pub struct RedriveQuery {
    /// `Failed` or `Cancelled`.
    pub status: OrderStatus,
    pub user_id: Option<i64>,
    pub created_before: Option<Timestamp>,
    /// Counts only.
    pub dry_run: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redriven {
    /// Up to [`SWEEP_ORDERS_MAX`].
    pub matched: usize,
    pub retried: usize,
    /// More orders match than one call takes.
    pub more: bool,
}

impl Redriven {
    /// Keeps of the matching orders, oldest first and one more than a call takes, those that it takes.
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

/// Reports whether a redrive changes an order: one that failed or was cancelled starts afresh, a Pending one that backs off
/// becomes due.
pub(super) fn changes(status: OrderStatus, backs_off: bool) -> bool {
    match status {
        OrderStatus::Pending => backs_off,
        ended_or_running => OrderStatus::after(Some(ended_or_running), EventKind::Redriven).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::cancel;
    use super::*;

    #[test]
    fn operators_change_what_has_no_result_yet() {
        use OrderStatus::{Cancelled, Completed, Failed, Pending, Processing};
        let of = |changes: &dyn Fn(OrderStatus) -> bool| -> Vec<OrderStatus> {
            OrderStatus::ALL
                .into_iter()
                .filter(|status| changes(*status))
                .collect()
        };
        assert_eq!(of(&cancel::changes), [Pending, Processing, Failed]);
        assert_eq!(of(&|status| changes(status, false)), [Failed, Cancelled]);
        assert_eq!(of(&|status| changes(status, true)), [Pending, Failed, Cancelled]);
        assert!(!changes(Completed, true));
    }
}
