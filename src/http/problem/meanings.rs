//! Translates the errors of other modules into problems.

use super::{Problem, ProblemType};
use crate::live::SubscribeError;
use crate::pull::{ResultError, TakeError};
use crate::store::StoreError;

impl From<SubscribeError> for Problem {
    fn from(error: SubscribeError) -> Problem {
        match error {
            SubscribeError::TooMany => Problem::new(
                ProblemType::Busy,
                "this node has reached its limit of feed subscribers; retry later or use another node",
            ),
            SubscribeError::Store(error) => error.into(),
        }
    }
}

impl From<TakeError> for Problem {
    fn from(error: TakeError) -> Problem {
        match error {
            TakeError::Full => Problem::new(
                ProblemType::Busy,
                "this node has reached its limit of waiting workers; retry later or use another node",
            ),
            TakeError::Closed => Problem::new(
                ProblemType::ShuttingDown,
                "the server is shutting down; no order was started",
            ),
            TakeError::Store(error) => known(&error).unwrap_or_else(|| Problem::unexpected(error)),
        }
    }
}

impl From<ResultError> for Problem {
    fn from(error: ResultError) -> Problem {
        match error {
            ResultError::UnknownOrder => Problem::new(ProblemType::OrderNotFound, "no order has this id"),
            ResultError::LeaseLost => Problem::new(
                ProblemType::LeaseLost,
                "the token is not the order's latest, or its attempt has ended; nothing changed",
            ),
            ResultError::Store(error) => error.into(),
            // The result is durable, so a later error must not be answered with "nothing changed".
            ResultError::Unread(error) => Problem::unexpected(error),
        }
    }
}

/// Problem for each error of the store.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        known(&error).unwrap_or_else(|| Problem::unexpected(error))
    }
}

/// Returns `None` if it is unknown what was stored.
fn known(error: &StoreError) -> Option<Problem> {
    let problem = match error {
        StoreError::Busy => Problem::new(
            ProblemType::Busy,
            "too many requests are waiting for a commit; nothing was stored",
        ),
        StoreError::QueueFull => Problem::new(
            ProblemType::QueueFull,
            "the limit of pending orders is reached; nothing was stored",
        ),
        StoreError::Closed => Problem::new(
            ProblemType::ShuttingDown,
            "the server is shutting down; nothing was stored",
        ),
        StoreError::DiskFull => Problem::new(
            ProblemType::DiskFull,
            "the server's disk is full; nothing was stored",
        ),
        StoreError::KeyReused => Problem::new(
            ProblemType::IdempotencyKeyReused,
            "this Idempotency-Key was used with another body; nothing was stored",
        ),
        StoreError::DeadlinePassed { .. } => Problem::new(
            ProblemType::InvalidFields,
            "a deadline has passed; nothing was stored",
        ),
        // The store logs the reason, once per failed commit. A refusal is not the caller's fault as far as this server
        // knows, so a retry is advised.
        StoreError::Unavailable { .. } | StoreError::Refused { .. } => Problem::new(
            ProblemType::StoreUnavailable,
            "the store cannot be reached or written; nothing was stored",
        ),
        StoreError::Unexpected { .. } => return None,
    };
    Some(problem)
}
