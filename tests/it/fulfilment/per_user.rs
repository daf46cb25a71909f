//! Ordering by user, on one node and on several: checks every start against the events.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{join_all, pending};
use orderly::config::Config;
use orderly::event::EventKind;
use orderly::metrics::Metrics;
use orderly::order::{OnFailure, Order, OrderId, OrderStatus, Ordering, UserId};
use orderly::processor::{Attempt, Processed, ProcessingError, Processor};
use orderly::retry::RetryPolicy;
use orderly::serve::Server;
use orderly::store::clock::system_clock;
use orderly::store::open::{OpenOptions, open};
use orderly::store::snapshot::OrderRecord;
use orderly::store::{RedriveOptions, RedriveQuery, Store};
use tempfile::TempDir;

use crate::support::config::config;
use crate::support::make::order_of;
use crate::support::postgres::{Server as Postgres, TestDatabase};
use crate::support::{required, until};

/// All attempts for this user fail until the test says otherwise.
const FAILING_USER: i64 = 1;
const USERS: std::ops::RangeInclusive<i64> = 1..=12;
const ORDERS_OF_EACH: usize = 15;

/// Fails every attempt at one user's orders, and the first attempt at some of the others'.
#[derive(Default)]
struct FailsForOneUser {
    recovered: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl Processor for FailsForOneUser {
    async fn process(&self, order: &Order, attempt: Attempt) -> Result<Processed, ProcessingError> {
        tokio::task::yield_now().await;
        let failing = order.request.user_id == FAILING_USER
            && !self.recovered.load(std::sync::atomic::Ordering::SeqCst);
        let fails_once = attempt.number == 1 && order.order_id.0 % 3 == 0;
        if failing || fails_once {
            return Err(ProcessingError::Transient {
                error: "not yet".into(),
                retry_after: None,
            });
        }
        Ok(Processed::COMPLETED)
    }
}

/// Nodes that share a store.
struct Fixture {
    servers: Vec<Server>,
    store: Arc<dyn Store>,
    processor: Arc<FailsForOneUser>,
    _home: Home,
}

enum Home {
    Folder { _folder: TempDir },
    Database { _database: Box<TestDatabase> },
}

impl Fixture {
    async fn open(nodes: usize, on_failure: OnFailure, attempts_max: u32, shared: bool) -> Option<Fixture> {
        let (database, home) = if shared {
            if !required("a private PostgreSQL", crate::support::postgres::is_installed()) {
                return None;
            }
            let database = Postgres::shared().await.create_database().await;
            (
                crate::postgres::setup::database_at(&database.url()),
                Home::Database {
                    _database: Box::new(database),
                },
            )
        } else {
            let folder = tempfile::tempdir().unwrap();
            let database = orderly::config::Database::Sqlite(folder.path().join("orderly.db"));
            (database, Home::Folder { _folder: folder })
        };
        let processor = Arc::new(FailsForOneUser::default());
        let setting = Config {
            concurrency: 8,
            retry: RetryPolicy {
                attempts_max,
                base: Duration::from_millis(1),
                cap: Duration::from_millis(20),
            },
            ordering: Ordering::by_user(on_failure),
            ..config()
        };
        let mut servers = Vec::new();
        let mut stores = Vec::new();
        for _ in 0..nodes {
            let options = OpenOptions {
                peers: None,
                migrate: true,
                pending_max: None,
                metrics: Metrics::new(),
                clock: system_clock(),
                ordering: Some(setting.ordering),
            };
            let store = open(&database, options).await.unwrap();
            let metrics = Metrics::new();
            let server = Server::start(&setting, store.clone(), processor.clone(), metrics);
            servers.push(server.await.unwrap());
            stores.push(store);
        }
        Some(Fixture {
            servers,
            store: stores.remove(0),
            processor,
            _home: home,
        })
    }

    /// Accepts orders: one user's one after another, those of different users concurrently.
    async fn place_orders(&self) {
        join_all(USERS.map(async |user_id| {
            for _ in 0..ORDERS_OF_EACH {
                self.store.accept([order_of(user_id)].into(), None).await.unwrap();
            }
        }))
        .await;
    }

    async fn until_counts(&self, what: &str, hold: impl Fn(u64, u64) -> bool) {
        until(what, async || {
            let counters = self.store.counters().await.unwrap();
            hold(counters.completed, counters.failed)
        })
        .await;
    }

    /// Stops all nodes and returns the final records.
    async fn close(self) -> Vec<OrderRecord> {
        let mut snapshot = self.store.snapshot().await.unwrap();
        let report = orderly::verify::verify(&mut *snapshot).await.unwrap();
        assert!(report.is_sound(), "{report}");
        let mut records = Vec::new();
        while let page = snapshot
            .orders_after(records.last().map(|last: &OrderRecord| last.order.order_id), 500)
            .await
            .unwrap()
            && !page.is_empty()
        {
            records.extend(page);
        }
        drop(snapshot);
        for server in self.servers {
            server.stop(Duration::from_secs(10), pending::<()>()).await;
        }
        records
    }
}

/// All starts out of turn, by the order of the events.
fn out_of_turn(records: &[OrderRecord], on_failure: OnFailure) -> Vec<String> {
    let users: HashMap<OrderId, i64> = records
        .iter()
        .map(|record| (record.order.order_id, record.order.request.user_id.key()))
        .collect();
    let mut events: Vec<_> = records.iter().flat_map(|record| &record.events).collect();
    events.sort_unstable_by_key(|stored| stored.position);
    let mut open: HashMap<i64, std::collections::BTreeMap<OrderId, OrderStatus>> = HashMap::new();
    let mut wrong = Vec::new();
    for stored in events {
        let (id, status) = (stored.event.order_id, stored.event.status);
        let of_user = open.entry(users[&id]).or_default();
        if stored.event.kind == EventKind::Started {
            // Orders accepted concurrently on different connections may have ids in any order.
            let earlier = of_user.range(..id).next();
            let beside = of_user
                .iter()
                .find(|(_, status)| **status == OrderStatus::Processing);
            if let Some((other, other_status)) = earlier.or(beside) {
                wrong.push(format!(
                    "order {id} of user {} started while order {other} was {other_status:?}",
                    users[&id]
                ));
            }
        }
        let counts = !status.is_final() || (status == OrderStatus::Failed && on_failure == OnFailure::Block);
        if counts {
            of_user.insert(id, status);
        } else {
            of_user.remove(&id);
        }
    }
    wrong
}

async fn one_user_fails_for_ever(nodes: usize, shared: bool) {
    let Some(fixture) = Fixture::open(nodes, OnFailure::Skip, 1_000, shared).await else {
        return;
    };
    fixture.place_orders().await;
    let others = (USERS.count() - 1) * ORDERS_OF_EACH;
    fixture
        .until_counts("all others to be done", |completed, _| completed == others as u64)
        .await;
    // Only the first order of the failing user was attempted.
    let mut snapshot = fixture.store.snapshot().await.unwrap();
    let records = snapshot.orders_after(None, 500).await.unwrap();
    let failing: Vec<&OrderRecord> = records
        .iter()
        .filter(|record| record.order.request.user_id == FAILING_USER)
        .collect();
    assert!(failing[0].order.attempts > 0);
    assert!(failing[1..].iter().all(|record| record.fence == 0));
    drop(snapshot);
    fixture
        .processor
        .recovered
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let all = (USERS.count() * ORDERS_OF_EACH) as u64;
    fixture
        .until_counts("everything to be done", |completed, _| completed == all)
        .await;
    let records = fixture.close().await;
    assert_eq!(out_of_turn(&records, OnFailure::Skip), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failing_user_does_not_hold_up_others() {
    one_user_fails_for_ever(1, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failing_user_does_not_hold_up_others_on_postgres() {
    one_user_fails_for_ever(1, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failing_user_does_not_hold_up_others_on_several_nodes() {
    one_user_fails_for_ever(3, true).await;
}

/// Runs all attempts twice: after a redrive of all failed orders, their order is the same.
async fn redriven_orders_keep_their_turns(nodes: usize, shared: bool, on_failure: OnFailure) {
    let Some(fixture) = Fixture::open(nodes, on_failure, 3, shared).await else {
        return;
    };
    fixture.place_orders().await;
    let others = ((USERS.count() - 1) * ORDERS_OF_EACH) as u64;
    // Where failures block, the first failed order blocks all others.
    let failed = match on_failure {
        OnFailure::Skip => ORDERS_OF_EACH as u64,
        OnFailure::Block => 1,
    };
    fixture
        .until_counts("all to be done or failed", |done, gone| {
            (done, gone) == (others, failed)
        })
        .await;
    fixture
        .processor
        .recovered
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let all_failed = RedriveQuery {
        status: OrderStatus::Failed,
        user_id: None,
        user_name: None,
        created_before: None,
        options: RedriveOptions::default(),
        dry_run: false,
    };
    let redriven = fixture.store.redrive_matching(all_failed).await.unwrap();
    assert_eq!(redriven.retried as u64, failed);
    let all = (USERS.count() * ORDERS_OF_EACH) as u64;
    fixture
        .until_counts("everything to be done", |completed, _| completed == all)
        .await;
    let records = fixture.close().await;
    assert_eq!(out_of_turn(&records, on_failure), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn redriven_orders_stay_in_the_order_of_their_user() {
    redriven_orders_keep_their_turns(1, false, OnFailure::Skip).await;
    redriven_orders_keep_their_turns(1, false, OnFailure::Block).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redriven_orders_stay_in_the_order_of_their_user_on_several_nodes() {
    redriven_orders_keep_their_turns(3, true, OnFailure::Skip).await;
    redriven_orders_keep_their_turns(3, true, OnFailure::Block).await;
}

/// The control: the same check finds starts out of turn in a store without ordering.
#[tokio::test(flavor = "multi_thread")]
async fn the_check_detects_starts_out_of_turn() {
    let Some(fixture) = Fixture::open(1, OnFailure::Skip, 3, false).await else {
        return;
    };
    fixture.place_orders().await;
    let all = (USERS.count() * ORDERS_OF_EACH) as u64;
    fixture
        .until_counts("all to be done or failed", |completed, failed| {
            completed + failed == all
        })
        .await;
    let mut records = fixture.close().await;
    // As if each order had been accepted before all others of its user.
    for record in &mut records {
        let user_id = record.order.request.user_id.key();
        record.order.request.user_id = UserId::Number(user_id % 2 + 1);
    }
    assert_ne!(out_of_turn(&records, OnFailure::Skip), Vec::<String>::new());
}
