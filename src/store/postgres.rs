//! The shared store: one PostgreSQL database, any number of nodes. Accepts and results are grouped, claims come one
//! after another under a lock; which of them gets a connection first when there are few is in `classes.rs`. All
//! times are the database's. Every change is one statement or one message, so that a node that freezes anywhere keeps
//! nobody waiting; nothing relies on a session, so that any pooler may be in between.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

use crate::config::PostgresDatabase;
use crate::epoch::Token;
use crate::lease::{LeaseKey, NodeId, Outcome};
use crate::order::{NewOrder, OrderId};
use crate::store::accept::WaitingOrders;
use crate::store::claim::given_once;
use crate::store::opening::{OpenError, OpenOptions};
use crate::store::{
    Accepted, Acted, ClaimRequest, Claimed, Counters, FeedPage, FeedPosition, GiveBack, GivenBack, Heartbeat,
    Held, History, IdempotencyKey, LatestClaim, OrderPage, OrderQuery, OrderView, OutsideHold, Prune, Pruned,
    QueueState, RedriveQuery, Redriven, Renewed, Settled, SettledOutside, Snapshot, Standing, Store,
    StoreError, StoreHealth, Wakeups,
};

mod accept;
mod agreement;
mod answered;
mod begin_epoch;
mod cancel;
mod claim;
mod classes;
mod commands;
mod connect;
mod created;
mod durability;
mod epochs;
mod failure;
mod feed;
mod first;
mod floor;
mod functions;
mod give_back;
mod group;
mod halves;
mod held;
mod holders;
mod import;
mod link;
mod links;
mod listing;
mod locked;
mod locks;
mod look;
mod message;
mod no_room;
mod nodes;
mod notify;
mod outside;
mod pause;
mod pool;
mod probe;
mod prune;
mod query;
mod reader;
mod redrive;
mod restored;
mod room;
mod rows;
mod schema;
mod servers;
mod settle;
mod shared;
mod snapshot;
mod standbys;
mod standing;
mod state;
mod tls;
mod turns;
mod unanswered;
mod view;

pub use commands::{migrate, open_offline, open_snapshot, rehearse, survey};
pub(super) use import::Import;
pub use no_room::is_refusal_text;
pub use restored::{begin_epoch, require_unused};
pub use tls::connector as tls_connector;

use accept::Accept;
use claim::{Choice, Claims};
use classes::Class;
use connect::{Connector, connector};
use failure::told;
use feed::Feed;
use group::Groups;
use link::Link;
use links::Links;
use pool::{Pool, STARVED};
use reader::Reader;
use schema::Schema;
use settle::Settle;
use shared::Shared;
use snapshot::PostgresSnapshot;
use state::State;
use view::View;

pub struct Postgres {
    connector: Arc<Connector>,
    state: Arc<State>,
    shared: Arc<Shared>,
    accepts: Groups<Accept>,
    settles: Groups<Settle>,
    views: Groups<View>,
    claims: Claims,
    /// For heartbeats alone: however long the others wait, the node stays alive.
    heart: Mutex<Link>,
    pool: Arc<Pool>,
    control: Links,
    numbers: Links,
    /// The links for what clients and external workers do to single orders.
    acts: Links,
    lists: Links,
    feed: Arc<Feed>,
    /// The way to the standby of `DATABASE_READ_URL`.
    reader: Option<Arc<Reader>>,
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
        let direct = database.direct.as_ref().map(|url| connector(url, &state, None));
        let direct = direct.transpose()?.map(Arc::new);
        let schema = Schema::new(location.clone(), options.migrate);
        let connector = connector(&database.url, &state, Some(schema))?;
        let connector = Arc::new(connector.migrating_over(direct.clone()));
        let pool = Pool::new(&connector);
        let mut room = None;
        if first::connect(&connector, &pool, location).await? && !database.url.looks_pooled() {
            room = room::count_on_room(&pool).await;
        }
        let shared = Arc::new(Shared::new(options.metrics, options.ordering));
        let control = Links::new(&pool, Class::Control);
        let numbers = Links::new(&pool, Class::Numbers);
        let tasks = TaskTracker::new();
        let origin = format!("{:016x}", rand::random::<u64>());
        let feed = Arc::new(Feed::new(&pool, shared.clone()));
        let reader = Reader::start(database.read.as_ref(), &shared, &numbers, &tasks)?;
        tasks.spawn(feed.clone().keep_numbered());
        tasks.spawn(holders::watch(shared.clone(), numbers.clone()));
        tasks.spawn(probe::probe(state.clone(), control.clone(), shared.clone()));
        if !database.url.looks_pooled() {
            tasks.spawn(room::keep_to_share(shared.clone(), pool.clone(), room));
        }
        tasks.spawn(notify::notify(shared.clone(), control.clone(), origin.clone()));
        let way = notify::Way::of(direct, &connector, database.url.looks_pooled());
        tasks.spawn(notify::listen(
            shared.clone(),
            pool.clone(),
            way,
            control.clone(),
            origin.clone(),
        ));
        tasks.close();
        // Two that look for room at the same time would both find it. Other nodes may: the limit is each node's own look.
        let accepting = options.pending_max.map_or(Class::Accept.most(), |_| 1);
        Ok(Postgres {
            accepts: Groups::start(&pool, accepting, &shared),
            settles: Groups::start(&pool, Class::Settle.most(), &shared),
            views: Groups::start(&pool, Class::Point.most(), &shared),
            claims: Claims::new(&pool, &state, &shared, options.ordering),
            heart: Mutex::new(Link::new(pool.clone(), Class::Heartbeat)),
            control,
            numbers,
            acts: Links::new(&pool, Class::Act),
            lists: Links::new(&pool, Class::List),
            feed,
            reader,
            pool,
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
        self.claims.claim(Choice::Next, &request, "claim orders").await
    }

    async fn start(&self, order_ids: Arc<[OrderId]>, request: ClaimRequest) -> Result<Claimed, StoreError> {
        let given = given_once(&order_ids);
        self.claims
            .claim(Choice::Given(&given), &request, "start orders")
            .await
    }

    async fn settle(&self, key: LeaseKey, outcome: Outcome) -> Result<Settled, StoreError> {
        settle::settle(&self.settles, &self.shared, key.into(), outcome).await
    }

    async fn renew(&self, heartbeat: Heartbeat) -> Result<Renewed, StoreError> {
        let mut link = self.heart().await?;
        let renewed = nodes::renew(&mut link, &self.shared, &self.state, &heartbeat).await;
        told(renewed, "renew leases")
    }

    async fn hold_outside(&self, key: LeaseKey, hold: OutsideHold) -> Result<Held, StoreError> {
        let answer = outside::hold(&self.acts, &self.shared, key, hold).await;
        told(answer, "hold a lease")
    }

    async fn settle_outside(
        &self,
        id: OrderId,
        token: Token,
        outcome: Outcome,
    ) -> Result<SettledOutside, StoreError> {
        let ways = outside::Ways {
            settles: &self.settles,
            views: &self.views,
            acts: &self.acts,
        };
        outside::settle(ways, &self.shared, id, token, outcome).await
    }

    async fn claimed(&self, id: OrderId) -> Result<Option<LatestClaim>, StoreError> {
        let claimed = outside::latest_claim(&self.acts, &self.shared, id).await;
        told(claimed, "read an order's claim")
    }

    async fn give_back_expired(&self, request: GiveBack) -> Result<GivenBack, StoreError> {
        let mut link = self.control.link();
        let sweep = give_back::give_back_expired(&mut link, &self.shared, &request);
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
            cancel::cancel(&self.acts, &self.shared, id).await,
            "cancel an order",
        )
    }

    async fn redrive(&self, id: OrderId) -> Result<Acted, StoreError> {
        let redriven = redrive::redrive(&self.acts, &self.shared, id).await;
        told(redriven, "redrive an order")
    }

    async fn redrive_matching(&self, query: RedriveQuery) -> Result<Redriven, StoreError> {
        let redriven = redrive::redrive_matching(&self.acts, &self.shared, &query).await;
        told(redriven, "redrive orders")
    }

    async fn prune(&self, request: Prune) -> Result<Pruned, StoreError> {
        told(prune::prune(&self.control, &request).await, "take out old orders")
    }

    async fn set_paused(&self, paused: bool) -> Result<(), StoreError> {
        let set = pause::set_paused(&self.control, &self.shared, paused).await;
        told(set, "pause or resume the queue")
    }

    async fn order_view(&self, id: OrderId) -> Result<Option<OrderView>, StoreError> {
        self.views.call(View { id }).await
    }

    async fn standing(&self, id: OrderId) -> Result<Option<Standing>, StoreError> {
        let standing = standing::standing(&self.lists, id, &self.shared.floor()).await;
        let standing = standing.map(|standing| self.shared.refusals.told_of(standing));
        told(standing, "read where an order stands")
    }

    async fn orders(&self, query: OrderQuery) -> Result<OrderPage, StoreError> {
        let page = reader::orders(self.reader.as_deref(), &self.lists, &self.shared, &query).await;
        told(page, "list orders")
    }

    async fn history(&self, id: OrderId, after: u32) -> Result<Option<History>, StoreError> {
        let history = self.feed.history(id, after).await;
        told(history, "read an order's events")
    }

    async fn events_after(&self, after: Option<FeedPosition>, limit: usize) -> Result<FeedPage, StoreError> {
        let page = reader::events_after(self.reader.as_deref(), &self.feed, after, limit).await;
        told(page, "read the feed")
    }

    async fn counters(&self) -> Result<Counters, StoreError> {
        told(query::counters(&self.numbers).await, "read the counters")
    }

    async fn queue(&self) -> Result<QueueState, StoreError> {
        let queue = query::queue(&self.numbers, &self.shared.floor()).await;
        told(queue, "read the queue")
    }

    async fn queue_just_set(&self) -> Result<QueueState, StoreError> {
        let queue = query::queue(&self.control, &self.shared.floor()).await;
        told(queue, "read the queue")
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        if self.shared.closing.is_cancelled() {
            return Err(StoreError::Closed);
        }
        let opened = async { PostgresSnapshot::open(self.connector.connect_to_read().await?).await };
        Ok(Box::new(told(opened.await, "open a snapshot")?))
    }

    fn health(&self) -> StoreHealth {
        match self.state.health() {
            StoreHealth::Ready if self.pool.starves() => StoreHealth::NotReady(STARVED.to_owned()),
            known => known,
        }
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
        self.claims.close().await;
        drop(self.heart.lock().await);
        self.tasks.wait().await;
        self.feed.number_rest().await;
        self.pool.close().await;
        self.state.closed();
    }
}
