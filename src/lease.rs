//! The right to process an order once, and its outcome. The store grants and checks it.

use std::fmt;
use std::time::Duration;

use crate::epoch::{AttemptKey, Token};
use crate::order::{Order, OrderId};
use crate::portable_json::JsonText;

/// Start of the error of an attempt whose result the store refused for good.
pub const RESULT_REFUSED: &str = "the store refused the result";
/// Start of the error of an attempt whose service broke off before an answer.
pub const NO_ANSWER: &str = "the service gave no answer";

/// Maximum bytes of a stored error text; the rest is cut off between characters. A service's reason of one KiB, and
/// some words around it.
pub const ERROR_BYTES_MAX: usize = REASON_BYTES_MAX + 32;
/// Delay before the next attempt at an order whose outcomes the store refuses; an operator has to act first.
const REFUSED_RETRY_AFTER: Duration = Duration::from_hours(1);
/// Maximum bytes of the reason that a processor gives.
pub const REASON_BYTES_MAX: usize = 1024;

/// One run of one process. Random at every start, so that a restarted node never inherits its old leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// Identifies one claim of one order. The fence rises with every claim of that order, across epochs too, so a result
/// with an older one is refused (Kleppmann, "How to do distributed locking", 2016, where it is called a fencing token).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseKey {
    pub order_id: OrderId,
    pub fence: u64,
    /// Node of the claim; written into the event that ends the attempt, so that `verify` sees whose result it was.
    pub node: NodeId,
}

/// A claimed order. Its holder may process the order until the lease expires.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The order after the claim: `Processing`, with `attempts` counting this one.
    pub order: Order,
    pub fence: u64,
    /// Proves the lease to the node that gets the result.
    pub token: Token,
    pub attempt_key: AttemptKey,
    pub node: NodeId,
    /// Set if the order lost two leases or more; a node runs one such order at a time.
    pub suspect: bool,
}

impl Lease {
    pub fn key(&self) -> LeaseKey {
        LeaseKey {
            order_id: self.order.order_id,
            fence: self.fence,
            node: self.node,
        }
    }
}

/// End of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Completed {
        result: Option<JsonText>,
    },
    /// Back to Pending, due after the delay.
    Retry {
        after: Duration,
        error: String,
    },
    /// Failed for good, until an operator redrives it.
    Failed {
        error: String,
    },
    /// Given back unfinished; the attempt does not count.
    Released,
    /// Given back without counting the attempt, because no service could process the order, with `error` as the reason;
    /// due again after the delay.
    GivenBack {
        after: Duration,
        error: String,
    },
}

impl Outcome {
    /// Completed without a result.
    pub const COMPLETED: Outcome = Outcome::Completed { result: None };

    /// Returns the outcomes to try instead, one after the other, when the store refuses this one for good. A lease that
    /// cannot be given back expires.
    pub fn after_refusal(&self, reason: &str) -> Vec<Outcome> {
        match self {
            Outcome::Released => Vec::new(),
            Outcome::GivenBack { .. } => vec![Outcome::Released],
            Outcome::Completed { .. } | Outcome::Retry { .. } | Outcome::Failed { .. } => {
                let error = format!("{RESULT_REFUSED} ({reason})");
                let after = REFUSED_RETRY_AFTER;
                vec![
                    Outcome::Failed { error: error.clone() },
                    Outcome::Retry { after, error },
                ]
            }
        }
    }
}

/// Processor of the orders that a node claims. All nodes of a store have the same one, or orders would end differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessorKind {
    Simulated,
    /// A service that the node calls.
    Http,
    /// External workers.
    Pull,
    /// Part of the program.
    Own,
    /// Part of the program, but tells others the token before it hands over the order.
    OwnDelivering,
}

impl ProcessorKind {
    pub const ALL: [ProcessorKind; 5] = [
        ProcessorKind::Simulated,
        ProcessorKind::Http,
        ProcessorKind::Pull,
        ProcessorKind::Own,
        ProcessorKind::OwnDelivering,
    ];

    /// Returns the processor's name in the configuration; `own` is not configurable.
    pub fn name(self) -> &'static str {
        match self {
            ProcessorKind::Simulated => "simulated",
            ProcessorKind::Http => "http",
            ProcessorKind::Pull => "pull",
            ProcessorKind::Own | ProcessorKind::OwnDelivering => "own",
        }
    }

    /// Reports whether external workers hold the leases.
    pub fn is_outside(self) -> bool {
        self == ProcessorKind::Pull
    }

    /// Reports whether others than the node get the tokens and may end the attempts.
    pub fn hands_out(self) -> bool {
        match self {
            ProcessorKind::Http | ProcessorKind::Pull | ProcessorKind::OwnDelivering => true,
            ProcessorKind::Simulated | ProcessorKind::Own => false,
        }
    }
}

/// Cuts an error text to [`ERROR_BYTES_MAX`] and removes NUL, which PostgreSQL cannot store.
pub fn bounded_error(text: &str) -> String {
    let mut end = text.len().min(ERROR_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_error_is_cut_at_a_character() {
        let cut = bounded_error(&"é".repeat(ERROR_BYTES_MAX));
        assert_eq!(cut.len(), ERROR_BYTES_MAX);
        let cut = bounded_error(&format!("a{}", "é".repeat(ERROR_BYTES_MAX)));
        assert_eq!(cut.len(), ERROR_BYTES_MAX - 1);
    }
}
