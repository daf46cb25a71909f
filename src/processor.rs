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
///             Ok(result) if order.request.user_id > 0 => Ok(Processed::Completed { result: Some(result) }),
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

/// Which try this is.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// Rises with every claim of the order.
    pub fence: u64,
    /// Opaque; whoever goes on with the order shows it with the result.
    pub token: Token,
    /// The same for all attempts at one effect.
    pub key: AttemptKey,
}

/// Why an attempt did not complete; the text is kept as the order's `last_error`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProcessingError {
    /// Worth another attempt, after `retry_after` where the processor knows better than the back-off.
    #[error("{error}")]
    Transient {
        error: Cause,
        retry_after: Option<Duration>,
    },
    /// The service could not be reached, so this was no attempt at the order: it never counts.
    #[error("{error}")]
    Unreachable { error: Cause },
    /// Whatever processes the orders says that it cannot work. Among good answers for other orders it counts as an attempt at
    /// this one; otherwise it says nothing about the order. Several orders in a row, and none is tried until it can.
    #[error("{error}")]
    Unavailable {
        error: Cause,
        retry_after: Option<Duration>,
    },
    /// Whatever processes the orders does not let this program in, or knows nothing at that address. Counts as an attempt; several orders
    /// in a row without a good answer, and none is tried until it does.
    #[error("{error}")]
    Denied { error: Cause },
    /// A case in between: the processor was reached and failed at the order. One such failure says little. A processor
    /// that gives nothing else for a while is as good as away.
    #[error("{error}")]
    Ailing {
        error: Cause,
        retry_after: Option<Duration>,
    },
    /// Will fail again: Failed at once.
    #[error("{error}")]
    Permanent { error: Cause },
}
