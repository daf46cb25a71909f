//! A store that breaks one promise on purpose or fails when told to: the controls that show a check can turn red,
//! and the faults that no database offers on demand.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use orderly::epoch::Token;
use orderly::lease::{LeaseKey, Outcome};
use orderly::order::{NewOrder, OrderId};
use orderly::store::layer::{InnerCall, Layer, Layered, Verb};
use orderly::store::{
    Accepted, ClaimRequest, Claimed, Heartbeat, IdempotencyKey, Renewed, Settled, SettledOutside, Store,
    StoreError, StoreHealth,
};
use tokio::sync::{Semaphore, watch};

use super::gate::Gate;

/// Lets a result in under whatever fence is current: what a store that matches by id alone does.
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

/// Cannot store results so many times; the store behind is not asked.
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

    async fn settle_outside(
        &self,
        inner: &dyn Store,
        id: OrderId,
        token: Token,
        outcome: Outcome,
    ) -> Result<SettledOutside, StoreError> {
        self.fails()?;
        inner.settle_outside(id, token, outcome).await
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

/// Cannot renew leases: a node that the store no longer hears.
pub struct NeverRenews;

impl Layer for NeverRenews {
    async fn renew(&self, _inner: &dyn Store, _heartbeat: Heartbeat) -> Result<Renewed, StoreError> {
        Err(StoreError::DiskFull)
    }
}

/// Fails every request with an error of the test's choice.
pub struct Fails(pub fn() -> StoreError);

impl Layer for Fails {
    async fn around<T: Send>(&self, _verb: Verb, _call: InnerCall<'_, T>) -> Result<T, StoreError> {
        Err(self.0())
    }
}

/// Has a bug in every call.
pub struct Panics;

impl Layer for Panics {
    async fn around<T: Send>(&self, _verb: Verb, _call: InnerCall<'_, T>) -> Result<T, StoreError> {
        panic!("a bug in the store")
    }
}

/// Says of itself that it cannot store, and stores all the same.
pub struct IsNotReady(pub &'static str);

impl Layer for IsNotReady {
    fn health(&self, _inner: &dyn Store) -> StoreHealth {
        StoreHealth::NotReady(self.0.to_owned())
    }
}

/// Confirms commits before they are safe, as a database does that is set to.
pub struct IsWeak(pub &'static str);

impl Layer for IsWeak {
    fn weaknesses(&self, _inner: &dyn Store) -> Vec<String> {
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

    /// Waits while a test holds it.
    pub async fn passed(&self) {
        let mut held = self.held.subscribe();
        if *held.borrow_and_update() {
            self.arrived.add_permits(1);
        }
        let released = held.wait_for(|held| !held).await;
        released.expect("the sender is ours");
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

/// A door before `accept` that a test opens.
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

/// Puts a layer around a store: one of these, or the test's own.
pub fn twisted(inner: Arc<dyn Store>, twist: impl Layer) -> Arc<dyn Store> {
    Arc::new(Layered::new(inner, twist))
}
