//! Composition root: builds, starts, drains and stops the parts of a server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, is_this_machine, on_this_machine};
use crate::diagnosis;
use crate::http::listener::{self, Limits};
use crate::http::{self, App, HEARTBEAT};
use crate::janitor;
use crate::lease::{NodeId, ProcessorKind};
use crate::live::{Live, LiveSettings};
use crate::metrics::Metrics;
use crate::order::OrderDefaults;
use crate::processor::Processor;
use crate::pull::{LeaseRequests, Outside, OutsideSettings};
use crate::store::open::{self, OpenError};
use crate::store::{GiveBack, Leaving, Store, StoreError, StoreHealth};
use crate::telemetry;
use crate::worker::{Worker, WorkerSettings};

mod clock;
mod descriptors;
mod joining;
mod processing;
mod signals;
mod store;

use signals::Signals;

/// Part of the drain time reserved for giving back unfinished orders and closing the store.
const HAND_BACK_TIME_MAX: Duration = Duration::from_secs(2);
/// Time for pending answers to be sent after the store has failed.
const LAST_ANSWERS_TIME: Duration = Duration::from_millis(500);

/// The reason why serving ended, other than a signal.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("prepare to call the service that processes the orders")]
    Processor(#[source] reqwest::Error),
    #[error("listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("wait for signals")]
    Signals(#[source] io::Error),
    #[error("announce this node in the store")]
    Join(#[source] StoreError),
    #[error("the store failed and only a restart can recover it: {0}")]
    StoreFailed(String),
}

/// Serves until SIGTERM, SIGINT, SIGQUIT or SIGHUP, then drains and returns; a second signal gives unfinished orders back
/// at once.
pub async fn run(config: Config, metrics: Metrics) -> Result<(), ServeError> {
    let processor = processing::processor(&config)?;
    let by = processing::by_whom(&config.processor);
    serve(config, processor, &by, metrics).await
}

/// Serves like [`run`] with your own processor, ignoring the configured one; see `examples/own_processor.rs`.
pub async fn run_with(
    config: Config,
    processor: Arc<dyn Processor>,
    metrics: Metrics,
) -> Result<(), ServeError> {
    let by = "orders are processed by this program";
    serve(config, Some(processor), by, metrics).await
}

async fn serve(
    config: Config,
    processor: Option<Arc<dyn Processor>>,
    by: &str,
    metrics: Metrics,
) -> Result<(), ServeError> {
    let mut signals = Signals::listen().map_err(ServeError::Signals)?;
    let store = store::open(&config, &metrics).await?;
    let started = match processor {
        Some(processor) => Server::start(&config, store.clone(), processor, metrics).await,
        None => Server::start_for_workers(&config, store.clone(), metrics).await,
    };
    let server = match started {
        Ok(server) => server,
        Err(error) => {
            store.close().await;
            return Err(error);
        }
    };
    announce(&config, &server);
    tracing::info!("{by}");
    let stopped = async {
        let name = signals.next().await;
        tracing::info!(
            "{name} received: finishing running work within {:?}",
            config.shutdown_grace
        );
        server.stop(config.shutdown_grace, signals.next()).await;
        tracing::info!("stopped");
    };
    let failed = tokio::select! {
        biased;
        reason = store.failed() => Some(reason),
        // The store may have failed with its very last sync.
        () = stopped => store.failed().now_or_never(),
    };
    let Some(reason) = failed else {
        return Ok(());
    };
    tracing::error!(%reason, "the store failed: no more orders are accepted, and this process exits");
    tokio::time::sleep(LAST_ANSWERS_TIME).await;
    Err(ServeError::StoreFailed(reason))
}

fn announce(config: &Config, server: &Server) {
    let Some(&address) = server.addresses.first() else {
        return;
    };
    let url = format!("http://{}", on_this_machine(address));
    let location = open::location(&config.database);
    let ready = match server.store.health() {
        StoreHealth::Ready => "is ready",
        StoreHealth::NotReady(_) => "listens, so far without its store,",
    };
    // The variable by name: the line must work when pasted, without the key in the log.
    let key = match config.api_key {
        Some(_) => " -H \"Authorization: Bearer $ORDERLY_API_KEY\"",
        None => "",
    };
    tracing::info!(
        target: telemetry::START_TARGET,
        address = address.to_string(),
        node = %server.node,
        name = &*server.name,
        "orderly {ready} at {url}, orders are kept in {location}; try: \
         curl -X POST {url}/orders -H 'Content-Type: application/json'{key} \
         -d '{{\"user_id\": 104, \"item_ids\": [101,102,103], \"total_amount\": 250.75}}'"
    );
}

/// A running node, from start to stop.
pub struct Server {
    addresses: Vec<SocketAddr>,
    node: NodeId,
    name: Arc<str>,
    store: Arc<dyn Store>,
    worker: Worker,
    http: JoinHandle<()>,
    janitors: Vec<JoinHandle<()>>,
    live: Live,
    draining: CancellationToken,
    /// Stops the background tasks.
    stopped: CancellationToken,
}

impl Server {
    /// Announces the node, takes over orders of dead nodes, and starts to listen and process. If the store opened without
    /// its database, the server waits for it while serving and answers 503.
    pub async fn start(
        config: &Config,
        store: Arc<dyn Store>,
        processor: Arc<dyn Processor>,
        metrics: Metrics,
    ) -> Result<Server, ServeError> {
        Server::begin(config, store, Some(processor), metrics).await
    }

    /// Starts a server for external workers, which pull the orders over HTTP; this node processes none.
    pub async fn start_for_workers(
        config: &Config,
        store: Arc<dyn Store>,
        metrics: Metrics,
    ) -> Result<Server, ServeError> {
        Server::begin(config, store, None, metrics).await
    }

    async fn begin(
        config: &Config,
        store: Arc<dyn Store>,
        processor: Option<Arc<dyn Processor>>,
        metrics: Metrics,
    ) -> Result<Server, ServeError> {
        let listeners = bind(&config.listen).await?;
        let addresses: Vec<SocketAddr> = listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect();
        let node = NodeId(rand::random());
        let slots = processor.as_ref().map_or(0, |_| config.concurrency);
        let kind = processor.as_ref().map_or(ProcessorKind::Pull, |own| own.kind());
        let name = node_name(config, &addresses);
        joining::join(&*store, node, &name, (slots, kind), config).await?;

        let draining = CancellationToken::new();
        let stopped = CancellationToken::new();
        let settings = WorkerSettings {
            node,
            name: name.clone(),
            slots,
            lease: config.lease,
            attempt_timeout: config.attempt_timeout,
            retry: config.retry,
            rate_limit: config.rate_limit,
            idle_sleep: config.idle_sleep,
        };
        let (worker, lease_requests) = if let Some(processor) = processor {
            let worker = Worker::start(store.clone(), processor, settings, metrics.clone());
            (worker, None)
        } else {
            let lease_requests = LeaseRequests::new(store.wakeups(), metrics.clone());
            let worker = Worker::start_for(lease_requests.clone(), store.clone(), settings, metrics.clone());
            (worker, Some(lease_requests))
        };
        let outside = Outside {
            store: store.clone(),
            settings: OutsideSettings {
                lease: config.lease,
                attempt_timeout: config.attempt_timeout,
                retry: config.retry,
            },
            lease_requests,
            metrics: metrics.clone(),
        };
        let sweep = GiveBack {
            node,
            crashes_max: config.crashes_max,
            after: None,
        };
        let live = Live::start(
            store.clone(),
            metrics.clone(),
            LiveSettings {
                idle_sleep: config.idle_sleep,
            },
            draining.clone(),
        );
        let leases = janitor::leases::run(store.clone(), sweep, worker.sweep_due(), stopped.clone());
        let timers = janitor::timers::run(store.clone(), stopped.clone());
        let mut janitors = vec![tokio::spawn(leases), tokio::spawn(timers)];
        if let Some(older_than) = config.retention {
            let retention =
                janitor::retention::run(store.clone(), older_than, worker.awake(), stopped.clone());
            janitors.push(tokio::spawn(retention));
        }
        let calls_max = match kind {
            ProcessorKind::Simulated | ProcessorKind::Pull => 0,
            ProcessorKind::Http | ProcessorKind::Own | ProcessorKind::OwnDelivering => slots,
        };
        let connections_max = descriptors::connections(config.connections_max, calls_max);
        let router = http::router(App {
            store: store.clone(),
            metrics: metrics.clone(),
            api_key: config.api_key.clone(),
            local_only: config.listen.iter().all(|address| is_this_machine(address.ip())),
            live: live.feed(),
            outside,
            heartbeat: HEARTBEAT,
            service: Some(worker.service()),
            order_defaults: OrderDefaults {
                currency: config.currency,
            },
            judged_by: diagnosis::Settings {
                connections_max: Some(connections_max as u64),
                ..diagnosis::Settings::of(config)
            },
            draining: draining.clone(),
        });
        let limits = Limits::new(connections_max);
        let http = tokio::spawn(listener::serve(
            listeners,
            router,
            limits,
            metrics,
            draining.clone(),
        ));
        Ok(Server {
            addresses,
            node,
            name,
            store,
            worker,
            http,
            janitors,
            live,
            draining,
            stopped,
        })
    }

    /// Returns the addresses it listens on, with the real ports for a configured port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Drains within `grace`: refuses new work, finishes running work, gives back orders that cannot finish in time (at
    /// once when `hurry` resolves), and closes the store.
    pub async fn stop(self, grace: Duration, hurry: impl Future) {
        let deadline = Instant::now() + grace;
        let hand_back_at = deadline - HAND_BACK_TIME_MAX.min(grace / 4);
        self.draining.cancel();
        let hand_back = self.worker.hand_back();
        let cut_off = self.http.abort_handle();
        let http_ended = async {
            if timeout_at(hand_back_at, self.http).await.is_err() {
                cut_off.abort();
                tracing::warn!(
                    "closing connections that are still open at the end of the drain time; ORDERLY_SHUTDOWN_GRACE gives them more"
                );
            }
        };
        let drained = async {
            let drained = async { tokio::join!(http_ended, self.worker.drain(hand_back_at)) };
            tokio::pin!(drained);
            tokio::select! {
                _ = &mut drained => return,
                _ = hurry => hand_back.cancel(),
            }
            drained.await;
        };
        if timeout_at(deadline, drained).await.is_err() {
            tracing::error!("some orders could not be given back in time; the next start takes them back");
        }
        self.stopped.cancel();
        let closed = async {
            if let Err(error) = self.store.leave(self.node, Leaving::ToStop).await {
                tracing::warn!(%error, "cannot remove this node from the list of nodes; others call it silent for a while");
            }
            self.store.close().await;
            for janitor in self.janitors {
                if let Err(error) = janitor.await {
                    tracing::error!(%error, "a background task ended abnormally");
                }
            }
            if let Err(error) = self.live.ended().await {
                tracing::error!(%error, "the feed task ended abnormally");
            }
        };
        if timeout_at(deadline.max(Instant::now() + LAST_ANSWERS_TIME), closed)
            .await
            .is_err()
        {
            tracing::error!("the store did not close in time; everything it confirmed is durable");
        }
    }
}

/// Returns the configured name of the node, or the machine's name and the port.
fn node_name(config: &Config, addresses: &[SocketAddr]) -> Arc<str> {
    if let Some(name) = &config.node_name {
        return name.as_str().into();
    }
    let host = whoami::hostname().unwrap_or_else(|_| "localhost".to_owned());
    let port = addresses.first().map_or(0, SocketAddr::port);
    format!("{host}:{port}").into()
}

/// Listens on each address. Skips addresses that this machine lacks (such as `::1` without IPv6) if another one works.
async fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, ServeError> {
    let mut listeners = Vec::new();
    let mut missing = None;
    for &address in addresses {
        match TcpListener::bind(address).await {
            Ok(listener) => listeners.push(listener),
            Err(source) => {
                let passes = source.kind() == io::ErrorKind::AddrNotAvailable;
                let error = ServeError::Listen { address, source };
                if !passes {
                    return Err(error);
                }
                missing = Some(error);
            }
        }
    }
    match missing {
        Some(error) if listeners.is_empty() => Err(error),
        Some(_) | None => Ok(listeners),
    }
}
