//! What the errors of the parts below mean to a caller.

use super::{Problem, ProblemType};
use crate::live::SubscribeError;
use crate::pull::{ResultError, TakeError};
use crate::store::StoreError;

impl From<SubscribeError> for Problem {
    fn from(error: SubscribeError) -> Problem {
        match error {
            SubscribeError::TooMany => Problem::new(
                ProblemType::Busy,
                "as many follow the feed on this node as may: come back later, or to another node",
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
                "as many workers wait for orders at this node as may: come back later, or ask another node",
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
            ResultError::UnknownOrder => Problem::new(ProblemType::OrderNotFound, "no order has this number"),
            ResultError::LeaseLost => Problem::new(
                ProblemType::LeaseLost,
                "the token is not the order's latest, or its attempt has ended; nothing changed",
            ),
            ResultError::Store(error) => error.into(),
            // The result is durable: whatever was met afterwards must not be answered as "nothing changed".
            ResultError::Unread(error) => Problem::unexpected(error),
        }
    }
}

/// What each error of the store means to a caller.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        known(&error).unwrap_or_else(|| Problem::unexpected(error))
    }
}

/// `None` where what is stored is unknown.
fn known(error: &StoreError) -> Option<Problem> {
    let problem = match error {
        StoreError::Busy => Problem::new(
            ProblemType::Busy,
            "too many requests are waiting for a commit; nothing was stored",
        ),
        StoreError::QueueFull => Problem::new(
            ProblemType::QueueFull,
            "as many orders as the operator allows are pending; nothing was stored",
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
        // The store's own log says why, once per failed commit.
        // Not the caller's fault as far as this server knows, so it is told to come again.
        StoreError::Unavailable { .. } | StoreError::Refused { .. } => Problem::new(
            ProblemType::StoreUnavailable,
            "the store cannot be reached or written; nothing was stored",
        ),
        StoreError::Unexpected { .. } => return None,
    };
    Some(problem)
}
