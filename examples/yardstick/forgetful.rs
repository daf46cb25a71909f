//! Yardstick without durability: the whole HTTP side of `orderly` over a store that discards everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use orderly::epoch::EpochIdentity;
use orderly::http::{self, App, listener};
use orderly::live::{Live, LiveSettings};
use orderly::metrics::Metrics;
use orderly::order::{NewOrder, Order, OrderId, OrderStatus};
use orderly::pull::{Outside, OutsideSettings};
use orderly::retry::RetryPolicy;
use orderly::store::clock::{WallClock, system_clock};
use orderly::store::layer::{Layer, Layered, NoStore};
use orderly::store::{
    Accepted, FeedCursor, FeedPosition, IdempotencyKey, OrderView, Store, StoreError, StoreHealth,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::store;

/// More than the load generator opens.
const CONNECTIONS_MAX: usize = 16_384;

/// Serves until the process ends.
pub async fn serve(listener: TcpListener) -> anyhow::Result<()> {
    let metrics = Metrics::new();
    let draining = CancellationToken::new();
    let clock = system_clock();
    let forgetful = Forgetful {
        last_id: AtomicI64::new(0),
        template: Order {
            order_id: OrderId(0),
            request: store::order()?,
            status: OrderStatus::Completed,
            version: 3,
            attempts: 1,
            generation: 0,
            created_at: clock(),
            processing_at: Some(clock()),
            finished_at: Some(clock()),
            next_attempt_at: None,
            held_at: None,
            overdue: false,
            milestone: None,
            last_error: None,
            result: None,
        },
        clock,
    };
    let store: Arc<dyn Store> = Arc::new(Layered::new(Arc::new(NoStore), forgetful));
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
        lease_requests: None,
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
        service: None,
        order_defaults: orderly::order::OrderDefaults::default(),
        judged_by: orderly::diagnosis::Settings::default(),
        draining: draining.clone(),
    });
    let limits = listener::Limits::new(CONNECTIONS_MAX);
    listener::serve(vec![listener], router, limits, metrics, draining).await;
    Ok(())
}

/// Store that accepts orders and discards them, and knows one order under every id. Overrides the verbs that the loads
/// use.
struct Forgetful {
    last_id: AtomicI64,
    template: Order,
    clock: WallClock,
}

impl Layer for Forgetful {
    async fn accept(
        &self,
        _inner: &dyn Store,
        orders: Arc<[NewOrder]>,
        _key: Option<IdempotencyKey>,
    ) -> Result<Accepted, StoreError> {
        let count = i64::try_from(orders.len()).unwrap_or(i64::MAX);
        let last = self.last_id.fetch_add(count, Ordering::Relaxed) + count;
        Ok(Accepted {
            order_ids: (last - count + 1..=last).map(OrderId).collect(),
            created_at: (self.clock)(),
            replayed: false,
        })
    }

    async fn order_view(&self, _inner: &dyn Store, id: OrderId) -> Result<Option<OrderView>, StoreError> {
        let order = Order {
            order_id: id,
            ..self.template.clone()
        };
        Ok(Some(OrderView {
            order,
            at: FeedCursor {
                epoch: EpochIdentity(0),
                position: FeedPosition(0),
            },
        }))
    }

    fn health(&self, _inner: &dyn Store) -> StoreHealth {
        StoreHealth::Ready
    }

    fn weaknesses(&self, _inner: &dyn Store) -> Vec<String> {
        vec!["nothing is stored".to_owned()]
    }
}
