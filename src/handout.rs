//! Redis hands out the work: a node adds the orders it accepted to a stream, and every node takes from it as many as it has free
//! slots for, side by side, without the lock under which claims choose. Redis only proposes: the store starts an order or refuses
//! to, and an order that never reached the stream, or was lost there, is found by a claim. See
//! docs/decisions/0024-redis-hands-out-the-work.md.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::RedisServer;
use crate::epoch::Token;
use crate::lease::{LeaseKey, Outcome};
use crate::order::{NewOrder, OrderId, OrderStatus, Ordering, Reason};
use crate::store::layer::{Layer, Layered};
use crate::store::{
    Accepted, Acted, ClaimRequest, Claimed, Fired, GiveBack, GivenBack, IdempotencyKey, News, PeerNews,
    QueueState, RedriveOptions, RedriveQuery, Redriven, Settled, SettledExternal, Store, StoreError, Vitals,
};

mod adder;
mod link;
mod news;
mod status;
mod stream;
mod tasks;

use adder::Adder;
use link::Link;
pub use status::{Survey, survey};
use stream::{Entry, Stream};

/// Time between two claims from the store while orders are open. They find what the stream lacks.
const STORE_CLAIM_INTERVAL: Duration = Duration::from_secs(1);

/// Wraps the store of a node so that its claims take orders from Redis. The tasks end when the store closes.
pub fn over(
    store: Arc<dyn Store>,
    server: &RedisServer,
    peers: Arc<PeerNews>,
    ordering: Ordering,
) -> Arc<dyn Store> {
    let (stream, finished) = Stream::new(Link::new(server), &server.prefix);
    let stream = Arc::new(stream);
    let closing = CancellationToken::new();
    let running = TaskTracker::new();
    running.spawn(news::publish(stream.clone(), peers.clone(), closing.clone()));
    running.spawn(news::listen(stream.clone(), peers.clone(), closing.clone()));
    // A user's turn is settled by claims, one at a time, which may as well start the order.
    let adder = if ordering == Ordering::None {
        running.spawn(tasks::finish(stream.clone(), finished, closing.clone()));
        running.spawn(tasks::take_over(stream.clone(), closing.clone()));
        Some(Adder::start(
            stream.clone(),
            store.wakeups(),
            &running,
            closing.clone(),
        ))
    } else {
        stream.carries_news_only();
        running.spawn(tasks::probe(stream.clone(), closing.clone()));
        None
    };
    running.close();
    let handout = Handout {
        stream,
        adder,
        peers,
        taken: Mutex::default(),
        ask_store: AtomicBool::new(true),
        closing,
        tasks: running,
    };
    Arc::new(Layered::new(store, handout))
}

/// The layer around the store.
struct Handout {
    stream: Arc<Stream>,
    /// `None` if Redis carries news only.
    adder: Option<Adder>,
    peers: Arc<PeerNews>,
    /// One claim at a time.
    taken: Mutex<Taken>,
    /// An order may have become due that is in no stream: the next claim goes to the store.
    ask_store: AtomicBool,
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// Entries that this node took and did not start yet, and the findings of its last claim from the store.
#[derive(Default)]
struct Taken {
    /// Not empty only after more were taken than could start, or after a failure of the store.
    entries: Vec<Entry>,
    last_claim: Option<StoreClaim>,
}

#[derive(Clone, Copy)]
struct StoreClaim {
    at: Instant,
    idle: bool,
    paused: bool,
    /// Due time of the next order of the second line.
    due_at: Option<Instant>,
}

impl StoreClaim {
    fn of(claimed: &Claimed) -> StoreClaim {
        let now = Instant::now();
        StoreClaim {
            at: now,
            idle: claimed.idle,
            paused: claimed.paused,
            due_at: claimed.next_due_in.map(|due| now + due),
        }
    }

    /// Reports whether only the store can tell more.
    fn is_over(&self) -> bool {
        let now = Instant::now();
        self.paused || self.at + STORE_CLAIM_INTERVAL <= now || self.due_at.is_some_and(|due| due <= now)
    }

    /// Returns the answer to a claim for which the store is not asked, before anything is taken from the stream.
    fn nothing_new(&self) -> Claimed {
        Claimed {
            leases: Vec::new(),
            next_due_in: self
                .due_at
                .map(|due| due.saturating_duration_since(Instant::now())),
            idle: self.idle,
            paused: self.paused,
        }
    }
}

impl Handout {
    /// Claims from the store once in a while, when something is due there, and as long as the stream lacks orders; fills the other
    /// places from the stream.
    async fn claim_from_both(&self, inner: &dyn Store, request: ClaimRequest) -> Result<Claimed, StoreError> {
        let mut taken = self.taken.lock().await;
        let wants_store = self.ask_store.swap(false, Atomic::Relaxed);
        let known = taken.last_claim.filter(|last| !wants_store && !last.is_over());
        let mut claimed = match known {
            Some(last) if self.stream.is_used() => last.nothing_new(),
            _ => self.claim_from_store(inner, request, &mut taken).await?,
        };
        let places = request.orders_max.saturating_sub(claimed.leases.len());
        if claimed.paused || places == 0 {
            return Ok(claimed);
        }
        let rest = ClaimRequest {
            orders_max: places,
            // Suspects start by claims alone, which give each node one at a time.
            suspect: false,
            ..request
        };
        match self.start_from_stream(inner, rest, &mut taken).await {
            Ok(Some(started)) => {
                claimed.idle = false;
                claimed.paused = started.paused;
                claimed.next_due_in = started.next_due_in;
                claimed.leases.extend(started.leases);
                Ok(claimed)
            }
            Ok(None) => Ok(claimed),
            Err(error) if claimed.leases.is_empty() => Err(error),
            // The leases so far are stored, and their attempts must begin.
            Err(error) => {
                tracing::debug!(%error, "cannot start orders from Redis; the next claim tries again");
                Ok(claimed)
            }
        }
    }

    /// Starts orders of the stream. The store refuses those that wait no more, and what it refuses for another reason is found by
    /// a claim from the store. Returns `None` if the stream has none.
    async fn start_from_stream(
        &self,
        inner: &dyn Store,
        request: ClaimRequest,
        taken: &mut Taken,
    ) -> Result<Option<Claimed>, StoreError> {
        if taken.entries.is_empty() {
            taken.entries = self.stream.take(request.orders_max).await;
        }
        if taken.entries.is_empty() {
            return Ok(None);
        }
        let kept = taken
            .entries
            .split_off(request.orders_max.min(taken.entries.len()));
        let entries = std::mem::replace(&mut taken.entries, kept);
        let order_ids: Arc<[OrderId]> = entries.iter().map(|entry| entry.order_id).collect();
        let started = inner.start(order_ids, request).await;
        match started {
            Ok(started) if !started.paused => {
                self.stream.finish(entries);
                if let Some(last) = &mut taken.last_claim {
                    last.idle = false;
                    last.due_at = started.next_due_in.map(|due| Instant::now() + due);
                }
                Ok(Some(started))
            }
            // None of them is dropped: they start with a later claim, here or by a node that takes them over.
            paused_or_failed => {
                taken.entries.splice(0..0, entries);
                self.ask_store_next();
                paused_or_failed.map(Some)
            }
        }
    }

    /// While the stream hands out orders, takes half of the places, so that neither line keeps the other waiting.
    async fn claim_from_store(
        &self,
        inner: &dyn Store,
        request: ClaimRequest,
        taken: &mut Taken,
    ) -> Result<Claimed, StoreError> {
        let places = if self.stream.is_used() {
            request.orders_max.div_ceil(2)
        } else {
            request.orders_max
        };
        let asked = ClaimRequest {
            orders_max: places,
            ..request
        };
        let claimed = inner.claim(asked).await.inspect_err(|_| {
            taken.last_claim = None;
        })?;
        taken.last_claim = Some(StoreClaim::of(&claimed));
        if claimed.leases.len() < places && !claimed.paused && !self.stream.is_used() {
            // The lines of the store are empty: later orders reach the stream. Apart from the claim, whose attempts begin now; an
            // order that is accepted before Redis knows is found by the next claim from the store.
            let stream = self.stream.clone();
            self.tasks.spawn(async move { stream.end_fallback().await });
        }
        Ok(claimed)
    }

    fn ask_store_next(&self) {
        self.ask_store.store(true, Atomic::Relaxed);
    }
}

impl Layer for Handout {
    async fn accept(
        &self,
        inner: &dyn Store,
        orders: Arc<[NewOrder]>,
        key: Option<IdempotencyKey>,
    ) -> Result<Accepted, StoreError> {
        let accepted = inner.accept(orders.clone(), key).await?;
        if let Some(adder) = &self.adder
            && !accepted.replayed
        {
            let ids = orders.iter().zip(&accepted.order_ids);
            let waiting = ids.filter(|(order, _)| !order.is_set_aside(accepted.created_at));
            adder.add(&waiting.map(|(_, id)| *id).collect::<Vec<_>>());
        }
        Ok(accepted)
    }

    async fn claim(&self, inner: &dyn Store, request: ClaimRequest) -> Result<Claimed, StoreError> {
        if self.adder.is_none() {
            return inner.claim(request).await;
        }
        self.claim_from_both(inner, request).await
    }

    async fn settle(
        &self,
        inner: &dyn Store,
        key: LeaseKey,
        outcome: Outcome,
    ) -> Result<Settled, StoreError> {
        let settled = inner.settle(key, outcome).await;
        if matches!(settled, Ok(Settled::Done(OrderStatus::Pending)) | Err(_)) {
            self.ask_store_next();
        }
        settled
    }

    async fn settle_external(
        &self,
        inner: &dyn Store,
        id: OrderId,
        token: Token,
        outcome: Outcome,
    ) -> Result<SettledExternal, StoreError> {
        let may_come_back = outcome != Outcome::COMPLETED;
        let settled = inner.settle_external(id, token, outcome).await;
        if may_come_back {
            self.ask_store_next();
        }
        settled
    }

    async fn give_back_expired(&self, inner: &dyn Store, request: GiveBack) -> Result<GivenBack, StoreError> {
        let given_back = inner.give_back_expired(request).await?;
        if given_back.pending > 0 {
            self.ask_store_next();
        }
        Ok(given_back)
    }

    async fn redrive(
        &self,
        inner: &dyn Store,
        id: OrderId,
        options: RedriveOptions,
    ) -> Result<Acted, StoreError> {
        let acted = inner.redrive(id, options).await;
        self.ask_store_next();
        acted
    }

    async fn redrive_matching(&self, inner: &dyn Store, query: RedriveQuery) -> Result<Redriven, StoreError> {
        let redriven = inner.redrive_matching(query).await;
        self.ask_store_next();
        redriven
    }

    async fn release(
        &self,
        inner: &dyn Store,
        id: OrderId,
        reason: Option<Reason>,
    ) -> Result<Acted, StoreError> {
        let released = inner.release(id, reason).await;
        self.ask_store_next();
        released
    }

    async fn fire_timers(&self, inner: &dyn Store, except: Arc<[OrderId]>) -> Result<Fired, StoreError> {
        let fired = inner.fire_timers(except).await?;
        if fired.entered > 0 {
            self.ask_store_next();
            // The store woke the claims before.
            inner.wakeups().notify_work();
        }
        Ok(fired)
    }

    async fn resume(&self, inner: &dyn Store) -> Result<(), StoreError> {
        let resumed = inner.resume().await;
        self.ask_store_next();
        resumed
    }

    async fn cancel(
        &self,
        inner: &dyn Store,
        id: OrderId,
        reason: Option<Reason>,
    ) -> Result<Acted, StoreError> {
        let acted = inner.cancel(id, reason).await?;
        // An order that has started may be in processing, on any node.
        if matches!(&acted, Acted::Done(order) if order.processing_at.is_some()) {
            self.peers.send(News::Cancelled);
        }
        Ok(acted)
    }

    async fn queue(&self, inner: &dyn Store) -> Result<QueueState, StoreError> {
        let (queue, status) = tokio::join!(inner.queue(), status::of(&self.stream));
        queue.map(|queue| queue.with_handout(status))
    }

    async fn queue_just_set(&self, inner: &dyn Store) -> Result<QueueState, StoreError> {
        let (queue, status) = tokio::join!(inner.queue_just_set(), status::of(&self.stream));
        queue.map(|queue| queue.with_handout(status))
    }

    async fn vitals(&self, inner: &dyn Store) -> Result<Vitals, StoreError> {
        let (vitals, status) = tokio::join!(inner.vitals(), status::of(&self.stream));
        vitals.map(|vitals| Vitals {
            queue: vitals.queue.with_handout(status),
            ..vitals
        })
    }

    async fn close(&self, inner: &dyn Store) {
        self.closing.cancel();
        self.tasks.wait().await;
        self.stream.leave().await;
        inner.close().await;
    }
}
