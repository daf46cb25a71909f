//! Options for opening a store, and the errors of it. `open` and the drivers open stores.

use std::sync::Arc;

use super::PeerNews;
use super::clock::WallClock;
use crate::metrics::Metrics;
use crate::order::Ordering;

/// Options for opening a store to serve it.
pub struct OpenOptions {
    /// Applies missing migrations. If false, an older schema is refused.
    pub migrate: bool,
    /// Limit of Pending orders, beyond which `accept` fails with `QueueFull`.
    pub pending_max: Option<u64>,
    pub metrics: Metrics,
    /// Clock of a store that has none of its own.
    pub clock: WallClock,
    /// The ordering among the orders of one user; `None` keeps the stored one.
    pub ordering: Option<Ordering>,
    /// Another way for news between nodes, beside the store's own.
    pub peers: Option<Arc<PeerNews>>,
}

/// The failure of opening a store.
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

/// A migration, and whether it is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    pub number: u32,
    pub name: &'static str,
    pub applied: bool,
}
