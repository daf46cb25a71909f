//! Answers connections without a place: a few reserved places serve probes and metrics, some connections get a 503, and
//! the rest are dropped. `admission` decides on evictions; `refusal` writes the answers.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::refusal::{ReservedRoutes, refuse};
use super::{Answers, Connection, Limits};
use crate::log_lines::Throttle;
use crate::metrics::Metrics;

/// Handler of connections without a place; cheap to clone.
#[derive(Clone)]
pub struct Overflow<R> {
    router: ReservedRoutes<R>,
    limits: Limits,
    reserved: Admission,
    refusals: Arc<Semaphore>,
    metrics: Metrics,
    full: Arc<Throttle<()>>,
}

impl<R: Answers> Overflow<R> {
    pub fn new(router: R, limits: Limits, metrics: Metrics) -> Overflow<R> {
        Overflow {
            router: ReservedRoutes::new(router, metrics.connections_refused.clone()),
            limits: limits.of_reserved_places(),
            reserved: Admission::of_reserved_places(limits.reserved_max),
            refusals: Arc::new(Semaphore::new(limits.refusals_max)),
            metrics,
            full: Arc::default(),
        }
    }

    /// Serves the connection in a reserved place if there is one; otherwise refuses it.
    pub async fn answer(self, stream: TcpStream, draining: CancellationToken) {
        self.log_full();
        if let Some(place) = self.reserved.wait_for_place().await {
            let connection = Connection::new(self.metrics.connections, stream, place, self.limits);
            connection.serve(self.router, draining).await;
            return;
        }
        self.metrics.connections_refused.inc();
        if let Ok(_permit) = self.refusals.try_acquire() {
            refuse(stream, self.limits.short_linger).await;
        }
    }

    fn log_full(&self) {
        if self.full.due((), Instant::now()).is_some() {
            let connections = self.limits.connections_max;
            tracing::warn!(
                connections,
                "all {connections} connections are in use and none could be evicted in time; refusing others. Raise \
                 ORDERLY_MAX_CONNECTIONS or add nodes"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::super::Server;
    use super::super::admission::Entry;
    use super::super::watch::Watch;
    use super::*;

    /// Returns the answer for a path while the only connection is being evicted and does not close.
    async fn answer_while_the_only_place_is_taken(path: &str, limits: Limits) -> (String, u64) {
        let router = Router::new()
            .route("/livez", get(|| async { "alive" }))
            .route("/", get(|| async { "hello" }));
        let metrics = Metrics::new();
        let server = Server::new(router, limits, metrics.clone(), CancellationToken::new());
        let Entry::Place(place) = server.connections.enter() else {
            panic!("the first connection has a place");
        };
        // Idle and unverified by its watch, which no task listens to.
        let _registration = place.register(Arc::new(Watch::new(limits)));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let mut tasks = JoinSet::new();
        server.admit(accepted, &mut tasks);
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // A dropped connection may be reset.
        let _ = client.read_to_string(&mut answer).await;
        drop(client);
        tasks.join_all().await;
        (answer, metrics.connections_refused.get())
    }

    #[tokio::test]
    async fn a_probe_is_answered_when_no_connection_is_evicted_in_time() {
        let (answer, refused) = answer_while_the_only_place_is_taken("/livez", Limits::new(1)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(refused, 0);
    }

    #[tokio::test]
    async fn a_request_is_refused_when_no_connection_is_evicted_in_time() {
        let (answer, refused) = answer_while_the_only_place_is_taken("/", Limits::new(1)).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert_eq!(refused, 1);
    }

    #[tokio::test]
    async fn a_refusal_after_a_wait_needs_a_permit() {
        for (refusals_max, start) in [(1, "HTTP/1.1 503"), (0, "")] {
            let limits = Limits {
                reserved_max: 0,
                refusals_max,
                ..Limits::new(1)
            };
            let (answer, refused) = answer_while_the_only_place_is_taken("/livez", limits).await;
            assert!(answer.starts_with(start), "{answer}");
            assert_eq!(answer.is_empty(), refusals_max == 0, "{answer}");
            assert_eq!(refused, 1);
        }
    }
}
