//! Every call goes through the twist, or straight to the store behind.

use std::sync::Arc;

use async_trait::async_trait;
use orderly::lease::{LeaseKey, NodeId, Outcome};
use orderly::order::{NewOrder, OrderId};
use orderly::store::{
    Accepted, Acted, ClaimRequest, Claimed, Counters, FeedPage, FeedPosition, GiveBack, GivenBack, Heartbeat,
    Held, History, IdempotencyKey, LatestClaim, OrderPage, OrderQuery, OrderView, OutsideHold, Prune, Pruned,
    QueueState, RedriveQuery, Redriven, Renewed, Settled, Snapshot, Standing, Store, StoreError, StoreHealth,
    Wakeups,
};

use super::{Twist, Twisted};

#[async_trait]
impl<T: Twist> Store for Twisted<T> {
    async fn accept(
        &self,
        orders: Arc<[NewOrder]>,
        key: Option<IdempotencyKey>,
    ) -> Result<Accepted, StoreError> {
        self.twist.accept(&self.inner, orders, key).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, StoreError> {
        self.twist.claim(&self.inner, request).await
    }

    async fn settle(&self, key: LeaseKey, outcome: Outcome) -> Result<Settled, StoreError> {
        self.twist.settle(&self.inner, key, outcome).await
    }

    async fn renew(&self, heartbeat: Heartbeat) -> Result<Renewed, StoreError> {
        self.twist.renew(&self.inner, heartbeat).await
    }

    async fn hold_outside(&self, key: LeaseKey, hold: OutsideHold) -> Result<Held, StoreError> {
        self.twist.before().await?;
        self.inner.hold_outside(key, hold).await
    }

    async fn claimed(&self, id: OrderId) -> Result<Option<LatestClaim>, StoreError> {
        self.twist.before().await?;
        self.inner.claimed(id).await
    }

    async fn give_back_expired(&self, request: GiveBack) -> Result<GivenBack, StoreError> {
        self.twist.before().await?;
        self.inner.give_back_expired(request).await
    }

    async fn join(&self, heartbeat: Heartbeat, crashes_max: u32) -> Result<GivenBack, StoreError> {
        self.twist.before().await?;
        self.inner.join(heartbeat, crashes_max).await
    }

    async fn leave(&self, node: NodeId) -> Result<(), StoreError> {
        self.twist.before().await?;
        self.inner.leave(node).await
    }

    async fn cancel(&self, id: OrderId) -> Result<Acted, StoreError> {
        self.twist.before().await?;
        self.inner.cancel(id).await
    }

    async fn redrive(&self, id: OrderId) -> Result<Acted, StoreError> {
        self.twist.before().await?;
        self.inner.redrive(id).await
    }

    async fn redrive_matching(&self, query: RedriveQuery) -> Result<Redriven, StoreError> {
        self.twist.before().await?;
        self.inner.redrive_matching(query).await
    }

    async fn prune(&self, request: Prune) -> Result<Pruned, StoreError> {
        self.twist.prune(&self.inner, request).await
    }

    async fn set_paused(&self, paused: bool) -> Result<(), StoreError> {
        self.twist.before().await?;
        self.inner.set_paused(paused).await
    }

    async fn order_view(&self, id: OrderId) -> Result<Option<OrderView>, StoreError> {
        self.twist.order_view(&self.inner, id).await
    }

    async fn standing(&self, id: OrderId) -> Result<Option<Standing>, StoreError> {
        self.twist.before().await?;
        self.inner.standing(id).await
    }

    async fn orders(&self, query: OrderQuery) -> Result<OrderPage, StoreError> {
        self.twist.before().await?;
        self.inner.orders(query).await
    }

    async fn history(&self, id: OrderId, after: u32) -> Result<Option<History>, StoreError> {
        self.twist.before().await?;
        self.inner.history(id, after).await
    }

    async fn events_after(&self, after: Option<FeedPosition>, limit: usize) -> Result<FeedPage, StoreError> {
        self.twist.before().await?;
        self.inner.events_after(after, limit).await
    }

    async fn counters(&self) -> Result<Counters, StoreError> {
        self.twist.before().await?;
        self.inner.counters().await
    }

    async fn queue(&self) -> Result<QueueState, StoreError> {
        self.twist.queue(&self.inner).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        self.twist.before().await?;
        self.inner.snapshot().await
    }

    fn health(&self) -> StoreHealth {
        self.twist.health(&self.inner)
    }

    fn weaknesses(&self) -> Vec<String> {
        self.twist.weaknesses(&self.inner)
    }

    async fn failed(&self) -> String {
        self.inner.failed().await
    }

    fn wakeups(&self) -> Arc<Wakeups> {
        self.inner.wakeups()
    }

    async fn close(&self) {
        self.twist.close(&self.inner).await;
    }
}
