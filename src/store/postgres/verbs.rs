//! The verbs of the store, each handed to the module that carries it out.

use std::sync::Arc;

use async_trait::async_trait;

use super::accept::Accept;
use super::failure::to_store_result;
use super::snapshot::PostgresSnapshot;
use super::view::View;
use super::{
    Postgres, amend, cancel, external_lease, give_back, hold, milestone, nodes, notify, pause, probe, prune,
    query, redrive, settle, standby_reader, standing, timers, vitals,
};
use crate::epoch::Token;
use crate::lease::{LeaseKey, NodeId, Outcome};
use crate::order::{NewOrder, OrderId, Patch, Reason};
use crate::store::{
    Accepted, Acted, Activity, Amended, ClaimRequest, Claimed, Counters, Explanation, ExternalHold,
    ExternalLease, FeedPage, FeedPosition, Fired, GiveBack, GivenBack, Heartbeat, History, IdempotencyKey,
    LatestClaim, Leaving, NewMilestone, OrderPage, OrderQuery, OrderView, Prune, Pruned, QueueState,
    RedriveOptions, RedriveQuery, Redriven, Renewed, Settled, SettledExternal, Snapshot, Store, StoreError,
    StoreHealth, Vitals, Wakeups,
};

#[async_trait]
impl Store for Postgres {
    async fn accept(
        &self,
        orders: Arc<[NewOrder]>,
        key: Option<IdempotencyKey>,
    ) -> Result<Accepted, StoreError> {
        let places = self.waiting.enter(&orders)?;
        self.accepts
            .call(Accept {
                orders,
                key,
                pending_max: self.pending_max,
                _places: places,
            })
            .await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, StoreError> {
        self.claims.next(&request).await
    }

    async fn start(&self, order_ids: Arc<[OrderId]>, request: ClaimRequest) -> Result<Claimed, StoreError> {
        self.claims.start(&order_ids, &request).await
    }

    async fn settle(&self, key: LeaseKey, outcome: Outcome) -> Result<Settled, StoreError> {
        settle::settle(&self.settles, &self.shared, key.into(), outcome).await
    }

    async fn renew(&self, heartbeat: Heartbeat) -> Result<Renewed, StoreError> {
        let mut connection = self.heartbeat_connection().await?;
        let renewed = nodes::renew(&mut connection, &self.shared, &self.state, &heartbeat).await;
        to_store_result(renewed, "renew leases")
    }

    async fn hold_external(&self, key: LeaseKey, hold: ExternalHold) -> Result<ExternalLease, StoreError> {
        let answer = external_lease::hold(&self.order_actions, &self.shared, key, hold).await;
        to_store_result(answer, "hold a lease")
    }

    async fn settle_external(
        &self,
        id: OrderId,
        token: Token,
        outcome: Outcome,
    ) -> Result<SettledExternal, StoreError> {
        let pools = external_lease::Pools {
            settles: &self.settles,
            views: &self.views,
            order_actions: &self.order_actions,
        };
        external_lease::settle(pools, &self.shared, id, token, outcome).await
    }

    async fn claimed(&self, id: OrderId) -> Result<Option<LatestClaim>, StoreError> {
        let claimed = external_lease::latest_claim(&self.order_actions, &self.shared, id).await;
        to_store_result(claimed, "read an order's claim")
    }

    async fn give_back_expired(&self, request: GiveBack) -> Result<GivenBack, StoreError> {
        let mut connection = self.control.connection();
        let sweep = give_back::give_back_expired(&mut connection, &self.shared, &request);
        to_store_result(sweep.await, "give back expired leases")
    }

    /// Other nodes may hold leases; the sweep after the first heartbeat finds those of dead nodes.
    async fn join(&self, heartbeat: Heartbeat, _crashes_max: u32) -> Result<GivenBack, StoreError> {
        self.renew(heartbeat).await.map(|_| GivenBack::default())
    }

    async fn leave(&self, node: NodeId, leaving: Leaving) -> Result<(), StoreError> {
        let mut connection = self.heartbeat_connection().await?;
        let message = notify::work_payload(&self.origin);
        let left = nodes::leave(&mut connection, &self.shared, (node, leaving), &message).await;
        to_store_result(left, "take the node off the list")
    }

    async fn cancel(&self, id: OrderId, reason: Option<Reason>) -> Result<Acted, StoreError> {
        let cancelled = cancel::cancel(&self.order_actions, &self.shared, id, reason).await;
        to_store_result(cancelled, "cancel an order")
    }

    async fn hold(&self, id: OrderId, reason: Option<Reason>) -> Result<Acted, StoreError> {
        let held = hold::hold(&self.order_actions, &self.shared, id, reason).await;
        to_store_result(held, "hold an order")
    }

    async fn release(&self, id: OrderId, reason: Option<Reason>) -> Result<Acted, StoreError> {
        let released = hold::release(&self.order_actions, &self.shared, id, reason).await;
        to_store_result(released, "release an order")
    }

    async fn amend(&self, id: OrderId, version: u32, patch: Patch) -> Result<Amended, StoreError> {
        let amended = amend::amend(&self.order_actions, &self.shared, id, version, &patch).await;
        to_store_result(amended, "amend an order")
    }

    async fn add_milestone(&self, id: OrderId, new: NewMilestone) -> Result<Acted, StoreError> {
        let added = milestone::add(&self.order_actions, &self.shared, id, &new).await;
        to_store_result(added, "add a milestone")
    }

    async fn fire_timers(&self, except: Arc<[OrderId]>) -> Result<Fired, StoreError> {
        let fired = timers::fire(&self.control, &self.shared, &except).await;
        to_store_result(fired, "fire timers")
    }

    async fn redrive(&self, id: OrderId, options: RedriveOptions) -> Result<Acted, StoreError> {
        let redriven = redrive::redrive(&self.order_actions, &self.shared, id, &options).await;
        to_store_result(redriven, "redrive an order")
    }

    async fn redrive_matching(&self, query: RedriveQuery) -> Result<Redriven, StoreError> {
        let redriven = redrive::redrive_matching(&self.order_actions, &self.shared, &query).await;
        to_store_result(redriven, "redrive orders")
    }

    async fn prune(&self, request: Prune) -> Result<Pruned, StoreError> {
        to_store_result(prune::prune(&self.control, &request).await, "take out old orders")
    }

    async fn pause(&self, reason: Option<Reason>) -> Result<(), StoreError> {
        to_store_result(
            pause::pause(&self.control, reason.as_ref()).await,
            "pause the queue",
        )
    }

    async fn resume(&self) -> Result<(), StoreError> {
        to_store_result(
            pause::resume(&self.control, &self.shared).await,
            "resume the queue",
        )
    }

    async fn order_view(&self, id: OrderId) -> Result<Option<OrderView>, StoreError> {
        self.views.call(View { id }).await
    }

    async fn explain(&self, id: OrderId) -> Result<Option<Explanation>, StoreError> {
        let standing = standing::standing(&self.lists, id, &self.shared.lower_bound()).await;
        let standing = standing.map(|standing| self.shared.refusals.with_refusal(standing));
        to_store_result(standing, "read where an order stands")
    }

    async fn orders(&self, query: OrderQuery) -> Result<OrderPage, StoreError> {
        let page =
            standby_reader::orders(self.standby_reader.as_deref(), &self.lists, &self.shared, &query).await;
        to_store_result(page, "list orders")
    }

    async fn history(&self, id: OrderId, after: u32) -> Result<Option<History>, StoreError> {
        let history = self.feed.history(id, after).await;
        to_store_result(history, "read an order's events")
    }

    async fn events_after(&self, after: Option<FeedPosition>, limit: usize) -> Result<FeedPage, StoreError> {
        let page =
            standby_reader::events_after(self.standby_reader.as_deref(), &self.feed, after, limit).await;
        to_store_result(page, "read the feed")
    }

    async fn counters(&self) -> Result<Counters, StoreError> {
        to_store_result(query::counters(&self.monitoring).await, "read the counters")
    }

    async fn queue(&self) -> Result<QueueState, StoreError> {
        query::queue_state(&self.monitoring, &self.shared).await
    }

    async fn queue_just_set(&self) -> Result<QueueState, StoreError> {
        query::queue_state(&self.control, &self.shared).await
    }

    async fn record_activity(&self, node: NodeId, number: u64, activity: Activity) -> Result<(), StoreError> {
        let recorded = vitals::record_activity(&self.control, node, number, activity).await;
        to_store_result(recorded, "store what a node counted")
    }

    async fn vitals(&self) -> Result<Vitals, StoreError> {
        let vitals = vitals::vitals(&self.monitoring, &self.shared.lower_bound()).await;
        to_store_result(vitals, "read the vitals")
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        Ok(Box::new(
            PostgresSnapshot::of(&self.connector, &self.shared).await?,
        ))
    }

    fn health(&self) -> StoreHealth {
        probe::health(&self.state, &self.pool)
    }

    fn weaknesses(&self) -> Vec<String> {
        self.state.weaknesses()
    }

    async fn failed(&self) -> String {
        self.state.broken().await
    }

    fn wakeups(&self) -> Arc<Wakeups> {
        self.shared.wakeups.clone()
    }

    async fn close(&self) {
        self.shared.closing.cancel();
        self.accepts.close().await;
        self.settles.close().await;
        self.views.close().await;
        // Waits for the calls under way.
        self.claims.close().await;
        drop(self.heartbeat_connection.lock().await);
        self.tasks.wait().await;
        self.feed.number_rest().await;
        self.pool.close().await;
        self.state.closed();
    }
}
