//! Sockets: accepts connections up to a limit, evicts idle unverified connections at the limit, cuts stalled clients,
//! and lets running requests finish when the server drains. `watch` measures stalls, `admission` chooses the connection
//! to evict, `overflow` answers connections without a place, and the router answers requests.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use futures_util::future::join_all;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service};

use super::{dispatch, observed_stream::ObservedStream};
use crate::log_lines::Throttle;
use crate::metrics::Metrics;
use admission::{Admission, Entry, Place};
use bodies::{ReadBody, WatchedBody};
use overflow::Overflow;
use refusal::linger;
use watch::Watch;

mod admission;
mod bodies;
mod limits;
mod new_client;
mod overflow;
mod refusal;
mod takeover;
mod watch;

pub use limits::{CONNECTIONS_ABOVE_THE_LIMIT, Limits};
pub use new_client::{ClientAddress, NewClient};
pub use takeover::Takeover;

/// Media type of answers that last until the server drains.
pub const EVENT_STREAM: &str = "text/event-stream";
/// Maximum head bytes in memory per connection; a longer head gets a 431. Also limits how much of a body or an answer
/// is buffered.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// The time sent bytes may stay unacknowledged (RFC 5482), longer than the outages of a poor line.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MS_MAX: u32 = 60_000;
/// Pause before the next accept when the process is out of file descriptors or memory: connections must end first, and
/// retrying faster would use the CPU they need.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Service that answers all requests.
pub trait Answers:
    Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static
{
}

impl<S> Answers for S where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Serves until `draining`, then lets every connection finish its request. Dropping the future ends the rest.
pub async fn serve(
    listeners: Vec<TcpListener>,
    router: impl Answers,
    limits: Limits,
    metrics: Metrics,
    draining: CancellationToken,
) {
    let server = Server::new(router, limits, metrics, draining);
    join_all(listeners.into_iter().map(|listener| server.accept_all(listener))).await;
}

struct Server<R> {
    router: R,
    limits: Limits,
    connections: Admission,
    overflow: Overflow<R>,
    metrics: Metrics,
    draining: CancellationToken,
    /// A flood of connections must not flood the log.
    failing: Throttle<()>,
}

impl<R: Answers> Server<R> {
    fn new(router: R, limits: Limits, metrics: Metrics, draining: CancellationToken) -> Server<R> {
        Server {
            overflow: Overflow::new(router.clone(), limits, metrics.clone()),
            router,
            limits,
            connections: Admission::new(limits.connections_max),
            metrics,
            draining,
            failing: Throttle::default(),
        }
    }

    async fn accept_all(&self, listener: TcpListener) {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                () = self.draining.cancelled() => break,
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => log_panic(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.admit(stream, &mut tasks),
                    Err(error) => self.pause_after(&error).await,
                },
            }
        }
        // Connections in the backlog are reset rather than left hanging.
        drop(listener);
        while let Some(ended) = tasks.join_next().await {
            log_panic(ended);
        }
    }

    fn admit(&self, stream: TcpStream, tasks: &mut JoinSet<()>) {
        let open = self.metrics.connections.clone();
        let (limits, draining) = (self.limits, self.draining.clone());
        match self.connections.enter() {
            Entry::Place(place) => {
                let connection = Connection::new(open, stream, place, limits);
                tasks.spawn(connection.serve(self.router.clone(), draining));
            }
            Entry::Evicting(eviction) => {
                let (router, overflow) = (self.router.clone(), self.overflow.clone());
                tasks.spawn(async move {
                    if let Some(place) = eviction.place().await {
                        let connection = Connection::new(open, stream, place, limits);
                        connection.serve(router, draining).await;
                    } else {
                        overflow.answer(stream, draining).await;
                    }
                });
            }
            Entry::Full => {
                tasks.spawn(self.overflow.clone().answer(stream, draining));
            }
        }
    }

    async fn pause_after(&self, error: &io::Error) {
        let is_client_error = matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::Interrupted
        );
        if is_client_error {
            return;
        }
        if self.failing.due((), Instant::now()).is_some() {
            tracing::warn!(%error, "cannot accept connections; retrying. If files run out, raise ulimit -n or lower ORDERLY_MAX_CONNECTIONS");
        }
        tokio::select! {
            () = tokio::time::sleep(ACCEPT_PAUSE) => {}
            () = self.draining.cancelled() => {}
        }
    }
}

/// Detects a peer that vanished (power failure, network change) by unacknowledged bytes. With the system's default a
/// stream to it would live on for a quarter of an hour.
#[cfg(target_os = "linux")]
fn detect_lost_peer(stream: &TcpStream) {
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS_MAX);
}

#[cfg(not(target_os = "linux"))]
fn detect_lost_peer(_stream: &TcpStream) {}

/// Counts a connection as open until dropped.
struct Open(Gauge);

impl Open {
    fn new(open: Gauge) -> Open {
        open.inc();
        Open(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A connection with its place.
struct Connection {
    stream: TcpStream,
    place: Place,
    limits: Limits,
    _open: Open,
}

impl Connection {
    fn new(open: Gauge, stream: TcpStream, place: Place, limits: Limits) -> Connection {
        // Only hints: a socket that refuses them still serves.
        let _ = stream.set_nodelay(true);
        detect_lost_peer(&stream);
        Connection {
            stream,
            place,
            limits,
            _open: Open::new(open),
        }
    }

    async fn serve(self, router: impl Answers, draining: CancellationToken) {
        let watch = Arc::new(Watch::new(self.limits));
        let _registration = self.place.register(watch.clone());
        let router = Extension(ClientAddress(self.stream.peer_addr().ok())).layer(router);
        serve_connection(self.stream, router, watch, self.limits, &draining).await;
    }
}

/// Serves one connection until the client, a limit, an eviction or the server ends it.
async fn serve_connection<S>(
    stream: S,
    router: impl Answers,
    watch: Arc<Watch>,
    limits: Limits,
    draining: &CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let takeover = Arc::new(Mutex::new(None));
    let service = service_fn(|mut request: Request<Incoming>| {
        watch.request_begins(request.body().size_hint().exact(), dispatch::may_wait(&request));
        if watch.awaits_key_check() {
            request.extensions_mut().insert(NewClient(watch.clone()));
        }
        let mut router = router.clone();
        let (watch, takeover) = (watch.clone(), takeover.clone());
        async move {
            let request = request.map(|body| Body::new(ReadBody::new(body, watch.clone())));
            let Ok(mut response) = router.call(request).await;
            if let Some(planned) = response.extensions_mut().remove::<Takeover>() {
                watch.take_over();
                *unpoisoned(&takeover) = Some(planned);
            } else if watch.answers_early() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            if is_event_stream(response.headers()) {
                watch.streams();
            }
            Ok::<_, Infallible>(response.map(|body| WatchedBody::new(body, watch)))
        }
    });
    // hyper's own timer cannot tell an idle connection from a slow head.
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(BUFFER_BYTES_MAX)
        // Most answers are short: one write of a copy behind the head is cheaper than two writes. See WatchedBody.
        .writev(false)
        .serve_connection(TokioIo::new(ObservedStream::new(stream, watch.clone())), service)
        .with_upgrades();
    let (mut drain_begun, mut evicted) = (false, false);
    loop {
        tokio::select! {
            // An error here is the client's, or was reported in an answer.
            _ended = &mut connection => break,
            () = watch.expired() => return,
            () = watch.evicted() => {
                evicted = true;
                // A request may have just begun; it is answered unless it stalls.
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
            () = draining.cancelled(), if !drain_begun => {
                drain_begun = true;
                watch.drains();
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
    let planned = unpoisoned(&takeover).take();
    match (connection.into_parts(), planned) {
        (None, Some(planned)) => Takeover::carry_out(planned).await,
        // A drain waits briefly for a client that still sends, which would otherwise miss its refusal.
        (Some(parts), _) if !evicted && (!drain_begun || watch.answered_early()) => {
            let still_sends = watch.answered_early();
            let patience = if still_sends {
                limits.linger
            } else {
                limits.short_linger
            };
            watch.lingers();
            let mut stream = parts.io.into_inner().into_inner();
            tokio::select! {
                () = linger(&mut stream, patience) => {}
                () = watch.evicted() => {}
                () = async {
                    draining.cancelled().await;
                    if still_sends {
                        tokio::time::sleep(limits.draining_linger).await;
                    }
                } => {}
            }
        }
        (Some(_) | None, _) => {}
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes() == EVENT_STREAM.as_bytes())
}

/// Every write leaves the value whole, so a panic elsewhere does no harm.
fn unpoisoned<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection task panicked");
    }
}

#[cfg(test)]
mod tests;
