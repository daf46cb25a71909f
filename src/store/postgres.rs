//! The shared store: one PostgreSQL database, any number of nodes. Accepts and results are grouped on connections of
//! their own, claims come one after another under a lock, everything else goes through a few more connections. All
//! times are the database's. Every change is one statement or one message, so that a node that freezes anywhere keeps
//! nobody waiting; nothing relies on a session, so that any pooler may be in between.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, MutexGuard};
use tokio_util::task::TaskTracker;

use crate::config::PostgresDatabase;
use crate::lease::{LeaseKey, NodeId, Outcome};
use crate::order::{NewOrder, OrderId};
use crate::store::open::{OpenError, OpenOptions};
use crate::store::waiting::WaitingOrders;
use crate::store::{
    Accepted, Acted, ClaimRequest, Claimed, Counters, FeedPage, FeedPosition, GiveBack, GivenBack, Heartbeat,
    Held, History, IdempotencyKey, LatestClaim, OrderPage, OrderQuery, OrderView, OutsideHold, Prune, Pruned,
    QueueState, RedriveQuery, Redriven, Renewed, Settled, Snapshot, Standing, Store, StoreError, StoreHealth,
    Wakeups,
};

mod accept;
mod act;
mod agreement;
mod claim;
mod commands;
mod connect;
mod durability;
mod failure;
mod feed;
mod floor;
mod group;
mod holders;
mod import;
mod link;
mod links;
mod listing;
mod locked;
mod message;
mod nodes;
mod notify;
mod outside;
mod probe;
mod prune;
mod query;
mod restored;
mod rows;
mod schema;
mod settle;
mod shared;
mod snapshot;
mod standing;
mod state;
mod tls;
mod turns;
mod unanswered;
mod view;

pub use commands::{migrate, open_offline, open_snapshot, rehearse};
pub(super) use import::Import;
pub use restored::{renew_feed, require_unused};
pub use tls::connector as tls_connector;

use accept::Accept;
use claim::Claimer;
use connect::Connector;
use failure::Failure;
use feed::Feed;
use group::Groups;
use link::Link;
use links::Links;
use schema::Schema;
use settle::Settle;
use shared::Shared;
use snapshot::PostgresSnapshot;
use state::State;
use view::View;

/// Connections that accept: while one waits for its commit the other sends the next group.
const ACCEPT_CONNECTIONS: usize = 2;
const SETTLE_CONNECTIONS: usize = 2;
/// Connections that read single orders.
const VIEW_CONNECTIONS: usize = 2;

/// Names of the locks, which all nodes share with whatever else uses the database: any numbers nobody else takes.
const CLAIM_LOCK: i64 = 7_239_846_511_032_002;
const FEED_LOCK: i64 = 7_239_846_511_032_003;
const PRUNE_LOCK: i64 = 7_239_846_511_032_004;

/// How long a statement that accepts may run, from taking `created_at` to its commit, with time to spare: it is given up,
/// and the server told to, after a third of this. Orders further apart count as accepted one after the other.
const ACCEPT_TIME_MAX: Duration = Duration::from_secs(30);

pub struct Postgres {
    connector: Arc<Connector>,
    state: Arc<State>,
    shared: Arc<Shared>,
    accepts: Groups<Accept>,
    settles: Groups<Settle>,
    views: Groups<View>,
    claimer: Mutex<Claimer>,
    /// For heartbeats alone: however long the others wait, the node stays alive.
    heart: Mutex<Link>,
    links: Arc<Links>,
    feed: Arc<Feed>,
    waiting: WaitingOrders,
    pending_max: Option<u64>,
    /// Who this is in notifications.
    origin: String,
    /// The one that numbers the feed, the notifier and the listener.
    tasks: TaskTracker,
}

impl Postgres {
    /// Opens the database for serving. One that cannot be reached at the moment is no error: the store is not ready
    /// then, and tries on whenever it is asked for something.
    pub async fn open(database: &PostgresDatabase, options: OpenOptions) -> Result<Postgres, OpenError> {
        let location = &database.url.location;
        let state = Arc::new(State::new());
        let direct = match &database.direct {
            Some(url) => Some(Arc::new(connector(url, &state, None)?)),
            None => None,
        };
        let schema = Schema::new(location.clone(), options.migrate, direct.clone());
        let connector = Arc::new(connector(&database.url, &state, Some(schema))?);
        if let Err(failure) = connector.connect().await {
            if let Some(refusal) = connector.take_refusal() {
                return Err(refusal);
            }
            match failure {
                Failure::Refused(_) | Failure::Unsuitable(_) | Failure::Unexpected(_) => {
                    return Err(unavailable(location, &failure));
                }
                _ => tracing::warn!(
                    "the database at {location} cannot be reached, trying on: {}",
                    failure.to_error("connect")
                ),
            }
        }
        let shared = Arc::new(Shared::new(options.metrics, options.ordering));
        let links = Arc::new(Links::new(&connector));
        let tasks = TaskTracker::new();
        let origin = format!("{:016x}", rand::random::<u64>());
        let feed = Arc::new(Feed::new(links.clone(), shared.clone()));
        tasks.spawn(feed.clone().keep_numbered());
        tasks.spawn(holders::watch(shared.clone(), links.clone()));
        tasks.spawn(probe::probe(state.clone(), links.clone(), shared.clone()));
        tasks.spawn(notify::notify(shared.clone(), links.clone(), origin.clone()));
        match direct.or_else(|| (!database.url.looks_pooled()).then(|| connector.clone())) {
            Some(way) => {
                tasks.spawn(notify::listen(shared.clone(), way, links.clone(), origin.clone()));
            }
            None => notify::tell_of_polling(),
        }
        tasks.close();
        // Two that look for room at the same time would both find it. Other nodes may: the limit is each node's own look.
        let accept_connections = match options.pending_max {
            Some(_) => 1,
            None => ACCEPT_CONNECTIONS,
        };
        Ok(Postgres {
            accepts: Groups::start(&connector, accept_connections, &shared),
            settles: Groups::start(&connector, SETTLE_CONNECTIONS, &shared),
            views: Groups::start(&connector, VIEW_CONNECTIONS, &shared),
            claimer: Mutex::new(Claimer::new(&connector, options.ordering)),
            heart: Mutex::new(Link::new(connector.clone())),
            links,
            feed,
            connector,
            state,
            shared,
            waiting: WaitingOrders::new(),
            pending_max: options.pending_max,
            origin,
            tasks,
        })
    }
}

fn connector(
    url: &crate::config::PostgresUrl,
    state: &Arc<State>,
    schema: Option<Schema>,
) -> Result<Connector, OpenError> {
    Connector::new(url, state.clone(), schema).map_err(|source| OpenError::Unavailable {
        location: url.location.clone(),
        source,
    })
}

fn unavailable(location: &str, failure: &Failure) -> OpenError {
    let location = location.to_owned();
    match failure {
        Failure::Unsuitable(reason) => OpenError::Unsuitable {
            location,
            reason: reason.to_string(),
        },
        _ => OpenError::Unavailable {
            location,
            source: failure.to_error("connect").into(),
        },
    }
}

/// What a caller of the pool is told.
fn told<T>(result: Result<T, Failure>, attempted: &'static str) -> Result<T, StoreError> {
    result.map_err(|failure| failure.to_error(attempted))
}

impl Postgres {
    async fn heart(&self) -> Result<MutexGuard<'_, Link>, StoreError> {
        let link = self.heart.lock().await;
        if self.shared.closing.is_cancelled() {
            return Err(StoreError::Closed);
        }
        Ok(link)
    }
}

#[async_trait]
impl Store for Postgres {
    async fn accept(
        &self,
        orders: Arc<[NewOrder]>,
        key: Option<IdempotencyKey>,
    ) -> Result<Accepted, StoreError> {
        let places = self.waiting.enter(&orders)?;
        self.accepts
            .call(Accept {
                orders,
                key,
                pending_max: self.pending_max,
                _places: places,
            })
            .await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, StoreError> {
        // One at a time on this node: another would only wait for the same lock in the database.
        let mut claimer = self.claimer.lock().await;
        if self.shared.closing.is_cancelled() {
            return Err(StoreError::Closed);
        }
        told(claimer.claim(&request, &self.shared).await, "claim orders")
    }

    async fn settle(&self, key: LeaseKey, outcome: Outcome) -> Result<Settled, StoreError> {
        settle::settle(&self.settles, &self.shared, key, outcome).await
    }

    async fn renew(&self, heartbeat: Heartbeat) -> Result<Renewed, StoreError> {
        let mut link = self.heart().await?;
        let renewed = nodes::renew(&mut link, &self.shared, &self.state, &heartbeat).await;
        told(renewed, "renew leases")
    }

    async fn hold_outside(&self, key: LeaseKey, hold: OutsideHold) -> Result<Held, StoreError> {
        told(
            outside::hold(&self.links, &self.shared, key, hold).await,
            "hold a lease",
        )
    }

    async fn claimed(&self, id: OrderId) -> Result<Option<LatestClaim>, StoreError> {
        told(
            outside::latest_claim(&*self.links, id).await,
            "read an order's claim",
        )
    }

    async fn give_back_expired(&self, request: GiveBack) -> Result<GivenBack, StoreError> {
        let sweep = async {
            let mut lent = self.links.lend().await?;
            act::give_back_expired(lent.link(), &self.shared, &request).await
        };
        told(sweep.await, "give back expired leases")
    }

    /// Other nodes may hold leases: who died is found by the sweep that follows the first heartbeat.
    async fn join(&self, heartbeat: Heartbeat, _crashes_max: u32) -> Result<GivenBack, StoreError> {
        let mut link = self.heart().await?;
        let joined = nodes::renew(&mut link, &self.shared, &self.state, &heartbeat).await;
        told(joined, "announce the node").map(|_| GivenBack::default())
    }

    async fn leave(&self, node: NodeId) -> Result<(), StoreError> {
        let mut link = self.heart().await?;
        told(
            nodes::leave(&mut link, &self.shared, node, &notify::word_of_work(&self.origin)).await,
            "take the node off the list",
        )
    }

    async fn cancel(&self, id: OrderId) -> Result<Acted, StoreError> {
        told(
            act::cancel(&self.links, &self.shared, id).await,
            "cancel an order",
        )
    }

    async fn redrive(&self, id: OrderId) -> Result<Acted, StoreError> {
        told(
            act::redrive(&self.links, &self.shared, id).await,
            "redrive an order",
        )
    }

    async fn redrive_matching(&self, query: RedriveQuery) -> Result<Redriven, StoreError> {
        let redriven = act::redrive_matching(&self.links, &self.shared, &query).await;
        told(redriven, "redrive orders")
    }

    async fn prune(&self, request: Prune) -> Result<Pruned, StoreError> {
        told(prune::prune(&self.links, &request).await, "take out old orders")
    }

    async fn set_paused(&self, paused: bool) -> Result<(), StoreError> {
        let set = act::set_paused(&self.links, &self.shared, paused).await;
        told(set, "pause or resume the queue")
    }

    async fn order_view(&self, id: OrderId) -> Result<Option<OrderView>, StoreError> {
        self.views.call(View { id }).await
    }

    async fn standing(&self, id: OrderId) -> Result<Option<Standing>, StoreError> {
        let ordering = self.shared.ordering();
        let standing = standing::standing(&*self.links, ordering, id).await;
        told(standing, "read where an order stands")
    }

    async fn orders(&self, query: OrderQuery) -> Result<OrderPage, StoreError> {
        told(query::orders(&*self.links, &query).await, "list orders")
    }

    async fn history(&self, id: OrderId, after: u32) -> Result<Option<History>, StoreError> {
        let history = self.feed.history(id, after).await;
        told(history, "read an order's events")
    }

    async fn events_after(&self, after: Option<FeedPosition>, limit: usize) -> Result<FeedPage, StoreError> {
        let page = self.feed.events_after(after, limit).await;
        told(page, "read the feed")
    }

    async fn counters(&self) -> Result<Counters, StoreError> {
        told(query::counters(&*self.links).await, "read the counters")
    }

    async fn queue(&self) -> Result<QueueState, StoreError> {
        told(query::queue(&*self.links).await, "read the queue")
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        if self.shared.closing.is_cancelled() {
            return Err(StoreError::Closed);
        }
        let opened = async { PostgresSnapshot::open(self.connector.connect().await?).await };
        Ok(Box::new(told(opened.await, "open a snapshot")?))
    }

    fn health(&self) -> StoreHealth {
        self.state.health()
    }

    fn weaknesses(&self) -> Vec<String> {
        self.state.weaknesses()
    }

    async fn failed(&self) -> String {
        self.state.broken().await
    }

    fn wakeups(&self) -> Arc<Wakeups> {
        self.shared.wakeups.clone()
    }

    async fn close(&self) {
        self.shared.closing.cancel();
        self.accepts.close().await;
        self.settles.close().await;
        self.views.close().await;
        // After what is under way.
        drop(self.claimer.lock().await);
        drop(self.heart.lock().await);
        self.tasks.wait().await;
        self.feed.number_rest().await;
        self.links.close().await;
        self.state.closed();
    }
}
