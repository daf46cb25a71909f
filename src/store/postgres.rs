//! The shared store: one PostgreSQL database that serves any number of nodes. Accepts and results are committed in
//! groups. Claims run one at a time, under an advisory lock. When connections are few, `classes.rs` decides which
//! work gets one first. All times are the database's.
//!
//! Every change is one statement or one message, so a node that freezes at any point blocks no other. Nothing relies
//! on a session, so any pooler may sit in between.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

use crate::config::PostgresDatabase;
use crate::epoch::Token;
use crate::lease::{LeaseKey, NodeId, Outcome};
use crate::order::{NewOrder, OrderId, Reason};
use crate::store::accept::WaitingOrders;
use crate::store::opening::{OpenError, OpenOptions};
use crate::store::{
    Accepted, Acted, Activity, ClaimRequest, Claimed, Counters, Explanation, ExternalHold, ExternalLease,
    FeedPage, FeedPosition, GiveBack, GivenBack, Heartbeat, History, IdempotencyKey, LatestClaim, OrderPage,
    OrderQuery, OrderView, Prune, Pruned, QueueState, RedriveOptions, RedriveQuery, Redriven, Renewed,
    Settled, SettledExternal, Snapshot, Store, StoreError, StoreHealth, Vitals, Wakeups,
};

mod accept;
mod advisory_locks;
mod await_answer;
mod begin_epoch;
mod bisection;
mod cancel;
mod claim;
mod class_connection;
mod class_pool;
mod classes;
mod commands;
mod connect;
mod connection_limit;
mod connection_share;
mod database_state;
mod durability;
mod epochs;
mod external_lease;
mod failure;
mod feed;
mod first_connection;
mod functions;
mod give_back;
mod group;
mod id_range;
mod import;
mod listing;
mod lock_holders;
mod locked_change;
mod locked_orders;
mod lost_answers;
mod lower_bound;
mod message;
mod nodes;
mod notify;
mod pause;
mod pool;
mod probe;
mod processor_setting;
mod prune;
mod query;
mod redrive;
mod restored;
mod rows;
mod schema;
mod server_info;
mod servers;
mod settle;
mod shared;
mod snapshot;
mod standby_reader;
mod standbys;
mod standing;
mod tls;
mod turns;
mod view;
mod vitals;

pub use commands::{migrate, open_offline, open_snapshot, rehearse, survey};
pub use connection_limit::is_refusal_text;
pub(super) use import::Import;
pub use restored::{begin_epoch, require_unused};
pub use tls::connector as tls_connector;

use accept::Accept;
use claim::Claims;
use class_connection::ClassConnection;
use class_pool::ClassPool;
use classes::Class;
use connect::{Connector, connector};
use database_state::DatabaseState;
use failure::to_store_result;
use feed::Feed;
use group::Groups;
use pool::Pool;
use schema::Schema;
use settle::Settle;
use shared::Shared;
use snapshot::PostgresSnapshot;
use standby_reader::StandbyReader;
use view::View;

pub struct Postgres {
    connector: Arc<Connector>,
    state: Arc<DatabaseState>,
    shared: Arc<Shared>,
    accepts: Groups<Accept>,
    settles: Groups<Settle>,
    views: Groups<View>,
    claims: Claims,
    /// Carries heartbeats only, so that the node stays alive however long other work waits.
    heartbeat_connection: Mutex<ClassConnection>,
    pool: Arc<Pool>,
    control: ClassPool,
    monitoring: ClassPool,
    /// Serves what clients and external workers do to single orders.
    order_actions: ClassPool,
    lists: ClassPool,
    feed: Arc<Feed>,
    /// Reads from the standby; `None` without `DATABASE_READ_URL`.
    standby_reader: Option<Arc<StandbyReader>>,
    waiting: WaitingOrders,
    pending_max: Option<u64>,
    /// The name of this node in notifications.
    origin: String,
    /// Background tasks: numbering, the watch over locked orders, the probe, the notifier and the listener.
    tasks: TaskTracker,
}

impl Postgres {
    /// Opens the database for serving. An unreachable database is not an error: the store starts as not ready, and
    /// every call tries again. Fails when the database answers and this binary must not serve it.
    pub async fn open(database: &PostgresDatabase, options: OpenOptions) -> Result<Postgres, OpenError> {
        let location = &database.url.location;
        let state = Arc::new(DatabaseState::new());
        let direct = database.direct.as_ref().map(|url| connector(url, &state, None));
        let direct = direct.transpose()?.map(Arc::new);
        let schema = Schema::new(location.clone(), options.migrate);
        let connector = connector(&database.url, &state, Some(schema))?;
        let connector = Arc::new(connector.migrating_over(direct.clone()));
        let pool = Pool::new(&connector);
        let mut limit = None;
        if first_connection::connect(&connector, &pool, location).await? && !database.url.looks_pooled() {
            limit = connection_share::set_initial_share(&pool).await;
        }
        let shared = Arc::new(Shared::new(options.metrics, options.ordering, options.peers));
        let control = ClassPool::new(&pool, Class::Control);
        let monitoring = ClassPool::new(&pool, Class::Monitoring);
        let tasks = TaskTracker::new();
        let origin = format!("{:016x}", rand::random::<u64>());
        let feed = Arc::new(Feed::new(&pool, shared.clone()));
        let standby_reader = StandbyReader::start(database.read.as_ref(), &shared, &monitoring, &tasks)?;
        tasks.spawn(feed.clone().keep_numbered());
        tasks.spawn(lock_holders::watch(shared.clone(), monitoring.clone()));
        tasks.spawn(probe::probe(state.clone(), control.clone(), shared.clone()));
        if !database.url.looks_pooled() {
            tasks.spawn(connection_share::follow_node_count(
                shared.clone(),
                pool.clone(),
                limit,
            ));
        }
        tasks.spawn(notify::exchange(shared.clone(), control.clone(), origin.clone()));
        let route = notify::ListenRoute::of(direct, &connector, database.url.looks_pooled());
        tasks.spawn(notify::listen(
            shared.clone(),
            pool.clone(),
            route,
            control.clone(),
            origin.clone(),
        ));
        tasks.close();
        // Two groups at once would both find room below the limit. Other nodes may: each checks for itself.
        let accepting = options.pending_max.map_or(Class::Accept.most(), |_| 1);
        Ok(Postgres {
            accepts: Groups::start(&pool, accepting, &shared),
            settles: Groups::start(&pool, Class::Settle.most(), &shared),
            views: Groups::start(&pool, Class::PointRead.most(), &shared),
            claims: Claims::new(&pool, &state, &shared, options.ordering),
            heartbeat_connection: Mutex::new(ClassConnection::new(pool.clone(), Class::Heartbeat)),
            control,
            monitoring,
            order_actions: ClassPool::new(&pool, Class::OrderAction),
            lists: ClassPool::new(&pool, Class::List),
            feed,
            standby_reader,
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
        self.claims.next(&request).await
    }

    async fn start(&self, order_ids: Arc<[OrderId]>, request: ClaimRequest) -> Result<Claimed, StoreError> {
        self.claims.start(&order_ids, &request).await
    }

    async fn settle(&self, key: LeaseKey, outcome: Outcome) -> Result<Settled, StoreError> {
        settle::settle(&self.settles, &self.shared, key.into(), outcome).await
    }

    async fn renew(&self, heartbeat: Heartbeat) -> Result<Renewed, StoreError> {
        let mut connection = self.heartbeat_connection().await?;
        let renewed = nodes::renew(&mut connection, &self.shared, &self.state, &heartbeat).await;
        to_store_result(renewed, "renew leases")
    }

    async fn hold_external(&self, key: LeaseKey, hold: ExternalHold) -> Result<ExternalLease, StoreError> {
        let answer = external_lease::hold(&self.order_actions, &self.shared, key, hold).await;
        to_store_result(answer, "hold a lease")
    }

    async fn settle_external(
        &self,
        id: OrderId,
        token: Token,
        outcome: Outcome,
    ) -> Result<SettledExternal, StoreError> {
        let pools = external_lease::Pools {
            settles: &self.settles,
            views: &self.views,
            order_actions: &self.order_actions,
        };
        external_lease::settle(pools, &self.shared, id, token, outcome).await
    }

    async fn claimed(&self, id: OrderId) -> Result<Option<LatestClaim>, StoreError> {
        let claimed = external_lease::latest_claim(&self.order_actions, &self.shared, id).await;
        to_store_result(claimed, "read an order's claim")
    }

    async fn give_back_expired(&self, request: GiveBack) -> Result<GivenBack, StoreError> {
        let mut connection = self.control.connection();
        let sweep = give_back::give_back_expired(&mut connection, &self.shared, &request);
        to_store_result(sweep.await, "give back expired leases")
    }

    /// Other nodes may hold leases; the sweep after the first heartbeat finds those of dead nodes.
    async fn join(&self, heartbeat: Heartbeat, _crashes_max: u32) -> Result<GivenBack, StoreError> {
        self.renew(heartbeat).await.map(|_| GivenBack::default())
    }

    async fn leave(&self, node: NodeId) -> Result<(), StoreError> {
        let mut connection = self.heartbeat_connection().await?;
        let message = notify::work_payload(&self.origin);
        let left = nodes::leave(&mut connection, &self.shared, node, &message).await;
        to_store_result(left, "take the node off the list")
    }

    async fn cancel(&self, id: OrderId, reason: Option<Reason>) -> Result<Acted, StoreError> {
        let cancelled = cancel::cancel(&self.order_actions, &self.shared, id, reason).await;
        to_store_result(cancelled, "cancel an order")
    }

    async fn redrive(&self, id: OrderId, options: RedriveOptions) -> Result<Acted, StoreError> {
        let redriven = redrive::redrive(&self.order_actions, &self.shared, id, &options).await;
        to_store_result(redriven, "redrive an order")
    }

    async fn redrive_matching(&self, query: RedriveQuery) -> Result<Redriven, StoreError> {
        let redriven = redrive::redrive_matching(&self.order_actions, &self.shared, &query).await;
        to_store_result(redriven, "redrive orders")
    }

    async fn prune(&self, request: Prune) -> Result<Pruned, StoreError> {
        to_store_result(prune::prune(&self.control, &request).await, "take out old orders")
    }

    async fn pause(&self, reason: Option<Reason>) -> Result<(), StoreError> {
        to_store_result(
            pause::pause(&self.control, reason.as_ref()).await,
            "pause the queue",
        )
    }

    async fn resume(&self) -> Result<(), StoreError> {
        to_store_result(
            pause::resume(&self.control, &self.shared).await,
            "resume the queue",
        )
    }

    async fn order_view(&self, id: OrderId) -> Result<Option<OrderView>, StoreError> {
        self.views.call(View { id }).await
    }

    async fn explain(&self, id: OrderId) -> Result<Option<Explanation>, StoreError> {
        let standing = standing::standing(&self.lists, id, &self.shared.lower_bound()).await;
        let standing = standing.map(|standing| self.shared.refusals.with_refusal(standing));
        to_store_result(standing, "read where an order stands")
    }

    async fn orders(&self, query: OrderQuery) -> Result<OrderPage, StoreError> {
        let page =
            standby_reader::orders(self.standby_reader.as_deref(), &self.lists, &self.shared, &query).await;
        to_store_result(page, "list orders")
    }

    async fn history(&self, id: OrderId, after: u32) -> Result<Option<History>, StoreError> {
        let history = self.feed.history(id, after).await;
        to_store_result(history, "read an order's events")
    }

    async fn events_after(&self, after: Option<FeedPosition>, limit: usize) -> Result<FeedPage, StoreError> {
        let page =
            standby_reader::events_after(self.standby_reader.as_deref(), &self.feed, after, limit).await;
        to_store_result(page, "read the feed")
    }

    async fn counters(&self) -> Result<Counters, StoreError> {
        to_store_result(query::counters(&self.monitoring).await, "read the counters")
    }

    async fn queue(&self) -> Result<QueueState, StoreError> {
        query::queue_state(&self.monitoring, &self.shared).await
    }

    async fn queue_just_set(&self) -> Result<QueueState, StoreError> {
        query::queue_state(&self.control, &self.shared).await
    }

    async fn record_activity(&self, node: NodeId, number: u64, activity: Activity) -> Result<(), StoreError> {
        let recorded = vitals::record_activity(&self.control, node, number, activity).await;
        to_store_result(recorded, "store what a node counted")
    }

    async fn vitals(&self) -> Result<Vitals, StoreError> {
        let vitals = vitals::vitals(&self.monitoring, &self.shared.lower_bound()).await;
        to_store_result(vitals, "read the vitals")
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        Ok(Box::new(
            PostgresSnapshot::of(&self.connector, &self.shared).await?,
        ))
    }

    fn health(&self) -> StoreHealth {
        probe::health(&self.state, &self.pool)
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
        // Waits for the calls under way.
        self.claims.close().await;
        drop(self.heartbeat_connection.lock().await);
        self.tasks.wait().await;
        self.feed.number_rest().await;
        self.pool.close().await;
        self.state.closed();
    }
}
