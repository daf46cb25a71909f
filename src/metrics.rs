//! What this process counts about itself since it started, for Prometheus. The numbers of the orders are the
//! store's, not these; choosing a format for a scraper is left to `http/metrics.rs`.

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
pub mod store_calls;

pub use feed_lag::FeedLag;
use store_calls::StoreCalls;

/// Seconds; from a fast commit to the longest ordinary processing. Close around the 2, 5 and 10 s of the simulated processor,
/// a little above which its attempts end: a quantile is read between two bounds, and must not come out as 7.5 s for 5.
const ORDER_SECONDS: [f64; 22] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 1.95, 2.1, 3.0, 4.0, 4.9, 5.2, 7.5, 9.8, 10.4, 30.0,
    60.0, 300.0, 3600.0,
];
const REQUEST_SECONDS: [f64; 11] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0,
];
const GROUP_CALLS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// Handles are cheap to clone; one set per process.
#[derive(Clone)]
pub struct Metrics {
    pub registry: Arc<Registry>,
    pub orders_accepted: Counter,
    pub attempts: Family<AttemptLabels, Counter>,
    /// Results refused because their lease was no longer valid.
    pub stale_results_rejected: Counter,
    pub leases_lost: Counter,
    /// Leases given to workers outside.
    pub leases_granted: Counter,
    /// Requests for leases that wait at this node.
    pub lease_requests_waiting: Gauge,
    /// What workers outside came back with.
    pub outside_results: Family<OutsideLabels, Counter>,
    /// Acceptance to the first start.
    pub order_wait: Histogram,
    /// Start to result of one attempt.
    pub order_processing: Histogram,
    pub slots_busy: Gauge,
    pub slots: Gauge,
    /// 1 for the state it is in, 0 for the others.
    pub breaker_state: Family<BreakerLabels, Gauge>,
    pub breaker_openings: Counter,
    /// Calls carried out by one commit.
    pub store_group_calls: Histogram,
    /// One commit, its sync included.
    pub store_commit: Histogram,
    pub store_errors: Counter,
    /// Calls of the store, as their callers see them.
    pub store_calls: StoreCalls,
    /// Committed pages that are not copied into the database yet.
    pub store_wal_bytes: Gauge,
    pub http_requests: Family<RequestLabels, Counter>,
    pub http_request_duration: Family<DurationLabels, Histogram, fn() -> Histogram>,
    /// Streams and held reads that follow the feed.
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
    /// The lease was lost or the order cancelled while it ran.
    abandoned,
    /// Others go on with it.
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
    /// Refused: the token was no longer the order's.
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
    /// A standard method's name, or `other`.
    pub method: &'static str,
    /// The pattern that matched, never the path; `none` where none did.
    pub route: &'static str,
    pub status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DurationLabels {
    /// A standard method's name, or `other`.
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

    /// Starts each counter at 0, so that the first of a kind is a rise too. A counter that appears with it shows none.
    fn begin_at_zero(&self) {
        for result in AttemptResult::ALL {
            drop(self.attempts.get_or_create(&AttemptLabels { result }));
        }
        for result in OutsideResult::ALL {
            drop(self.outside_results.get_or_create(&OutsideLabels { result }));
        }
    }

    /// One commit of the store: so many calls in it, and how long it took.
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
            "Orders taken back from nodes whose lease ran out",
            self.leases_lost.clone(),
        );
        to.register(
            "leases_granted",
            "Leases given to workers outside",
            self.leases_granted.clone(),
        );
        to.register(
            "lease_requests_waiting",
            "Requests for leases that wait at this node",
            self.lease_requests_waiting.clone(),
        );
        to.register(
            "outside_results",
            "Results that workers outside came back with",
            self.outside_results.clone(),
        );
        to.register_with_unit(
            "order_wait",
            "Acceptance to first start",
            Unit::Seconds,
            self.order_wait.clone(),
        );
        to.register_with_unit(
            "order_processing",
            "Start to result of one attempt",
            Unit::Seconds,
            self.order_processing.clone(),
        );
        to.register(
            "slots_busy",
            "Orders this node is processing",
            self.slots_busy.clone(),
        );
        to.register(
            "slots",
            "Orders this node processes at once at most",
            self.slots.clone(),
        );
        to.register(
            "breaker_state",
            "Whether this node claims orders, as far as what processes them is concerned: 1 for the state it is in",
            self.breaker_state.clone(),
        );
        to.register(
            "breaker_openings",
            "Times this node stopped claiming because what processes the orders was down",
            self.breaker_openings.clone(),
        );
        to.register(
            "store_group_calls",
            "Calls carried out by one commit",
            self.store_group_calls.clone(),
        );
        to.register_with_unit(
            "store_commit",
            "One commit, its sync included",
            Unit::Seconds,
            self.store_commit.clone(),
        );
        to.register(
            "store_errors",
            "Commits and checkpoints that failed",
            self.store_errors.clone(),
        );
        to.register_with_unit(
            "store_call",
            "One call of the store, from the call to its answer",
            Unit::Seconds,
            self.store_calls.clone(),
        );
        to.register_with_unit(
            "store_wal",
            "Log of the commits that is not copied into the database yet",
            Unit::Bytes,
            self.store_wal_bytes.clone(),
        );
        to.register("http_requests", "Requests answered", self.http_requests.clone());
        to.register_with_unit(
            "http_request_duration",
            "Request head to answer head",
            Unit::Seconds,
            self.http_request_duration.clone(),
        );
        to.register(
            "feed_subscribers",
            "Streams and held reads that follow the feed of changes",
            self.feed_subscribers.clone(),
        );
        to.register(
            "feed_deliveries",
            "Changes handed to subscribers",
            self.feed_deliveries.clone(),
        );
        to.register(
            "feed_subscribers_lagged",
            "Times a subscriber was too slow for its queue and went back to the log",
            self.feed_subscribers_lagged.clone(),
        );
        to.register_with_unit(
            "feed_lag",
            "How late changes come into the feed and out of it, whichever is later: how long something committed has \
             waited for its place, and the age of the oldest change when the feed was last read for those who listen",
            Unit::Seconds,
            self.feed_lag.gauge.clone(),
        );
        to.register("connections", "Open client connections", self.connections.clone());
        to.register(
            "connections_refused",
            "Connections refused because as many as allowed were open",
            self.connections_refused.clone(),
        );
        to.register(
            "log_lines_dropped",
            "Log lines lost: a disk was full or slow, or nobody read stdout",
            self.log_lines_dropped.clone(),
        );
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}
