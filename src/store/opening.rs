//! How a store is opened, and why it does not open. Opening one is left to `open` and the drivers.

use super::clock::WallClock;
use crate::metrics::Metrics;
use crate::order::Ordering;

/// The settings with which a store is opened for serving.
pub struct OpenOptions {
    /// Apply what is missing of the schema; otherwise an old schema is refused.
    pub migrate: bool,
    /// Pending orders above which `accept` answers `QueueFull`.
    pub pending_max: Option<u64>,
    pub metrics: Metrics,
    /// Used by stores without a clock of their own.
    pub clock: WallClock,
    /// The rule by which the orders of one user wait for each other; `None` leaves it as it is.
    pub ordering: Option<Ordering>,
}

/// The reason why a store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{location} is in use by another orderly process")]
    InUse { location: String },
    #[error(
        "the schema of {location} is at migration {found}, newer than this binary knows ({known}): run a newer orderly"
    )]
    SchemaNewer {
        location: String,
        found: u32,
        known: u32,
    },
    #[error(
        "the schema of {location} is at migration {found}, this binary needs {needed}: run `orderly migrate`, or start with ORDERLY_MIGRATE=on"
    )]
    SchemaOlder {
        location: String,
        found: u32,
        needed: u32,
    },
    #[error(
        "{location} was made by another build of orderly (migration {number} differs) and was left unchanged: run the build \
         that made it, or give this one an empty database; before 0.2.0 no build can take over the store of another"
    )]
    SchemaDiffers { location: String, number: u32 },
    #[error(
        "{location} lacks functions of this binary: run `orderly migrate`, or start with ORDERLY_MIGRATE=on"
    )]
    FunctionsMissing { location: String },
    #[error("{location} does not keep its promises: {setting}")]
    NotDurable { location: String, setting: String },
    #[error("{location} is not fit to store orders: {reason}")]
    Unsuitable { location: String, reason: String },
    #[error("no store at {location}")]
    Missing { location: String },
    #[error("open the store at {location}")]
    Unavailable {
        location: String,
        #[source]
        source: anyhow::Error,
    },
}

/// A step of the schema and whether the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    pub number: u32,
    pub name: &'static str,
    pub applied: bool,
}
