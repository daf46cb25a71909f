//! The yardstick of the first benchmark: the whole HTTP side of `orderly` over a store that forgets. What it answers
//! per second is what durability is measured against; see docs/BENCHMARKS.md.
//!
//! `cargo run --release --example stores_nothing` listens on 127.0.0.1:5001 until it is interrupted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use orderly::http::{self, App, listener};
use orderly::lease::{LeaseKey, NodeId, Outcome};
use orderly::live::{Live, LiveSettings};
use orderly::metrics::Metrics;
use orderly::order::{NewOrder, OrderId};
use orderly::pull::{Outside, OutsideSettings};
use orderly::retry::RetryPolicy;
use orderly::store::clock::{WallClock, system_clock};
use orderly::store::{
    Accepted, Acted, ClaimRequest, Claimed, Counters, FeedBounds, FeedId, FeedPage, FeedPosition, GiveBack,
    GivenBack, Heartbeat, Held, History, IdempotencyKey, LatestClaim, OrderPage, OrderQuery, OrderView,
    OutsideHold, Prune, Pruned, QueueState, RedriveQuery, Redriven, Renewed, Settled, Snapshot, Standing,
    Store, StoreError, StoreHealth, Wakeups,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], 5001));
    let listener = TcpListener::bind(address).await?;
    let metrics = Metrics::new();
    let draining = CancellationToken::new();
    let store: Arc<dyn Store> = Arc::new(Forgetful {
        last_id: AtomicI64::new(0),
        clock: system_clock(),
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
    println!("listening on http://{address}, storing nothing");
    let limits = listener::Limits::new(4096);
    tokio::select! {
        () = listener::serve(vec![listener], router, limits, metrics, draining.clone()) => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    Ok(())
}

/// The feed of a store in which nothing happens.
const NOTHING: FeedBounds = FeedBounds {
    feed: FeedId(0),
    oldest: FeedPosition(0),
    last: FeedPosition(0),
};

/// Accepts orders and drops them; knows nothing else.
struct Forgetful {
    last_id: AtomicI64,
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

    async fn order_view(&self, _: OrderId) -> Result<Option<OrderView>, StoreError> {
        Ok(None)
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
