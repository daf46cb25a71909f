//! The reasons why a call of the store failed, in the terms that a caller branches on.

use std::fmt::{Display, Formatter};

use super::opening::OpenError;
use crate::causes::with_causes;
use crate::order::OrderId;

/// Shows its source itself, so that a log line needs no more. `Error::source` is `None`: a caller that prints sources would print
/// it twice.
#[derive(Debug)]
pub enum StoreError {
    /// Nothing stored: too many calls wait for a commit.
    Busy,
    /// Nothing stored: as many orders as the operator allows are Pending.
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
    /// Nothing stored, and this call would be refused again: the store takes others.
    Refused {
        attempted: &'static str,
        /// The kind of the refusal by its code. Short ASCII that any store takes, without a word of a caller.
        reason: String,
        source: anyhow::Error,
    },
    /// Nothing stored: the key belongs to another request.
    KeyReused,
    /// May or may not be stored.
    Unexpected {
        attempted: &'static str,
        source: anyhow::Error,
    },
}

impl std::error::Error for StoreError {}

impl Display for StoreError {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        let text = match self {
            StoreError::Busy => "too many requests are waiting for the store",
            StoreError::QueueFull => "the queue holds as many pending orders as it may",
            StoreError::Closed => "the store is shutting down",
            StoreError::DiskFull => "the disk is full",
            StoreError::KeyReused => "the idempotency key was used with another request",
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

/// An order that the store refuses to change for good, among others that it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedOrder {
    pub order_id: OrderId,
    /// The kind of the refusal, as in [`StoreError::Refused`].
    pub code: String,
    /// The database's own words, for the log.
    pub reason: String,
}

#[cfg(test)]
impl StoreError {
    /// One error of each variant, with the parts that its text has to show once each.
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
            StoreError::Unexpected {
                attempted,
                source: source(),
            },
        ];
        let with_parts = |error: StoreError| {
            let parts = match error {
                StoreError::Busy => vec!["too many requests"],
                StoreError::QueueFull => vec!["as many pending orders"],
                StoreError::Closed => vec!["shutting down"],
                StoreError::DiskFull => vec!["disk is full"],
                StoreError::KeyReused => vec!["idempotency key"],
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

/// The reason why nothing was copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{location} holds {found} already: orders are copied into an empty database only")]
    NotEmpty { location: String, found: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}
