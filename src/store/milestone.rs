//! Milestones of orders. Drivers store them.

use crate::order::{Milestone, Reason};

/// Events of one order that clients make, at most.
pub const CLIENT_EVENTS_MAX: u32 = 1_000;

/// A milestone to add, and the reason that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMilestone {
    pub milestone: Milestone,
    pub reason: Option<Reason>,
}
