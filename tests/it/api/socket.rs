//! The feed over a WebSocket: its messages, access, and how connections end. Cut connections are tested in `cuts`.

use std::time::Duration;

use orderly::http::listener::{self, Limits};
use orderly::order::{NewOrder, OrderId};
use serde_json::Value;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use super::door::Door;
use crate::support::make::new_order;
use crate::support::socket::Socket;

mod ends;
mod handshake;
mod subscriptions;

pub(super) const EVERYTHING_ELSE_LASTS: Duration = Duration::from_mins(1);
pub(super) const CONNECTIONS_MAX: usize = 2_000;
/// A small system buffer makes an unread connection get stuck after kilobytes, not megabytes.
pub(super) const SYSTEM_BUFFER_BYTES: u32 = 4 * 1024;

/// The API behind a listener.
pub(super) struct Hall {
    pub door: Door,
    pub address: String,
    server: JoinHandle<()>,
}

impl Hall {
    pub async fn open() -> Hall {
        Hall::before(Door::open().await, CONNECTIONS_MAX)
    }

    pub fn before(door: Door, connections_max: usize) -> Hall {
        let listener = TcpSocket::new_v4().unwrap();
        listener.set_send_buffer_size(SYSTEM_BUFFER_BYTES).unwrap();
        listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = listener.listen(1024).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(listener::serve(
            vec![listener],
            door.router(),
            Limits::new(connections_max),
            door.harness.metrics().clone(),
            door.draining.clone(),
        ));
        Hall {
            door,
            address,
            server,
        }
    }

    pub async fn connect(&self) -> Socket {
        Socket::connect(&self.address).await
    }

    pub async fn accept(&self, user_id: i64) -> OrderId {
        let order = NewOrder {
            user_id,
            ..new_order()
        };
        self.door.harness.accept(vec![order]).await[0]
    }

    pub fn subscribers(&self) -> i64 {
        self.door.harness.metrics().feed_subscribers.get()
    }

    /// The order's events as the history returns them.
    async fn history(&self, id: OrderId) -> Vec<Value> {
        let history = self.door.get(&format!("/orders/{id}/events")).await.ok();
        history["events"].as_array().unwrap().clone()
    }

    /// The cursor before all events.
    async fn beginning(&self) -> String {
        let page = self.door.get("/events?limit=1&status=Cancelled").await.ok();
        page["next_cursor"].as_str().unwrap().to_owned()
    }

    /// Stops the server, which must end soon despite open connections.
    pub async fn close(self) {
        self.door.draining.cancel();
        let ended = tokio::time::timeout(EVERYTHING_ELSE_LASTS, self.server).await;
        ended.expect("a stop ends in time").unwrap();
        assert_eq!(self.door.harness.metrics().connections.get(), 0);
        self.door.close().await;
    }
}
