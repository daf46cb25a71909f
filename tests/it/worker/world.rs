//! A node without its HTTP side (worker, janitor and store) in simulated time. The store's thread does not follow
//! tokio's paused clock, so the test moves both clocks by hand in small steps and inspects the store in between.

use std::sync::Arc;
use std::time::Duration;

use orderly::janitor;
use orderly::lease::NodeId;
use orderly::metrics::Metrics;
use orderly::order::{OrderId, OrderStatus};
use orderly::pull::LeaseRequests;
use orderly::retry::RetryPolicy;
use orderly::store::{Breaker, GiveBack, Heartbeat, Node, NodeReport, Store};
use orderly::worker::{Worker, WorkerSettings};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::Harness;
use crate::support::make::CRASHES_MAX;

pub use super::script::{Script, Step};

pub const NODE: NodeId = NodeId(0x5EED);
pub const LEASE: Duration = Duration::from_secs(30);
/// Time between two inspections.
pub const STEP: Duration = Duration::from_millis(20);
/// Used where only minutes and hours matter.
const LONG_STEP: Duration = Duration::from_millis(500);
/// Successive store calls of a worker for one order while no time passes: the claim, the result and the next claim. On
/// a busy machine the writer's thread needs real time for each.
const CALLS_OF_AN_ORDER: usize = 3;
/// A node that never joined.
const NOBODY: NodeId = NodeId(0xD0_0D);
/// Virtual time after which a wait has failed.
const PATIENCE: Duration = Duration::from_mins(30);

pub struct World {
    pub harness: Harness,
    pub script: Arc<Script>,
    pub metrics: Metrics,
    node: Option<NodeTasks>,
    /// Keeps tokio from advancing its paused clock while it exists.
    _time_stands_still: std::sync::mpsc::Sender<()>,
}

/// Settings of the node under test.
#[derive(Clone, Copy)]
pub struct Setting {
    pub slots: u32,
    pub attempts_max: u32,
    pub attempt_timeout: Duration,
    pub idle_sleep: bool,
    pub rate_limit: Option<f64>,
    /// The age at which the janitor removes final orders.
    pub retention: Option<Duration>,
}

impl Default for Setting {
    fn default() -> Setting {
        Setting {
            slots: 4,
            attempts_max: 3,
            attempt_timeout: Duration::from_mins(5),
            idle_sleep: false,
            rate_limit: None,
            retention: None,
        }
    }
}

impl Setting {
    fn worker(self) -> WorkerSettings {
        WorkerSettings {
            node: NODE,
            name: "world".into(),
            slots: self.slots,
            lease: LEASE,
            attempt_timeout: self.attempt_timeout,
            retry: RetryPolicy {
                attempts_max: self.attempts_max,
                base: Duration::from_secs(1),
                cap: Duration::from_mins(5),
            },
            idle_sleep: self.idle_sleep,
            rate_limit: self.rate_limit,
        }
    }
}

/// The tasks of a node.
struct NodeTasks {
    worker: Worker,
    janitors: Vec<JoinHandle<()>>,
    stopped: CancellationToken,
}

impl NodeTasks {
    fn start(store: Arc<dyn Store>, script: Arc<Script>, setting: Setting, metrics: Metrics) -> NodeTasks {
        let worker = Worker::start(store.clone(), script, setting.worker(), metrics);
        NodeTasks::around(worker, store, setting)
    }

    fn around(worker: Worker, store: Arc<dyn Store>, setting: Setting) -> NodeTasks {
        let stopped = CancellationToken::new();
        let sweep = GiveBack {
            node: NODE,
            crashes_max: CRASHES_MAX,
            after: None,
        };
        let leases = janitor::leases::run(store.clone(), sweep, worker.sweep_due(), stopped.clone());
        let timers = janitor::timers::run(store.clone(), stopped.clone());
        let mut janitors = vec![tokio::spawn(leases), tokio::spawn(timers)];
        if let Some(older_than) = setting.retention {
            let retention = janitor::retention::run(store, older_than, worker.awake(), stopped.clone());
            janitors.push(tokio::spawn(retention));
        }
        NodeTasks {
            worker,
            janitors,
            stopped,
        }
    }

    async fn drain(self, hand_back_at: Instant) {
        self.worker.drain(hand_back_at).await;
        self.stopped.cancel();
        for janitor in self.janitors {
            janitor.await.unwrap();
        }
    }
}

impl World {
    pub async fn new(setting: Setting) -> World {
        World::with_store(setting, |store| store).await
    }

    /// The worker sees the store through `layer`; the test sees the store itself.
    pub async fn with_store(setting: Setting, layer: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> World {
        World::with(setting, layer, |store, script, metrics| {
            NodeTasks::start(store, script, setting, metrics)
        })
        .await
    }

    /// Creates a node that hands out its orders to external workers.
    pub async fn with_lease_requests(
        setting: Setting,
        layer: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
    ) -> (World, Arc<LeaseRequests>) {
        let mut requests = None;
        let world = World::with(setting, layer, |store, _, metrics| {
            let requests = requests.insert(LeaseRequests::new(store.wakeups(), metrics.clone()));
            let worker = Worker::start_for(requests.clone(), store.clone(), setting.worker(), metrics);
            NodeTasks::around(worker, store, setting)
        })
        .await;
        (world, requests.expect("the node has started"))
    }

    async fn with(
        setting: Setting,
        layer: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
        start: impl FnOnce(Arc<dyn Store>, Arc<Script>, Metrics) -> NodeTasks,
    ) -> World {
        let (time_stands_still, held) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || held.recv());
        let harness = Harness::sqlite().await;
        let script = Arc::new(Script::default());
        let metrics = Metrics::new();
        let store = layer(harness.store().clone());
        let heartbeat = Heartbeat {
            node: NODE,
            slots: setting.slots,
            busy: 0,
            leases: Vec::new(),
            lease: LEASE,
            breaker: Breaker::Closed,
            processor: None,
            report: NodeReport::default(),
        };
        store.join(heartbeat, CRASHES_MAX).await.unwrap();
        let node = start(store, script.clone(), metrics.clone());
        World {
            harness,
            script,
            metrics,
            node: Some(node),
            _time_stands_still: time_stands_still,
        }
    }

    /// Advances time until the condition holds.
    pub async fn until(&self, what: &str, condition: impl AsyncFn(&World) -> bool) {
        let started = Instant::now();
        while !condition(self).await {
            assert!(started.elapsed() < PATIENCE, "timed out waiting for {what}");
            self.step(STEP).await;
        }
    }

    /// Advances time by this span.
    pub async fn pass(&self, span: Duration) {
        self.pass_by(STEP, span, async |_| {}).await;
    }

    /// Advances time in long steps and calls `look` after each.
    pub async fn pass_long(&self, span: Duration, look: impl AsyncFnMut(&World)) {
        self.pass_by(LONG_STEP, span, look).await;
    }

    pub async fn pass_by(&self, step: Duration, span: Duration, mut look: impl AsyncFnMut(&World)) {
        let started = Instant::now();
        while started.elapsed() < span {
            self.step(step).await;
            look(self).await;
        }
    }

    /// Freezes the node for this span: store time passes and others act, and then all of it passes for the node at
    /// once. Wake-ups still reach it, so a node with free slots would claim orders that others give back.
    pub async fn freeze(&self, span: Duration, meanwhile: impl AsyncFnOnce(&Harness)) {
        self.harness.advance(span).await;
        meanwhile(&self.harness).await;
        tokio::time::advance(span).await;
        self.step(STEP).await;
    }

    async fn step(&self, span: Duration) {
        self.harness.advance(span).await;
        tokio::time::advance(span).await;
        for _ in 0..CALLS_OF_AN_ORDER {
            // The writer answers in order. Once this no-op is answered, so are the worker's earlier calls, and time
            // does not run ahead of the writer.
            self.harness
                .store()
                .leave(NOBODY, orderly::store::Leaving::ToStop)
                .await
                .unwrap();
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits until the only attempt has begun.
    pub async fn until_begun(&self) {
        self.until("the attempt to begin", async |world| world.script.now() == 1)
            .await;
    }

    pub async fn until_status(&self, id: OrderId, status: OrderStatus) {
        self.until(&format!("order {id} to be {status:?}"), async |world| {
            world.harness.order(id).await.status == status
        })
        .await;
    }

    /// The node's entry in the store's list.
    pub async fn listed(&self) -> Option<Node> {
        let queue = self.harness.store().queue().await.unwrap();
        queue.nodes.into_iter().find(|node| node.node == NODE)
    }

    /// Stops the worker; unfinished attempts are given back after `grace`.
    pub async fn drain(&mut self, grace: Duration) {
        let node = self.node.take().expect("a node is drained once");
        let drained = tokio::spawn(node.drain(Instant::now() + grace));
        self.until("the worker to stop", async |_| drained.is_finished())
            .await;
        drained.await.unwrap();
    }

    /// Starts another worker on the same store, after the first was drained.
    pub fn restart(&mut self, setting: Setting) {
        assert!(self.node.is_none(), "one node at a time");
        let store = self.harness.store().clone();
        let node = NodeTasks::start(store, self.script.clone(), setting, self.metrics.clone());
        self.node = Some(node);
    }

    pub async fn end(mut self) {
        if self.node.is_some() {
            self.drain(Duration::ZERO).await;
        }
        self.harness.assert_sound().await;
        self.harness.store().close().await;
    }
}
