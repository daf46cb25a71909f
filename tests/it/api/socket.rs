//! The feed over a WebSocket: its messages, access, and how connections end. Cut connections are tested in `cuts`.

use std::time::Duration;

use orderly::http::listener::{self, Limits};
use orderly::order::{NewOrder, OrderId, UserId};
use serde_json::Value;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use super::in_process::Api;
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
pub(super) struct ApiServer {
    pub api: Api,
    pub address: String,
    server: JoinHandle<()>,
}

impl ApiServer {
    pub async fn open() -> ApiServer {
        ApiServer::before(Api::open().await, CONNECTIONS_MAX)
    }

    pub fn before(api: Api, connections_max: usize) -> ApiServer {
        let listener = TcpSocket::new_v4().unwrap();
        listener.set_send_buffer_size(SYSTEM_BUFFER_BYTES).unwrap();
        listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = listener.listen(1024).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(listener::serve(
            vec![listener],
            api.router(),
            Limits::new(connections_max),
            api.harness.metrics().clone(),
            api.draining.clone(),
        ));
        ApiServer { api, address, server }
    }

    pub async fn connect(&self) -> Socket {
        Socket::connect(&self.address).await
    }

    pub async fn accept(&self, user_id: i64) -> OrderId {
        let order = NewOrder {
            user_id: UserId::Number(user_id),
            ..new_order()
        };
        self.api.harness.accept(vec![order]).await[0]
    }

    pub fn subscribers(&self) -> i64 {
        self.api.harness.metrics().feed_subscribers.get()
    }

    /// The order's events as the history returns them.
    async fn history(&self, id: OrderId) -> Vec<Value> {
        let history = self.api.get(&format!("/orders/{id}/events")).await.ok();
        history["events"].as_array().unwrap().clone()
    }

    /// The cursor before all events.
    async fn beginning(&self) -> String {
        let page = self.api.get("/events?limit=1&status=Cancelled").await.ok();
        page["next_cursor"].as_str().unwrap().to_owned()
    }

    /// Stops the server, which must end soon despite open connections.
    pub async fn close(self) {
        self.api.draining.cancel();
        let ended = tokio::time::timeout(EVERYTHING_ELSE_LASTS, self.server).await;
        ended.expect("a stop ends in time").unwrap();
        assert_eq!(self.api.harness.metrics().connections.get(), 0);
        self.api.close().await;
    }
}
