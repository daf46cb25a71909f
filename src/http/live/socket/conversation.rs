//! One WebSocket from its first message to its last: order of the work, end of the connection, close codes (RFC 6455
//! section 7.4). `subscriptions` follows the feed.

use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use super::allowance::Allowance;
use super::meter::Meter;
use super::subscriptions::{Notice, Subscriptions};
use crate::http::observed_stream::ObservedStream;
use crate::http::wire::{BadMessage, ClientMessage, ServerMessage, SubscriptionId, read_message};
use crate::live::Feed;

/// Maximum size of a client's message, several times the longest valid one.
const MESSAGE_BYTES_MAX: u16 = 4 * 1024;
/// Size of the longest frame with such a message, masked (RFC 6455 section 5.2).
const FRAME_BYTES_MAX: u32 = MESSAGE_BYTES_MAX as u32 + 14;
/// Bytes read or written at once.
const BUFFER_BYTES: usize = 4 * 1024;
/// Maximum bytes waiting for the connection: more than [`BUFFER_BYTES`] and the longest message together.
const WRITE_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// Maximum number of notices written before the connection is read again.
const NOTICES_AT_ONCE: usize = 16;
/// Maximum time for the client to read them, as long as other answers allow for a byte.
const WRITE_TIME_MAX: Duration = Duration::from_secs(30);
/// Maximum time for the closing handshake.
const CLOSING_TIME_MAX: Duration = Duration::from_secs(2);
/// Maximum bytes discarded from a client that keeps sending meanwhile.
const CLOSING_BYTES_MAX: u64 = 1024 * 1024;
/// Maximum heartbeats without data from the client; beyond that it counts as gone.
const SILENT_HEARTBEATS_MAX: u32 = 3;

/// Runs the conversation until the client, a limit or the server ends it.
pub async fn hold(stream: Upgraded, feed: Feed, heartbeat: Duration) {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(MESSAGE_BYTES_MAX.into()))
        .max_frame_size(Some(MESSAGE_BYTES_MAX.into()));
    let stream = ObservedStream::new(
        TokioIo::new(stream),
        Meter::new(Allowance::of_bytes(FRAME_BYTES_MAX, Instant::now())),
    );
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let (subscriptions, notices) = Subscriptions::new(feed.clone());
    let mut conversation = Conversation {
        socket,
        feed,
        subscriptions,
        notices,
        allowance: Allowance::of_messages(Instant::now()),
        silent_heartbeats: 0,
    };
    let end = conversation.run(heartbeat).await;
    // After that time the rest is dropped with the connection.
    let _ = timeout(CLOSING_TIME_MAX, conversation.end(end)).await;
}

struct Conversation {
    socket: WebSocketStream<ObservedStream<TokioIo<Upgraded>, Meter>>,
    feed: Feed,
    subscriptions: Subscriptions,
    notices: mpsc::Receiver<Notice>,
    allowance: Allowance,
    /// Heartbeats since the last data from the client.
    silent_heartbeats: u32,
}

enum End {
    /// The connection is lost, so nothing is sent.
    Lost,
    /// The client closes; its close frame is answered.
    Theirs,
    ServerStops,
    Ours(CloseCode, &'static str),
}

const TOO_FAST: End = End::Ours(CloseCode::Policy, "too many messages");

impl Conversation {
    async fn run(&mut self, heartbeat: Duration) -> End {
        let feed = self.feed.clone();
        let mut ending = pin!(feed.ending());
        let mut heartbeats = interval_at(Instant::now() + heartbeat, heartbeat);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(NOTICES_AT_ONCE);
        loop {
            // Reads come first: the allowance slows down a client that sends, and a client that only reads gets the
            // rest.
            let flow = tokio::select! {
                biased;
                () = &mut ending => ControlFlow::Break(End::ServerStops),
                received = self.socket.next() => self.received(received).await,
                Some(ended) = self.subscriptions.task_ended() => match ended {
                    Err(error) if error.is_panic() => {
                        ControlFlow::Break(End::Ours(CloseCode::Error, "internal error"))
                    }
                    Ok(()) | Err(_) => ControlFlow::Continue(()),
                },
                _ = heartbeats.tick() => self.heartbeat().await,
                _count = self.notices.recv_many(&mut batch, NOTICES_AT_ONCE) => self.pass_on(&mut batch).await,
            };
            if let ControlFlow::Break(end) = flow {
                return end;
            }
        }
    }

    async fn received(&mut self, received: Option<Result<Message, Error>>) -> ControlFlow<End> {
        let message = match received {
            Some(Ok(message)) => message,
            Some(Err(_)) if self.socket.get_ref().observer().is_overdrawn() => {
                return ControlFlow::Break(TOO_FAST);
            }
            Some(Err(error)) => return ControlFlow::Break(end_after(&error)),
            None => return ControlFlow::Break(End::Lost),
        };
        self.silent_heartbeats = 0;
        if matches!(message, Message::Close(_)) {
            return ControlFlow::Break(End::Theirs);
        }
        if !self.allowance.take(1, Instant::now()) {
            return ControlFlow::Break(TOO_FAST);
        }
        match message {
            Message::Text(text) => self.handle_text(text.as_str()).await,
            Message::Binary(_) => {
                ControlFlow::Break(End::Ours(CloseCode::Unsupported, "messages must be JSON texts"))
            }
            // The library answers a ping, at the latest with the next read.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {
                ControlFlow::Continue(())
            }
        }
    }

    async fn handle_text(&mut self, text: &str) -> ControlFlow<End> {
        let refused = match read_message(text) {
            Ok(ClientMessage::Subscribe { id, filter, after }) => {
                let begun = self.subscriptions.begin(id.clone(), filter, after);
                begun.map_err(|detail| (Some(id), detail))
            }
            Ok(ClientMessage::Unsubscribe { id }) if self.subscriptions.end(&id) => Ok(()),
            Ok(ClientMessage::Unsubscribe { id }) => Err((
                Some(id),
                String::from("#/id names no subscription on this socket"),
            )),
            Err(BadMessage { id, detail }) => Err((id, detail)),
        };
        match refused {
            Ok(()) => ControlFlow::Continue(()),
            Err((id, detail)) => self.write([error(id.as_ref(), &detail)]).await,
        }
    }

    async fn heartbeat(&mut self) -> ControlFlow<End> {
        if self.silent_heartbeats == SILENT_HEARTBEATS_MAX {
            return ControlFlow::Break(End::Lost);
        }
        self.silent_heartbeats += 1;
        self.subscriptions.heartbeat();
        self.write([Message::Ping(Bytes::new())]).await
    }

    async fn pass_on(&mut self, batch: &mut Vec<Notice>) -> ControlFlow<End> {
        let mut messages = Vec::with_capacity(batch.len());
        for notice in batch.drain(..) {
            messages.extend(self.subscriptions.text(&notice).map(Message::from));
        }
        self.write(messages).await
    }

    /// Writes the messages and waits a limited time for the client to read them.
    async fn write(&mut self, messages: impl IntoIterator<Item = Message>) -> ControlFlow<End> {
        let (socket, feed) = (&mut self.socket, &self.feed);
        let written = async {
            for message in messages {
                socket.feed(message).await?;
            }
            socket.flush().await
        };
        let patience = async {
            tokio::select! {
                () = sleep(WRITE_TIME_MAX) => {}
                // A client that does not read must not delay a stop.
                () = async {
                    feed.ending().await;
                    sleep(CLOSING_TIME_MAX).await;
                } => {}
            }
        };
        tokio::select! {
            biased;
            written = written => match written {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(End::Lost),
            },
            () = patience => ControlFlow::Break(End::Lost),
        }
    }

    async fn end(mut self, end: End) {
        match end {
            End::Lost => return,
            End::Theirs => {}
            End::ServerStops => {
                // The last notice of each subscription has the cursor to resume from.
                self.subscriptions.begin_no_more();
                let mut batch = Vec::with_capacity(NOTICES_AT_ONCE);
                while self.notices.recv_many(&mut batch, NOTICES_AT_ONCE).await > 0 {
                    if self.pass_on(&mut batch).await.is_break() {
                        return;
                    }
                }
                self.close(CloseCode::Away, "the server is stopping").await;
            }
            End::Ours(code, reason) => self.close(code, reason).await,
        }
        // Reads the client's close frame and its earlier messages. After a violation nothing can be parsed, and the
        // rest is discarded: closing a connection with unread bytes resets it, and the reset can overtake the close
        // frame.
        while let Some(Ok(_)) = self.socket.next().await {}
        let mut stream = self.socket.into_inner().into_inner();
        if stream.shutdown().await.is_ok() {
            let _ = tokio::io::copy(&mut stream.take(CLOSING_BYTES_MAX), &mut tokio::io::sink()).await;
        }
    }

    async fn close(&mut self, code: CloseCode, reason: &'static str) {
        let frame = CloseFrame {
            code,
            reason: reason.into(),
        };
        // A client that cannot be reached will notice by itself.
        let _ = self.socket.close(Some(frame)).await;
    }
}

fn error(id: Option<&SubscriptionId>, detail: &str) -> Message {
    ServerMessage::Error {
        id: id.map(SubscriptionId::as_str),
        detail,
        cursor: None,
    }
    .text()
    .into()
}

fn end_after(error: &Error) -> End {
    match error {
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Lost,
        Error::Protocol(_) => End::Ours(CloseCode::Protocol, "the WebSocket protocol was violated"),
        Error::Capacity(_) => End::Ours(CloseCode::Size, "the message is too long"),
        Error::Utf8(_) => End::Ours(CloseCode::Invalid, "the message is not UTF-8"),
        _ => End::Lost,
    }
}
