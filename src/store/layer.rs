//! Layers around a store: a layer overrides some verbs of the trait [`Store`] and forwards the rest. Besides the trait and the
//! drivers, this is the only list of all verbs; a verb added here is forwarded, named and measured by every layer.

use std::future::pending;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use super::{
    Accepted, Acted, Activity, Amended, ClaimRequest, Claimed, Counters, Explanation, ExternalHold,
    ExternalLease, FeedPage, FeedPosition, Fired, GiveBack, GivenBack, Heartbeat, History, IdempotencyKey,
    LatestClaim, Leaving, NewMilestone, OrderPage, OrderQuery, OrderView, Prune, Pruned, QueueState,
    RedriveOptions, RedriveQuery, Redriven, Renewed, Settled, SettledExternal, Snapshot, Store, StoreError,
    StoreHealth, Vitals, Wakeups,
};
use crate::epoch::Token;
use crate::lease::{LeaseKey, NodeId, Outcome};
use crate::order::{NewOrder, OrderId, Patch, Reason};

/// A call of the store behind a layer. It begins with the first poll; a layer that drops it before has not called the store.
pub type InnerCall<'c, T> = BoxFuture<'c, Result<T, StoreError>>;

/// A store made of a layer and the store behind it.
pub struct Layered<L> {
    inner: Arc<dyn Store>,
    layer: L,
}

impl<L: Layer> Layered<L> {
    pub fn new(inner: Arc<dyn Store>, layer: L) -> Layered<L> {
        Layered { inner, layer }
    }
}

/// A store that refuses every verb like a closed one. Used behind a layer that overrides all verbs its callers use.
pub struct NoStore;

macro_rules! verbs {
    ($($verb:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        /// A method of [`Store`] that can fail.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(non_camel_case_types, reason = "the names are those of the methods, also as label values")]
        pub enum Verb {
            $($verb,)*
        }

        impl Verb {
            pub const ALL: &[Verb] = &[$(Verb::$verb,)*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Verb::$verb => stringify!($verb),)*
                }
            }
        }

        /// A change to the behaviour of the store `inner`. By default each verb goes through [`Layer::around`], and everything
        /// else directly to `inner`.
        pub trait Layer: Send + Sync + 'static {
            /// Carries out a verb that the layer does not override.
            fn around<T: Send>(
                &self,
                _verb: Verb,
                call: InnerCall<'_, T>,
            ) -> impl Future<Output = Result<T, StoreError>> + Send {
                call
            }

            $(fn $verb(
                &self,
                inner: &dyn Store,
                $($argument: $type,)*
            ) -> impl Future<Output = Result<$answer, StoreError>> + Send {
                self.around(Verb::$verb, inner.$verb($($argument),*))
            })*

            fn health(&self, inner: &dyn Store) -> StoreHealth {
                inner.health()
            }

            fn weaknesses(&self, inner: &dyn Store) -> Vec<String> {
                inner.weaknesses()
            }

            fn close(&self, inner: &dyn Store) -> impl Future<Output = ()> + Send {
                inner.close()
            }
        }

        /// A layer that its owner continues to use.
        impl<L: Layer> Layer for Arc<L> {
            fn around<T: Send>(
                &self,
                verb: Verb,
                call: InnerCall<'_, T>,
            ) -> impl Future<Output = Result<T, StoreError>> + Send {
                L::around(self, verb, call)
            }

            $(fn $verb(
                &self,
                inner: &dyn Store,
                $($argument: $type,)*
            ) -> impl Future<Output = Result<$answer, StoreError>> + Send {
                L::$verb(self, inner, $($argument),*)
            })*

            fn health(&self, inner: &dyn Store) -> StoreHealth {
                L::health(self, inner)
            }

            fn weaknesses(&self, inner: &dyn Store) -> Vec<String> {
                L::weaknesses(self, inner)
            }

            fn close(&self, inner: &dyn Store) -> impl Future<Output = ()> + Send {
                L::close(self, inner)
            }
        }

        #[async_trait]
        impl<L: Layer> Store for Layered<L> {
            $(async fn $verb(&self, $($argument: $type),*) -> Result<$answer, StoreError> {
                self.layer.$verb(&*self.inner, $($argument),*).await
            })*

            fn health(&self) -> StoreHealth {
                self.layer.health(&*self.inner)
            }

            fn weaknesses(&self) -> Vec<String> {
                self.layer.weaknesses(&*self.inner)
            }

            async fn failed(&self) -> String {
                self.inner.failed().await
            }

            fn wakeups(&self) -> Arc<Wakeups> {
                self.inner.wakeups()
            }

            async fn close(&self) {
                self.layer.close(&*self.inner).await;
            }
        }

        #[async_trait]
        impl Store for NoStore {
            $(async fn $verb(&self, $(_: $type),*) -> Result<$answer, StoreError> {
                Err(StoreError::Closed)
            })*

            fn health(&self) -> StoreHealth {
                StoreHealth::NotReady(StoreError::Closed.to_string())
            }

            fn weaknesses(&self) -> Vec<String> {
                Vec::new()
            }

            async fn failed(&self) -> String {
                pending().await
            }

            fn wakeups(&self) -> Arc<Wakeups> {
                Arc::default()
            }

            async fn close(&self) {}
        }
    };
}

verbs! {
    accept(orders: Arc<[NewOrder]>, key: Option<IdempotencyKey>) -> Accepted;
    claim(request: ClaimRequest) -> Claimed;
    start(order_ids: Arc<[OrderId]>, request: ClaimRequest) -> Claimed;
    settle(key: LeaseKey, outcome: Outcome) -> Settled;
    renew(heartbeat: Heartbeat) -> Renewed;
    hold_external(key: LeaseKey, hold: ExternalHold) -> ExternalLease;
    settle_external(id: OrderId, token: Token, outcome: Outcome) -> SettledExternal;
    claimed(id: OrderId) -> Option<LatestClaim>;
    give_back_expired(request: GiveBack) -> GivenBack;
    join(heartbeat: Heartbeat, crashes_max: u32) -> GivenBack;
    leave(node: NodeId, leaving: Leaving) -> ();
    cancel(id: OrderId, reason: Option<Reason>) -> Acted;
    hold(id: OrderId, reason: Option<Reason>) -> Acted;
    release(id: OrderId, reason: Option<Reason>) -> Acted;
    amend(id: OrderId, version: u32, patch: Patch) -> Amended;
    add_milestone(id: OrderId, new: NewMilestone) -> Acted;
    fire_timers(except: Arc<[OrderId]>) -> Fired;
    redrive(id: OrderId, options: RedriveOptions) -> Acted;
    redrive_matching(query: RedriveQuery) -> Redriven;
    prune(request: Prune) -> Pruned;
    pause(reason: Option<Reason>) -> ();
    resume() -> ();
    order_view(id: OrderId) -> Option<OrderView>;
    explain(id: OrderId) -> Option<Explanation>;
    orders(query: OrderQuery) -> OrderPage;
    history(id: OrderId, after: u32) -> Option<History>;
    events_after(after: Option<FeedPosition>, limit: usize) -> FeedPage;
    counters() -> Counters;
    queue() -> QueueState;
    queue_just_set() -> QueueState;
    record_activity(node: NodeId, number: u64, activity: Activity) -> ();
    vitals() -> Vitals;
    snapshot() -> Box<dyn Snapshot>;
}
