//! Leases of external workers: their duration, and the answers to their results. Drivers look them up by token.

use std::time::Duration;

use super::StoreError;
use crate::epoch::Token;
use crate::lease::LeaseKey;
use crate::order::Order;
use crate::time::Timestamp;

#[derive(Clone, Copy, Debug)]
pub struct ExternalHold {
    /// Duration of the lease from now.
    pub lease: Duration,
    /// Maximum duration of the attempt. The lease ends no later.
    pub run_max: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternalLease {
    /// The expiry of the lease, by the store's clock.
    Until(Timestamp),
    /// Nothing changed: the lease was lost, or its attempt has no time left.
    Stale,
}

/// An order's latest claim. The claim is live only while the order is Processing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatestClaim {
    pub order: Order,
    /// `None` before the first claim.
    pub key: Option<LeaseKey>,
    /// The token of that claim; `None` before the first claim, and if the store does not know its epoch.
    pub token: Option<Token>,
    /// The node passed the token on, so that others may settle the attempt.
    pub handed_out: bool,
}

/// The answer to an external worker's result.
#[derive(Debug)]
pub enum SettledExternal {
    /// The outcome is stored. Holds the order after it.
    Done(Order),
    /// The outcome is stored, but reading the order failed.
    Unread(StoreError),
    /// Nothing changed: a later claim has another token, the attempt has ended, or the order was not handed out.
    Lost(LatestClaim),
    UnknownOrder,
}
