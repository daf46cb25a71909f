//! What the parts of the driver have in common: what to tell the rest of the process once something is committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::order::OrderId;
use crate::store::Wakeups;

/// Rows of counters, as the schema has them. Many more than statements are under way at once: two that take the same one
/// wait for each other.
const COUNTER_SLOTS: i16 = 128;

pub(super) struct Shared {
    pub wakeups: Arc<Wakeups>,
    pub metrics: Metrics,
    /// Other nodes may want to know of new work; the notifier waits for it.
    pub news: Notify,
    /// Other nodes are alive, as the last heartbeat found.
    pub others: AtomicBool,
    /// There was news, and nobody was told. Set by the notifier before it looks for others and cleared when it told
    /// them; taken by the heartbeat that finds some, so that a node that joined between two of them is told as well.
    pub untold: AtomicBool,
    /// Idempotency keys stored since old ones were last forgotten.
    pub keys_stored: AtomicUsize,
    /// The store takes no further calls.
    pub closing: CancellationToken,
}

impl Shared {
    pub fn new(metrics: Metrics) -> Shared {
        Shared {
            wakeups: Arc::default(),
            metrics,
            news: Notify::new(),
            others: AtomicBool::new(false),
            untold: AtomicBool::new(false),
            keys_stored: AtomicUsize::new(0),
            closing: CancellationToken::new(),
        }
    }

    /// The row of counters that one statement changes; drawn for each, so that no two meet for long.
    pub fn any_slot() -> i16 {
        rand::random_range(0..COUNTER_SLOTS)
    }

    /// Orders may have become claimable, here and for the other nodes.
    pub fn work_came(&self) {
        self.wakeups.notify_work();
        self.news.notify_one();
    }

    /// What a heartbeat found.
    pub fn found_others(&self, others: bool) {
        self.others.store(others, Ordering::SeqCst);
        if others && self.untold.swap(false, Ordering::SeqCst) {
            self.news.notify_one();
        }
    }

    pub fn ended(&self, order_ids: impl IntoIterator<Item = OrderId>) {
        self.wakeups.notify_final(order_ids);
    }

    pub fn measure(&self, calls: usize, started: Instant) {
        #[expect(clippy::cast_precision_loss, reason = "groups are small")]
        self.metrics.store_group_calls.observe(calls as f64);
        self.metrics.store_commit.observe(started.elapsed().as_secs_f64());
    }
}
