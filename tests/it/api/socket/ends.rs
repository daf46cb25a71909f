//! Ends of connections, and the isolation of clients that do not read or answer.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::{ApiServer, CONNECTIONS_MAX, EVERYTHING_ELSE_LASTS, SYSTEM_BUFFER_BYTES};
use crate::api::in_process::Api;
use crate::support::socket::{Incoming, Socket};

#[tokio::test]
async fn every_disconnect_has_its_close_code() {
    let server = ApiServer::open().await;
    let close = |code: u16| {
        let mut frame = vec![0x88, 0x82, 0, 0, 0, 0];
        frame.extend(code.to_be_bytes());
        frame
    };
    let masked = |opcode: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[opcode, 0x80 | length, 0, 0, 0, 0][..], payload].concat()
    };
    let mut too_long = vec![0x81, 0xfe];
    too_long.extend(4097_u16.to_be_bytes());
    too_long.extend([0; 4]);
    too_long.extend([b' '; 4097]);
    for (what, frame, code) in [
        ("theirs", close(1000), 1000),
        ("a binary message", masked(0x82, b"{}"), 1003),
        ("no UTF-8", masked(0x81, &[0xff]), 1007),
        ("too long a message", too_long, 1009),
        ("without a mask", vec![0x81, 2, b'{', b'}'], 1002),
        ("a reserved bit", masked(0xc1, b"{}"), 1002),
        ("a continuation of nothing", masked(0x80, b"{}"), 1002),
        ("an unknown opcode", masked(0x83, b"{}"), 1002),
        ("a ping in pieces", masked(0x09, b"{}"), 1002),
    ] {
        let mut stream = raw(&server.address).await;
        stream.write_all(&frame).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(EVERYTHING_ELSE_LASTS, stream.read_to_end(&mut answer)).await;
        read.expect("the server closes the connection").unwrap();
        assert_eq!(answer.first(), Some(&0x88), "{what}: {answer:?}");
        assert_eq!(u16::from_be_bytes([answer[2], answer[3]]), code, "{what}");
    }
    server.close().await;
}

/// Does the handshake without a client library.
async fn raw(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "GET /ws HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.expect("an answer arrives"));
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    // The key and answer of RFC 6455 section 1.3.
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    stream
}

#[tokio::test]
async fn a_client_that_floods_the_socket_is_disconnected() {
    const PING: [u8; 6] = [0x89, 0x80, 0, 0, 0, 0];
    let server = ApiServer::open().await;
    let mut stream = raw(&server.address).await;
    let (mut answers, mut voice) = stream.split();
    // A hundred times the limit, but less than the server discards before it closes the connection.
    let talk = PING.repeat(20_000);
    let mut answer = Vec::new();
    let messages = async { tokio::join!(voice.write_all(&talk), answers.read_to_end(&mut answer)) };
    let messages = tokio::time::timeout(EVERYTHING_ELSE_LASTS, messages).await;
    let (talked, _) = messages.expect("the server closes the connection");
    talked.unwrap();
    // The close frame follows some pongs.
    let close = answer.chunks(2).position(|head| head[0] == 0x88);
    let close = 2 * close.expect("a close frame");
    assert_eq!(answer[close + 2..close + 4], 1008_u16.to_be_bytes());
    server.close().await;
}

/// Issue 13, point 30: frames that never complete a message cost work, and no other limit counts them.
#[tokio::test]
async fn a_client_that_floods_empty_fragments_is_disconnected() {
    const BEGINNING: [u8; 6] = [0x01, 0x80, 0, 0, 0, 0];
    const FRAGMENT: [u8; 6] = [0x00, 0x80, 0, 0, 0, 0];
    let server = ApiServer::open().await;
    let mut stream = raw(&server.address).await;
    let (mut answers, mut voice) = stream.split();
    // Slightly more bytes than two hundred messages of the largest size.
    let talk = [&BEGINNING[..], &FRAGMENT.repeat(150_000)].concat();
    let mut answer = Vec::new();
    let messages = async { tokio::join!(voice.write_all(&talk), answers.read_to_end(&mut answer)) };
    let messages = tokio::time::timeout(EVERYTHING_ELSE_LASTS, messages).await;
    let (talked, _) = messages.expect("the server closes the connection");
    talked.unwrap();
    assert_eq!(answer[0], 0x88, "only a close frame");
    assert_eq!(answer[2..4], 1008_u16.to_be_bytes());
    server.close().await;
}

#[tokio::test]
async fn a_client_that_never_answers_pings_is_disconnected() {
    let heartbeat = Duration::from_millis(20);
    let server = ApiServer::before(Api::with_heartbeat(heartbeat).await, CONNECTIONS_MAX);
    let mut silent = raw(&server.address).await;
    let mut pings = Vec::new();
    let read = tokio::time::timeout(EVERYTHING_ELSE_LASTS, silent.read_to_end(&mut pings)).await;
    read.expect("the server closes the connection").unwrap();
    assert_eq!(pings, [0x89, 0].repeat(3), "exactly three pings");
    server.close().await;
}

#[tokio::test]
async fn a_client_that_answers_pings_stays_connected() {
    let heartbeat = Duration::from_millis(20);
    let server = ApiServer::before(Api::with_heartbeat(heartbeat).await, CONNECTIONS_MAX);
    let mut socket = server.connect().await;
    socket.subscribe("a", json!({"all": true})).await;
    let mut pings = 0;
    while pings < 10 {
        pings += usize::from(socket.next().await == Incoming::Ping);
    }
    server.accept(1).await;
    socket.receive_event("a").await;
    server.close().await;
}

#[tokio::test]
async fn a_stopping_server_sends_cursors_to_resume_from() {
    let server = ApiServer::open().await;
    let mut socket = server.connect().await;
    socket.subscribe("a", json!({"all": true})).await;
    socket.subscribe("b", json!({"user_id": 5})).await;
    server.accept(1).await;
    let received = socket.receive_event("a").await;
    server.api.draining.cancel();
    let mut messages = Vec::new();
    for _ in 0..2 {
        let message = socket.receive().await;
        assert_eq!(message["type"], "error", "{message}");
        assert_eq!(
            message["cursor"], received["cursor"],
            "the cursors of the delivered events"
        );
        messages.push(message["id"].as_str().unwrap().to_owned());
    }
    messages.sort();
    assert_eq!(messages, ["a", "b"]);
    assert_eq!(socket.next().await, Incoming::Closed(Some(1001)));
    server.close().await;
}

/// Stuck subscribers are detached from the feed, wait with bounded queues and miss nothing.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_stuck_readers_delay_nobody_and_miss_nothing() {
    const STUCK: u64 = 50;
    let server = ApiServer::open().await;
    let mut stuck = Vec::new();
    for _ in 0..STUCK {
        let stream = TcpSocket::new_v4().unwrap();
        stream.set_recv_buffer_size(SYSTEM_BUFFER_BYTES).unwrap();
        let stream = stream.connect(server.address.parse().unwrap()).await.unwrap();
        let mut socket = Socket::over(stream, &server.address).await.unwrap();
        socket.subscribe("a", json!({"all": true})).await;
        stuck.push(socket);
    }
    let mut reader = server.connect().await;
    reader.subscribe("a", json!({"all": true})).await;

    let metrics = server.api.harness.metrics();
    let mut events = 0;
    // Ends before the half minute after which an unread connection is cut.
    while metrics.feed_subscribers_lagged.get() < STUCK {
        // Fewer than a queue holds, so that an active reader does not lag.
        let ids = server.api.harness.accept_some(100).await;
        server.api.harness.cancel_all(&ids).await;
        for _ in 0..200 {
            reader.receive_event("a").await;
        }
        events += 200;
    }
    for user_id in 1..=20 {
        let id = server.accept(user_id).await;
        assert_eq!(reader.receive_event("a").await["order_id"], id.0);
        events += 1;
    }
    let all = i64::try_from(STUCK).unwrap() + 1;
    assert_eq!(server.subscribers(), all, "no subscriber was disconnected");
    println!("{events} events");
    let mut reading = JoinSet::new();
    for mut socket in stuck {
        reading.spawn(async move {
            let mut versions = HashMap::new();
            for _ in 0..events {
                let event = socket.receive_event("a").await;
                let version = versions.entry(event["order_id"].to_string()).or_insert(0);
                *version += 1;
                assert_eq!(event["version"], *version, "{event}");
            }
        });
    }
    while let Some(read) = reading.join_next().await {
        read.unwrap();
    }
    server.close().await;
}
