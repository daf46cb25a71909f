//! Errors of the store, by the cases that callers distinguish.

use std::fmt::{Display, Formatter};

use super::opening::OpenError;
use crate::causes::with_causes;
use crate::order::OrderId;

/// The failure of a call. Its text includes the source, and `Error::source` is `None`, so that a caller that prints sources does
/// not print it twice.
#[derive(Debug)]
pub enum StoreError {
    /// Nothing stored: too many calls wait for a commit.
    Busy,
    /// Nothing stored: the operator's limit of Pending orders is reached.
    QueueFull,
    /// Nothing stored: the store is closing.
    Closed,
    /// Nothing stored: the disk is full.
    DiskFull,
    /// Nothing stored: the store cannot be reached or written.
    Unavailable {
        attempted: &'static str,
        source: anyhow::Error,
    },
    /// Nothing stored, and a repeated call would be refused too. The store takes other calls.
    Refused {
        attempted: &'static str,
        /// The database's error code. Short ASCII that any store accepts, without any text of a client.
        reason: String,
        source: anyhow::Error,
    },
    /// Nothing stored: the key belongs to another request.
    KeyReused,
    /// Nothing stored: the deadlines of the orders at these places of the request have passed.
    DeadlinePassed { places: Vec<usize> },
    /// Unknown outcome: the call may be stored.
    Unexpected {
        attempted: &'static str,
        source: anyhow::Error,
    },
}

impl std::error::Error for StoreError {}

impl StoreError {
    /// Makes the same error for another caller; of its source only the text is kept.
    #[must_use]
    pub fn repeated(&self) -> StoreError {
        let text = |source: &anyhow::Error| anyhow::anyhow!(with_causes(source.as_ref()));
        match self {
            StoreError::Busy => StoreError::Busy,
            StoreError::QueueFull => StoreError::QueueFull,
            StoreError::Closed => StoreError::Closed,
            StoreError::DiskFull => StoreError::DiskFull,
            StoreError::KeyReused => StoreError::KeyReused,
            StoreError::DeadlinePassed { places } => StoreError::DeadlinePassed {
                places: places.clone(),
            },
            StoreError::Unavailable { attempted, source } => StoreError::Unavailable {
                attempted,
                source: text(source),
            },
            StoreError::Refused {
                attempted,
                reason,
                source,
            } => StoreError::Refused {
                attempted,
                reason: reason.clone(),
                source: text(source),
            },
            StoreError::Unexpected { attempted, source } => StoreError::Unexpected {
                attempted,
                source: text(source),
            },
        }
    }
}

impl Display for StoreError {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        let text = match self {
            StoreError::Busy => "too many requests are waiting for the store",
            StoreError::QueueFull => "the queue has reached its limit of pending orders",
            StoreError::Closed => "the store is shutting down",
            StoreError::DiskFull => "the disk is full",
            StoreError::KeyReused => "the idempotency key was used with another request",
            StoreError::DeadlinePassed { .. } => "the deadline of an order has passed",
            StoreError::Unavailable { attempted, source }
            | StoreError::Refused {
                attempted, source, ..
            }
            | StoreError::Unexpected { attempted, source } => {
                return write!(formatter, "{attempted}: {}", with_causes(source.as_ref()));
            }
        };
        formatter.write_str(text)
    }
}

/// An order that the store refuses to change, among others that it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedOrder {
    pub order_id: OrderId,
    /// The database's error code, as in [`StoreError::Refused`].
    pub code: String,
    /// The database's message, for the log.
    pub reason: String,
}

#[cfg(test)]
impl StoreError {
    /// One error of each variant, with the parts that its text must contain exactly once.
    pub(crate) fn each() -> Vec<(StoreError, Vec<&'static str>)> {
        let attempted = "try the store";
        let source = || anyhow::anyhow!("the disk is gone").context("write the log");
        let errors = [
            StoreError::Busy,
            StoreError::QueueFull,
            StoreError::Closed,
            StoreError::DiskFull,
            StoreError::Unavailable {
                attempted,
                source: source(),
            },
            StoreError::Refused {
                attempted,
                reason: "SQLSTATE 23514".to_owned(),
                source: source(),
            },
            StoreError::KeyReused,
            StoreError::DeadlinePassed { places: vec![0] },
            StoreError::Unexpected {
                attempted,
                source: source(),
            },
        ];
        let with_parts = |error: StoreError| {
            let parts = match error {
                StoreError::Busy => vec!["too many requests"],
                StoreError::QueueFull => vec!["limit of pending orders"],
                StoreError::Closed => vec!["shutting down"],
                StoreError::DiskFull => vec!["disk is full"],
                StoreError::KeyReused => vec!["idempotency key"],
                StoreError::DeadlinePassed { .. } => vec!["deadline"],
                StoreError::Unavailable { .. }
                | StoreError::Refused { .. }
                | StoreError::Unexpected { .. } => {
                    vec![attempted, "write the log", "the disk is gone"]
                }
            };
            (error, parts)
        };
        errors.into_iter().map(with_parts).collect()
    }
}

/// The failure of a copy. Nothing was copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{location} already holds {found}; the target of a copy must be empty")]
    NotEmpty { location: String, found: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}
