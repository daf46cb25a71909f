//! The right to process an order once, and the answer to it. Granting and checking it is left to the store.

use std::fmt;
use std::time::Duration;

use crate::epoch::{AttemptKey, Token};
use crate::order::{Order, OrderId};
use crate::portable_json::JsonText;

/// The beginning of the error of an attempt whose result the store refused for good.
pub const RESULT_REFUSED: &str = "the store refused the result";

/// Longest text kept of an error, in bytes; the rest is cut off at a character's edge. A KiB of what a service gave as its
/// reason, and some words around it.
pub const ERROR_BYTES_MAX: usize = REASON_BYTES_MAX + 32;
/// Delay before the next attempt at an order whose ends the store refuses: somebody has to act first.
const REFUSED_RETRY_AFTER: Duration = Duration::from_hours(1);
/// Of the reason that whoever processed the order gives, in bytes.
pub const REASON_BYTES_MAX: usize = 1024;

/// One run of one process: random at every start, so that a restarted node never inherits its old leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// Names one claim of one order. The fence rises with every claim of that order, also over epochs, so a result that carries an
/// older one is refused (Kleppmann, "How to do distributed locking", 2016, where it is called a fencing token).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseKey {
    pub order_id: OrderId,
    pub fence: u64,
    /// Who claimed; written into the event that ends the attempt, so that `verify` sees whose result it was.
    pub node: NodeId,
}

/// A claimed order: whoever holds it may process the order until the lease runs out.
#[derive(Clone, Debug)]
pub struct Lease {
    /// As it stands after the claim: `Processing`, with `attempts` counting this one.
    pub order: Order,
    pub fence: u64,
    /// Proves the lease to whichever node the result is brought to.
    pub token: Token,
    pub attempt_key: AttemptKey,
    pub node: NodeId,
    /// The order was lost twice or more to dead nodes; a node runs one such order at a time.
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

/// How an attempt ended.
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
    /// For good, until somebody redrives it.
    Failed {
        error: String,
    },
    /// Handed back unfinished, without using up an attempt.
    Released,
    /// Handed back without using up an attempt, because no service could process it, as `error` says; due again after the delay.
    GivenBack {
        after: Duration,
        error: String,
    },
}

impl Outcome {
    /// Without a result.
    pub const COMPLETED: Outcome = Outcome::Completed { result: None };

    /// Replaces this outcome when the store refuses it for good: tried one after the other until one is stored. A lease that
    /// cannot be handed back is left to run out.
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

/// Processor of the orders that a node claims. All nodes of a store have the same, or orders would end differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessorKind {
    Simulated,
    /// A service that the node calls.
    Http,
    /// Workers that take orders from the node.
    Pull,
    /// The program that this is part of.
    Own,
    /// The same, where it tells others the token before it hands the order over.
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

    /// Name of the processor in the configuration; `own` is not for the configuration.
    pub fn name(self) -> &'static str {
        match self {
            ProcessorKind::Simulated => "simulated",
            ProcessorKind::Http => "http",
            ProcessorKind::Pull => "pull",
            ProcessorKind::Own | ProcessorKind::OwnDelivering => "own",
        }
    }

    /// Workers outside hold the leases.
    pub fn is_outside(self) -> bool {
        self == ProcessorKind::Pull
    }

    /// Others than the node are told the tokens, and may end the attempts.
    pub fn hands_out(self) -> bool {
        match self {
            ProcessorKind::Http | ProcessorKind::Pull | ProcessorKind::OwnDelivering => true,
            ProcessorKind::Simulated | ProcessorKind::Own => false,
        }
    }
}

/// Cuts an error text to [`ERROR_BYTES_MAX`] and takes out NUL, which PostgreSQL cannot store.
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
