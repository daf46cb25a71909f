//! Ending an attempt: the effect of each outcome on the order. Drivers check the lease and write the row.

use std::time::Duration;

use crate::event::EventKind;
use crate::lease::{Outcome, bounded_error};
use crate::order::OrderStatus;
use crate::portable_json::JsonText;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The outcome is stored. Holds the order's new status.
    Done(OrderStatus),
    /// Nothing changed, because the lease was lost.
    Stale,
}

/// The end of an attempt: its effect on the order's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub kind: EventKind,
    /// The attempt does not count, because the order was not at fault.
    pub given_back: bool,
    /// The lease was lost with its holder. Adds one to the order's crashes.
    pub crashed: bool,
    /// Time until the order is due again, if it goes back to Pending.
    pub due_in: Option<Duration>,
    /// Error text of the event.
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

    /// The new `last_error` of the order; `None` for a lost lease, which is not the order's fault. An order that is given back
    /// without an error keeps its previous one.
    pub fn last_error(&self) -> Option<&str> {
        let error = self.error.as_deref();
        error.filter(|_| self.kind != EventKind::LeaseLost)
    }

    /// The order's new status.
    pub fn status(&self) -> OrderStatus {
        OrderStatus::after(Some(OrderStatus::Processing), self.kind)
            .expect("every way an attempt ends is in the table of transitions")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_its_effect_on_the_order() {
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
