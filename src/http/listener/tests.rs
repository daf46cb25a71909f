//! Clients that stall, lie or never end. Times are virtual: the streams are in memory.

use axum::Router;

use super::*;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::routing::{get, post};
use futures_util::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

mod eviction;
mod refused;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn router() -> Router {
    let endless = async || {
        let chunk = Bytes::from_static(&[b'x'; 4096]);
        Body::from_stream(stream::repeat(chunk).map(Ok::<_, io::Error>))
    };
    let stream = move || async move { ([(CONTENT_TYPE, EVENT_STREAM)], endless().await) };
    Router::new()
        .route("/stream", get(stream))
        .route("/quiet", get(quiet))
        .route("/", get(|| async { "hello" }))
        .route("/endless", get(endless))
        .route("/refuse", post(|| async { StatusCode::PAYLOAD_TOO_LARGE }))
        .route("/read", post(|body: Bytes| async move { body }))
        .route("/slow", get(slow))
        .route(
            "/late",
            get(move || async move { (slow().await, endless().await).1 }),
        )
        .route(
            "/late-refusal",
            post(async || (slow().await, StatusCode::PAYLOAD_TOO_LARGE).1),
        )
        .route("/leases", post(slow))
        .route("/livez", get(|| async { "hello" }))
}

/// A stream that sends one message and then waits.
async fn quiet() -> Body {
    let first = stream::once(async { Ok::<_, io::Error>(Bytes::from_static(b"hello")) });
    Body::from_stream(first.chain(stream::pending()))
}

async fn slow() -> &'static str {
    tokio::time::sleep(Duration::from_secs(3)).await;
    "hello"
}

struct Client {
    stream: DuplexStream,
    server: JoinHandle<()>,
    watch: Arc<Watch>,
    draining: CancellationToken,
}

impl Client {
    fn connect() -> Client {
        let (stream, other_end) = tokio::io::duplex(16 * 1024);
        let draining = CancellationToken::new();
        let limits = Limits::new(1);
        let watch = Arc::new(Watch::new(limits));
        let (token, watched) = (draining.clone(), watch.clone());
        let server = tokio::spawn(async move {
            serve_connection(other_end, router(), watched, limits, &token).await;
        });
        Client {
            stream,
            server,
            watch,
            draining,
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Reads the head of the next answer and its body, `hello`.
    async fn greeting(&mut self) -> String {
        let mut text = Vec::new();
        while !text.ends_with(b"hello") {
            text.push(self.stream.read_u8().await.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    async fn rest(mut self) -> String {
        let mut text = Vec::new();
        self.stream.read_to_end(&mut text).await.unwrap();
        self.server.await.unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_cut_after_ten_seconds() {
    let started = Instant::now();
    assert_eq!(Client::connect().rest().await, "");
    assert_eq!(started.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_is_cut_after_ten_seconds() {
    let mut client = Client::connect();
    tokio::time::sleep(Duration::from_secs(9)).await;
    let started = Instant::now();
    for byte in &GET[..9] {
        client.send(&[*byte]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(client.rest().await, "");
    assert_eq!(started.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_may_last_longer_than_a_head() {
    let mut client = Client::connect();
    client.send(GET).await;
    client.greeting().await;
    tokio::time::sleep(Duration::from_secs(74)).await;
    client.send(&GET[..5]).await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    client.send(&GET[5..]).await;
    assert!(client.greeting().await.starts_with("HTTP/1.1 200"));
    let started = Instant::now();
    assert_eq!(client.rest().await, "");
    assert_eq!(started.elapsed().as_secs(), 75);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut_after_thirty_seconds() {
    let mut client = Client::connect();
    let started = Instant::now();
    client.send(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.server.await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn an_unread_stream_is_cut_two_seconds_into_a_drain() {
    for (path, seconds) in [("/stream", 2), ("/endless", 25)] {
        let mut client = Client::connect();
        client
            .send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes())
            .await;
        // Some time after the stall began, and not at a regular check of a limit.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let started = Instant::now();
        client.draining.cancel();
        client.server.await.unwrap();
        assert_eq!(started.elapsed().as_secs(), seconds, "{path}");
    }
    // A stream that is read is not cut until it stalls.
    let mut client = Client::connect();
    client.send(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    client.draining.cancel();
    let mut taken = vec![0; 64 * 1024];
    for _ in 0..9 {
        client.stream.read_exact(&mut taken).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let stuck = Instant::now();
    client.server.await.unwrap();
    assert_eq!(
        stuck.elapsed().as_secs(),
        1,
        "two seconds after the last byte was read"
    );
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_client_is_answered() {
    for request in [
        "GET /slow HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /slow HTTP/1.1\r\nhost: a\r\nprefer: return=minimal\r\n\r\n",
        "GET /slow HTTP/1.1\r\nhost: a\r\naccept: text/event-stream;q=0.5, application/json\r\n\r\n",
        "POST /read HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
        "POST /read HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        let mut client = Client::connect();
        client.send(request.as_bytes()).await;
        client.stream.shutdown().await.unwrap();
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{request}: {answer}");
        assert!(answer.ends_with("hello"), "{answer}");
    }
}

/// An answer that no client awaits would take an order, or hold a place.
#[tokio::test(start_paused = true)]
async fn a_waiting_answer_ends_when_its_client_closes() {
    for request in [
        "POST /leases HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
        "GET /slow HTTP/1.1\r\nhost: a\r\nprefer: wait=60\r\n\r\n",
        "GET /slow HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\n\r\n",
        "GET /slow HTTP/1.1\r\nhost: a\r\naccept: application/json;q=0.5, text/event-stream\r\n\r\n",
    ] {
        let mut client = Client::connect();
        client.send(request.as_bytes()).await;
        client.stream.shutdown().await.unwrap();
        let started = Instant::now();
        assert_eq!(client.rest().await, "", "{request}");
        assert_eq!(started.elapsed(), Duration::ZERO, "{request}");
    }
}

/// A body that ends early never becomes whole.
#[tokio::test(start_paused = true)]
async fn an_incomplete_request_ends_when_its_client_closes() {
    for request in [
        "POST /read HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhel",
        "POST /read HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        "POST /read HTTP/1.1\r\nhost",
    ] {
        let mut client = Client::connect();
        client.send(request.as_bytes()).await;
        client.stream.shutdown().await.unwrap();
        let started = Instant::now();
        assert!(!client.rest().await.starts_with("HTTP/1.1 200"), "{request}");
        assert_eq!(started.elapsed(), Duration::ZERO, "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_with_two_lengths_ends_its_connection() {
    let mut client = Client::connect();
    client
        .send(
            b"POST /read HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n\
              5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\nhost: smuggled\r\n\r\n",
        )
        .await;
    let answers = client.rest().await;
    assert_eq!(answers.matches("HTTP/1.1").count(), 1, "{answers}");
    assert!(answers.contains("hello"));
}

#[tokio::test(start_paused = true)]
async fn an_oversized_head_gets_431() {
    let mut client = Client::connect();
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\nx: ").await;
    let _ = client.stream.write_all(&vec![b'x'; 2 * BUFFER_BYTES_MAX]).await;
    assert!(client.rest().await.starts_with("HTTP/1.1 431"));

    let mut client = Client::connect();
    let headers = "x: y\r\n".repeat(101);
    client
        .send(format!("GET / HTTP/1.1\r\n{headers}\r\n").as_bytes())
        .await;
    assert!(client.rest().await.starts_with("HTTP/1.1 431"));
}

#[tokio::test(start_paused = true)]
async fn draining_ends_idle_connections_at_once_and_others_after_their_answer() {
    let fresh = Client::connect();
    let mut idle = Client::connect();
    idle.send(GET).await;
    idle.greeting().await;
    let mut halfway = Client::connect();
    halfway
        .send(b"POST /read HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n")
        .await;
    // Lets the server read the bytes.
    tokio::time::sleep(Duration::from_millis(1)).await;

    let started = Instant::now();
    for client in [&fresh, &idle, &halfway] {
        client.draining.cancel();
    }
    assert_eq!(fresh.rest().await, "");
    assert_eq!(idle.rest().await, "");
    halfway.send(b"hello").await;
    let answer = halfway.rest().await;
    assert!(
        answer.contains("200 OK") && answer.contains("connection: close"),
        "{answer}"
    );
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn connections_above_the_limit_get_503() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (metrics, draining) = (Metrics::new(), CancellationToken::new());
    let server = tokio::spawn(serve(
        vec![listener],
        router(),
        Limits::new(1),
        metrics.clone(),
        draining.clone(),
    ));
    let mut first = TcpStream::connect(address).await.unwrap();
    first
        .write_all(b"GET /quiet HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    first.read_u8().await.unwrap();

    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(GET).await.unwrap();
    let mut answer = String::new();
    second.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1\r\n"),
        "{answer}"
    );
    assert_eq!(metrics.connections_refused.get(), 1);
    let mut probe = TcpStream::connect(address).await.unwrap();
    probe
        .write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    probe.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(metrics.connections_refused.get(), 1);

    drop((first, second, probe));
    draining.cancel();
    server.await.unwrap();
    assert_eq!(metrics.connections.get(), 0);
}

/// Pipelining gains a client no time for its next head.
#[tokio::test(start_paused = true)]
async fn a_pipelined_head_is_cut_after_ten_seconds() {
    const POST: &[u8] = b"POST /read HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
    for first in [GET, POST] {
        let mut client = Client::connect();
        let started = Instant::now();
        client.send(&[first, &GET[..5]].concat()).await;
        client.greeting().await;
        assert_eq!(client.rest().await, "");
        assert_eq!(started.elapsed().as_secs(), 10);

        // In parts; the last one arrives while the answer is in progress.
        let mut client = Client::connect();
        client.send(&first[..first.len() - 3]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let started = Instant::now();
        client
            .send(&[&first[first.len() - 3..], &GET[..5]].concat())
            .await;
        client.greeting().await;
        assert_eq!(client.rest().await, "");
        assert_eq!(started.elapsed().as_secs(), 10);

        // A whole request does not begin another one.
        let mut client = Client::connect();
        client.send(first).await;
        client.greeting().await;
        let started = Instant::now();
        assert_eq!(client.rest().await, "");
        assert_eq!(started.elapsed().as_secs(), 75);
    }
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_answered_in_order() {
    let mut client = Client::connect();
    client.send(&[GET, GET, GET].concat()).await;
    for _ in 0..3 {
        client.greeting().await;
    }
    let started = Instant::now();
    assert_eq!(client.rest().await, "");
    assert!([10, 75].contains(&started.elapsed().as_secs()));
}
