//! A store that acknowledges from memory before the order is stored. It keeps every promise as long as nothing crashes,
//! so a check that detects it has found an effect of a crash.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orderly::order::{NewOrder, OrderId};
use orderly::store::layer::Layer;
use orderly::store::{Accepted, IdempotencyKey, Store, StoreError};
use orderly::time::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

const PAGE_KEYS: usize = 500;

pub struct AnswersEarly {
    delay: Duration,
    line: Mutex<Line>,
    /// Once cancelled, orders are stored without delay.
    closing: CancellationToken,
    /// Stores the waiting orders; taken by `close`.
    storing: Mutex<Option<JoinHandle<()>>>,
}

/// Ids are assigned and orders queued under one lock, so the store behind, which assigns ids in order of acceptance,
/// assigns the same ones later.
struct Line {
    next_id: i64,
    answered: HashMap<(String, String), Vec<OrderId>>,
    /// `None` once the store is closed.
    waiting: Option<mpsc::UnboundedSender<Waiting>>,
}

struct Waiting {
    due: Instant,
    orders: Arc<[NewOrder]>,
    key: Option<IdempotencyKey>,
    promised: Vec<OrderId>,
}

impl AnswersEarly {
    /// Keeps orders only in memory for `delay`.
    pub async fn after(delay: Duration, inner: &Arc<dyn Store>) -> AnswersEarly {
        let stored = inner.counters().await.unwrap().total();
        let (sender, line) = mpsc::unbounded_channel();
        let closing = CancellationToken::new();
        let storing = tokio::spawn(store_in_turn(inner.clone(), line, closing.clone()));
        AnswersEarly {
            delay,
            line: Mutex::new(Line {
                next_id: stored.cast_signed() + 1,
                answered: stored_keys(inner).await,
                waiting: Some(sender),
            }),
            closing,
            storing: Mutex::new(Some(storing)),
        }
    }
}

impl Layer for AnswersEarly {
    async fn accept(
        &self,
        _inner: &dyn Store,
        orders: Arc<[NewOrder]>,
        key: Option<IdempotencyKey>,
    ) -> Result<Accepted, StoreError> {
        let due = Instant::now() + self.delay;
        self.line.lock().unwrap().accept(due, orders, key)
    }

    async fn close(&self, inner: &dyn Store) {
        self.line.lock().unwrap().waiting = None;
        self.closing.cancel();
        let storing = self.storing.lock().unwrap().take();
        if let Some(storing) = storing {
            storing.await.expect("acknowledged orders can be stored");
        }
        inner.close().await;
    }
}

impl Line {
    fn accept(
        &mut self,
        due: Instant,
        orders: Arc<[NewOrder]>,
        key: Option<IdempotencyKey>,
    ) -> Result<Accepted, StoreError> {
        let name = key.as_ref().map(|key| (key.scope.clone(), key.key.clone()));
        if let Some(first) = name.as_ref().and_then(|name| self.answered.get(name)) {
            return Ok(answer(first.clone(), true));
        }
        let waiting = self.waiting.as_ref().ok_or(StoreError::Closed)?;
        let after = self.next_id + i64::try_from(orders.len()).unwrap();
        let promised: Vec<OrderId> = (self.next_id..after).map(OrderId).collect();
        let sent = waiting.send(Waiting {
            due,
            orders,
            key,
            promised: promised.clone(),
        });
        // The task ends early only when it could not store an order.
        sent.map_err(|_| StoreError::Closed)?;
        self.next_id = after;
        if let Some(name) = name {
            self.answered.insert(name, promised.clone());
        }
        Ok(answer(promised, false))
    }
}

fn answer(order_ids: Vec<OrderId>, replayed: bool) -> Accepted {
    Accepted {
        order_ids,
        // Unknown before the order is stored; the clients here do not compare it.
        created_at: Timestamp::from_micros(0),
        replayed,
    }
}

async fn store_in_turn(
    inner: Arc<dyn Store>,
    mut line: mpsc::UnboundedReceiver<Waiting>,
    closing: CancellationToken,
) {
    while let Some(waiting) = line.recv().await {
        // In either case the order is stored now.
        let _ = timeout_at(waiting.due, closing.cancelled()).await;
        let stored = inner.accept(waiting.orders, waiting.key).await.unwrap();
        assert_eq!(stored.order_ids, waiting.promised);
    }
}

async fn stored_keys(inner: &Arc<dyn Store>) -> HashMap<(String, String), Vec<OrderId>> {
    let mut snapshot = inner.snapshot().await.unwrap();
    let mut keys = HashMap::new();
    let mut after = None;
    loop {
        let page = snapshot.keys_after(after, PAGE_KEYS).await.unwrap();
        let Some(last) = page.last() else { return keys };
        after = Some((last.scope.clone(), last.key.clone()));
        keys.extend(
            page.into_iter()
                .map(|record| ((record.scope, record.key), record.order_ids)),
        );
    }
}
