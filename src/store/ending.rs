//! How an attempt ends, in the terms of an order's row. Checking the lease and writing the row is left to the drivers.

use std::time::Duration;

use crate::event::EventKind;
use crate::lease::{Outcome, bounded_error};
use crate::order::OrderStatus;
use crate::portable_json::JsonText;

pub(super) struct End {
    pub kind: EventKind,
    /// The order was not at fault: the attempt does not count.
    pub given_back: bool,
    /// Until the order is due again, when it goes back to Pending.
    pub due_in: Option<Duration>,
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

    /// Where the order goes.
    pub fn status(&self) -> OrderStatus {
        OrderStatus::after(Some(OrderStatus::Processing), self.kind)
            .expect("every way an attempt ends is in the table of transitions")
    }
}
