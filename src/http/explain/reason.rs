//! The reasons why an order waits, and the rules whose findings explain them.

use serde::Serialize;
use utoipa::ToSchema;

use crate::diagnosis::Rule;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The order is Completed, Failed or Cancelled.
    Ended,
    /// The order has started.
    Processing,
    /// The queue is paused.
    Paused,
    /// The order is held until it is released.
    Held,
    /// The order waits for its `start_after`.
    Scheduled,
    /// The order waits for the time of its next attempt.
    BackOff,
    /// Another session of the database has locked the order.
    Locked,
    /// The database refuses to start the order or to store the end of its attempt: a trigger, a check, a missing
    /// permission.
    Refused,
    /// An earlier order of the same user comes first.
    UserOrder,
    /// No live node processes orders.
    NoNode,
    /// External workers take orders from these nodes; none has taken this one.
    WaitsForWorker,
    /// The processor is down for every live node.
    BreakerOpen,
    /// The processor was down a moment ago; few orders start at a time.
    BreakerHalfOpen,
    /// Every live node is busy.
    NoFreeSlot,
    /// The order lost leases before; a node runs one such order at a time.
    Suspect,
    /// Other orders come first.
    BehindOrder,
    /// No known reason: the order starts within about a second, or as `ORDERLY_RATE_LIMIT` allows.
    Next,
}

impl Reason {
    /// Returns the rules whose findings explain this reason.
    pub(super) fn rules(self) -> &'static [Rule] {
        match self {
            Reason::Paused => &[Rule::Paused],
            Reason::Locked => &[Rule::Locked],
            Reason::NoNode => &[Rule::NoNode, Rule::NodeDiffers],
            Reason::WaitsForWorker => &[Rule::NoWorker],
            Reason::BreakerOpen | Reason::BreakerHalfOpen => &[Rule::ServiceDown],
            Reason::NoFreeSlot => &[Rule::SlotsFull, Rule::Behind],
            Reason::Suspect => &[Rule::LeasesLost],
            Reason::BehindOrder | Reason::Next => &[Rule::Locked, Rule::Standstill, Rule::Behind],
            Reason::Ended
            | Reason::Processing
            | Reason::Held
            | Reason::Scheduled
            | Reason::BackOff
            | Reason::Refused
            | Reason::UserOrder => &[],
        }
    }
}
