//! The durable truth about orders: the `Store` trait, its answers and its errors. Every call is one atomic
//! transaction, synced before it returns. Drivers live in `store/`, the only place with SQL; deciding *what* to
//! do (retry delays, rate of claims) is left to the callers.

use std::sync::Arc;

use async_trait::async_trait;

use crate::epoch::Token;
use crate::lease::{LeaseKey, NodeId, Outcome};
use crate::order::{NewOrder, OrderId};

mod accept;
mod cancel;
mod claim;
pub mod clock;
mod codes;
mod columns;
pub mod copy;
mod counters;
mod epochs;
mod error;
mod feed;
mod give_back;
mod health;
pub mod layer;
mod measured;
mod migrations;
mod nodes;
pub mod open;
mod opening;
mod outside;
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
pub mod wakeups;

pub use accept::{Accepted, IDEMPOTENCY_RETENTION, IdempotencyKey, ORDERS_WAITING_MAX};
pub use cancel::Acted;
pub use claim::{CLAIM_ORDERS_MAX, ClaimRequest, Claimed, SUSPECT_CRASHES};
pub use counters::Counters;
#[cfg(test)]
pub use epochs::first_epoch;
pub use epochs::{Begun, EPOCH_MAX, Epoch, Epochs, FAILOVER_JUMP, FeedCursor, FeedPosition, RESTORE_JUMP};
use epochs::{JUMPS_MAX, next_number};
pub use error::{RefusedOrder, StoreError};
pub use feed::{FEED_EVENTS_MAX, FeedBounds, FeedEvent, FeedPage};
pub use give_back::{GiveBack, GivenBack, SWEEP_ORDERS_MAX};
pub use health::StoreHealth;
pub use nodes::{Breaker, Heartbeat, NODES_MAX, Node, Renewed};
pub use outside::{Held, LatestClaim, OutsideHold, SettledOutside};
pub use prune::{PRUNE_EVENTS_MAX, PRUNE_ORDERS_MAX, Prune, Pruned};
pub use reads::{
    AHEAD_MAX, BLOCKED_MAX, Blocked, CurrentLease, HISTORY_EVENTS_MAX, History, LockHolder, LogPlace,
    OrderPage, OrderQuery, OrderView, PAGE_ORDERS_MAX, PAGE_ROWS_LOOKED_AT_MAX, Place, Predecessor,
    QueueState, Standing,
};
pub use redrive::{RedriveQuery, Redriven};
pub use refusals::{RefusedChange, tell_refused};
pub use settle::Settled;
pub use snapshot::Snapshot;
pub use wakeups::Wakeups;

/// Orders, their events, their leases. Methods take durations, never instants: the driver owns the clock.
///
/// Dropping the future of a call does not take the call back: it may still be carried out.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Stores all of `orders` or none, each with its `accepted` event. With a key that is already stored for
    /// the same request, stores nothing and answers what was answered then.
    ///
    /// # Errors
    /// [`StoreError::KeyReused`], [`StoreError::QueueFull`] and the operating errors.
    async fn accept(
        &self,
        orders: Arc<[NewOrder]>,
        key: Option<IdempotencyKey>,
    ) -> Result<Accepted, StoreError>;

    /// Claims up to `request.orders_max` (at most [`CLAIM_ORDERS_MAX`]) due orders for a node, unless paused:
    /// first attempts in order of acceptance, then retries, redrives and given-back orders by due time;
    /// while both lines have work, both move.
    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, StoreError>;

    /// Starts attempts at those of the given orders that may start now, in the order given, as a claim does with those that it
    /// chose: at most `request.orders_max`, among the first [`CLAIM_ORDERS_MAX`] given. Leaves out an order that is unknown, not
    /// Pending, not due, waits for others of its user, is locked by another session of the database or refused by it, and a
    /// suspect beyond the first or unless `request.suspect`. The caller owns the order of these starts: they may overtake
    /// orders that were accepted earlier, except those of the same user where the orders of a user wait for each other.
    async fn start(&self, order_ids: Arc<[OrderId]>, request: ClaimRequest) -> Result<Claimed, StoreError>;

    /// Ends an attempt. Changes nothing when the lease was lost, cancelled or settled before.
    async fn settle(&self, key: LeaseKey, outcome: Outcome) -> Result<Settled, StoreError>;

    /// A node's heartbeat: says that it lives and extends those of its leases that it still has.
    async fn renew(&self, heartbeat: Heartbeat) -> Result<Renewed, StoreError>;

    /// A worker outside has the lease from now on, for so long, but for `run_max` from the start of the attempt at the
    /// longest. No heartbeat renews it and no end of a node ends it.
    async fn hold_outside(&self, key: LeaseKey, hold: OutsideHold) -> Result<Held, StoreError>;

    /// Ends the attempt of an order that was handed out, by its token, and answers with the order. Changes nothing when the
    /// token is not the latest, its attempt has ended, or the order was not handed out; the caller counts such results.
    async fn settle_outside(
        &self,
        id: OrderId,
        token: Token,
        outcome: Outcome,
    ) -> Result<SettledOutside, StoreError>;

    /// An order with its latest claim.
    async fn claimed(&self, id: OrderId) -> Result<Option<LatestClaim>, StoreError>;

    /// Takes back up to [`SWEEP_ORDERS_MAX`] orders whose leases ran out.
    async fn give_back_expired(&self, request: GiveBack) -> Result<GivenBack, StoreError>;

    /// Announces a node. On a store that only one node can open, gives back at once what earlier nodes held.
    async fn join(&self, heartbeat: Heartbeat, crashes_max: u32) -> Result<GivenBack, StoreError>;

    /// Takes a node that stops in good order out of the list.
    async fn leave(&self, node: NodeId) -> Result<(), StoreError>;

    async fn cancel(&self, id: OrderId) -> Result<Acted, StoreError>;

    /// Failed or Cancelled back to Pending with fresh attempts, due now. A Pending order that backs off becomes due now and
    /// keeps its attempts and its generation; any other Pending order stays as it is.
    async fn redrive(&self, id: OrderId) -> Result<Acted, StoreError>;

    /// Redrives the oldest matching orders, at most [`SWEEP_ORDERS_MAX`] in one call.
    async fn redrive_matching(&self, query: RedriveQuery) -> Result<Redriven, StoreError>;

    /// One small step of retention: takes out orders that ended long ago, with all their events. A store that cannot
    /// tell yet which places in the feed an order's events have leaves it for a later round.
    async fn prune(&self, request: Prune) -> Result<Pruned, StoreError>;

    /// Pauses or resumes claiming, for all nodes and across restarts. No order starts after a pause returned.
    async fn set_paused(&self, paused: bool) -> Result<(), StoreError>;

    /// An order with the place in the feed from which on to follow it.
    async fn order_view(&self, id: OrderId) -> Result<Option<OrderView>, StoreError>;

    /// What keeps an order from starting, as the store sees it, at about one instant.
    async fn standing(&self, id: OrderId) -> Result<Option<Standing>, StoreError>;

    /// Newest first.
    async fn orders(&self, query: OrderQuery) -> Result<OrderPage, StoreError>;

    /// An order's events with a version above `after`, oldest first, at most [`HISTORY_EVENTS_MAX`];
    /// `None` for an unknown order.
    async fn history(&self, id: OrderId, after: u32) -> Result<Option<History>, StoreError>;

    /// The one feed of all events: those behind `after` (all there are without), at most [`FEED_EVENTS_MAX`].
    /// Positions follow the commits: what is committed later has a higher one, so that reading on from the last one
    /// seen skips nothing. Whether `after` is a place of this feed, and one behind which nothing was taken out, is told
    /// by the page's bounds.
    async fn events_after(&self, after: Option<FeedPosition>, limit: usize) -> Result<FeedPage, StoreError>;

    /// All numbers in one snapshot, at a cost that does not grow with the number of orders.
    async fn counters(&self) -> Result<Counters, StoreError>;

    async fn queue(&self) -> Result<QueueState, StoreError>;

    /// Reads the queue for the answer to [`Store::set_paused`], which does not wait behind monitors that read it.
    async fn queue_just_set(&self) -> Result<QueueState, StoreError> {
        self.queue().await
    }

    /// A view of everything at one instant, for `verify` and `doctor`.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError>;

    /// From the last known state, without asking the database.
    fn health(&self) -> StoreHealth;

    /// Settings of the database under which a 201 is worth less than promised, from the last known state.
    fn weaknesses(&self) -> Vec<String>;

    /// Resolves when the store has failed in a way that only a restart can mend (a failed sync, a corrupt page).
    async fn failed(&self) -> String;

    /// Signals that something may have changed. Only an optimisation: polling alone makes progress.
    fn wakeups(&self) -> Arc<Wakeups>;

    /// Carries out what waits, refuses what comes later, and lets go of the database.
    async fn close(&self);
}
