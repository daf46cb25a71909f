//! Sockets: accepts connections up to a limit, refuses the others politely, cuts clients that stall, and lets
//! every request under way end when the server drains. Who is slow is judged by `watch`; requests are left to
//! the router.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use futures_util::future::join_all;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::problem::{Problem, ProblemType};
use super::request::RequestId;
use crate::metrics::Metrics;
use watch::{Watch, WatchedBody, WatchedIo};

mod takeover;
mod watch;

pub use takeover::Takeover;

/// What a client may take of the server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once; above it they are refused with a 503.
    pub connections_max: usize,
    /// Refusals under way at once; above it connections are dropped without a word.
    pub refusals_max: usize,
    /// From connecting to the first byte.
    pub first_byte: Duration,
    /// From the first byte of a request's head to the last.
    pub head: Duration,
    /// From the end of an answer to the first byte of the next request.
    pub idle: Duration,
    /// Without the client taking a byte of its answer.
    pub write_stall: Duration,
    /// The same for an event stream once the server drains: its client can come back with its last id, and is no reason
    /// to keep a server from stopping.
    pub draining_stream_stall: Duration,
    /// For a client that is answered while it still sends: to read the answer before the connection ends.
    pub linger: Duration,
}

impl Limits {
    /// An honest client on a bad line stays far below the times. Load balancers commonly keep an idle connection
    /// for 60 seconds and must be the first to close it, so ours is longer.
    pub fn new(connections_max: usize) -> Limits {
        Limits {
            connections_max,
            refusals_max: 64,
            first_byte: Duration::from_secs(10),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            write_stall: Duration::from_secs(30),
            draining_stream_stall: Duration::from_secs(2),
            linger: Duration::from_secs(1),
        }
    }
}

/// The media type of answers that go on until the server drains.
pub const EVENT_STREAM: &str = "text/event-stream";
/// Head bytes in memory per connection; also bounds what is read of a body, or written of an answer, ahead of
/// who takes it. A longer head is a 431.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// How long what was sent may stay without an acknowledgement (RFC 5482): longer than a bad line's worst moments.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MS_MAX: u32 = 60_000;
/// Bytes thrown away of a client that sends on after its answer.
const LINGER_BYTES_MAX: usize = 1024 * 1024;
/// Before the next try to accept when the process has no file descriptors or memory left: connections must end
/// first, and trying faster would burn the processor they need.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

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
    let server = Server {
        router,
        limits,
        connections: Arc::new(Semaphore::new(limits.connections_max)),
        refusals: Arc::new(Semaphore::new(limits.refusals_max)),
        metrics,
        draining,
    };
    join_all(listeners.into_iter().map(|listener| server.accept_all(listener))).await;
}

struct Server<R> {
    router: R,
    limits: Limits,
    connections: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    metrics: Metrics,
    draining: CancellationToken,
}

impl<R: Answers> Server<R> {
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
        if let Ok(permit) = self.connections.clone().try_acquire_owned() {
            let connection = Connection::new(&self.metrics.connections, permit);
            let (router, limits, draining) = (self.router.clone(), self.limits, self.draining.clone());
            tasks.spawn(async move {
                let _connection = connection;
                // Only hints: a stream that refuses them serves all the same.
                let _ = stream.set_nodelay(true);
                give_up_on_the_dead(&stream);
                converse(stream, router, limits, &draining).await;
            });
            return;
        }
        self.metrics.connections_refused.inc();
        if let Ok(permit) = self.refusals.clone().try_acquire_owned() {
            let linger = self.limits.linger;
            tasks.spawn(async move {
                let _permit = permit;
                refuse(stream, linger).await;
            });
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
        tracing::warn!(%error, "cannot accept connections");
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

/// Counts as open until it is dropped.
struct Connection {
    open: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn new(open: &Gauge, permit: OwnedSemaphorePermit) -> Connection {
        open.inc();
        Connection {
            open: open.clone(),
            _permit: permit,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// Serves one connection to its end: the client's, a limit's, or the server's.
async fn converse<S>(stream: S, router: impl Answers, limits: Limits, draining: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let watch = Arc::new(Watch::new(limits));
    let takeover = Arc::new(Mutex::new(None));
    let service = service_fn(|request: Request<Incoming>| {
        watch.request_begins(request.body().size_hint().exact());
        let mut router = router.clone();
        let (watch, takeover) = (watch.clone(), takeover.clone());
        async move {
            let Ok(mut response) = router.call(request.map(Body::new)).await;
            if let Some(planned) = response.extensions_mut().remove::<Takeover>() {
                *unpoisoned(&takeover) = Some(planned);
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
        .serve_connection(TokioIo::new(WatchedIo::new(stream, watch.clone())), service)
        .with_upgrades();
    let mut told = false;
    loop {
        tokio::select! {
            // What can go wrong here is the client's doing, or said in an answer already.
            _ended = &mut connection => break,
            () = watch.expired() => return,
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
        (Some(parts), _) if !told => linger(&mut parts.io.into_inner(), limits.linger).await,
        (Some(_) | None, _) => {}
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes() == EVENT_STREAM.as_bytes())
}

/// Of one connection's task only: there is nobody to wait for, and every write to it is whole.
fn unpoisoned(takeover: &Mutex<Option<Takeover>>) -> MutexGuard<'_, Option<Takeover>> {
    takeover.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn refuse(mut stream: TcpStream, patience: Duration) {
    let answer = async {
        stream.write_all(refusal().as_bytes()).await?;
        stream.shutdown().await
    };
    if let Ok(Ok(())) = timeout(patience, answer).await {
        linger(&mut stream, patience).await;
    }
}

/// The answer above the limit of connections: the request is not even read.
fn refusal() -> String {
    let problem = Problem::new(
        ProblemType::TooManyConnections,
        "as many connections as allowed are open; the request was not read and nothing was stored",
    );
    let id = RequestId::generate();
    let document = problem.document(id.as_str());
    format!(
        "HTTP/1.1 503 Service Unavailable\r\n\
         content-type: application/problem+json\r\n\
         content-length: {}\r\n\
         retry-after: 1\r\n\
         x-request-id: {}\r\n\
         x-content-type-options: nosniff\r\n\
         cache-control: no-store\r\n\
         connection: close\r\n\r\n{document}",
        document.len(),
        id.as_str(),
    )
}

/// Reads on for a while after the answer. Closing a socket with unread bytes resets it, and the reset can
/// overtake the answer - a 413 to a client that still sends would never be seen (RFC 9112 section 9.6).
async fn linger(stream: &mut (impl AsyncRead + Unpin), patience: Duration) {
    let thrown_away = async {
        let mut buffer = [0; 4096];
        let mut total = 0;
        while total < LINGER_BYTES_MAX {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => total += count,
            }
        }
    };
    // Both ways the connection ends now.
    let _ = timeout(patience, thrown_away).await;
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
