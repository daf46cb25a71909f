//! Ending an attempt: what its outcome makes of the order. Drivers check the lease and write the row.

use std::time::Duration;

use crate::event::EventKind;
use crate::lease::{Outcome, bounded_error};
use crate::order::OrderStatus;
use crate::portable_json::JsonText;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The outcome is stored and this is the order's status now.
    Done(OrderStatus),
    /// The lease was no longer valid: nothing changed.
    Stale,
}

/// The end of an attempt, in the terms of an order's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub kind: EventKind,
    /// The order was not at fault: the attempt does not count.
    pub given_back: bool,
    /// The lease was lost with its holder, which counts among the order's crashes.
    pub crashed: bool,
    /// The time until the order is due again, when it goes back to Pending.
    pub due_in: Option<Duration>,
    /// Told by the event.
    pub error: Option<String>,
    pub result: Option<JsonText>,
}

impl End {
    pub fn of(outcome: &Outcome) -> End {
        let (kind, given_back, due_in, error) = match outcome {
            Outcome::Completed { .. } => (EventKind::Completed, false, None, None),
            Outcome::Retry { after, error } => (EventKind::RetryScheduled, false, Some(*after), Some(error)),
            Outcome::Failed { error } => (EventKind::Failed, false, None, Some(error)),
            Outcome::Released => (EventKind::Released, true, Some(Duration::ZERO), None),
            Outcome::GivenBack { after, error } => (EventKind::Released, true, Some(*after), Some(error)),
        };
        End {
            kind,
            given_back,
            crashed: false,
            due_in,
            error: error.map(|text| bounded_error(text)),
            result: match outcome {
                Outcome::Completed { result } => result.clone(),
                Outcome::Retry { .. }
                | Outcome::Failed { .. }
                | Outcome::Released
                | Outcome::GivenBack { .. } => None,
            },
        }
    }

    /// The last error of the order from now on. Without one, an order that was given back keeps the one it has: a lost lease says
    /// nothing about the order.
    pub fn last_error(&self) -> Option<&str> {
        let error = self.error.as_deref();
        error.filter(|_| self.kind != EventKind::LeaseLost)
    }

    /// The status that the order gets.
    pub fn status(&self) -> OrderStatus {
        OrderStatus::after(Some(OrderStatus::Processing), self.kind)
            .expect("every way an attempt ends is in the table of transitions")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_says_what_becomes_of_the_order() {
        let error = || "no stock".to_owned();
        let after = Duration::from_secs(9);
        let ends = [
            (Outcome::COMPLETED, OrderStatus::Completed, false, None, None),
            (
                Outcome::Retry {
                    after,
                    error: error(),
                },
                OrderStatus::Pending,
                false,
                Some(after),
                Some("no stock"),
            ),
            (
                Outcome::Failed { error: error() },
                OrderStatus::Failed,
                false,
                None,
                Some("no stock"),
            ),
            (
                Outcome::Released,
                OrderStatus::Pending,
                true,
                Some(Duration::ZERO),
                None,
            ),
            (
                Outcome::GivenBack {
                    after,
                    error: error(),
                },
                OrderStatus::Pending,
                true,
                Some(after),
                Some("no stock"),
            ),
        ];
        for (outcome, status, given_back, due_in, last_error) in ends {
            let end = End::of(&outcome);
            assert_eq!(
                (end.status(), end.given_back, end.due_in),
                (status, given_back, due_in)
            );
            assert_eq!(end.last_error(), last_error);
            assert!(!end.crashed);
        }
    }
}
