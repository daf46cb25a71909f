//! A node without its HTTP side - worker, janitor, store - and its time. The store's thread does not know of tokio's paused time, so time is driven
//! by hand: both clocks move in small steps, and between two steps the test looks at the store.

use std::sync::Arc;
use std::time::Duration;

use orderly::janitor;
use orderly::lease::NodeId;
use orderly::metrics::Metrics;
use orderly::order::{OrderId, OrderStatus};
use orderly::pull::Desk;
use orderly::retry::RetryPolicy;
use orderly::store::{Breaker, GiveBack, Heartbeat, Node, Store};
use orderly::worker::{Worker, WorkerSettings};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::Harness;
use crate::support::make::CRASHES_MAX;

pub use super::script::{Script, Step};

pub const NODE: NodeId = NodeId(0x5EED);
pub const LEASE: Duration = Duration::from_secs(30);
/// How far time moves between two looks.
pub const STEP: Duration = Duration::from_millis(20);
/// The same where only minutes and hours matter.
const LONG_STEP: Duration = Duration::from_millis(500);
/// What a worker asks of the store for one order, one after the other, when no time passes in between: the claim and the
/// result, and the next claim. The writer's thread takes its own time for each, which on a busy machine is long.
const CALLS_OF_AN_ORDER: usize = 3;
/// A node that never joined.
const NOBODY: NodeId = NodeId(0xD0_0D);
/// Virtual time after which what a test waits for is not going to happen.
const PATIENCE: Duration = Duration::from_mins(30);

pub struct World {
    pub harness: Harness,
    pub script: Arc<Script>,
    pub metrics: Metrics,
    node: Option<AtWork>,
    /// While it lives, tokio does not move its paused time by itself.
    _time_stands_still: std::sync::mpsc::Sender<()>,
}

/// Which worker a test wants.
#[derive(Clone, Copy)]
pub struct Setting {
    pub slots: u32,
    pub attempts_max: u32,
    pub attempt_timeout: Duration,
    pub idle_sleep: bool,
    pub rate_limit: Option<f64>,
    /// How long the janitor keeps orders that ended.
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
struct AtWork {
    worker: Worker,
    janitors: Vec<JoinHandle<()>>,
    stopped: CancellationToken,
}

impl AtWork {
    fn start(store: Arc<dyn Store>, script: Arc<Script>, setting: Setting, metrics: Metrics) -> AtWork {
        let worker = Worker::start(store.clone(), script, setting.worker(), metrics);
        AtWork::around(worker, store, setting)
    }

    fn around(worker: Worker, store: Arc<dyn Store>, setting: Setting) -> AtWork {
        let stopped = CancellationToken::new();
        let sweep = GiveBack {
            node: NODE,
            crashes_max: CRASHES_MAX,
            after: None,
        };
        let leases = janitor::leases::run(store.clone(), sweep, worker.beaten(), stopped.clone());
        let mut janitors = vec![tokio::spawn(leases)];
        if let Some(older_than) = setting.retention {
            let retention = janitor::retention::run(store, older_than, worker.awake(), stopped.clone());
            janitors.push(tokio::spawn(retention));
        }
        AtWork {
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

    /// The worker sees the store through `twist`; the test sees the store itself.
    pub async fn with_store(setting: Setting, twist: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> World {
        World::with(setting, twist, |store, script, metrics| {
            AtWork::start(store, script, setting, metrics)
        })
        .await
    }

    /// The same with a node that hands its orders out at the desk.
    pub async fn with_desk(
        setting: Setting,
        twist: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
    ) -> (World, Arc<Desk>) {
        let mut desk = None;
        let world = World::with(setting, twist, |store, _, metrics| {
            let desk = desk.insert(Desk::new(store.wakeups(), metrics.clone()));
            let worker = Worker::start_for(desk.clone(), store.clone(), setting.worker(), metrics);
            AtWork::around(worker, store, setting)
        })
        .await;
        (world, desk.expect("the node has started"))
    }

    async fn with(
        setting: Setting,
        twist: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
        start: impl FnOnce(Arc<dyn Store>, Arc<Script>, Metrics) -> AtWork,
    ) -> World {
        let (time_stands_still, held) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || held.recv());
        let harness = Harness::sqlite().await;
        let script = Arc::new(Script::default());
        let metrics = Metrics::new();
        let store = twist(harness.store().clone());
        let heartbeat = Heartbeat {
            node: NODE,
            slots: setting.slots,
            busy: 0,
            leases: Vec::new(),
            lease: LEASE,
            breaker: Breaker::Closed,
            processor: None,
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

    /// Moves time until the condition holds.
    pub async fn until(&self, what: &str, condition: impl AsyncFn(&World) -> bool) {
        let started = Instant::now();
        while !condition(self).await {
            assert!(started.elapsed() < PATIENCE, "{what} did not happen");
            self.step(STEP).await;
        }
    }

    /// Lets so much time pass.
    pub async fn pass(&self, span: Duration) {
        self.pass_by(STEP, span, async |_| {}).await;
    }

    /// The same in long steps, looking at the world after each.
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

    /// Stops the node's process for so long and lets it go on: the store's time passes and others act, while the
    /// node's clock shows nothing of it until all of the time is over at once. Signals of the store still reach it: a
    /// node with free slots would claim what others give back.
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
            // The writer answers in order, and this goes through it although it changes nothing: when it is answered,
            // so is what the worker had asked for before, and time does not run ahead of the writer.
            self.harness.store().leave(NOBODY).await.unwrap();
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Until the one attempt that there is to be has begun.
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

    /// The node as the store lists it.
    pub async fn listed(&self) -> Option<Node> {
        let queue = self.harness.store().queue().await.unwrap();
        queue.nodes.into_iter().find(|node| node.node == NODE)
    }

    /// Ends the worker as a stop does, unfinished attempts being handed back after `grace`.
    pub async fn drain(&mut self, grace: Duration) {
        let node = self.node.take().expect("a node is drained once");
        let drained = tokio::spawn(node.drain(Instant::now() + grace));
        self.until("the worker to stop", async |_| drained.is_finished())
            .await;
        drained.await.unwrap();
    }

    /// Another worker on the same store, after the first was drained.
    pub fn restart(&mut self, setting: Setting) {
        assert!(self.node.is_none(), "one node at a time");
        let store = self.harness.store().clone();
        let node = AtWork::start(store, self.script.clone(), setting, self.metrics.clone());
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
