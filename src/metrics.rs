//! Prometheus metrics of this process since its start. Counts of orders come from the store; `http/metrics.rs` chooses
//! the format for a scraper.

use std::sync::{Arc, Mutex};
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
use reads::{ReadKind, ReadLabels, ReadServer};
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

/// Counts of activity that a node stores every minute.
pub const ACTIVITY_COUNTS: usize = 7;

/// Declares the metrics of [`Metrics`], one row each: the help, the name, the type, the unit if it has one, and how it begins
/// if not empty.
macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $name:ident: $type:ty $(, $unit:ident)? $(= $first:expr)?;)+) => {
        /// Metric handles, cheap to clone; one set per process.
        #[derive(Clone)]
        pub struct Metrics {
            pub registry: Arc<Registry>,
            /// The counts of activity that the store has already, in the order of its columns.
            pub counts_stored: Arc<Mutex<[u64; ACTIVITY_COUNTS]>>,
            $($(#[doc = $help])+ pub $name: $type,)+
        }

        impl Metrics {
            fn registered() -> Metrics {
                let mut registry = Registry::with_prefix("orderly");
                $(
                    let $name: $type = metrics!(@first $($first)?);
                    let help = concat!($($help),+).trim().trim_end_matches('.');
                    metrics!(@register registry, stringify!($name), help, $name.clone() $(, $unit)?);
                )+
                Metrics {
                    registry: Arc::new(registry),
                    counts_stored: Arc::default(),
                    $($name,)+
                }
            }
        }
    };
    (@first) => { Default::default() };
    (@first $first:expr) => { $first };
    (@register $to:ident, $name:expr, $help:expr, $metric:expr) => { $to.register($name, $help, $metric) };
    (@register $to:ident, $name:expr, $help:expr, $metric:expr, $unit:ident) => {
        $to.register_with_unit($name, $help, Unit::$unit, $metric)
    };
}

metrics! {
    /// Orders stored by this process.
    orders_accepted: Counter;
    /// Orders that this process marked as overdue: their deadline passed before they were final.
    orders_overdue: Counter;
    /// Attempts started by this process.
    orders_started: Counter;
    /// Attempts ended by this process.
    attempts: Family<AttemptLabels, Counter>;
    /// Results refused because the lease was no longer valid.
    stale_results_rejected: Counter;
    /// Orders taken back from nodes whose lease expired.
    leases_lost: Counter;
    /// Leases granted to external workers.
    leases_granted: Counter;
    /// Lease requests waiting at this node.
    lease_requests_waiting: Gauge;
    /// Results returned by external workers.
    outside_results: Family<OutsideLabels, Counter>;
    /// Time from acceptance to first start.
    order_wait: Histogram, Seconds = Histogram::new(ORDER_SECONDS);
    /// Time from start to result of one attempt.
    order_processing: Histogram, Seconds = Histogram::new(ORDER_SECONDS);
    /// Attempts running on this node.
    slots_busy: Gauge;
    /// Maximum number of attempts running on this node.
    slots: Gauge;
    /// State of this node's breaker: 1 for the current state, 0 for the others.
    breaker_state: Family<BreakerLabels, Gauge>;
    /// Times this node stopped claiming because the processor was down.
    breaker_openings: Counter;
    /// Store calls carried out by one commit.
    store_group_calls: Histogram = Histogram::new(GROUP_CALLS);
    /// Duration of one commit, including its sync.
    store_commit: Histogram, Seconds = Histogram::new(REQUEST_SECONDS);
    /// Failed commits and checkpoints.
    store_errors: Counter;
    /// Duration of one store call, from the call to its answer.
    store_call: StoreCalls, Seconds = store_calls::store_calls();
    /// Pages of lists and of the feed by the server that answered, where a standby may serve them.
    reads: Family<ReadLabels, Counter>;
    /// Committed data in the write-ahead log that awaits a checkpoint.
    store_wal: Gauge, Bytes;
    /// Requests answered.
    http_requests: Family<RequestLabels, Counter>;
    /// Time from the request head to the answer head.
    http_request_duration: Family<DurationLabels, Histogram, fn() -> Histogram>, Seconds
        = Family::new_with_constructor(|| Histogram::new(REQUEST_SECONDS));
    /// Streams and long polls that follow the feed of changes.
    feed_subscribers: Gauge;
    /// Changes delivered to subscribers.
    feed_deliveries: Counter;
    /// Times a subscriber overflowed its queue and fell back to reading the stored feed.
    feed_subscribers_lagged: Counter;
    /// The longer of two delays of the feed: the time the oldest committed change has waited for its position, and the
    /// age of the oldest change when the feed was last read for subscribers.
    feed_lag: FeedLag, Seconds;
    /// Open client connections.
    connections: Gauge;
    /// Connections refused at the limit on open connections.
    connections_refused: Counter;
    /// Log lines lost because a disk was full or slow, or stdout was not read.
    log_lines_dropped: Counter;
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
        process::starts();
        let metrics = Metrics::registered();
        metrics.begin_at_zero();
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
        for labels in ReadLabels::all() {
            drop(self.reads.get_or_create(&labels));
        }
    }

    /// Counts a page of a list or of the feed by the server that answered.
    pub fn read(&self, kind: ReadKind, server: ReadServer) {
        self.reads.get_or_create(&ReadLabels { kind, server }).inc();
    }

    /// Records one commit of the store: the number of calls in it and its duration.
    pub fn committed(&self, calls: usize, took: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "groups are small")]
        self.store_group_calls.observe(calls as f64);
        self.store_commit.observe(took.as_secs_f64());
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}
