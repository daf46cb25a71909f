//! Orders. `order/` has the rules of their fields, `http/wire.rs` the JSON, `event.rs` the legal transitions, `store.rs` the
//! storage.

use std::fmt;
use std::time::Duration;

use crate::money::{Currency, Money};
use crate::portable_json::JsonText;
use crate::time::Timestamp;

mod items;
mod merge_patch;
mod milestone;
mod patch;
mod text;
mod user;

pub use items::{Code, CodeError, Items, Line};
pub use milestone::{Milestone, MilestoneName, MilestoneNameError, check_milestone_data};
pub use patch::{AmendedField, Member, Patch};
pub use text::{PlainTextError, Reason, Reference, parse_integer};
pub use user::{UserId, UserIdError};

/// Largest integer that every JSON parser holds exactly (RFC 8259 section 6): 2^53 − 1.
pub const INTEGER_MAX: i64 = 9_007_199_254_740_991;
pub const ITEMS_MAX: usize = 1_000;
pub const CODE_CHARS_MAX: usize = 64;
/// Most pieces of one article in a line.
pub const QUANTITY_MAX: u32 = 1_000_000;
/// Most pieces in an order; 1,000 lines cannot hold more.
pub const PIECES_MAX: u64 = 1_000_000_000;
pub const ITEM_NAME_CHARS_MAX: usize = 200;
pub const USER_ID_CHARS_MAX: usize = 200;
pub const REFERENCE_CHARS_MAX: usize = 200;
pub const REASON_CHARS_MAX: usize = 500;
/// How far ahead a `start_after` or a `deadline` may be.
pub const SCHEDULE_DAYS_MAX: u64 = 366;
pub const SCHEDULE_MAX: Duration = Duration::from_hours(24 * SCHEDULE_DAYS_MAX);
pub const MILESTONE_CHARS_MAX: usize = 50;
pub const MILESTONE_DATA_BYTES_MAX: usize = 1_024;
pub const METADATA_BYTES_MAX: usize = 8_192;
/// Maximum size of a processor's result.
pub const RESULT_BYTES_MAX: usize = 8_192;
/// Maximum number of orders in one batch.
pub const BATCH_ORDERS_MAX: usize = 1_000;

/// Assigned by the store; rises in the order of acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrderId(pub i64);

impl fmt::Display for OrderId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OrderStatus {
    Pending,
    Processing,
    Completed,
    Failed,
    Cancelled,
}

impl OrderStatus {
    pub const ALL: [OrderStatus; 5] = [
        OrderStatus::Pending,
        OrderStatus::Processing,
        OrderStatus::Completed,
        OrderStatus::Failed,
        OrderStatus::Cancelled,
    ];

    pub fn name(self) -> &'static str {
        match self {
            OrderStatus::Pending => "Pending",
            OrderStatus::Processing => "Processing",
            OrderStatus::Completed => "Completed",
            OrderStatus::Failed => "Failed",
            OrderStatus::Cancelled => "Cancelled",
        }
    }

    pub fn parse(name: &str) -> Option<OrderStatus> {
        OrderStatus::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Reports whether the order has ended. Only a redrive, or the cancel of a Failed order, changes such a status.
    pub fn is_final(self) -> bool {
        match self {
            OrderStatus::Pending | OrderStatus::Processing => false,
            OrderStatus::Completed | OrderStatus::Failed | OrderStatus::Cancelled => true,
        }
    }
}

/// An order as the client requested it, with every field checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewOrder {
    pub user_id: UserId,
    pub items: Items,
    /// Has the decimals of the currency; two without one.
    pub total_amount: Money,
    pub currency: Option<Currency>,
    pub reference: Option<Reference>,
    /// The text of a JSON object, unchanged; see `http/wire.rs` for its checks.
    pub metadata: Option<Box<str>>,
    /// The order does not start before this time.
    pub start_after: Option<Timestamp>,
    /// The time by which the order should be final; after `start_after`.
    pub deadline: Option<Timestamp>,
    /// Set while the order does not start until it is released.
    pub hold: Option<Hold>,
}

impl NewOrder {
    /// Reports whether an order accepted at `now` is in neither line.
    pub fn is_set_aside(&self, now: Timestamp) -> bool {
        self.hold.is_some() || self.start_after.is_some_and(|time| time > now)
    }

    /// Reports whether the deadline has passed at `now`.
    pub fn is_late(&self, now: Timestamp) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// The reason why an order is held, if one was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    pub reason: Option<Reason>,
}

/// Values of settings that an order gets where its request has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderDefaults {
    /// `ORDERLY_CURRENCY`.
    pub currency: Option<Currency>,
}

/// An order as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub order_id: OrderId,
    /// The client's request. Its user and its currency never change.
    pub request: NewOrder,
    /// Set while the order is held.
    pub held_at: Option<Timestamp>,
    pub status: OrderStatus,
    /// Number of its events.
    pub version: u32,
    /// Attempts started and not given back; a redrive resets them to 0.
    pub attempts: u32,
    /// Number of redrives that did not keep the idempotency key. Order id and generation together identify one business effect downstream.
    pub generation: u32,
    pub created_at: Timestamp,
    /// Time of the latest start.
    pub processing_at: Option<Timestamp>,
    /// Time when it became final: Completed, Failed or Cancelled.
    pub finished_at: Option<Timestamp>,
    /// Due time while Pending in the second line (retries, redrives, orders given back).
    pub next_attempt_at: Option<Timestamp>,
    pub last_error: Option<String>,
    /// The latest milestone.
    pub milestone: Option<MilestoneName>,
    /// The deadline passed while the order was not final.
    pub overdue: bool,
    /// The processor's result of the completed order, at most [`RESULT_BYTES_MAX`] bytes.
    pub result: Option<JsonText>,
}

/// Rule for the orders of one user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ordering {
    /// They do not wait for each other.
    #[default]
    None,
    /// At most one of them is Processing; the next one starts once no earlier one is open.
    User { on_failure: OnFailure, on_hold: OnHold },
}

impl Ordering {
    /// By user; held and scheduled orders block the later ones, as by default.
    pub const fn by_user(on_failure: OnFailure) -> Ordering {
        Ordering::User {
            on_failure,
            on_hold: OnHold::Block,
        }
    }
}

/// Effect of a Failed order on the later ones of its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// They continue.
    Skip,
    /// They wait until it is redriven and completed, or cancelled.
    Block,
}

/// Effect of a held or scheduled order on the later ones of its user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnHold {
    /// They continue.
    Skip,
    /// They wait until it is released or due, and has ended.
    #[default]
    Block,
}
