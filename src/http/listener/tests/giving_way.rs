//! Connections whose place is needed: which of them may go, and when they are gone.

use super::*;

const ENDLESS: &[u8] = b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n";

/// Lets the server do all it can at this instant.
async fn settled() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_bytes_gives_way_after_one_that_takes_none() {
    let (mut reads, mut takes_none) = (Client::connect(), Client::connect());
    for client in [&mut reads, &mut takes_none] {
        client.send(ENDLESS).await;
    }
    settled().await;
    let stuck = takes_none.watch.idle_stranger_since().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut taken = vec![0; 64 * 1024];
    reads.stream.read_exact(&mut taken).await.unwrap();
    settled().await;
    assert_eq!(takes_none.watch.idle_stranger_since(), Some(stuck));
    let since = reads.watch.idle_stranger_since().unwrap();
    assert_eq!((since - stuck).as_secs(), 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(reads.watch.idle_stranger_since(), Some(since));
}

#[tokio::test(start_paused = true)]
async fn a_stuck_reader_goes_at_once_when_its_place_is_needed() {
    let mut client = Client::connect();
    client.send(ENDLESS).await;
    settled().await;
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
    assert_eq!(started.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_keeps_back_its_body_goes_at_once() {
    let mut client = Client::connect();
    client
        .send(b"POST /read HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhel")
        .await;
    settled().await;
    let since = client.watch.idle_stranger_since();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(since.is_some() && client.watch.idle_stranger_since() == since);
    let started = Instant::now();
    client.watch.send_away();
    client.server.await.unwrap();
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
