//! Reads of orders and of the queue: queries and answers.

use std::fmt;
use std::time::Duration;

use super::{Counters, Epochs, FeedCursor, FeedEvent, Node};
use crate::lease::NodeId;
use crate::order::{MilestoneName, Order, OrderId, OrderStatus, Reason};
use crate::time::Timestamp;

/// Orders per page of a listing, at most.
pub const PAGE_ORDERS_MAX: usize = 500;
/// Rows of orders or of the feed that one page examines, at most. If few match, the page is short or empty, and the next page
/// continues.
pub const PAGE_ROWS_EXAMINED_MAX: usize = 10_000;
/// Events per page of a history, at most.
pub const HISTORY_EVENTS_MAX: usize = 1_000;

#[derive(Clone, Debug, Default)]
pub struct OrderQuery {
    /// Any of these; all if there is none.
    pub statuses: Vec<OrderStatus>,
    /// [`UserId::key`](crate::order::UserId::key).
    pub user_id: Option<i64>,
    pub reference: Option<String>,
    /// Only held orders.
    pub held: bool,
    /// Only overdue orders.
    pub overdue: bool,
    /// Only orders whose latest milestone has this name.
    pub milestone: Option<MilestoneName>,
    /// Exclusive lower bound of `created_at`.
    pub created_after: Option<Timestamp>,
    /// Exclusive upper bound of `created_at`.
    pub created_before: Option<Timestamp>,
    /// Exclusive upper bound of the ids: `next` of the previous page.
    pub before: Option<OrderId>,
    /// `as_of` of the previous page. This page shows at least everything that was stored at that point.
    pub as_of: Option<LogPosition>,
    /// 1 to [`super::PAGE_ORDERS_MAX`].
    pub limit: usize,
}

/// A position in the write-ahead log of a shared database. A server that has replayed it shows everything stored before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition(pub i64);

#[derive(Clone, Debug)]
pub struct OrderPage {
    /// There may be fewer than `limit`, or none, even before the end: a page examines at most
    /// [`super::PAGE_ROWS_EXAMINED_MAX`] rows.
    pub orders: Vec<Order>,
    /// `before` of the next page; `None` at the end.
    pub next: Option<OrderId>,
    /// `as_of` of the next page; `None` if all pages come from one server.
    pub as_of: Option<LogPosition>,
    /// Cursor from which to follow these orders, as in [`OrderView`].
    pub at: FeedCursor,
}

/// An order, and the cursor from which to follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderView {
    pub order: Order,
    /// Every later change of the order has a position after this cursor. So may some changes that the order already shows.
    pub at: FeedCursor,
}

/// The state of an order that explains why it has not started, or who processes it.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub order: Order,
    /// Set while Processing.
    pub lease: Option<CurrentLease>,
    /// The order lost several leases. A node processes one such order at a time.
    pub suspect: bool,
    /// The order is in neither line: it is held or scheduled.
    pub set_aside: bool,
    /// Set while the order is blocked: the order of the same user that it waits for.
    pub waits_for: Option<Predecessor>,
    /// Set while the order could start: Pending, due, not blocked and not set aside.
    pub place: Option<Place>,
    /// The session of the database that has locked the order.
    pub locked_by: Option<LockHolder>,
    /// Error code with which the database refused to start the order or to end its attempt, if this node knows of it.
    pub refused: Option<String>,
    /// State of the queue. Each node's `busy` is counted now, not taken from its last heartbeat.
    pub queue: QueueState,
    /// Time of the read, by the store's clock.
    pub read_at: Timestamp,
}

/// An order for which later orders of its user wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predecessor {
    pub order_id: OrderId,
    /// Pending, Processing or Failed. While it is Failed, the others wait for an operator.
    pub status: OrderStatus,
    /// It is held or scheduled.
    pub set_aside: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurrentLease {
    pub node: NodeId,
    pub expires_at: Timestamp,
    /// An external worker holds the lease.
    pub external: bool,
}

/// A session of the database that has locked an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    pub pid: i32,
    pub user: Option<String>,
    pub application: Option<String>,
    /// Age of its transaction, if this node's role may see it.
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

/// The place of an order that could start now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Orders ahead of it in its line, counted up to [`AHEAD_MAX`].
    pub ahead: u64,
    /// The order directly ahead of it.
    pub behind: Option<OrderId>,
    /// Orders of the other line that could start now, counted up to [`AHEAD_MAX`].
    pub other_line: u64,
}

/// A page of one order's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Sorted by version.
    pub events: Vec<FeedEvent>,
    /// Cursor from which to follow the order, as in [`OrderView`].
    pub at: FeedCursor,
    /// Epochs that had begun at the time of the read.
    pub epochs: Epochs,
}

#[derive(Clone, Debug)]
pub struct QueueState {
    pub counters: Counters,
    /// `None` if the queue is not paused.
    pub pause: Option<Pause>,
    /// The longest time that an order has been able to start; `None` if no order can start.
    pub oldest_waiting: Option<Duration>,
    pub blocked: Blocked,
    /// The hand-out by Redis; `None` without Redis.
    pub handout: Option<HandoutStatus>,
    /// Nodes that joined and did not leave, at most [`super::NODES_MAX`], latest heartbeat first.
    pub nodes: Vec<Node>,
}

impl QueueState {
    #[must_use]
    pub fn with_handout(self, status: HandoutStatus) -> QueueState {
        QueueState {
            handout: Some(status),
            ..self
        }
    }
}

/// The hand-out by Redis as one node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandoutStatus {
    pub mode: HandoutMode,
    /// The reason for which Redis cannot be used; `None` while it can.
    pub trouble: Option<String>,
    /// Orders in the stream; `None` if Redis does not tell, as with the following.
    pub depth: Option<u64>,
    /// Orders in the stream that no node took yet.
    pub lag: Option<u64>,
    /// Orders that silent nodes took and did not start.
    pub abandoned: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HandoutMode {
    /// Nodes take orders from the stream.
    Stream,
    /// The stream lacks orders: claims from the store go first until they have caught up.
    #[default]
    CatchingUp,
    /// Users' orders wait for each other: nodes claim from the store, and Redis carries messages.
    News,
    /// Redis cannot be used: nodes claim from the store.
    Store,
}

impl HandoutMode {
    pub const ALL: [HandoutMode; 4] = [
        HandoutMode::Stream,
        HandoutMode::CatchingUp,
        HandoutMode::News,
        HandoutMode::Store,
    ];

    pub fn name(self) -> &'static str {
        match self {
            HandoutMode::Stream => "stream",
            HandoutMode::CatchingUp => "catching_up",
            HandoutMode::News => "news",
            HandoutMode::Store => "store",
        }
    }
}

/// A pause of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    pub at: Timestamp,
    /// The latest reason that was given for it.
    pub reason: Option<Reason>,
}

/// The blocked orders: Pending ones that wait for an earlier order of their user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocked {
    /// Number of orders, counted up to [`BLOCKED_MAX`].
    pub orders: u64,
    /// The longest time since one of them was accepted or returned to Pending; `None` if there are none.
    pub oldest_age: Option<Duration>,
}

/// Blocked orders counted, at most. Bounds the cost of a read.
pub const BLOCKED_MAX: u64 = 10_000;
/// Orders counted in each line, at most. Bounds the cost of a read.
pub const AHEAD_MAX: u64 = 10_000;
