//! Layers around a store that break one promise or fail on demand: controls showing that a check can fail, and faults
//! that no database offers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use orderly::epoch::Token;
use orderly::lease::{LeaseKey, Outcome};
use orderly::order::{NewOrder, OrderId};
use orderly::store::layer::{InnerCall, Layer, Layered, Verb};
use orderly::store::{
    Accepted, ClaimRequest, Claimed, Heartbeat, IdempotencyKey, Renewed, Settled, SettledExternal, Store,
    StoreError, StoreHealth,
};
use tokio::sync::{Semaphore, watch};

use super::gate::Gate;

/// Accepts a result under whatever fence is current, like a store that matches by id only.
#[derive(Default)]
pub struct SwapsStaleFences {
    current: Mutex<HashMap<OrderId, u64>>,
}

impl Layer for SwapsStaleFences {
    async fn claim(&self, inner: &dyn Store, request: ClaimRequest) -> Result<Claimed, StoreError> {
        let claimed = inner.claim(request).await?;
        let mut current = self.current.lock().unwrap();
        current.extend(
            claimed
                .leases
                .iter()
                .map(|lease| (lease.order.order_id, lease.fence)),
        );
        drop(current);
        Ok(claimed)
    }

    async fn settle(
        &self,
        inner: &dyn Store,
        key: LeaseKey,
        outcome: Outcome,
    ) -> Result<Settled, StoreError> {
        let current = self.current.lock().unwrap().get(&key.order_id).copied();
        let key = LeaseKey {
            fence: current.unwrap_or(key.fence),
            ..key
        };
        inner.settle(key, outcome).await
    }
}

/// Fails this many times to store results; the store behind is not called.
pub struct FailsToSettle {
    pub times: AtomicU32,
}

impl Layer for FailsToSettle {
    async fn settle(
        &self,
        inner: &dyn Store,
        key: LeaseKey,
        outcome: Outcome,
    ) -> Result<Settled, StoreError> {
        self.fails()?;
        inner.settle(key, outcome).await
    }

    async fn settle_external(
        &self,
        inner: &dyn Store,
        id: OrderId,
        token: Token,
        outcome: Outcome,
    ) -> Result<SettledExternal, StoreError> {
        self.fails()?;
        inner.settle_external(id, token, outcome).await
    }
}

impl FailsToSettle {
    fn fails(&self) -> Result<(), StoreError> {
        let left = self
            .times
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match left {
            Ok(_) => Err(StoreError::DiskFull),
            Err(_) => Ok(()),
        }
    }
}

/// Fails to renew leases, like a node that lost its connection to the store.
pub struct NeverRenews;

impl Layer for NeverRenews {
    async fn renew(&self, _inner: &dyn Store, _heartbeat: Heartbeat) -> Result<Renewed, StoreError> {
        Err(StoreError::DiskFull)
    }
}

/// Fails every call with an error chosen by the test.
pub struct Fails(pub fn() -> StoreError);

impl Layer for Fails {
    async fn around<T: Send>(&self, _verb: Verb, _call: InnerCall<'_, T>) -> Result<T, StoreError> {
        Err(self.0())
    }
}

/// Panics in every call.
pub struct Panics;

impl Layer for Panics {
    async fn around<T: Send>(&self, _verb: Verb, _call: InnerCall<'_, T>) -> Result<T, StoreError> {
        panic!("a bug in the store")
    }
}

/// Reports that it is not ready, but stores.
pub struct IsNotReady(pub &'static str);

impl Layer for IsNotReady {
    fn health(&self, _inner: &dyn Store) -> StoreHealth {
        StoreHealth::NotReady(self.0.to_owned())
    }
}

/// Reports that it confirms commits before they are durable, like a database configured so.
pub struct IsWeak(pub &'static str);

impl Layer for IsWeak {
    fn weaknesses(&self, _inner: &dyn Store) -> Vec<String> {
        vec![self.0.to_owned()]
    }
}

/// Stalls all calls while a test holds it.
pub struct StandsStill {
    held: watch::Sender<bool>,
    arrived: Semaphore,
}

impl StandsStill {
    /// Does not hold calls yet.
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

    /// Waits while a test holds it.
    pub async fn passed(&self) {
        let mut held = self.held.subscribe();
        if *held.borrow_and_update() {
            self.arrived.add_permits(1);
        }
        let released = held.wait_for(|held| !held).await;
        released.expect("the sender is in self");
    }

    /// Waits until one more call is held.
    pub async fn arrival(&self) {
        self.arrived.acquire().await.expect("never closed").forget();
    }
}

impl Layer for StandsStill {
    async fn around<T: Send>(&self, _verb: Verb, call: InnerCall<'_, T>) -> Result<T, StoreError> {
        self.passed().await;
        call.await
    }
}

/// Holds `accept` until a test opens the gate.
impl Layer for Gate {
    async fn accept(
        &self,
        inner: &dyn Store,
        orders: Arc<[NewOrder]>,
        key: Option<IdempotencyKey>,
    ) -> Result<Accepted, StoreError> {
        self.pass().await;
        inner.accept(orders, key).await
    }
}

/// Puts a layer around a store.
pub fn layered(inner: Arc<dyn Store>, layer: impl Layer) -> Arc<dyn Store> {
    Arc::new(Layered::new(inner, layer))
}
