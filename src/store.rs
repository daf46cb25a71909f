//! The store: the trait `Store`, its answers and its errors. Every call is one atomic transaction, synced before it returns. The
//! drivers are in `store/`, the only place with SQL. Policy, such as retry delays and the rate of claims, is left to the callers.

use std::sync::Arc;

use async_trait::async_trait;

use crate::epoch::Token;
use crate::lease::{LeaseKey, NodeId, Outcome};
use crate::order::{NewOrder, OrderId, Patch, Reason};

mod accept;
mod amend;
mod cancel;
mod claim;
pub mod clock;
mod codes;
mod columns;
pub mod copy;
mod counters;
mod epochs;
mod error;
mod external_lease;
mod feed;
mod give_back;
mod health;
mod hold;
pub mod layer;
mod measured;
mod migrations;
mod milestone;
mod nodes;
pub mod open;
mod opening;
pub mod postgres;
pub mod probe;
mod prune;
mod reads;
mod redrive;
mod refusals;
mod settle;
pub mod snapshot;
pub mod sqlite;
pub mod survey;
mod timers;
pub mod vitals;
pub mod wakeups;

pub use accept::{Accepted, IDEMPOTENCY_RETENTION, IdempotencyKey, ORDERS_WAITING_MAX};
pub use amend::Amended;
pub use cancel::Acted;
pub use claim::{CLAIM_ORDERS_MAX, ClaimRequest, Claimed, SUSPECT_CRASHES};
pub use counters::Counters;
#[cfg(test)]
pub use epochs::first_epoch;
pub use epochs::{EPOCH_MAX, Epoch, Epochs, FAILOVER_JUMP, FeedCursor, FeedPosition, NewEpoch, RESTORE_JUMP};
use epochs::{JUMPS_MAX, next_number};
pub use error::{RefusedOrder, StoreError};
pub use external_lease::{ExternalHold, ExternalLease, LatestClaim, SettledExternal};
pub use feed::{FEED_EVENTS_MAX, FeedBounds, FeedEvent, FeedPage};
pub use give_back::{GiveBack, GivenBack, SWEEP_ORDERS_MAX};
pub use health::StoreHealth;
pub use milestone::{CLIENT_EVENTS_MAX, NewMilestone};
pub use nodes::{Breaker, Heartbeat, Leaving, NODES_MAX, Node, NodeReport, Renewed};
pub use prune::{PRUNE_EVENTS_MAX, PRUNE_ORDERS_MAX, Prune, Pruned};
pub use reads::{
    AHEAD_MAX, BLOCKED_MAX, Blocked, CurrentLease, Explanation, HISTORY_EVENTS_MAX, HandoutMode,
    HandoutStatus, History, LockHolder, LogPosition, OrderPage, OrderQuery, OrderView, PAGE_ORDERS_MAX,
    PAGE_ROWS_EXAMINED_MAX, Pause, Place, Predecessor, QueueState,
};
pub use redrive::{RedriveOptions, RedriveQuery, Redriven};
pub use refusals::{RefusedChange, log_refused};
pub use settle::Settled;
pub use snapshot::Snapshot;
pub use timers::{Fired, TIMERS_FIRED_MAX};
pub use vitals::{Activity, Vitals};
pub use wakeups::{News, PeerNews, Wakeups};

/// Orders with their events and leases. Methods take durations, never points in time, because the driver owns the clock.
///
/// Dropping the future of a call does not cancel the call: it may still be carried out.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Stores all of `orders` or none, each with its `accepted` event. If the key is already stored for the same request, stores
    /// nothing and returns the first answer.
    ///
    /// # Errors
    /// [`StoreError::KeyReused`], [`StoreError::QueueFull`], [`StoreError::DeadlinePassed`], and the errors that every call may
    /// return.
    async fn accept(
        &self,
        orders: Arc<[NewOrder]>,
        key: Option<IdempotencyKey>,
    ) -> Result<Accepted, StoreError>;

    /// Claims up to `request.orders_max` (at most [`CLAIM_ORDERS_MAX`]) due orders for a node: those of the first line in order of
    /// acceptance, those of the second line by due time. While both lines have work, both get a share. Claims nothing while the
    /// queue is paused.
    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, StoreError>;

    /// Starts the given orders that may start now, in the order given, like a claim that chose them: at most
    /// `request.orders_max`, among the first [`CLAIM_ORDERS_MAX`] given.
    ///
    /// Leaves out an order that is unknown, not Pending, not due, blocked, locked by another session of the database, or refused
    /// by the database. Starts at most one suspect, and only if `request.suspect` is true. These starts may overtake orders
    /// that were accepted earlier, except orders of the same user while users have turns.
    async fn start(&self, order_ids: Arc<[OrderId]>, request: ClaimRequest) -> Result<Claimed, StoreError>;

    /// Ends an attempt. Changes nothing if its lease was lost, its order was cancelled, or it was settled before.
    async fn settle(&self, key: LeaseKey, outcome: Outcome) -> Result<Settled, StoreError>;

    /// Stores a node's heartbeat and renews the leases that the node still has.
    async fn renew(&self, heartbeat: Heartbeat) -> Result<Renewed, StoreError>;

    /// Transfers the lease to an external worker for `hold.lease`, capped at `hold.run_max` after the attempt started. Heartbeats
    /// no longer renew the lease, and it survives the end of its node.
    async fn hold_external(&self, key: LeaseKey, hold: ExternalHold) -> Result<ExternalLease, StoreError>;

    /// Ends the attempt with this token, and returns the order. Changes nothing if a later claim has another token, the attempt
    /// has ended, or the order was not handed out; the caller counts such results.
    async fn settle_external(
        &self,
        id: OrderId,
        token: Token,
        outcome: Outcome,
    ) -> Result<SettledExternal, StoreError>;

    /// Reads an order with its latest claim; `None` if the order is unknown.
    async fn claimed(&self, id: OrderId) -> Result<Option<LatestClaim>, StoreError>;

    /// Takes back up to [`SWEEP_ORDERS_MAX`] orders whose leases have expired.
    async fn give_back_expired(&self, request: GiveBack) -> Result<GivenBack, StoreError>;

    /// Announces a node. If only one node can open the store, also takes back all leases of earlier nodes.
    async fn join(&self, heartbeat: Heartbeat, crashes_max: u32) -> Result<GivenBack, StoreError>;

    /// Removes a node that stops or sleeps in good order from the list.
    async fn leave(&self, node: NodeId, leaving: Leaving) -> Result<(), StoreError>;

    /// Cancels an order that has not ended, or that has failed.
    async fn cancel(&self, id: OrderId, reason: Option<Reason>) -> Result<Acted, StoreError>;

    /// Sets a Pending order aside until it is released: no node starts it, and it is in no line.
    async fn hold(&self, id: OrderId, reason: Option<Reason>) -> Result<Acted, StoreError>;

    /// Releases a held order. It enters the second line, due since it was accepted; in backoff it waits for its due time, and before
    /// its `start_after` it stays set aside.
    async fn release(&self, id: OrderId, reason: Option<Reason>) -> Result<Acted, StoreError>;

    /// Changes the request of a Pending or Failed order that has this version. An order keeps its place in the line, unless its
    /// `start_after` changes.
    async fn amend(&self, id: OrderId, version: u32, patch: Patch) -> Result<Amended, StoreError>;

    /// Adds a milestone to an order in any status, unless clients made [`CLIENT_EVENTS_MAX`] events of it.
    async fn add_milestone(&self, id: OrderId, new: NewMilestone) -> Result<Acted, StoreError>;

    /// Moves scheduled orders whose `start_after` has passed to the second line, and marks open orders whose deadline has passed as
    /// overdue: of each at most [`TIMERS_FIRED_MAX`] per call, apart from those in `except`.
    async fn fire_timers(&self, except: Arc<[OrderId]>) -> Result<Fired, StoreError>;

    /// Sends a Failed or Cancelled order back to Pending, due now, with its attempts counted anew. A Pending order in backoff
    /// or a scheduled one becomes due now and keeps its attempts and generation; any other Pending order stays as it is.
    async fn redrive(&self, id: OrderId, options: RedriveOptions) -> Result<Acted, StoreError>;

    /// Redrives the oldest matching orders, at most [`SWEEP_ORDERS_MAX`] per call.
    async fn redrive_matching(&self, query: RedriveQuery) -> Result<Redriven, StoreError>;

    /// Carries out one step of retention: removes orders that ended long ago, with all their events. Orders with events that have
    /// no position yet are left for a later round.
    async fn prune(&self, request: Prune) -> Result<Pruned, StoreError>;

    /// Pauses the queue for all nodes, across restarts. No order starts after it has returned. A paused queue stays paused since
    /// then, and takes a new reason if one is given.
    async fn pause(&self, reason: Option<Reason>) -> Result<(), StoreError>;

    /// Ends a pause.
    async fn resume(&self) -> Result<(), StoreError>;

    /// Reads an order with the cursor from which to follow it; `None` if the order is unknown.
    async fn order_view(&self, id: OrderId) -> Result<Option<OrderView>, StoreError>;

    /// Reads what keeps an order from starting; `None` if the order is unknown. The parts of the answer may be from slightly
    /// different moments.
    async fn explain(&self, id: OrderId) -> Result<Option<Explanation>, StoreError>;

    /// Reads a page of orders, newest first.
    async fn orders(&self, query: OrderQuery) -> Result<OrderPage, StoreError>;

    /// Reads an order's events after the version `after`, oldest first, at most [`HISTORY_EVENTS_MAX`]; `None` if the order is
    /// unknown.
    async fn history(&self, id: OrderId, after: u32) -> Result<Option<History>, StoreError>;

    /// Reads the events of the feed after the position `after` (from its beginning if `None`), at most [`FEED_EVENTS_MAX`].
    /// Positions rise in the order of commits, so reading on from the last position misses nothing. The bounds of the page show
    /// whether `after` belongs to this feed and whether events after it were removed.
    async fn events_after(&self, after: Option<FeedPosition>, limit: usize) -> Result<FeedPage, StoreError>;

    /// Reads all counters at one instant, at a cost that does not grow with the number of orders.
    async fn counters(&self) -> Result<Counters, StoreError>;

    /// Reads the state of the queue and the list of nodes.
    async fn queue(&self) -> Result<QueueState, StoreError>;

    /// Reads the queue for the answer to [`Store::pause`] and [`Store::resume`], without waiting for other readers of the queue.
    async fn queue_just_set(&self) -> Result<QueueState, StoreError> {
        self.queue().await
    }

    /// Keeps what a node counted, under the node's own number for the row: writing a row again replaces it.
    async fn record_activity(&self, node: NodeId, number: u64, activity: Activity) -> Result<(), StoreError>;

    /// Reads what shows whether orders flow and what holds them up, at a cost that does not grow with the number of orders.
    async fn vitals(&self) -> Result<Vitals, StoreError>;

    /// Opens a snapshot, for `verify` and `doctor`.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError>;

    /// The last known health. Does not query the database.
    fn health(&self) -> StoreHealth;

    /// The last known settings of the database that weaken the promise of a 201. Does not query the database.
    fn weaknesses(&self) -> Vec<String>;

    /// Resolves with the reason when the store is broken and only a restart helps: a failed sync or a damaged page.
    async fn failed(&self) -> String;

    /// The store's wake-ups. They only shorten waits; polling alone makes progress.
    fn wakeups(&self) -> Arc<Wakeups>;

    /// Finishes the waiting calls, refuses later ones and closes the database.
    async fn close(&self);
}
