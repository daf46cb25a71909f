//! Prometheus metrics of this process since its start. Counts of orders come from the store; `http/metrics.rs` chooses
//! the format for a scraper.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

mod feed_lag;
pub mod process;
pub mod reads;
pub mod store_calls;

pub use feed_lag::FeedLag;
use reads::Reads;
use store_calls::StoreCalls;

/// Seconds, from a fast commit to the longest usual processing. The bounds are close around the 2, 5 and 10 s of the
/// simulated processor, whose attempts end slightly later: interpolation must not turn 5 s into 7.5 s.
const ORDER_SECONDS: [f64; 22] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 1.95, 2.1, 3.0, 4.0, 4.9, 5.2, 7.5, 9.8, 10.4, 30.0,
    60.0, 300.0, 3600.0,
];
const REQUEST_SECONDS: [f64; 11] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0,
];
const GROUP_CALLS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// Metric handles, cheap to clone; one set per process.
#[derive(Clone)]
pub struct Metrics {
    pub registry: Arc<Registry>,
    pub orders_accepted: Counter,
    pub attempts: Family<AttemptLabels, Counter>,
    /// Results refused because the lease was no longer valid.
    pub stale_results_rejected: Counter,
    pub leases_lost: Counter,
    /// Leases granted to external workers.
    pub leases_granted: Counter,
    /// Lease requests waiting at this node.
    pub lease_requests_waiting: Gauge,
    /// Results of external workers.
    pub outside_results: Family<OutsideLabels, Counter>,
    /// Time from acceptance to the first start.
    pub order_wait: Histogram,
    /// Time from start to result of one attempt.
    pub order_processing: Histogram,
    pub slots_busy: Gauge,
    pub slots: Gauge,
    /// 1 for the current state, 0 for the others.
    pub breaker_state: Family<BreakerLabels, Gauge>,
    pub breaker_openings: Counter,
    /// Calls per commit.
    pub store_group_calls: Histogram,
    /// Duration of one commit, including its sync.
    pub store_commit: Histogram,
    pub store_errors: Counter,
    /// Duration of store calls as seen by their callers.
    pub store_calls: StoreCalls,
    /// Lists and pages of the feed of a store whose reads may come from a standby.
    pub reads: Reads,
    /// Committed pages that await a checkpoint.
    pub store_wal_bytes: Gauge,
    pub http_requests: Family<RequestLabels, Counter>,
    pub http_request_duration: Family<DurationLabels, Histogram, fn() -> Histogram>,
    /// Streams and long polls that follow the feed.
    pub feed_subscribers: Gauge,
    pub feed_deliveries: Counter,
    pub feed_subscribers_lagged: Counter,
    pub feed_lag: FeedLag,
    pub connections: Gauge,
    pub connections_refused: Counter,
    pub log_lines_dropped: Counter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label values")]
pub enum AttemptResult {
    completed,
    retry,
    failed,
    released,
    /// The lease was lost, or the order cancelled while it ran.
    abandoned,
    /// An external service settles the attempt.
    handed_over,
}

impl AttemptResult {
    const ALL: [AttemptResult; 6] = [
        AttemptResult::completed,
        AttemptResult::retry,
        AttemptResult::failed,
        AttemptResult::released,
        AttemptResult::abandoned,
        AttemptResult::handed_over,
    ];
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptLabels {
    pub result: AttemptResult,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label values")]
pub enum OutsideResult {
    completed,
    retry,
    failed,
    released,
    /// Refused because the token was no longer valid for the order.
    lost,
}

impl OutsideResult {
    const ALL: [OutsideResult; 5] = [
        OutsideResult::completed,
        OutsideResult::retry,
        OutsideResult::failed,
        OutsideResult::released,
        OutsideResult::lost,
    ];
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutsideLabels {
    pub result: OutsideResult,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label values")]
pub enum BreakerState {
    closed,
    open,
    half_open,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BreakerLabels {
    pub state: BreakerState,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// A standard method name, or `other`.
    pub method: &'static str,
    /// The matching pattern, never the path; `none` without a match.
    pub route: &'static str,
    pub status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DurationLabels {
    /// A standard method name, or `other`.
    pub method: &'static str,
    pub route: &'static str,
}

impl Metrics {
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("orderly");
        let mut metrics = Metrics {
            registry: Arc::new(Registry::default()),
            orders_accepted: Counter::default(),
            attempts: Family::default(),
            stale_results_rejected: Counter::default(),
            leases_lost: Counter::default(),
            leases_granted: Counter::default(),
            lease_requests_waiting: Gauge::default(),
            outside_results: Family::default(),
            order_wait: Histogram::new(ORDER_SECONDS),
            order_processing: Histogram::new(ORDER_SECONDS),
            slots_busy: Gauge::default(),
            slots: Gauge::default(),
            breaker_state: Family::default(),
            breaker_openings: Counter::default(),
            store_group_calls: Histogram::new(GROUP_CALLS),
            store_commit: Histogram::new(REQUEST_SECONDS),
            store_errors: Counter::default(),
            store_calls: store_calls::store_calls(),
            reads: Reads::default(),
            store_wal_bytes: Gauge::default(),
            http_requests: Family::default(),
            http_request_duration: Family::new_with_constructor(|| Histogram::new(REQUEST_SECONDS)),
            feed_subscribers: Gauge::default(),
            feed_deliveries: Counter::default(),
            feed_subscribers_lagged: Counter::default(),
            feed_lag: FeedLag::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            log_lines_dropped: Counter::default(),
        };
        process::starts();
        metrics.begin_at_zero();
        metrics.register(&mut registry);
        metrics.registry = Arc::new(registry);
        metrics
    }

    /// Starts each counter at 0, so that the first increment is visible as a rise.
    fn begin_at_zero(&self) {
        for result in AttemptResult::ALL {
            drop(self.attempts.get_or_create(&AttemptLabels { result }));
        }
        for result in OutsideResult::ALL {
            drop(self.outside_results.get_or_create(&OutsideLabels { result }));
        }
        self.reads.begin_at_zero();
    }

    /// Records one commit of the store: the number of calls in it and its duration.
    pub fn committed(&self, calls: usize, took: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "groups are small")]
        self.store_group_calls.observe(calls as f64);
        self.store_commit.observe(took.as_secs_f64());
    }

    fn register(&self, to: &mut Registry) {
        to.register(
            "orders_accepted",
            "Orders stored by this process",
            self.orders_accepted.clone(),
        );
        to.register(
            "attempts",
            "Attempts ended by this process",
            self.attempts.clone(),
        );
        to.register(
            "stale_results_rejected",
            "Results refused because the lease was no longer valid",
            self.stale_results_rejected.clone(),
        );
        to.register(
            "leases_lost",
            "Orders taken back from nodes whose lease expired",
            self.leases_lost.clone(),
        );
        to.register(
            "leases_granted",
            "Leases granted to external workers",
            self.leases_granted.clone(),
        );
        to.register(
            "lease_requests_waiting",
            "Lease requests waiting at this node",
            self.lease_requests_waiting.clone(),
        );
        to.register(
            "outside_results",
            "Results returned by external workers",
            self.outside_results.clone(),
        );
        to.register_with_unit(
            "order_wait",
            "Time from acceptance to first start",
            Unit::Seconds,
            self.order_wait.clone(),
        );
        to.register_with_unit(
            "order_processing",
            "Time from start to result of one attempt",
            Unit::Seconds,
            self.order_processing.clone(),
        );
        to.register(
            "slots_busy",
            "Attempts running on this node",
            self.slots_busy.clone(),
        );
        to.register(
            "slots",
            "Maximum number of attempts running on this node",
            self.slots.clone(),
        );
        to.register(
            "breaker_state",
            "State of this node's breaker: 1 for the current state, 0 for the others",
            self.breaker_state.clone(),
        );
        to.register(
            "breaker_openings",
            "Times this node stopped claiming because the processor was down",
            self.breaker_openings.clone(),
        );
        to.register(
            "store_group_calls",
            "Store calls carried out by one commit",
            self.store_group_calls.clone(),
        );
        to.register_with_unit(
            "store_commit",
            "Duration of one commit, including its sync",
            Unit::Seconds,
            self.store_commit.clone(),
        );
        to.register(
            "store_errors",
            "Failed commits and checkpoints",
            self.store_errors.clone(),
        );
        to.register_with_unit(
            "store_call",
            "Duration of one store call, from the call to its answer",
            Unit::Seconds,
            self.store_calls.clone(),
        );
        to.register(
            "reads",
            "Pages of lists and of the feed by the server that answered, where DATABASE_READ_URL is set",
            self.reads.family.clone(),
        );
        to.register_with_unit(
            "store_wal",
            "Committed data in the write-ahead log that awaits a checkpoint",
            Unit::Bytes,
            self.store_wal_bytes.clone(),
        );
        to.register("http_requests", "Requests answered", self.http_requests.clone());
        to.register_with_unit(
            "http_request_duration",
            "Time from the request head to the answer head",
            Unit::Seconds,
            self.http_request_duration.clone(),
        );
        to.register(
            "feed_subscribers",
            "Streams and long polls that follow the feed of changes",
            self.feed_subscribers.clone(),
        );
        to.register(
            "feed_deliveries",
            "Changes delivered to subscribers",
            self.feed_deliveries.clone(),
        );
        to.register(
            "feed_subscribers_lagged",
            "Times a subscriber overflowed its queue and fell back to reading the stored feed",
            self.feed_subscribers_lagged.clone(),
        );
        to.register_with_unit(
            "feed_lag",
            "The longer of two delays of the feed: the time the oldest committed change has waited for its position, and the \
             age of the oldest change when the feed was last read for subscribers",
            Unit::Seconds,
            self.feed_lag.gauge.clone(),
        );
        to.register("connections", "Open client connections", self.connections.clone());
        to.register(
            "connections_refused",
            "Connections refused at the limit on open connections",
            self.connections_refused.clone(),
        );
        to.register(
            "log_lines_dropped",
            "Log lines lost because a disk was full or slow, or stdout was not read",
            self.log_lines_dropped.clone(),
        );
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}
