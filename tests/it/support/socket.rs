//! A client of `GET /ws` that shows all messages and the way the connection ends.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// The time after which a wait has failed.
const PATIENCE: Duration = Duration::from_mins(1);

pub struct Socket(WebSocketStream<TcpStream>);

/// The next thing that a server sends.
#[derive(Debug, PartialEq)]
pub enum Incoming {
    Message(Value),
    Pong(Bytes),
    Ping,
    /// The close code, or `None` where the close frame has none.
    Closed(Option<u16>),
    /// Lost without a close frame.
    Lost,
}

pub fn request(address: &str) -> Request {
    let request = format!("ws://{address}/ws").into_client_request();
    request.expect("a valid address and path")
}

impl Socket {
    /// Connects to an address such as `127.0.0.1:5000`.
    pub async fn connect(address: &str) -> Socket {
        let stream = TcpStream::connect(address)
            .await
            .expect("the server accepts connections");
        Socket::over(stream, address)
            .await
            .expect("the server accepts the handshake")
    }

    pub async fn over(stream: TcpStream, address: &str) -> Result<Socket, Error> {
        let (socket, _) = client_async(request(address), stream).await?;
        Ok(Socket(socket))
    }

    pub async fn send_json(&mut self, message: Value) {
        self.send(Message::from(message.to_string()))
            .await
            .expect("the connection is open");
    }

    pub async fn send(&mut self, message: Message) -> Result<(), Error> {
        self.0.send(message).await
    }

    /// Subscribes with the fields, waits for the confirmation and returns its cursor.
    pub async fn subscribe(&mut self, id: &str, fields: Value) -> String {
        self.send_json(subscribe(id, fields)).await;
        let answer = self.receive().await;
        assert_eq!(
            (&answer["type"], &answer["id"]),
            (&json!("subscribed"), &json!(id)),
            "{answer}"
        );
        answer["cursor"].as_str().expect("a cursor").to_owned()
    }

    /// The next message other than pings and pongs.
    pub async fn receive(&mut self) -> Value {
        loop {
            match self.next().await {
                Incoming::Message(message) => return message,
                Incoming::Ping | Incoming::Pong(_) => {}
                end => panic!("a message was expected, not {end:?}"),
            }
        }
    }

    /// The event of the next message.
    pub async fn receive_event(&mut self, id: &str) -> Value {
        let mut message = self.receive().await;
        assert_eq!(
            (&message["type"], &message["id"]),
            (&json!("event"), &json!(id)),
            "{message}"
        );
        message["event"].take()
    }

    pub async fn next(&mut self) -> Incoming {
        let next = tokio::time::timeout(PATIENCE, self.0.next()).await;
        match next.expect("a message arrives in time") {
            Some(Ok(Message::Text(text))) => Incoming::Message(serde_json::from_str(&text).expect("JSON")),
            Some(Ok(Message::Ping(_))) => Incoming::Ping,
            Some(Ok(Message::Pong(payload))) => Incoming::Pong(payload),
            Some(Ok(Message::Close(frame))) => Incoming::Closed(frame.map(|frame| frame.code.into())),
            Some(Ok(other @ (Message::Binary(_) | Message::Frame(_)))) => panic!("{other:?}"),
            Some(Err(_)) | None => Incoming::Lost,
        }
    }
}

pub fn subscribe(id: &str, fields: Value) -> Value {
    let mut message = fields;
    message["type"] = json!("subscribe");
    message["id"] = json!(id);
    message
}

pub fn unsubscribe(id: &str) -> Value {
    json!({"type": "unsubscribe", "id": id})
}
