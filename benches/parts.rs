//! Micro-benchmarks of the steps of every order: reading its body, writing it, claiming it, delivering its changes to
//! subscribers. Run with `cargo bench --bench parts`; `orderly bench` measures the whole.

use std::sync::Arc;
use std::time::Duration;

use divan::{Bencher, black_box};
use orderly::epoch::EpochIdentity;
use orderly::event::{Event, EventDetail, EventKind};
use orderly::http::wire::{self, OrderBody};
use orderly::lease::NodeId;
use orderly::live::routes::Routes;
use orderly::live::{Change, Filter};
use orderly::metrics::Metrics;
use orderly::order::{NewOrder, OrderDefaults, OrderId, OrderStatus, UserId};
use orderly::store::clock::system_clock;
use orderly::store::open::OpenOptions;
use orderly::store::sqlite::Sqlite;
use orderly::store::{ClaimRequest, FeedEvent, FeedPosition, Store};
use orderly::time::Timestamp;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const BODY: &str = r#"{"user_id":104,"item_ids":[101,102,103],"total_amount":250.75}"#;
const BATCH: usize = 1_000;
/// Number of waiting orders when orders are claimed.
const PENDING: usize = 100_000;
const CLAIM: usize = 100;

fn main() {
    divan::main();
}

fn order() -> NewOrder {
    wire::read_order(BODY, &OrderDefaults::default()).unwrap_or_else(|_| panic!("it is a good order"))
}

#[divan::bench]
fn read_an_order() -> bool {
    wire::read_order(black_box(BODY), &OrderDefaults::default()).is_ok()
}

#[divan::bench]
fn read_a_batch_of_1000(bencher: Bencher<'_, '_>) {
    let body = format!("{{\"orders\":[{}]}}", vec![BODY; BATCH].join(","));
    bencher.bench(|| wire::read_batch(black_box(&body), &OrderDefaults::default()).is_ok());
}

#[divan::bench]
fn write_an_order(bencher: Bencher<'_, '_>) {
    let order = order();
    let created_at = Timestamp::from_micros(1_764_000_000_123_456);
    bencher.bench(|| {
        let body = OrderBody::accepted(black_box(&order), OrderId(45), created_at);
        let mut text = Vec::new();
        body.write(&mut text).expect("an order can be written");
        text
    });
}

/// A store with waiting orders.
struct Queue {
    runtime: Runtime,
    store: Sqlite,
    _folder: TempDir,
}

impl Queue {
    fn of(orders: usize) -> Queue {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let options = OpenOptions {
            migrate: true,
            pending_max: None,
            metrics: Metrics::new(),
            clock: system_clock(),
            ordering: None,
            peers: None,
        };
        let runtime = Runtime::new().expect("a runtime can be started");
        let store = {
            let _within = runtime.enter();
            Sqlite::open(&folder.path().join("orderly.db"), options).expect("a store can be made")
        };
        let batch: Arc<[NewOrder]> = vec![order(); BATCH].into();
        for _ in 0..orders / BATCH {
            let accepted = runtime.block_on(store.accept(batch.clone(), None));
            accepted.expect("orders are accepted");
        }
        Queue {
            runtime,
            store,
            _folder: folder,
        }
    }

    fn claim(&self) -> usize {
        let request = ClaimRequest {
            node: NodeId(1),
            orders_max: CLAIM,
            lease: Duration::from_hours(1),
            suspect: false,
            processor: None,
        };
        let claimed = self.runtime.block_on(self.store.claim(request));
        claimed.expect("orders are claimed").leases.len()
    }
}

#[divan::bench(sample_count = 100, sample_size = 1)]
fn claim_100_of_100000(bencher: Bencher<'_, '_>) {
    let queue = Queue::of(PENDING);
    bencher.bench_local(|| assert_eq!(queue.claim(), CLAIM));
    queue.runtime.block_on(queue.store.close());
}

/// Each subscriber follows one user; one in a hundred follows everything.
#[divan::bench(args = [1, 100, 10_000])]
fn hand_out_a_change(bencher: Bencher<'_, '_>, followers: usize) {
    let mut routes = Routes::default();
    let followed = (0..followers)
        .map(|follower| {
            let user_id = i64::try_from(follower).expect("it is a small number");
            routes.add(&Filter {
                user_id: (follower % 100 != 0).then_some(UserId::Number(user_id)),
                ..Filter::default()
            })
        })
        .enumerate();
    // The event belongs to user 1.
    let is_served = |follower: usize| follower.is_multiple_of(100) || follower == 1;
    let (served, others): (Vec<_>, Vec<_>) = followed.partition(|(follower, _)| is_served(*follower));
    let mut served: Vec<_> = served.into_iter().map(|(_, follower)| follower).collect();
    let change = Change::new(EpochIdentity(1), event());
    bencher.bench_local(|| {
        let delivered = routes.deliver(black_box(&change)).delivered;
        // Drained as their connections would do, or the queues would fill up.
        for follower in &mut served {
            assert!(follower.queue.try_recv().is_ok());
        }
        delivered
    });
    // Subscribed until the end.
    drop(others);
}

fn event() -> FeedEvent {
    FeedEvent {
        position: FeedPosition(1),
        user_id: UserId::Number(1),
        event: Event {
            order_id: OrderId(1),
            version: 1,
            kind: EventKind::Accepted,
            status: OrderStatus::Pending,
            at: Timestamp::from_micros(1_764_000_000_123_456),
            attempt: 0,
            node: None,
            error: None,
            detail: EventDetail::default(),
        },
    }
}
