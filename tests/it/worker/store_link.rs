//! The connection between a node and its store: records every call, and can be cut or delayed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orderly::lease::{LeaseKey, Outcome};
use orderly::order::NewOrder;
use orderly::store::layer::{InnerCall, Layer, Verb};
use orderly::store::{
    Accepted, ClaimRequest, Claimed, Heartbeat, IdempotencyKey, Prune, Pruned, Renewed, Settled, Store,
    StoreError, StoreHealth,
};
use tokio::sync::Semaphore;
use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Accept,
    Claim,
    Settle,
    Renew,
    Prune,
    /// The counts of a minute.
    Activity,
    Timers,
    /// Other calls of the worker and janitor: a sweep, or leaving the node list.
    Other,
}

pub struct StoreLink {
    calls: Mutex<Vec<(Instant, Call)>>,
    cut: Mutex<Vec<Call>>,
    /// Set while the store reports that it is not ready.
    not_ready: AtomicBool,
    claims_held: AtomicBool,
    /// Closed to release held claims; it never has a permit.
    claims_released: Semaphore,
}

impl StoreLink {
    pub fn new() -> Arc<StoreLink> {
        Arc::new(StoreLink {
            calls: Mutex::default(),
            cut: Mutex::default(),
            not_ready: AtomicBool::new(false),
            claims_held: AtomicBool::new(false),
            claims_released: Semaphore::new(0),
        })
    }

    /// Makes these calls fail without reaching the store.
    pub fn cut(&self, calls: &[Call]) {
        *self.cut.lock().unwrap() = calls.to_vec();
    }

    pub fn cut_all(&self) {
        self.cut(&[
            Call::Accept,
            Call::Claim,
            Call::Settle,
            Call::Renew,
            Call::Prune,
            Call::Activity,
            Call::Timers,
            Call::Other,
        ]);
        self.not_ready.store(true, Ordering::SeqCst);
    }

    pub fn restore(&self) {
        self.cut(&[]);
        self.not_ready.store(false, Ordering::SeqCst);
    }

    pub fn report_not_ready(&self) {
        self.not_ready.store(true, Ordering::SeqCst);
    }

    /// Lets claims reach the store, but holds back their answers.
    pub fn hold_claims(&self) {
        self.claims_held.store(true, Ordering::SeqCst);
    }

    pub fn release_claims(&self) {
        self.claims_held.store(false, Ordering::SeqCst);
        self.claims_released.close();
    }

    /// Calls since the moment, answered or not.
    pub fn calls_since(&self, since: Instant) -> Vec<(Instant, Call)> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|(at, _)| *at >= since).copied().collect()
    }

    pub fn times_since(&self, since: Instant, of: Call) -> Vec<Instant> {
        let calls = self.calls_since(since).into_iter();
        calls.filter(|(_, call)| *call == of).map(|(at, _)| at).collect()
    }

    fn note(&self, call: Call) -> Result<(), StoreError> {
        self.calls.lock().unwrap().push((Instant::now(), call));
        if self.cut.lock().unwrap().contains(&call) {
            return Err(away());
        }
        Ok(())
    }
}

pub fn away() -> StoreError {
    StoreError::Unavailable {
        attempted: "reach the store",
        source: anyhow::anyhow!("the line is cut"),
    }
}

/// The highest number of calls within any span of this length.
pub fn most_within(span: Duration, times: &[Instant]) -> usize {
    let within = |from: &Instant| {
        let from = *from;
        times.iter().filter(|at| (from..from + span).contains(at)).count()
    };
    times.iter().map(within).max().unwrap_or(0)
}

impl Layer for StoreLink {
    async fn accept(
        &self,
        inner: &dyn Store,
        orders: Arc<[NewOrder]>,
        key: Option<IdempotencyKey>,
    ) -> Result<Accepted, StoreError> {
        self.note(Call::Accept)?;
        inner.accept(orders, key).await
    }

    async fn claim(&self, inner: &dyn Store, request: ClaimRequest) -> Result<Claimed, StoreError> {
        self.note(Call::Claim)?;
        let claimed = inner.claim(request).await;
        if self.claims_held.load(Ordering::SeqCst) {
            // The wait ends when the semaphore closes.
            let _ = self.claims_released.acquire().await;
        }
        claimed
    }

    async fn settle(
        &self,
        inner: &dyn Store,
        key: LeaseKey,
        outcome: Outcome,
    ) -> Result<Settled, StoreError> {
        self.note(Call::Settle)?;
        inner.settle(key, outcome).await
    }

    async fn renew(&self, inner: &dyn Store, heartbeat: Heartbeat) -> Result<Renewed, StoreError> {
        self.note(Call::Renew)?;
        inner.renew(heartbeat).await
    }

    async fn prune(&self, inner: &dyn Store, request: Prune) -> Result<Pruned, StoreError> {
        self.note(Call::Prune)?;
        inner.prune(request).await
    }

    fn health(&self, inner: &dyn Store) -> StoreHealth {
        if self.not_ready.load(Ordering::SeqCst) {
            return StoreHealth::NotReady("the line is cut".to_owned());
        }
        inner.health()
    }

    async fn around<T: Send>(&self, verb: Verb, call: InnerCall<'_, T>) -> Result<T, StoreError> {
        self.note(match verb {
            Verb::record_activity => Call::Activity,
            Verb::fire_timers => Call::Timers,
            _ => Call::Other,
        })?;
        call.await
    }
}
