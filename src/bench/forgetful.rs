//! The yardstick of everything: the whole HTTP side of `orderly` over a store that forgets. What it answers per second is
//! what durability is measured against.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::raw_store;
use crate::http::{self, App, listener};
use crate::lease::{LeaseKey, NodeId, Outcome};
use crate::live::{Live, LiveSettings};
use crate::metrics::Metrics;
use crate::order::{NewOrder, Order, OrderId, OrderStatus};
use crate::pull::{Outside, OutsideSettings};
use crate::retry::RetryPolicy;
use crate::store::clock::{WallClock, system_clock};
use crate::store::{
    Accepted, Acted, Blocked, ClaimRequest, Claimed, Counters, FeedBounds, FeedId, FeedPage, FeedPosition,
    GiveBack, GivenBack, Heartbeat, Held, History, IdempotencyKey, LatestClaim, OrderPage, OrderQuery,
    OrderView, OutsideHold, Prune, Pruned, QueueState, RedriveQuery, Redriven, Renewed, Settled, Snapshot,
    Standing, Store, StoreError, StoreHealth, Wakeups,
};

/// Serves until the process ends, `connections` at once.
pub async fn serve(listener: TcpListener, connections: usize) -> anyhow::Result<()> {
    let metrics = Metrics::new();
    let draining = CancellationToken::new();
    let clock = system_clock();
    let store: Arc<dyn Store> = Arc::new(Forgetful {
        last_id: AtomicI64::new(0),
        template: Order {
            order_id: OrderId(0),
            request: raw_store::order()?,
            status: OrderStatus::Completed,
            version: 3,
            attempts: 1,
            generation: 0,
            created_at: clock(),
            processing_at: Some(clock()),
            finished_at: Some(clock()),
            next_attempt_at: None,
            last_error: None,
            result: None,
        },
        clock,
    });
    let settings = LiveSettings { idle_sleep: false };
    let live = Live::start(store.clone(), metrics.clone(), settings, draining.clone());
    let outside = Outside {
        store: store.clone(),
        settings: OutsideSettings {
            lease: Duration::from_secs(30),
            attempt_timeout: Duration::from_mins(5),
            retry: RetryPolicy {
                attempts_max: 5,
                base: Duration::from_secs(1),
                cap: Duration::from_mins(5),
            },
        },
        desk: None,
        metrics: metrics.clone(),
    };
    let router = http::router(App {
        store,
        metrics: metrics.clone(),
        api_key: None,
        local_only: true,
        live: live.feed(),
        outside,
        heartbeat: http::HEARTBEAT,
        draining: draining.clone(),
    });
    let limits = listener::Limits::new(connections);
    listener::serve(vec![listener], router, limits, metrics, draining).await;
    Ok(())
}

/// The feed of a store in which nothing happens.
const NOTHING: FeedBounds = FeedBounds {
    feed: FeedId(0),
    complete_after: FeedPosition(0),
    last: FeedPosition(0),
};

/// Accepts orders and drops them; knows one order, by every id.
struct Forgetful {
    last_id: AtomicI64,
    template: Order,
    clock: WallClock,
}

#[async_trait]
impl Store for Forgetful {
    async fn accept(
        &self,
        orders: Arc<[NewOrder]>,
        _: Option<IdempotencyKey>,
    ) -> Result<Accepted, StoreError> {
        let count = i64::try_from(orders.len()).unwrap_or(i64::MAX);
        let last = self.last_id.fetch_add(count, Ordering::Relaxed) + count;
        Ok(Accepted {
            order_ids: (last - count + 1..=last).map(OrderId).collect(),
            created_at: (self.clock)(),
            replayed: false,
        })
    }

    async fn claim(&self, _: ClaimRequest) -> Result<Claimed, StoreError> {
        Ok(Claimed::default())
    }

    async fn settle(&self, _: LeaseKey, _: Outcome) -> Result<Settled, StoreError> {
        Ok(Settled::Stale)
    }

    async fn renew(&self, _: Heartbeat) -> Result<Renewed, StoreError> {
        Ok(Renewed::default())
    }

    async fn hold_outside(&self, _: LeaseKey, _: OutsideHold) -> Result<Held, StoreError> {
        Ok(Held::Stale)
    }

    async fn claimed(&self, _: OrderId) -> Result<Option<LatestClaim>, StoreError> {
        Ok(None)
    }

    async fn give_back_expired(&self, _: GiveBack) -> Result<GivenBack, StoreError> {
        Ok(GivenBack::default())
    }

    async fn join(&self, _: Heartbeat, _: u32) -> Result<GivenBack, StoreError> {
        Ok(GivenBack::default())
    }

    async fn leave(&self, _: NodeId) -> Result<(), StoreError> {
        Ok(())
    }

    async fn cancel(&self, _: OrderId) -> Result<Acted, StoreError> {
        Ok(Acted::Unknown)
    }

    async fn redrive(&self, _: OrderId) -> Result<Acted, StoreError> {
        Ok(Acted::Unknown)
    }

    async fn redrive_matching(&self, _: RedriveQuery) -> Result<Redriven, StoreError> {
        Ok(Redriven::default())
    }

    async fn prune(&self, _: Prune) -> Result<Pruned, StoreError> {
        Ok(Pruned::default())
    }

    async fn set_paused(&self, _: bool) -> Result<(), StoreError> {
        Ok(())
    }

    async fn order_view(&self, id: OrderId) -> Result<Option<OrderView>, StoreError> {
        let order = Order {
            order_id: id,
            ..self.template.clone()
        };
        Ok(Some(OrderView {
            order,
            at: NOTHING.cursor(NOTHING.last),
        }))
    }

    async fn standing(&self, _: OrderId) -> Result<Option<Standing>, StoreError> {
        Ok(None)
    }

    async fn orders(&self, _: OrderQuery) -> Result<OrderPage, StoreError> {
        Ok(OrderPage {
            orders: Vec::new(),
            next: None,
            at: NOTHING.cursor(NOTHING.last),
        })
    }

    async fn history(&self, _: OrderId, _: u32) -> Result<Option<History>, StoreError> {
        Ok(None)
    }

    async fn events_after(&self, _: Option<FeedPosition>, _: usize) -> Result<FeedPage, StoreError> {
        Ok(FeedPage {
            events: Vec::new(),
            bounds: NOTHING,
            read_at: (self.clock)(),
            unplaced: false,
        })
    }

    async fn counters(&self) -> Result<Counters, StoreError> {
        Ok(Counters::default())
    }

    async fn queue(&self) -> Result<QueueState, StoreError> {
        Ok(QueueState {
            counters: Counters::default(),
            paused: false,
            oldest_waiting: None,
            blocked: Blocked::default(),
            nodes: Vec::new(),
        })
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        Err(StoreError::Closed)
    }

    fn health(&self) -> StoreHealth {
        StoreHealth::Ready
    }

    fn weaknesses(&self) -> Vec<String> {
        vec!["nothing is stored".to_owned()]
    }

    async fn failed(&self) -> String {
        std::future::pending().await
    }

    fn wakeups(&self) -> Arc<Wakeups> {
        Arc::default()
    }

    async fn close(&self) {}
}
