//! Clients as a careful user writes them: they keep the last cursor and resume with it.

use std::sync::Mutex;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::fixture::Seen;
use crate::support::client::http;
use crate::support::cutter::Cutter;
use crate::support::socket::{Incoming, Socket, subscribe};

/// Events that a client received.
#[derive(Default)]
pub struct Received(Mutex<Vec<Seen>>);

impl Received {
    fn add(&self, event: &Value) {
        self.0.lock().unwrap().push(Seen::of(event));
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub fn all(&self) -> Vec<Seen> {
        self.0.lock().unwrap().clone()
    }
}

/// Handling of the last cursor when the connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    Kept,
    /// The control: begins with the next event each time.
    Lost,
}

/// Follows server-sent events until cancelled.
pub async fn follow_events(line: &Cutter, beginning: &str, memory: Memory, received: &Received) {
    let http = http();
    let mut last = Some(beginning.to_owned());
    loop {
        let mut request = http
            .get(format!("{}/events", line.url))
            .header("accept", "text/event-stream");
        if let Some(last) = &last {
            request = request.header("last-event-id", last);
        }
        if let Ok(mut answer) = request.send().await {
            if answer.status() == StatusCode::OK {
                let mut buffer = Vec::new();
                while let Ok(Some(bytes)) = answer.chunk().await {
                    buffer.extend_from_slice(&bytes);
                    while let Some(end) = buffer.windows(2).position(|two| two == b"\n\n") {
                        let block: Vec<u8> = buffer.drain(..end + 2).collect();
                        take_block(&String::from_utf8(block).unwrap(), &mut last, received);
                    }
                }
            } else {
                // While the server stops.
                assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            }
        }
        if memory == Memory::Lost {
            last = None;
        }
        tokio::task::yield_now().await;
    }
}

/// Reads one block of the stream by WHATWG HTML section 9.2.6.
fn take_block(block: &str, last: &mut Option<String>, received: &Received) {
    let field = |name: &str| {
        let mut lines = block.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    if let Some(id) = field("id") {
        *last = Some(id.to_owned());
    }
    match field("event") {
        Some("order") => {
            let event = serde_json::from_str(field("data").expect("an event has data")).expect("JSON");
            received.add(&event);
        }
        Some(other) => panic!("{other}: {block}"),
        None => {}
    }
}

/// Follows over a WebSocket until cancelled.
pub async fn follow_socket(line: &Cutter, beginning: &str, received: &Received) {
    let address = line.address();
    let mut last = beginning.to_owned();
    loop {
        if let Ok(stream) = TcpStream::connect(&address).await
            && let Ok(mut socket) = Socket::over(stream, &address).await
        {
            let asked = subscribe("a", json!({"all": true, "after": last}));
            if socket.send(asked.to_string().into()).await.is_ok() {
                until_lost(&mut socket, &mut last, received).await;
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn until_lost(socket: &mut Socket, last: &mut String, received: &Received) {
    loop {
        match socket.next().await {
            Incoming::Message(message) => {
                let cursor = match message["type"].as_str() {
                    Some("event") => {
                        received.add(&message["event"]);
                        &message["event"]["cursor"]
                    }
                    Some("subscribed" | "error") => &message["cursor"],
                    _ => panic!("{message}"),
                };
                cursor.as_str().expect("a cursor").clone_into(last);
            }
            Incoming::Ping | Incoming::Pong(_) => {}
            Incoming::Closed(_) | Incoming::Lost => return,
        }
    }
}
