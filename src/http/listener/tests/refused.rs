//! Refusals must reach clients that still send.

use super::*;

/// A proxy forwards a server's answer only if it can send the rest undisturbed.
#[tokio::test(start_paused = true)]
async fn a_refused_client_may_finish_sending_before_it_reads() {
    const PIECES: usize = 128;
    let mut client = Client::connect();
    let length = PIECES * 64 * 1024;
    let head = format!("POST /refuse HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
    client.send(head.as_bytes()).await;
    for _ in 0..PIECES {
        client.send(&vec![b'x'; 64 * 1024]).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_cannot_send_forever() {
    for (pause, seconds) in [(Duration::from_secs(4), 30), (Duration::from_mins(10), 5)] {
        let mut client = Client::connect();
        client
            .send(b"POST /refuse HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1")
            .await;
        let started = Instant::now();
        let (mut reader, mut writer) = tokio::io::split(client.stream);
        let sends = tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                if writer.write_all(b"0").await.is_err() {
                    return;
                }
            }
        });
        client.server.await.unwrap();
        assert_eq!(started.elapsed().as_secs(), seconds);
        let mut answer = String::new();
        reader.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        sends.abort();
    }
}

/// The refusal begins before the drain or during it; nginx would turn a cut connection into a 502.
#[tokio::test(start_paused = true)]
async fn a_refused_client_may_finish_sending_while_the_server_drains() {
    for (path, drains_after) in [("/refuse", 1), ("/late-refusal", 1)] {
        const PIECES: usize = 20;
        let mut client = Client::connect();
        let length = PIECES * 64 * 1024;
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
        client.send(head.as_bytes()).await;
        tokio::time::sleep(Duration::from_secs(drains_after)).await;
        client.draining.cancel();
        for _ in 0..PIECES {
            client.send(&vec![b'x'; 64 * 1024]).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{path}: {answer}");
    }
}

/// Such a client would delay every stop until the end of the drain time.
#[tokio::test(start_paused = true)]
async fn a_refused_client_that_trickles_delays_a_drain_by_five_seconds() {
    let mut client = Client::connect();
    client
        .send(b"POST /refuse HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1")
        .await;
    let (_reader, mut writer) = tokio::io::split(client.stream);
    let trickles = tokio::spawn(async move {
        while writer.write_all(b"0").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    let started = Instant::now();
    client.draining.cancel();
    client.server.await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 5);
    trickles.await.unwrap();
}

/// A client that has sent everything is not waited for.
#[tokio::test(start_paused = true)]
async fn a_drain_ends_the_wait_for_a_client_that_sends_nothing_more() {
    let mut client = Client::connect();
    client
        .send(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await;
    client.greeting().await;
    let started = Instant::now();
    client.draining.cancel();
    client.server.await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
}
