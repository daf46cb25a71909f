//! A store under test with its clock. The drivers' parts of the conformance suite are here; the suite itself knows no
//! driver.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use orderly::config::{Database, PostgresDatabase, PostgresUrl};
use orderly::event::{Event, EventKind};
use orderly::lease::{Lease, NodeId, Outcome};
use orderly::metrics::Metrics;
use orderly::order::{NewOrder, Order, OrderId, OrderStatus, Ordering};
use orderly::store::open::{OpenOptions, open};
use orderly::store::snapshot::OrderRecord;
use orderly::store::{Acted, Counters, FeedPosition, GivenBack, RedriveOptions, Settled, Store};
use orderly::time::Timestamp;
use orderly::verify;
use tempfile::TempDir;

use super::clock::FakeClock;
use super::make::{
    CRASHES_MAX, LONGER_THAN_A_LEASE, NODE_A, NODE_B, claim_by, failed, give_back_by, heartbeat, new_order,
    retry_after,
};
use super::postgres::{self, Server, TestDatabase};
use super::required;

mod claims;
mod counted;
mod eventful;
mod many;
pub mod moved;
mod pruned;
mod reopened;
mod rules;
mod set_aside;
mod swept;

pub use counted::recount;
pub use set_aside::held;

/// A hanging test fails under its name instead of stopping the run.
const CLAIM_TIME_MAX: Duration = Duration::from_mins(1);
/// Concurrent calls of tests that make very many: far below the limit at which a store answers Busy.
const CALLS_AT_ONCE: usize = 64;
/// Orders per page of a snapshot.
const SNAPSHOT_PAGE_ORDERS: usize = 100;

pub struct Harness {
    store: Arc<dyn Store>,
    clock: FakeClock,
    database: Database,
    /// The store's own metrics.
    metrics: Metrics,
    home: Home,
}

/// The location of the store, removed with the harness.
enum Home {
    Folder {
        _folder: TempDir,
    },
    /// A database whose clock follows the harness.
    Postgres(Box<TestDatabase>),
}

/// Runs one test of the suite and then verifies the store.
pub async fn check(mut harness: Harness, claim: impl AsyncFnOnce(&mut Harness)) {
    let claimed = async {
        claim(&mut harness).await;
        harness.assert_sound().await;
        harness.store.close().await;
    };
    tokio::time::timeout(CLAIM_TIME_MAX, claimed)
        .await
        .expect("a test ends in time");
}

/// Store and clock.
impl Harness {
    pub async fn sqlite() -> Harness {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let database = Database::Sqlite(folder.path().join("orderly.db"));
        Harness::open(database, FakeClock::new(), Home::Folder { _folder: folder }).await
    }

    /// A store in a private database, or `None` without PostgreSQL.
    pub async fn postgres() -> Option<Harness> {
        if !required("a private PostgreSQL", postgres::is_installed()) {
            return None;
        }
        let database = Server::shared().await.create_database().await;
        let url = database.url();
        Some(Harness::on_postgres(database, &url).await)
    }

    /// The same through PgBouncer, without a direct URL.
    pub async fn pooled() -> Option<Harness> {
        if !required("a private PgBouncer", postgres::is_installed_with_pgbouncer()) {
            return None;
        }
        let database = Server::shared().await.create_database().await;
        let url = database.bouncer_url().await;
        Some(Harness::on_postgres(database, &url).await)
    }

    async fn on_postgres(home: TestDatabase, url: &str) -> Harness {
        let (url, _) = PostgresUrl::parse(url).expect("a URL of the tests");
        let database = Database::Postgres(Box::new(PostgresDatabase::at(url)));
        let clock = FakeClock::new();
        home.set_clock(Some(clock.now())).await;
        Harness::open(database, clock, Home::Postgres(Box::new(home))).await
    }

    async fn open(database: Database, clock: FakeClock, home: Home) -> Harness {
        let metrics = Metrics::new();
        let store = open_store(&database, &clock, &metrics, None, None).await;
        Harness {
            store,
            clock,
            database,
            metrics,
            home,
        }
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The file of the embedded store.
    pub fn file(&self) -> &Path {
        match &self.database {
            Database::Sqlite(path) => path,
            Database::Postgres(_) => panic!("a shared database is no file"),
        }
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The store's current time, which stands still.
    pub async fn now(&self) -> Timestamp {
        match &self.home {
            Home::Folder { .. } => self.clock.now(),
            Home::Postgres(database) => database.now().await,
        }
    }

    pub async fn advance(&self, span: Duration) {
        self.clock.advance(span);
        self.show_time().await;
    }

    pub async fn step_clock_back(&self, span: Duration) {
        self.clock.step_back(span);
        self.show_time().await;
    }

    async fn show_time(&self) {
        match &self.home {
            Home::Folder { .. } => {}
            Home::Postgres(database) => database.set_clock(Some(self.clock.now())).await,
        }
    }

    /// Reports whether only one node can open the store.
    pub fn is_embedded(&self) -> bool {
        match self.database {
            Database::Sqlite(_) => true,
            Database::Postgres(_) => false,
        }
    }

    pub async fn assert_sound(&self) {
        let mut snapshot = self.store.snapshot().await.unwrap();
        let report = verify::verify(&mut *snapshot).await.unwrap();
        assert!(report.breaches.is_empty(), "{report}");
    }
}

async fn open_store(
    database: &Database,
    clock: &FakeClock,
    metrics: &Metrics,
    pending_max: Option<u64>,
    ordering: Option<Ordering>,
) -> Arc<dyn Store> {
    let options = OpenOptions {
        peers: None,
        migrate: true,
        pending_max,
        metrics: metrics.clone(),
        clock: clock.wall(),
        ordering,
    };
    open(database, options).await.expect("the store opens")
}

/// Operations, by node A where a node acts.
impl Harness {
    pub async fn accept(&self, orders: Vec<NewOrder>) -> Vec<OrderId> {
        let accepted = self.store.accept(orders.into(), None).await.unwrap();
        assert!(!accepted.replayed, "a request without a key was replayed");
        accepted.order_ids
    }

    pub async fn accept_one(&self) -> OrderId {
        self.accept(vec![new_order()]).await[0]
    }

    pub async fn accept_some(&self, count: usize) -> Vec<OrderId> {
        self.accept(vec![new_order(); count]).await
    }

    pub async fn claim(&self, orders_max: usize) -> Vec<Lease> {
        self.claim_as(NODE_A, orders_max).await
    }

    pub async fn claim_as(&self, node: NodeId, orders_max: usize) -> Vec<Lease> {
        self.store.claim(claim_by(node, orders_max)).await.unwrap().leases
    }

    /// Claims the only order that can start.
    pub async fn claim_only(&self, id: OrderId) -> Lease {
        let mut leases = self.claim(2).await;
        assert_eq!(ids_of(&leases), [id]);
        leases.remove(0)
    }

    /// Settles with a valid lease.
    pub async fn settle(&self, lease: &Lease, outcome: Outcome) -> OrderStatus {
        match self.store.settle(lease.key(), outcome).await.unwrap() {
            Settled::Done(status) => status,
            Settled::Stale => panic!("the lease of order {} is valid", lease.order.order_id),
        }
    }

    /// Accepts an order and runs one attempt; no other order may be ready to start.
    pub async fn attempt_once(&self, outcome: Outcome) -> OrderId {
        let id = self.accept_one().await;
        let lease = self.claim_only(id).await;
        self.settle(&lease, outcome).await;
        id
    }

    /// Creates an order with the status; no other order may be ready to start.
    pub async fn order_in(&self, status: OrderStatus) -> OrderId {
        match status {
            OrderStatus::Pending => self.accept_one().await,
            OrderStatus::Processing => {
                let id = self.accept_one().await;
                self.claim_only(id).await;
                id
            }
            OrderStatus::Completed => self.attempt_once(Outcome::COMPLETED).await,
            OrderStatus::Failed => self.attempt_once(failed()).await,
            OrderStatus::Cancelled => {
                let id = self.accept_one().await;
                self.cancel(id).await;
                id
            }
        }
    }

    /// Creates an order in the second line, due after this many seconds; no other order may be ready to start.
    pub async fn order_due_in(&self, seconds: u64) -> OrderId {
        self.attempt_once(retry_after(seconds)).await
    }

    /// Lets node B die this many times with the leases of the orders; no other order may be ready to start.
    pub async fn crash_all(&self, ids: &[OrderId], crashes: u32) {
        for _ in 0..crashes {
            self.store.renew(heartbeat(NODE_B, &[])).await.unwrap();
            let leases = self.claim_as(NODE_B, ids.len() + 1).await;
            assert_eq!(ids_of(&leases), ids);
            self.advance(LONGER_THAN_A_LEASE).await;
            self.give_back().await;
        }
    }

    pub async fn join(&self, node: NodeId) -> GivenBack {
        self.store.join(heartbeat(node, &[]), CRASHES_MAX).await.unwrap()
    }

    /// Lets node A take back expired leases.
    pub async fn give_back(&self) -> GivenBack {
        self.store.give_back_expired(give_back_by(NODE_A)).await.unwrap()
    }

    pub async fn cancel(&self, id: OrderId) -> Order {
        done(self.store.cancel(id, None).await.unwrap())
    }

    pub async fn redrive(&self, id: OrderId) -> Order {
        done(self.store.redrive(id, RedriveOptions::default()).await.unwrap())
    }

    /// Cancels many orders concurrently, so that a store may group the calls.
    pub async fn cancel_all(&self, ids: &[OrderId]) {
        stream::iter(ids)
            .map(|id| self.cancel(*id))
            .buffer_unordered(CALLS_AT_ONCE)
            .for_each(|_| std::future::ready(()))
            .await;
    }
}

/// Reads.
impl Harness {
    pub async fn order(&self, id: OrderId) -> Order {
        self.store
            .order_view(id)
            .await
            .unwrap()
            .expect("the order was accepted")
            .order
    }

    pub async fn events(&self, id: OrderId) -> Vec<EventKind> {
        let history = self.history(id, 0).await;
        history.into_iter().map(|event| event.kind).collect()
    }

    /// The order's events with a version above `after`.
    pub async fn history(&self, id: OrderId, after: u32) -> Vec<Event> {
        let history = self.store.history(id, after).await.unwrap();
        let history = history.expect("the order was accepted");
        history.events.into_iter().map(|event| event.event).collect()
    }

    /// Number of leases of the order that were lost to dead nodes.
    pub async fn crashes(&self, id: OrderId) -> u32 {
        let records = self.records().await;
        let record = records.iter().find(|record| record.order.order_id == id);
        record.expect("the order was accepted").crashes
    }

    /// Reads until every event has its position: a shared store numbers events when they are read.
    pub async fn number_all_events(&self) {
        let end = Some(FeedPosition(i64::MAX));
        while self.store.events_after(end, 1).await.unwrap().unplaced {}
    }

    pub async fn paused(&self) -> bool {
        self.store.queue().await.unwrap().pause.is_some()
    }

    /// All orders by rising id, read at one instant.
    pub async fn records(&self) -> Vec<OrderRecord> {
        let mut snapshot = self.store.snapshot().await.unwrap();
        let mut records: Vec<OrderRecord> = Vec::new();
        loop {
            let after = records.last().map(|record| record.order.order_id);
            let page = snapshot.orders_after(after, SNAPSHOT_PAGE_ORDERS).await.unwrap();
            if page.is_empty() {
                return records;
            }
            records.extend(page);
        }
    }

    pub async fn counters(&self) -> Counters {
        self.store.counters().await.unwrap()
    }
}

pub fn ids_of(leases: &[Lease]) -> Vec<OrderId> {
    leases.iter().map(|lease| lease.order.order_id).collect()
}

pub fn done(acted: Acted) -> Order {
    match acted {
        Acted::Done(order) => order,
        Acted::Refused(order) | Acted::TooManyEvents(order) => {
            panic!("order {} is {:?}", order.order_id, order.status)
        }
        Acted::Unknown => panic!("the order was accepted"),
    }
}
