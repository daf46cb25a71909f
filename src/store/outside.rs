//! Leases that external workers hold: how long, and what becomes of their results. Drivers look them up by token.

use std::time::Duration;

use super::StoreError;
use crate::epoch::Token;
use crate::lease::LeaseKey;
use crate::order::Order;
use crate::time::Timestamp;

#[derive(Clone, Copy, Debug)]
pub struct OutsideHold {
    /// Counted from now.
    pub lease: Duration,
    /// Counted from the start of the attempt.
    pub run_max: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The time by the store's clock.
    Until(Timestamp),
    /// The lease was no longer valid, or its attempt has no time left: nothing changed.
    Stale,
}

/// The latest claim of an order; its status tells whether that still holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatestClaim {
    pub order: Order,
    /// `None` before the first claim.
    pub key: Option<LeaseKey>,
    /// The token of that claim; `None` before the first, and where its epoch is not one of the store.
    pub token: Option<Token>,
    /// The token was handed to others than the node that claimed, so they may bring a result.
    pub handed_out: bool,
}

/// The answer to the result of an external worker.
#[derive(Debug)]
pub enum SettledOutside {
    /// The outcome is stored. Holds the order as it is afterwards.
    Done(Order),
    /// The outcome is stored, but the order could not be read afterwards.
    Unread(StoreError),
    /// Nothing changed: the token is not the latest, its attempt has ended, or the order was not handed out.
    Lost(LatestClaim),
    UnknownOrder,
}
