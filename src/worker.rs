//! Processes orders on this node: claims orders for free slots or external workers, runs each attempt until it is
//! settled, renews leases, and is quiet while idle. `processor.rs` defines processing; the store chooses the next orders.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::lease::{NodeId, ProcessorKind};
use crate::metrics::Metrics;
use crate::processor::Processor;
use crate::pull::LeaseRequests;
use crate::retry::RetryPolicy;
use crate::store::Store;

mod activity;
mod backoff;
mod dispatcher;
mod executor;
mod guard;
mod heartbeat;
mod judgement;
mod outside;
mod reports;
mod results;
mod running;
mod service_trouble;
mod waits;

use activity::Starts;
use guard::Guard;
use reports::Reports;
use running::Running;
use service_trouble::LastFailure;
pub use service_trouble::{ServiceTrouble, ServiceWatch};

/// Interval of polls and of heartbeats while no order is open. Even after [`jittered`] it is above 30 s: two polls and
/// two heartbeats a minute.
const QUIET_INTERVAL: Duration = Duration::from_secs(34);

#[derive(Clone, Debug)]
pub struct WorkerSettings {
    pub node: NodeId,
    /// `ORDERLY_NODE_NAME`.
    pub name: Arc<str>,
    /// Maximum number of running attempts, at least 1; 0 if external workers process the orders.
    pub slots: u32,
    /// Duration of a lease without renewal.
    pub lease: Duration,
    /// Maximum duration of one attempt.
    pub attempt_timeout: Duration,
    pub retry: RetryPolicy,
    /// Maximum attempts started per second, above zero.
    pub rate_limit: Option<f64>,
    /// Set to leave the store alone after some idle time, until a request to this node wakes it.
    pub idle_sleep: bool,
}

/// Tasks of a node's worker; `drain` ends them.
pub struct Worker {
    shared: Arc<Shared>,
    dispatcher: JoinHandle<()>,
    heartbeat: JoinHandle<()>,
    activity: JoinHandle<()>,
}

/// State shared by the tasks of one worker.
struct Shared {
    store: Arc<dyn Store>,
    /// `None` if external workers process the orders.
    processor: Option<Arc<dyn Processor>>,
    settings: WorkerSettings,
    metrics: Metrics,
    running: Running,
    guard: Arc<Guard>,
    reports: Reports,
    /// Set by the dispatcher, which sees the queue; followed by the heartbeat.
    pace: watch::Sender<Pace>,
    /// One permit per free slot, taken before a claim and moved into the task that runs the lease.
    slots: Arc<Semaphore>,
    /// One permit per slot, held by each result that is being stored.
    results: Arc<Semaphore>,
    /// Number of running attempts.
    busy: AtomicU32,
    starts: Starts,
    last_failure: LastFailure,
    executors: TaskTracker,
    /// Cancelled to stop claims.
    draining: CancellationToken,
    /// Cancelled to give unfinished attempts back at once.
    hand_back: CancellationToken,
    /// Cancelled when nothing runs any more, to end the heartbeat.
    stopped: CancellationToken,
    /// Notified after every heartbeat that a sweep should follow.
    sweep_due: Arc<Notify>,
    /// Notified after every heartbeat.
    awake: Arc<Notify>,
}

/// Load that this node puts on its store, highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pace {
    /// Orders are open on some node.
    Working,
    /// No order of the store is open, and nothing runs here.
    Idle,
    /// No calls at all.
    Asleep,
}

impl Shared {
    fn processor(&self) -> &dyn Processor {
        self.processor
            .as_deref()
            .expect("attempts run only on nodes with a processor")
    }

    fn processor_kind(&self) -> ProcessorKind {
        self.processor
            .as_ref()
            .map_or(ProcessorKind::Pull, |processor| processor.kind())
    }

    fn set_pace(&self, pace: Pace) {
        self.pace.send_if_modified(|current| {
            let changed = *current != pace;
            *current = pace;
            changed
        });
    }
}

impl Worker {
    /// Starts a worker. If the node could not join the store, the first stored heartbeat announces it.
    pub fn start(
        store: Arc<dyn Store>,
        processor: Arc<dyn Processor>,
        settings: WorkerSettings,
        metrics: Metrics,
    ) -> Worker {
        let shared = Worker::shared(store, Some(processor), settings, metrics);
        Worker {
            dispatcher: tokio::spawn(dispatcher::run(shared.clone())),
            heartbeat: tokio::spawn(heartbeat::run(shared.clone())),
            activity: tokio::spawn(activity::run(shared.clone())),
            shared,
        }
    }

    /// Starts a worker without slots that claims orders for waiting lease requests.
    pub fn start_for(
        requests: Arc<LeaseRequests>,
        store: Arc<dyn Store>,
        settings: WorkerSettings,
        metrics: Metrics,
    ) -> Worker {
        let shared = Worker::shared(store, None, settings, metrics);
        Worker {
            dispatcher: tokio::spawn(outside::run(shared.clone(), requests)),
            heartbeat: tokio::spawn(heartbeat::run(shared.clone())),
            activity: tokio::spawn(activity::run(shared.clone())),
            shared,
        }
    }

    fn shared(
        store: Arc<dyn Store>,
        processor: Option<Arc<dyn Processor>>,
        settings: WorkerSettings,
        metrics: Metrics,
    ) -> Arc<Shared> {
        metrics.slots.set(i64::from(settings.slots));
        Arc::new(Shared {
            store,
            processor,
            guard: Guard::new(settings.slots, settings.rate_limit, metrics.clone()),
            metrics,
            reports: Reports::default(),
            running: Running::default(),
            pace: watch::Sender::new(Pace::Working),
            slots: Arc::new(Semaphore::new(settings.slots as usize)),
            results: Arc::new(Semaphore::new(settings.slots as usize)),
            settings,
            busy: AtomicU32::new(0),
            starts: Starts::default(),
            last_failure: LastFailure::default(),
            executors: TaskTracker::new(),
            draining: CancellationToken::new(),
            hand_back: CancellationToken::new(),
            stopped: CancellationToken::new(),
            sweep_due: Arc::default(),
            awake: Arc::default(),
        })
    }

    /// Stops claiming, lets attempts finish until `hand_back_at` or [`Worker::hand_back`], then gives the rest back.
    /// Returns when all of that is stored, or nothing more can be stored.
    pub async fn drain(self, hand_back_at: Instant) {
        let shared = self.shared;
        // Ends the heartbeat however this function ends.
        let _stop = shared.stopped.clone().drop_guard();
        shared.draining.cancel();
        ended("dispatcher", self.dispatcher.await);
        shared.executors.close();
        tokio::select! {
            () = shared.executors.wait() => {}
            () = tokio::time::sleep_until(hand_back_at) => shared.hand_back.cancel(),
        }
        shared.executors.wait().await;
        shared.stopped.cancel();
        ended("heartbeat", self.heartbeat.await);
        ended("activity", self.activity.await);
    }

    /// Shows why the service is not asked, while that is so.
    pub fn service(&self) -> ServiceWatch {
        ServiceWatch(self.shared.clone())
    }

    /// Notified after every stored heartbeat while orders are open anywhere: this node has just renewed its leases.
    pub fn sweep_due(&self) -> Arc<Notify> {
        self.shared.sweep_due.clone()
    }

    /// Notified after every stored heartbeat, even while no order is open: the store is reachable, and this node does not
    /// sleep.
    pub fn awake(&self) -> Arc<Notify> {
        self.shared.awake.clone()
    }

    /// Token that, once cancelled, gives unfinished attempts back at once, whatever the deadline of `drain`.
    pub fn hand_back(&self) -> CancellationToken {
        self.shared.hand_back.clone()
    }
}

fn ended(task: &'static str, result: Result<(), tokio::task::JoinError>) {
    if let Err(error) = result {
        tracing::error!(task, %error, "a worker task ended abnormally");
    }
}

/// Shortens a span at random, so that nodes and tasks started together do not stay in step.
fn jittered(span: Duration) -> Duration {
    span.mul_f64(rand::random_range(0.9..=1.0))
}
