//! Streams that a stopping server does not wait for.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::socket::{ApiServer, SYSTEM_BUFFER_BYTES};
use crate::support::until;

const STUCK: usize = 20;
/// Half the time such a client normally has, and several times what it has during a stop.
const STOPS_WITHIN: Duration = Duration::from_secs(15);

/// Opens a stream of all events and reads only the beginning of the answer.
async fn follow(server: &ApiServer) -> TcpStream {
    let stream = TcpSocket::new_v4().unwrap();
    stream.set_recv_buffer_size(SYSTEM_BUFFER_BYTES).unwrap();
    let mut stream = stream.connect(server.address.parse().unwrap()).await.unwrap();
    let head = "GET /events HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(6).any(|bytes| bytes == b"retry:") {
        answer.push(stream.read_u8().await.expect("an answer arrives"));
    }
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_streams_do_not_delay_a_stop() {
    let server = ApiServer::open().await;
    let mut stuck = Vec::new();
    for _ in 0..STUCK {
        stuck.push(follow(&server).await);
    }
    let metrics = server.api.harness.metrics();
    until("all streams are stuck", async || {
        server.api.harness.accept_some(100).await;
        metrics.feed_subscribers_lagged.get() >= STUCK as u64
    })
    .await;
    let mut reader = follow(&server).await;
    server.api.draining.cancel();
    let mut last = String::new();
    reader.read_to_string(&mut last).await.unwrap();
    assert!(last.ends_with("\n\n\r\n0\r\n\r\n"), "unexpected end: {last}");
    timeout(STOPS_WITHIN, server.close())
        .await
        .expect("the server stops in time");
    drop(stuck);
}
