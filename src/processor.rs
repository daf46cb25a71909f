//! Contract of processors, which carry out the business step of an order. `worker` handles attempts, deadlines, retries
//! and bookkeeping.

use std::time::Duration;

use async_trait::async_trait;

use crate::epoch::{AttemptKey, Token};
use crate::lease::ProcessorKind;
use crate::order::Order;
use crate::portable_json::JsonText;

mod cause;
pub mod http;
pub mod simulated;

pub use cause::{Cause, Reason};

/// Processes orders: the business step, which the worker runs for each attempt. Delivery is at least once: a crash
/// between the effect and its record repeats an attempt. Give external effects the idempotency key [`Attempt::key`]; a
/// service that remembers the highest [`Attempt::fence`] of an order can refuse calls with a lower one.
///
/// [`serve::run_with`](crate::serve::run_with) serves your own processor with the API, the retries and everything else;
/// `examples/own_processor.rs` is such a program. A complete processor:
///
/// ```
/// use async_trait::async_trait;
/// use orderly::order::Order;
/// use orderly::portable_json::JsonText;
/// use orderly::processor::{Attempt, Processed, ProcessingError, Processor};
///
/// struct Greeter;
///
/// #[async_trait]
/// impl Processor for Greeter {
///     async fn process(&self, order: &Order, _: Attempt) -> Result<Processed, ProcessingError> {
///         let greeting = JsonText::parse(r#"{"said": "hello"}"#);
///         match greeting {
///             Ok(result) if order.request.items.count() > 0 => Ok(Processed::Completed { result: Some(result) }),
///             _ => Err(ProcessingError::Permanent { error: "no name to greet".into() }),
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait Processor: Send + Sync + 'static {
    /// Processes one attempt. The future is dropped at any await point when the lease is lost, the order is cancelled,
    /// the attempt times out or the node stops. May panic, which counts as a transient failure.
    async fn process(&self, order: &Order, attempt: Attempt) -> Result<Processed, ProcessingError>;

    /// Returns the kind of this processor for the agreement between the nodes of a store. Results posted from elsewhere
    /// before `process` returns count only for [`ProcessorKind::OwnDelivering`].
    fn kind(&self) -> ProcessorKind {
        ProcessorKind::Own
    }
}

/// Successful end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Processed {
    /// A result has at most [`RESULT_BYTES_MAX`](crate::order::RESULT_BYTES_MAX) bytes.
    Completed { result: Option<JsonText> },
    /// An external service goes on and settles the attempt with its token before the attempt times out.
    HandedOver,
}

impl Processed {
    /// Completed without a result.
    pub const COMPLETED: Processed = Processed::Completed { result: None };
}

/// Identity of an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Number of the attempt, from 1.
    pub number: u32,
    /// Fence of the lease; rises with every claim of the order.
    pub fence: u64,
    /// Opaque token of the lease; an external service returns it with the result.
    pub token: Token,
    /// Idempotency key, the same for all attempts of a generation.
    pub key: AttemptKey,
}

/// Failure of an attempt; its text is stored as the order's `last_error`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProcessingError {
    /// A retry may succeed, after `retry_after` or else after the backoff.
    #[error("{error}")]
    Transient {
        error: Cause,
        retry_after: Option<Duration>,
    },
    /// The service could not be reached. Never counts as an attempt.
    #[error("{error}")]
    Unreachable { error: Cause },
    /// The processor says that it cannot work. Counts as an attempt if other orders get good answers; otherwise it says
    /// nothing about the order. Several such orders in a row stop attempts until the processor works again.
    #[error("{error}")]
    Unavailable {
        error: Cause,
        retry_after: Option<Duration>,
    },
    /// The processor rejects this program's credentials, or has nothing at its address. Counts as an attempt. Several
    /// such orders in a row without a good answer stop attempts until there is one.
    #[error("{error}")]
    Denied { error: Cause },
    /// The processor was reached but failed at the order. A single such failure says little; nothing else for a while
    /// means that the processor is down.
    #[error("{error}")]
    Ailing {
        error: Cause,
        retry_after: Option<Duration>,
    },
    /// A retry would fail too; the order is Failed at once.
    #[error("{error}")]
    Permanent { error: Cause },
}
