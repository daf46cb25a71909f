//! A store that breaks one promise on purpose or fails when told to: the controls that show a check can turn red,
//! and the faults that no database offers on demand.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use orderly::lease::{LeaseKey, Outcome};
use orderly::order::{NewOrder, OrderId};
use orderly::store::{
    Accepted, ClaimRequest, Claimed, Heartbeat, IdempotencyKey, OrderView, Prune, Pruned, QueueState,
    Renewed, Settled, Store, StoreError, StoreHealth,
};
use tokio::sync::{Semaphore, watch};

use super::gate::Gate;

mod store;

/// What is twisted; the rest goes straight to the store behind.
#[async_trait]
pub trait Twist: Send + Sync + 'static {
    async fn accept(
        &self,
        inner: &Arc<dyn Store>,
        orders: Arc<[NewOrder]>,
        key: Option<IdempotencyKey>,
    ) -> Result<Accepted, StoreError> {
        inner.accept(orders, key).await
    }

    async fn claim(&self, inner: &Arc<dyn Store>, request: ClaimRequest) -> Result<Claimed, StoreError> {
        inner.claim(request).await
    }

    async fn settle(
        &self,
        inner: &Arc<dyn Store>,
        key: LeaseKey,
        outcome: Outcome,
    ) -> Result<Settled, StoreError> {
        inner.settle(key, outcome).await
    }

    async fn renew(&self, inner: &Arc<dyn Store>, heartbeat: Heartbeat) -> Result<Renewed, StoreError> {
        inner.renew(heartbeat).await
    }

    async fn prune(&self, inner: &Arc<dyn Store>, request: Prune) -> Result<Pruned, StoreError> {
        self.before().await?;
        inner.prune(request).await
    }

    async fn order_view(&self, inner: &Arc<dyn Store>, id: OrderId) -> Result<Option<OrderView>, StoreError> {
        self.before().await?;
        inner.order_view(id).await
    }

    async fn queue(&self, inner: &Arc<dyn Store>) -> Result<QueueState, StoreError> {
        self.before().await?;
        inner.queue().await
    }

    fn health(&self, inner: &Arc<dyn Store>) -> StoreHealth {
        inner.health()
    }

    fn weaknesses(&self, inner: &Arc<dyn Store>) -> Vec<String> {
        inner.weaknesses()
    }

    async fn close(&self, inner: &Arc<dyn Store>) {
        inner.close().await;
    }

    /// Comes before every other call, and instead of it when it fails.
    async fn before(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Lets a result in under whatever token is current: what a store that matches by id alone does.
#[derive(Default)]
pub struct SwapsStaleTokens {
    current: Mutex<HashMap<OrderId, u64>>,
}

#[async_trait]
impl Twist for SwapsStaleTokens {
    async fn claim(&self, inner: &Arc<dyn Store>, request: ClaimRequest) -> Result<Claimed, StoreError> {
        let claimed = inner.claim(request).await?;
        let mut current = self.current.lock().unwrap();
        current.extend(
            claimed
                .leases
                .iter()
                .map(|lease| (lease.order.order_id, lease.token)),
        );
        drop(current);
        Ok(claimed)
    }

    async fn settle(
        &self,
        inner: &Arc<dyn Store>,
        key: LeaseKey,
        outcome: Outcome,
    ) -> Result<Settled, StoreError> {
        let current = self.current.lock().unwrap().get(&key.order_id).copied();
        let key = LeaseKey {
            token: current.unwrap_or(key.token),
            ..key
        };
        inner.settle(key, outcome).await
    }
}

/// Cannot store results so many times; the store behind is not asked.
pub struct FailsToSettle {
    pub times: AtomicU32,
}

#[async_trait]
impl Twist for FailsToSettle {
    async fn settle(
        &self,
        inner: &Arc<dyn Store>,
        key: LeaseKey,
        outcome: Outcome,
    ) -> Result<Settled, StoreError> {
        let left = self
            .times
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match left {
            Ok(_) => Err(StoreError::DiskFull),
            Err(_) => inner.settle(key, outcome).await,
        }
    }
}

/// Cannot renew leases: a node that the store no longer hears.
pub struct NeverRenews;

#[async_trait]
impl Twist for NeverRenews {
    async fn renew(&self, _inner: &Arc<dyn Store>, _heartbeat: Heartbeat) -> Result<Renewed, StoreError> {
        Err(StoreError::DiskFull)
    }
}

/// Fails every request with an error of the test's choice.
pub struct Fails(pub fn() -> StoreError);

#[async_trait]
impl Twist for Fails {
    async fn accept(
        &self,
        _inner: &Arc<dyn Store>,
        _orders: Arc<[NewOrder]>,
        _key: Option<IdempotencyKey>,
    ) -> Result<Accepted, StoreError> {
        Err(self.0())
    }

    async fn before(&self) -> Result<(), StoreError> {
        Err(self.0())
    }
}

/// Has a bug in every call.
pub struct Panics;

#[async_trait]
impl Twist for Panics {
    async fn accept(
        &self,
        _inner: &Arc<dyn Store>,
        _orders: Arc<[NewOrder]>,
        _key: Option<IdempotencyKey>,
    ) -> Result<Accepted, StoreError> {
        panic!("a bug in the store")
    }

    async fn before(&self) -> Result<(), StoreError> {
        panic!("a bug in the store")
    }
}

/// Says of itself that it cannot store, and stores all the same.
pub struct IsNotReady(pub &'static str);

#[async_trait]
impl Twist for IsNotReady {
    fn health(&self, _inner: &Arc<dyn Store>) -> StoreHealth {
        StoreHealth::NotReady(self.0.to_owned())
    }
}

/// Confirms commits before they are safe, as a database does that is set to.
pub struct IsWeak(pub &'static str);

#[async_trait]
impl Twist for IsWeak {
    fn weaknesses(&self, _inner: &Arc<dyn Store>) -> Vec<String> {
        vec![self.0.to_owned()]
    }
}

/// Answers nothing while a test holds it.
pub struct StandsStill {
    held: watch::Sender<bool>,
    arrived: Semaphore,
}

impl StandsStill {
    /// Not yet.
    pub fn new() -> Arc<StandsStill> {
        Arc::new(StandsStill {
            held: watch::Sender::new(false),
            arrived: Semaphore::new(0),
        })
    }

    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    pub fn release(&self) {
        self.held.send_replace(false);
    }

    /// Waits until one more call is held.
    pub async fn arrival(&self) {
        self.arrived.acquire().await.expect("never closed").forget();
    }
}

#[async_trait]
impl Twist for Arc<StandsStill> {
    async fn before(&self) -> Result<(), StoreError> {
        let mut held = self.held.subscribe();
        if *held.borrow_and_update() {
            self.arrived.add_permits(1);
        }
        let released = held.wait_for(|held| !held).await;
        released.expect("the sender is ours");
        Ok(())
    }
}

/// A door before `accept` that a test opens.
#[async_trait]
impl Twist for Arc<Gate> {
    async fn accept(
        &self,
        inner: &Arc<dyn Store>,
        orders: Arc<[NewOrder]>,
        key: Option<IdempotencyKey>,
    ) -> Result<Accepted, StoreError> {
        self.pass().await;
        inner.accept(orders, key).await
    }
}

pub fn twisted(inner: Arc<dyn Store>, twist: impl Twist) -> Arc<dyn Store> {
    Arc::new(Twisted { inner, twist })
}

struct Twisted<T> {
    inner: Arc<dyn Store>,
    twist: T,
}
