//! The shared store: one PostgreSQL database that serves any number of nodes. Accepts and results are committed in
//! groups. Claims run one at a time, under an advisory lock. When connections are few, `classes.rs` decides which
//! work gets one first. All times are the database's.
//!
//! Every change is one statement or one message, so a node that freezes at any point blocks no other. Nothing relies
//! on a session, so any pooler may sit in between.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

use crate::config::PostgresDatabase;
use crate::store::accept::WaitingOrders;
use crate::store::opening::{OpenError, OpenOptions};

mod accept;
mod advisory_locks;
mod amend;
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
mod hold;
mod id_range;
mod import;
mod listing;
mod lock_holders;
mod locked_change;
mod locked_orders;
mod lost_answers;
mod lower_bound;
mod message;
mod milestone;
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
mod timers;
mod tls;
mod turns;
mod verbs;
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
use feed::Feed;
use group::Groups;
use pool::Pool;
use schema::Schema;
use settle::Settle;
use shared::Shared;
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
