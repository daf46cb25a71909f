//! Eviction: which connections may be evicted, and when they end.

use super::*;

const ENDLESS: &[u8] = b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n";

/// Lets the server do all it can at this instant.
async fn settled() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

const A_LITTLE_LESS: Duration = Duration::from_millis(1_900);
const STALL: Duration = Duration::from_secs(2);

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_never_evicted() {
    let (mut reads, mut takes_none) = (Client::connect(), Client::connect());
    for client in [&mut reads, &mut takes_none] {
        client.send(ENDLESS).await;
    }
    settled().await;
    let started = Instant::now();
    for _ in 0..10 {
        pass(A_LITTLE_LESS).await;
        assert_eq!(reads.watch.evictable_since(), None);
        reads.stream.read_u8().await.unwrap();
        settled().await;
        assert_eq!(reads.watch.evictable_since(), None);
        let stuck = started.elapsed() > STALL;
        assert_eq!(takes_none.watch.evictable_since().is_some(), stuck);
    }
    pass(STALL).await;
    let since = reads.watch.evictable_since().unwrap();
    assert!(since > takes_none.watch.evictable_since().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_stalled_reader_ends_at_once_when_evicted() {
    let mut client = Client::connect();
    client.send(ENDLESS).await;
    pass(STALL + STALL).await;
    let started = Instant::now();
    client.watch.evict();
    client.server.await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_connection_evicted_during_a_request_ends_when_its_answer_stalls() {
    let mut client = Client::connect();
    let started = Instant::now();
    client.send(b"GET /late HTTP/1.1\r\nhost: a\r\n\r\n").await;
    settled().await;
    client.watch.evict();
    client.server.await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 3 + STALL.as_secs());
}

/// The connection was idle when it was evicted, and its next request had just begun.
#[tokio::test(start_paused = true)]
async fn an_upload_in_progress_is_answered_despite_its_eviction() {
    let mut client = Client::connect();
    client.send(GET).await;
    client.greeting().await;
    client
        .send(b"POST /read HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nh")
        .await;
    settled().await;
    client.watch.evict();
    for byte in [b"e", b"l", b"l", b"o"] {
        pass(A_LITTLE_LESS).await;
        client.send(byte).await;
    }
    assert!(client.greeting().await.starts_with("HTTP/1.1 200"));
    client.server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_stalls_may_be_evicted_after_two_seconds() {
    let head = "POST /read HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n";
    for request in [&head[..9], head, &format!("{head}hel")] {
        let mut client = Client::connect();
        client.send(request.as_bytes()).await;
        settled().await;
        pass(A_LITTLE_LESS).await;
        assert_eq!(client.watch.evictable_since(), None, "{request}");
        pass(STALL).await;
        assert!(client.watch.evictable_since().is_some(), "{request}");
        let started = Instant::now();
        client.watch.evict();
        client.server.await.unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO, "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_at_once_when_evicted() {
    let (fresh, mut idle) = (Client::connect(), Client::connect());
    idle.send(GET).await;
    idle.greeting().await;
    settled().await;
    let started = Instant::now();
    for client in [fresh, idle] {
        assert!(client.watch.evictable_since().is_some());
        client.watch.evict();
        client.server.await.unwrap();
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_request_in_progress_is_never_evicted() {
    for request in [
        "GET /slow HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /leases HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}",
    ] {
        let mut client = Client::connect();
        client.send(request.as_bytes()).await;
        settled().await;
        assert_eq!(client.watch.evictable_since(), None, "{request}");
        // A request that began just before the eviction is answered.
        client.watch.evict();
        assert!(client.greeting().await.starts_with("HTTP/1.1 200"), "{request}");
        client.server.await.unwrap();
    }
}
