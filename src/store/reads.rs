//! What is read of orders and of the queue.

use std::fmt;
use std::time::Duration;

use super::{Counters, Epochs, FeedCursor, FeedEvent, Node};
use crate::lease::NodeId;
use crate::order::{Order, OrderId, OrderStatus};
use crate::time::Timestamp;

/// Most orders one page of a listing holds.
pub const PAGE_ORDERS_MAX: usize = 500;
/// Most rows one page looks at, of orders or of the feed: where few of them match it is short or empty, and the next goes on.
pub const PAGE_ROWS_LOOKED_AT_MAX: usize = 10_000;
/// Most events one page of a history holds.
pub const HISTORY_EVENTS_MAX: usize = 1_000;

#[derive(Clone, Debug, Default)]
pub struct OrderQuery {
    pub status: Option<OrderStatus>,
    pub user_id: Option<i64>,
    pub reference: Option<String>,
    /// Created strictly after.
    pub created_after: Option<Timestamp>,
    /// Created strictly before.
    pub created_before: Option<Timestamp>,
    /// The id that all orders of the page are below: `next` of the page before.
    pub before: Option<OrderId>,
    /// `as_of` of the page before: this page shows everything up to there as well.
    pub as_of: Option<LogPlace>,
    /// 1 to [`super::PAGE_ORDERS_MAX`].
    pub limit: usize,
}

/// A place in the log of a shared database: a server that has replayed it shows everything that was stored before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPlace(pub i64);

#[derive(Clone, Debug)]
pub struct OrderPage {
    /// May be fewer than `limit`, also none, before the end: a page looks at [`super::PAGE_ROWS_LOOKED_AT_MAX`] rows at most.
    pub orders: Vec<Order>,
    /// Pass as `before` for the next page; `None` at the end.
    pub next: Option<OrderId>,
    /// Pass with `next`. `None` where all pages come from one server.
    pub as_of: Option<LogPlace>,
    /// As in [`OrderView`].
    pub at: FeedCursor,
}

/// An order as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderView {
    pub order: Order,
    /// Every change that the order does not show yet lies behind this place; some that it shows may, too.
    pub at: FeedCursor,
}

/// Where an order stands.
#[derive(Clone, Debug)]
pub struct Standing {
    pub order: Order,
    /// While it is in processing.
    pub lease: Option<CurrentLease>,
    /// A node processes one like this at a time.
    pub suspect: bool,
    /// While Pending: the open order of the same user that comes before it, where they wait for each other.
    pub waits_for: Option<Predecessor>,
    /// While Pending, due, and waiting for no order of its user.
    pub place: Option<Place>,
    /// Another session of the database, whose locks keep this order as it is.
    pub locked_by: Option<LockHolder>,
    /// The reason why the store refused its start, or the end of its attempt, as far as this node has found out.
    pub refused: Option<String>,
    /// Each node's `busy` is the number of orders it is processing now, not as of its last heartbeat.
    pub queue: QueueState,
    /// When this was read, by the store's clock.
    pub read_at: Timestamp,
}

/// An order that later ones of its user wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predecessor {
    pub order_id: OrderId,
    /// Pending, Processing or Failed; as long as it is Failed, the others wait for an operator.
    pub status: OrderStatus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurrentLease {
    pub node: NodeId,
    pub expires_at: Timestamp,
    /// A worker outside holds it.
    pub outside: bool,
}

/// A session of the database that has locked an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    pub pid: i32,
    pub user: Option<String>,
    pub application: Option<String>,
    /// Its transaction, where this node's role may know.
    pub open_for: Option<Duration>,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "session {} of the database", self.pid)?;
        let user = self.user.iter().map(|user| format!("user {user}"));
        let named = self.application.iter().filter(|name| !name.is_empty());
        let application = named.map(|name| format!("application {name}"));
        let open_for = self.open_for.iter();
        let transaction = open_for.map(|span| format!("its transaction open for {} s", span.as_secs()));
        let parts: Vec<String> = user.chain(application).chain(transaction).collect();
        if parts.is_empty() {
            return Ok(());
        }
        write!(formatter, " ({})", parts.join(", "))
    }
}

/// Of an order that could start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Orders before it in its own line, counted up to [`AHEAD_MAX`].
    pub ahead: u64,
    /// The one right before it.
    pub behind: Option<OrderId>,
    /// Orders of the other line that could start now, counted up to [`AHEAD_MAX`].
    pub other_line: u64,
}

/// Events of one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// By rising version.
    pub events: Vec<FeedEvent>,
    /// As in [`OrderView`].
    pub at: FeedCursor,
    /// All that had begun.
    pub epochs: Epochs,
}

#[derive(Clone, Debug)]
pub struct QueueState {
    pub counters: Counters,
    pub paused: bool,
    /// Age of the order that has waited longest for a start it could have had; `None` when none waits.
    pub oldest_waiting: Option<Duration>,
    pub blocked: Blocked,
    /// Nodes that joined and did not leave, at most [`super::NODES_MAX`], latest heartbeat first.
    pub nodes: Vec<Node>,
}

/// Pending orders that wait for an earlier order of their user, where those are processed one after another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocked {
    /// Counted up to [`BLOCKED_MAX`].
    pub orders: u64,
    /// The time that the first of them has waited since it was accepted or came back; `None` when there is none.
    pub oldest_age: Option<Duration>,
}

/// Blocked orders counted: a read costs the same however many there are.
pub const BLOCKED_MAX: u64 = 10_000;
/// Orders counted that are before one.
pub const AHEAD_MAX: u64 = 10_000;
