//! A client of `GET /ws`, for tests of what a server says there and of how it ends a connection.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// What takes longer does not happen.
const PATIENCE: Duration = Duration::from_mins(1);

pub struct Socket(WebSocketStream<TcpStream>);

/// What a server says next.
#[derive(Debug, PartialEq)]
pub enum Said {
    Message(Value),
    Pong(Bytes),
    Ping,
    /// With its code; none where the close frame had none.
    Closed(Option<u16>),
    /// Without a close frame.
    Lost,
}

pub fn request(address: &str) -> Request {
    let request = format!("ws://{address}/ws").into_client_request();
    request.expect("an address and a path")
}

impl Socket {
    /// To `127.0.0.1:5000`, or wherever.
    pub async fn connect(address: &str) -> Socket {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        Socket::over(stream, address).await.expect("the server agrees")
    }

    pub async fn over(stream: TcpStream, address: &str) -> Result<Socket, Error> {
        let (socket, _) = client_async(request(address), stream).await?;
        Ok(Socket(socket))
    }

    pub async fn say(&mut self, message: Value) {
        self.send(Message::from(message.to_string()))
            .await
            .expect("the server listens");
    }

    pub async fn send(&mut self, message: Message) -> Result<(), Error> {
        self.0.send(message).await
    }

    /// Subscribes with the fields, and waits until that has happened: the place it begins.
    pub async fn subscribe(&mut self, id: &str, fields: Value) -> String {
        self.say(subscribe(id, fields)).await;
        let answer = self.hear().await;
        assert_eq!(
            (&answer["type"], &answer["id"]),
            (&json!("subscribed"), &json!(id)),
            "{answer}"
        );
        answer["cursor"].as_str().expect("a place").to_owned()
    }

    /// The next message that is no ping and no pong.
    pub async fn hear(&mut self) -> Value {
        loop {
            match self.next().await {
                Said::Message(message) => return message,
                Said::Ping | Said::Pong(_) => {}
                end => panic!("a message was expected, not {end:?}"),
            }
        }
    }

    /// The event of the next message.
    pub async fn hear_event(&mut self, id: &str) -> Value {
        let mut message = self.hear().await;
        assert_eq!(
            (&message["type"], &message["id"]),
            (&json!("event"), &json!(id)),
            "{message}"
        );
        message["event"].take()
    }

    pub async fn next(&mut self) -> Said {
        let next = tokio::time::timeout(PATIENCE, self.0.next()).await;
        match next.expect("the server says something in time") {
            Some(Ok(Message::Text(text))) => Said::Message(serde_json::from_str(&text).expect("JSON")),
            Some(Ok(Message::Ping(_))) => Said::Ping,
            Some(Ok(Message::Pong(payload))) => Said::Pong(payload),
            Some(Ok(Message::Close(frame))) => Said::Closed(frame.map(|frame| frame.code.into())),
            Some(Ok(other @ (Message::Binary(_) | Message::Frame(_)))) => panic!("{other:?}"),
            Some(Err(_)) | None => Said::Lost,
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
