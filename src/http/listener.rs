//! Sockets: accepts connections up to a limit, lets strangers that move no byte give way there, cuts clients that stall, and
//! lets every request under way end when the server drains. Who is slow is judged by `watch`, who gives way by `crowd`; connections
//! without a place are left to `overflow`, requests to the router.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
use tower::Service;

use super::{tapped::Tapped, ways};
use crate::metrics::Metrics;
use bodies::{ReadBody, WatchedBody};
use crowd::{Crowd, Entry, Place};
use overflow::Overflow;
use refusal::linger;
use watch::Watch;

mod bodies;
mod crowd;
mod limits;
mod newcomer;
mod overflow;
mod refusal;
mod takeover;
mod watch;

pub use limits::{CONNECTIONS_ABOVE_THE_LIMIT, Limits};
pub use newcomer::Newcomer;
pub use takeover::Takeover;

/// The media type of answers that go on until the server drains.
pub const EVENT_STREAM: &str = "text/event-stream";
/// Head bytes in memory per connection; also bounds what is read of a body, or written of an answer, ahead of
/// who takes it. A longer head is a 431.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// How long what was sent may stay without an acknowledgement (RFC 5482): longer than a bad line's worst moments.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MS_MAX: u32 = 60_000;
/// Before the next try to accept when the process has no file descriptors or memory left: connections must end
/// first, and trying faster would burn the processor they need.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Between two log lines that say the same of connections: a flood of them must not become one of lines.
const LOGGED_EVERY: Duration = Duration::from_mins(1);

/// What answers requests: every route behind one door.
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

/// Serves until `draining`, then lets every connection finish its request. Dropping the future ends what is left.
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
    connections: Crowd,
    overflow: Overflow<R>,
    metrics: Metrics,
    draining: CancellationToken,
    failing: Seldom,
}

impl<R: Answers> Server<R> {
    fn new(router: R, limits: Limits, metrics: Metrics, draining: CancellationToken) -> Server<R> {
        Server {
            overflow: Overflow::new(router.clone(), limits, metrics.clone()),
            router,
            limits,
            connections: Crowd::new(limits.connections_max),
            metrics,
            draining,
            failing: Seldom::default(),
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
        // Connections that wait in the backlog are reset rather than left hanging.
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
            Entry::Soon(soon) => {
                let (router, overflow) = (self.router.clone(), self.overflow.clone());
                tasks.spawn(async move {
                    if let Some(place) = soon.place().await {
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
        let of_the_client = matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::Interrupted
        );
        if of_the_client {
            return;
        }
        if self.failing.is_due() {
            tracing::warn!(%error, "cannot accept connections; trying again");
        }
        tokio::select! {
            () = tokio::time::sleep(ACCEPT_PAUSE) => {}
            () = self.draining.cancelled() => {}
        }
    }
}

/// A peer that went without a word - its power failed, its network changed - is noticed when what was sent to it stays
/// without an acknowledgement; left to the system, a stream to it would live on for a quarter of an hour.
#[cfg(target_os = "linux")]
fn give_up_on_the_dead(stream: &TcpStream) {
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS_MAX);
}

#[cfg(not(target_os = "linux"))]
fn give_up_on_the_dead(_stream: &TcpStream) {}

/// True once in [`LOGGED_EVERY`].
#[derive(Default)]
struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    fn is_due(&self) -> bool {
        let mut last = unpoisoned(&self.0);
        let now = Instant::now();
        let due = last.is_none_or(|last| now - last >= LOGGED_EVERY);
        if due {
            *last = Some(now);
        }
        due
    }
}

/// Counts as open until it is dropped.
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

/// A connection that has its place.
struct Connection {
    stream: TcpStream,
    place: Place,
    limits: Limits,
    _open: Open,
}

impl Connection {
    fn new(open: Gauge, stream: TcpStream, place: Place, limits: Limits) -> Connection {
        // Only hints: a stream that refuses them serves all the same.
        let _ = stream.set_nodelay(true);
        give_up_on_the_dead(&stream);
        Connection {
            stream,
            place,
            limits,
            _open: Open::new(open),
        }
    }

    async fn serve(self, router: impl Answers, draining: CancellationToken) {
        let watch = Arc::new(Watch::new(self.limits));
        let _occupied = self.place.occupy(watch.clone());
        converse(self.stream, router, watch, self.limits, &draining).await;
    }
}

/// Serves one connection to its end: the client's, a limit's, the need of its place, or the server's.
async fn converse<S>(
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
        watch.request_begins(request.body().size_hint().exact(), ways::may_be_held(&request));
        if watch.is_newcomer() {
            request.extensions_mut().insert(Newcomer(watch.clone()));
        }
        let mut router = router.clone();
        let (watch, takeover) = (watch.clone(), takeover.clone());
        async move {
            let request = request.map(|body| Body::new(ReadBody::new(body, watch.clone())));
            let Ok(mut response) = router.call(request).await;
            if let Some(planned) = response.extensions_mut().remove::<Takeover>() {
                watch.is_taken_over();
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
    // hyper's own timer is not used: it cannot tell an idle connection from a slow head.
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(BUFFER_BYTES_MAX)
        // Most answers are short: copied behind their head and sent as one they take less than as two. See WatchedBody.
        .writev(false)
        .serve_connection(TokioIo::new(Tapped::new(stream, watch.clone())), service)
        .with_upgrades();
    let (mut told, mut sent_away) = (false, false);
    loop {
        tokio::select! {
            // What can go wrong here is the client's doing, or said in an answer already.
            _ended = &mut connection => break,
            () = watch.expired() => return,
            () = watch.sent_away() => {
                sent_away = true;
                // A request may have begun just now, and is answered unless it stalls.
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
            () = draining.cancelled(), if !told => {
                told = true;
                watch.drains();
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
    let planned = unpoisoned(&takeover).take();
    match (connection.into_parts(), planned) {
        (None, Some(planned)) => Takeover::carry_out(planned).await,
        // A drain waits a little for a client that still sends, or the client would not see its refusal.
        (Some(parts), _) if !sent_away && (!told || watch.answered_early()) => {
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
                () = watch.sent_away() => {}
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

/// Every write to it is whole.
fn unpoisoned<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection ended by a panic");
    }
}

#[cfg(test)]
mod tests;
