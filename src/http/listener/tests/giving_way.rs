//! Connections whose place is needed: which of them may go, and when they are gone.

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
async fn a_reader_that_takes_a_little_now_and_then_never_gives_way() {
    let (mut reads, mut takes_none) = (Client::connect(), Client::connect());
    for client in [&mut reads, &mut takes_none] {
        client.send(ENDLESS).await;
    }
    settled().await;
    let started = Instant::now();
    for _ in 0..10 {
        pass(A_LITTLE_LESS).await;
        assert_eq!(reads.watch.idle_stranger_since(), None);
        reads.stream.read_u8().await.unwrap();
        settled().await;
        assert_eq!(reads.watch.idle_stranger_since(), None);
        let stuck = started.elapsed() > STALL;
        assert_eq!(takes_none.watch.idle_stranger_since().is_some(), stuck);
    }
    pass(STALL).await;
    let since = reads.watch.idle_stranger_since().unwrap();
    assert!(since > takes_none.watch.idle_stranger_since().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_stuck_reader_goes_at_once_when_its_place_is_needed() {
    let mut client = Client::connect();
    client.send(ENDLESS).await;
    pass(STALL + STALL).await;
    let started = Instant::now();
    client.watch.send_away();
    client.server.await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_connection_sent_away_during_a_request_goes_when_its_answer_is_stuck() {
    let mut client = Client::connect();
    let started = Instant::now();
    client.send(b"GET /late HTTP/1.1\r\nhost: a\r\n\r\n").await;
    settled().await;
    client.watch.send_away();
    client.server.await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 3 + STALL.as_secs());
}

/// It was idle when its place was needed, and its next request began just then.
#[tokio::test(start_paused = true)]
async fn an_upload_that_moves_when_it_is_sent_away_is_answered() {
    let mut client = Client::connect();
    client.send(GET).await;
    client.greeting().await;
    client
        .send(b"POST /read HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nh")
        .await;
    settled().await;
    client.watch.send_away();
    for byte in [b"e", b"l", b"l", b"o"] {
        pass(A_LITTLE_LESS).await;
        client.send(byte).await;
    }
    assert!(client.greeting().await.starts_with("HTTP/1.1 200"));
    client.server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_stops_halfway_gives_way_after_two_seconds() {
    let head = "POST /read HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n";
    for request in [&head[..9], head, &format!("{head}hel")] {
        let mut client = Client::connect();
        client.send(request.as_bytes()).await;
        settled().await;
        pass(A_LITTLE_LESS).await;
        assert_eq!(client.watch.idle_stranger_since(), None, "{request}");
        pass(STALL).await;
        assert!(client.watch.idle_stranger_since().is_some(), "{request}");
        let started = Instant::now();
        client.watch.send_away();
        client.server.await.unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO, "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_between_requests_gives_way_at_once() {
    let (fresh, mut idle) = (Client::connect(), Client::connect());
    idle.send(GET).await;
    idle.greeting().await;
    settled().await;
    let started = Instant::now();
    for client in [fresh, idle] {
        assert!(client.watch.idle_stranger_since().is_some());
        client.watch.send_away();
        client.server.await.unwrap();
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_the_server_works_on_never_gives_way() {
    for request in [
        "GET /slow HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /leases HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}",
    ] {
        let mut client = Client::connect();
        client.send(request.as_bytes()).await;
        settled().await;
        assert_eq!(client.watch.idle_stranger_since(), None, "{request}");
        // One that began just when its place was needed is answered.
        client.watch.send_away();
        assert!(client.greeting().await.starts_with("HTTP/1.1 200"), "{request}");
        client.server.await.unwrap();
    }
}
