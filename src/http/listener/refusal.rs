//! Answers without a place: reserved places answer probes and metrics, everything else is refused. Also ends
//! connections whose client still sends.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use axum::response::Response;
use futures_util::future::BoxFuture;
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::Service;

use super::Answers;
use crate::http::problem::{Problem, ProblemType};
use crate::http::request::RequestId;

/// Paths answered in reserved places: probes, and the metrics that show which limit is reached.
const ANSWERED: [&str; 5] = ["/livez", "/readyz", "/healthz", "/metrics", "/metrics/prometheus"];
/// Maximum bytes discarded from a client that keeps sending after its answer: twice the longest legal body.
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Maximum silence of a client that may still send.
const LINGER_SILENCE_MAX: Duration = Duration::from_secs(5);
const LINGER_BUFFER_BYTES: usize = 16 * 1024;

/// The routes for connections above the limit.
#[derive(Clone)]
pub struct ReservedRoutes<R> {
    router: R,
    refused: Counter,
}

impl<R> ReservedRoutes<R> {
    pub fn new(router: R, refused: Counter) -> ReservedRoutes<R> {
        ReservedRoutes { router, refused }
    }
}

impl<R: Answers> Service<Request> for ReservedRoutes<R> {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let mut router = self.router.clone();
        let refused = self.refused.clone();
        Box::pin(async move {
            let mut response = if ANSWERED.contains(&request.uri().path()) {
                let Ok(response) = router.call(request).await;
                response
            } else {
                refused.inc();
                let id = RequestId::generate();
                let mut response = problem().render(id.as_str());
                id.mark(&mut response);
                response
            };
            // Frees the place for the next connection.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
            Ok(response)
        })
    }
}

fn problem() -> Problem {
    Problem::new(
        ProblemType::TooManyConnections,
        "the limit of open connections is reached; nothing was stored",
    )
}

/// Refuses a connection without reading from it first.
pub async fn refuse(mut stream: TcpStream, patience: Duration) {
    let answer = async {
        stream.write_all(refusal().as_bytes()).await?;
        stream.shutdown().await
    };
    if let Ok(Ok(())) = timeout(patience, answer).await {
        linger(&mut stream, patience).await;
    }
}

/// Returns the answer when no reserved place is left.
pub fn refusal() -> String {
    let id = RequestId::generate();
    let document = problem().document(id.as_str());
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

/// Reads on for a while after the answer. Closing a socket with unread bytes resets it, and the reset can overtake the
/// answer: a client that still sends would never see its 413 (RFC 9112 section 9.6).
pub async fn linger(stream: &mut (impl AsyncRead + Unpin), patience: Duration) {
    let discarded = async {
        let mut buffer = vec![0; LINGER_BUFFER_BYTES];
        let mut total = 0;
        while total < LINGER_BYTES_MAX {
            match timeout(LINGER_SILENCE_MAX, stream.read(&mut buffer)).await {
                Ok(Ok(count)) if count > 0 => total += count,
                Ok(_) | Err(_) => break,
            }
        }
    };
    // The connection ends in either case.
    let _ = timeout(patience, discarded).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_a_problem_document() {
        let text = refusal();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len())),
            "{head}"
        );
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        let kind = ProblemType::TooManyConnections;
        assert_eq!(problem["type"], format!("/problems/{}", kind.slug()));
        let id = problem["instance"].as_str().unwrap();
        assert!(
            !id.is_empty() && head.contains(&format!("x-request-id: {id}\r\n")),
            "{head}"
        );
        assert_ne!(text, refusal(), "each has its own id");
    }
}
