//! Processes orders on this node: claims as many as there are free slots, runs each to its settled end, keeps
//! their leases alive, and is quiet where there is nothing to do. What processing means is left to `processor.rs`,
//! which order is next to the store. Where workers outside process them, it claims for those.

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
use crate::pull::Desk;
use crate::retry::RetryPolicy;
use crate::store::Store;

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

use guard::Guard;
use reports::Reports;
use running::Running;

/// Between two polls, and between two heartbeats, while no order is open. Even its shortest, by [`jittered`], is above
/// 30 s: two polls and two heartbeats a minute.
const QUIET_INTERVAL: Duration = Duration::from_secs(34);

#[derive(Clone, Copy, Debug)]
pub struct WorkerSettings {
    pub node: NodeId,
    /// Orders processed at once, at least 1; none where workers outside process them.
    pub slots: u32,
    /// How long a claim lasts unless renewed.
    pub lease: Duration,
    /// Longest run of one attempt.
    pub attempt_timeout: Duration,
    pub retry: RetryPolicy,
    /// Attempts begun per second at most, above zero.
    pub rate_limit: Option<f64>,
    /// Leave the store alone after some quiet time, until a request to this node wakes it.
    pub idle_sleep: bool,
}

/// The running tasks of a node's worker; `drain` ends them.
pub struct Worker {
    shared: Arc<Shared>,
    dispatcher: JoinHandle<()>,
    heartbeat: JoinHandle<()>,
}

/// What the tasks of one worker have in common.
struct Shared {
    store: Arc<dyn Store>,
    /// `None` where workers outside process the orders.
    processor: Option<Arc<dyn Processor>>,
    settings: WorkerSettings,
    metrics: Metrics,
    running: Running,
    guard: Arc<Guard>,
    reports: Reports,
    /// Set by the dispatcher, who sees what there is to do; kept by the heartbeat.
    pace: watch::Sender<Pace>,
    /// One permit per free slot; taken before a claim and moved into the task that runs the lease.
    slots: Arc<Semaphore>,
    /// As many permits as there are slots, one for each result that is on its way into the store.
    results: Arc<Semaphore>,
    /// Slots in which an order is processed.
    busy: AtomicU32,
    executors: TaskTracker,
    /// No more claims.
    draining: CancellationToken,
    /// Unfinished attempts are given back now.
    hand_back: CancellationToken,
    /// The heartbeat may end: nothing runs any more.
    stopped: CancellationToken,
    /// Told after every heartbeat that a sweep is to follow.
    beaten: Arc<Notify>,
    /// Told after every heartbeat.
    awake: Arc<Notify>,
}

/// How much this node asks of its store, most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pace {
    /// Orders are open, here or on another node.
    Working,
    /// No order of the store is open, and nothing runs here.
    Idle,
    /// No call at all.
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
    /// The node has joined the store, or could not reach it: then the first heartbeat that can be stored announces it.
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
            shared,
        }
    }

    /// The same for a node that hands its orders out at the desk and processes none: it has no slots.
    pub fn start_for(
        desk: Arc<Desk>,
        store: Arc<dyn Store>,
        settings: WorkerSettings,
        metrics: Metrics,
    ) -> Worker {
        let shared = Worker::shared(store, None, settings, metrics);
        Worker {
            dispatcher: tokio::spawn(outside::run(shared.clone(), desk)),
            heartbeat: tokio::spawn(heartbeat::run(shared.clone())),
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
            settings,
            guard: Guard::new(settings.slots, settings.rate_limit, metrics.clone()),
            metrics,
            reports: Reports::default(),
            running: Running::default(),
            pace: watch::Sender::new(Pace::Working),
            slots: Arc::new(Semaphore::new(settings.slots as usize)),
            results: Arc::new(Semaphore::new(settings.slots as usize)),
            busy: AtomicU32::new(0),
            executors: TaskTracker::new(),
            draining: CancellationToken::new(),
            hand_back: CancellationToken::new(),
            stopped: CancellationToken::new(),
            beaten: Arc::default(),
            awake: Arc::default(),
        })
    }

    /// Stops claiming, lets attempts finish until `hand_back_at` or until [`Worker::hand_back`], then gives the
    /// rest back, and returns when all of that is stored - or when nothing more can be stored.
    pub async fn drain(self, hand_back_at: Instant) {
        let shared = self.shared;
        // However this ends, the heartbeat ends with it.
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
    }

    /// Told after every heartbeat that was stored while orders are open anywhere: this node's leases have just been
    /// renewed.
    pub fn beaten(&self) -> Arc<Notify> {
        self.shared.beaten.clone()
    }

    /// Told after every heartbeat that was stored, also while no order is open: the store is there, and this node does not
    /// leave it alone.
    pub fn awake(&self) -> Arc<Notify> {
        self.shared.awake.clone()
    }

    /// Cancelling it gives unfinished attempts back at once, whatever `drain` was told.
    pub fn hand_back(&self) -> CancellationToken {
        self.shared.hand_back.clone()
    }
}

fn ended(task: &'static str, result: Result<(), tokio::task::JoinError>) {
    if let Err(error) = result {
        tracing::error!(task, %error, "a worker task ended abnormally");
    }
}

/// A share of a span, so that nodes and tasks that started together do not stay in step.
fn jittered(span: Duration) -> Duration {
    span.mul_f64(rand::random_range(0.9..=1.0))
}
