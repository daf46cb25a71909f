//! A store in memory. Events change it as they change a sound store, and tests can corrupt everything in it.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;

use super::super::count;
use crate::epoch::FENCE_BITS;
use crate::event::{Event, EventDetail, EventKind};
use crate::lease::NodeId;
use crate::money::Money;
use crate::order::{Hold, Items, NewOrder, Order, OrderId, OrderStatus, Ordering, UserId};
use crate::store::snapshot::{
    EventRecord, FeedState, KeyName, KeyRecord, LeaseRecord, OrderRecord, Snapshot, StartRule,
};
use crate::store::{
    Counters, Epoch, Epochs, FeedBounds, FeedPosition, QueueState, StoreError, Vitals, first_epoch,
};
use crate::time::Timestamp;

use EventKind::{
    Accepted, Amended, Cancelled, Completed, Failed, Held, LeaseLost, Milestone, Overdue, Redriven, Released,
    RetryScheduled, Started, Unheld,
};

/// Node that processes all orders.
pub const NODE: NodeId = NodeId(7);

/// Orders of [`sound`].
pub const COMPLETED: i64 = 1;
pub const RETRIED: i64 = 2;
pub const REDRIVEN: i64 = 3;
pub const GIVEN_BACK: i64 = 4;
pub const WAITING_FOR_RETRY: i64 = 6;
pub const FAILED: i64 = 7;
pub const PROCESSING: i64 = 8;
pub const NEW: i64 = 9;

/// Store in memory; its feed is in the order of the calls of [`FakeStore::then`].
#[derive(Clone, Default)]
pub struct FakeStore {
    pub orders: Vec<OrderRecord>,
    pub keys: Vec<KeyRecord>,
    pub counters: Option<Counters>,
    pub damage: Vec<String>,
    pub unreadable: bool,
    pub read_at: Option<Timestamp>,
    pub ordering: Ordering,
    /// Empty for the first epoch of a new store.
    pub epochs: Vec<Epoch>,
    accept_time_max: Duration,
    position: i64,
}

/// Returns a store with every kind of event, every status and both lines.
pub fn sound() -> FakeStore {
    let mut store = FakeStore::default();
    let lives: [&[EventKind]; 9] = [
        &[Accepted, Started, Completed],
        &[Accepted, Started, RetryScheduled, Started, Completed],
        &[Accepted, Started, Failed, Redriven],
        &[
            Accepted,
            Started,
            RetryScheduled,
            Started,
            LeaseLost,
            Started,
            Released,
        ],
        &[Accepted, Cancelled],
        &[Accepted, Started, RetryScheduled],
        &[Accepted, Started, Failed],
        &[Accepted, Started],
        &[Accepted],
    ];
    for (id, _) in (1..).zip(&lives) {
        store.then(id, Accepted);
    }
    for step in 1..7 {
        for (id, life) in (1..).zip(&lives) {
            if let Some(kind) = life.get(step) {
                store.then(id, *kind);
            }
        }
    }
    store.keys = vec![key("a", 1..=1), key("b", 2..=9)];
    store
}

pub fn key(name: &str, ids: impl Iterator<Item = i64>) -> KeyRecord {
    KeyRecord {
        scope: "orders".to_owned(),
        key: name.to_owned(),
        fingerprint: [0; 32],
        created_at: Timestamp::from_micros(0),
        order_ids: ids.map(OrderId).collect(),
    }
}

impl FakeStore {
    /// Lets an acceptance take half a minute, concurrently with others.
    pub fn of_many_writers(self) -> FakeStore {
        FakeStore {
            accept_time_max: Duration::from_secs(30),
            ..self
        }
    }

    /// Applies an event as a sound store does.
    pub fn then(&mut self, id: i64, kind: EventKind) {
        self.position += 1;
        let at = Timestamp::from_micros(self.position * 1_000);
        if kind == Accepted {
            self.orders.push(record(id, at));
        }
        let position = self.position;
        let record = self.order(id);
        let order = &mut record.order;
        let was_pending = order.status == OrderStatus::Pending;
        order.status = OrderStatus::after(Some(order.status).filter(|_| order.version > 0), kind)
            .expect("tests break rules afterwards, not here");
        order.version += 1;
        if kind.leads_to().is_some() {
            order.finished_at = order.status.is_final().then_some(at);
            order.next_attempt_at =
                (order.status == OrderStatus::Pending && !matches!(kind, Accepted | Held)).then_some(at);
            record.set_aside = kind == Held;
            order.held_at = (kind == Held).then_some(at);
            order.request.hold = (kind == Held).then(Hold::default);
            record.lease = (kind == Started).then_some(LeaseRecord {
                node: NODE,
                fence: (1 << FENCE_BITS) + 1,
                expires_at: at,
                external: false,
            });
        }
        let error = match kind {
            RetryScheduled | Failed => Some("refused".to_owned()),
            LeaseLost => Some("the node died".to_owned()),
            Accepted | Started | Completed | Released | Cancelled | Redriven | Held | Unheld | Milestone
            | Amended | Overdue => None,
        };
        let is_by_client = matches!(
            kind,
            Accepted | Cancelled | Redriven | Held | Unheld | Milestone | Amended
        );
        match kind {
            Started => {
                order.attempts += 1;
                order.processing_at = Some(at);
            }
            LeaseLost | Released => order.attempts -= 1,
            Overdue => order.overdue = true,
            Redriven if was_pending => {}
            Redriven => {
                order.attempts = 0;
                order.generation += 1;
                order.last_error = None;
            }
            Completed => order.last_error = None,
            RetryScheduled | Failed => order.last_error.clone_from(&error),
            Accepted | Cancelled | Held | Unheld | Milestone | Amended => {}
        }
        record.events.push(EventRecord {
            position,
            event: Event {
                order_id: OrderId(id),
                version: order.version,
                kind,
                status: order.status,
                at,
                attempt: order.attempts,
                node: (!is_by_client).then_some(NODE),
                error,
                detail: EventDetail::default(),
            },
            passed_over: Vec::new(),
        });
    }

    pub fn order(&mut self, id: i64) -> &mut OrderRecord {
        self.orders
            .iter_mut()
            .find(|record| record.order.order_id.0 == id)
            .unwrap()
    }

    pub fn event(&mut self, id: i64, version: usize) -> &mut EventRecord {
        &mut self.order(id).events[version - 1]
    }
}

fn record(id: i64, at: Timestamp) -> OrderRecord {
    OrderRecord {
        order: Order {
            order_id: OrderId(id),
            request: NewOrder {
                user_id: UserId::Number(1),
                items: Items::of_ids(&[1]).unwrap(),
                total_amount: Money::parse("1", 2).unwrap(),
                currency: None,
                reference: None,
                metadata: None,
                start_after: None,
                deadline: None,
                hold: None,
            },
            status: OrderStatus::Pending,
            version: 0,
            attempts: 0,
            generation: 0,
            created_at: at,
            processing_at: None,
            finished_at: None,
            next_attempt_at: None,
            held_at: None,
            milestone: None,
            overdue: false,
            last_error: None,
            result: None,
        },
        fence: 0,
        node: None,
        handed_out: false,
        lease: None,
        crashes: 0,
        set_aside: false,
        events: Vec::new(),
    }
}

#[async_trait]
impl Snapshot for FakeStore {
    async fn orders_after(
        &mut self,
        after: Option<OrderId>,
        limit: usize,
    ) -> Result<Vec<OrderRecord>, StoreError> {
        let later = |record: &&OrderRecord| Some(record.order.order_id) > after;
        Ok(self.orders.iter().filter(later).take(limit).cloned().collect())
    }

    async fn vitals(&mut self) -> Result<Vitals, StoreError> {
        unreachable!("the promises are about stored orders")
    }

    async fn events_after(
        &mut self,
        _after: Option<i64>,
        _limit: usize,
    ) -> Result<Vec<EventRecord>, StoreError> {
        unreachable!("the promises are about the events of orders")
    }

    async fn keys_after(
        &mut self,
        after: Option<KeyName>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, StoreError> {
        let later = |record: &&KeyRecord| Some((record.scope.clone(), record.key.clone())) > after;
        Ok(self.keys.iter().filter(later).take(limit).cloned().collect())
    }

    async fn start_rule(&mut self) -> Result<StartRule, StoreError> {
        Ok(StartRule {
            ordering: self.ordering,
            from: OrderId(0),
        })
    }

    async fn last_order_id(&mut self) -> Result<OrderId, StoreError> {
        let ids = self.orders.iter().map(|record| record.order.order_id);
        Ok(ids.max().unwrap_or(OrderId(0)))
    }

    async fn has_orders(&mut self, ids: &[OrderId]) -> Result<bool, StoreError> {
        let stored = |id: &OrderId| self.orders.iter().any(|record| record.order.order_id == *id);
        Ok(ids.iter().all(stored))
    }

    fn accept_time_max(&self) -> Duration {
        self.accept_time_max
    }

    async fn passed_over(&mut self) -> Result<HashSet<OrderId>, StoreError> {
        let events = self.orders.iter().flat_map(|record| &record.events);
        Ok(events.flat_map(|stored| stored.passed_over.clone()).collect())
    }

    async fn weaknesses(&mut self) -> Result<Vec<String>, StoreError> {
        unreachable!("the promises are not about the settings")
    }

    async fn read_at(&mut self) -> Result<Timestamp, StoreError> {
        Ok(self.read_at.unwrap_or(Timestamp::from_micros(0)))
    }

    async fn counters(&mut self) -> Result<Counters, StoreError> {
        if self.unreadable {
            return Err(StoreError::Unexpected {
                attempted: "read counters",
                source: anyhow::anyhow!("torn"),
            });
        }
        let mut counted = Counters::default();
        self.orders.iter().for_each(|record| count(record, &mut counted));
        Ok(self.counters.unwrap_or(counted))
    }

    async fn queue(&mut self) -> Result<QueueState, StoreError> {
        unreachable!("the promises are not about the queue's state")
    }

    async fn feed(&mut self) -> Result<FeedState, StoreError> {
        Ok(FeedState {
            bounds: FeedBounds {
                epochs: Epochs::of(self.epochs.clone())
                    .or(Epochs::of(vec![first_epoch()]))
                    .unwrap(),
                complete_after: FeedPosition(0),
                last: FeedPosition(self.position),
            },
            waiting: None,
        })
    }

    async fn damage(&mut self) -> Result<Vec<String>, StoreError> {
        Ok(self.damage.clone())
    }
}
