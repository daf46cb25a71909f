//! Messages after the handshake.

use std::time::Duration;

use orderly::event::EventKind;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::{ApiServer, CONNECTIONS_MAX};
use crate::api::in_process::Api;
use crate::support::socket::{Incoming, subscribe, unsubscribe};
use crate::support::{PATIENCE, until};

#[tokio::test]
async fn each_subscription_of_a_socket_gets_its_own_events() {
    let server = ApiServer::open().await;
    let mut socket = server.connect().await;
    socket.subscribe("user", json!({"user_id": 7})).await;
    server.accept(8).await;
    let id = server.accept(7).await;
    let event = socket.receive_event("user").await;
    assert_eq!(event, server.history(id).await[0]);

    let fields = json!({"order_id": id.0, "user_id": 7, "status": "Cancelled"});
    socket.subscribe("order", fields).await;
    socket.send_json(unsubscribe("user")).await;
    server.api.harness.cancel(id).await;
    let cancelled = socket.receive_event("order").await;
    assert_eq!(cancelled, server.history(id).await[1]);
    assert_eq!(cancelled["kind"], EventKind::Cancelled.name());

    socket
        .subscribe("all", json!({"all": true, "user_id": null}))
        .await;
    let other = server.accept(9).await;
    assert_eq!(socket.receive_event("all").await["order_id"], other.0);
    server.close().await;
}

#[tokio::test]
async fn an_idle_subscription_gets_a_new_cursor_once_with_a_heartbeat() {
    // The client reads at least this often, or the server would disconnect it.
    let heartbeat = Duration::from_millis(100);
    let server = ApiServer::before(Api::with_heartbeat(heartbeat).await, CONNECTIONS_MAX);
    let mut socket = server.connect().await;
    let beginning = socket.subscribe("quiet", json!({"user_id": 99})).await;
    socket.subscribe("all", json!({"all": true})).await;
    server.accept(1).await;
    let messages = async { [socket.receive().await, socket.receive().await] };
    // Pings keep coming.
    let mut messages = timeout(PATIENCE, messages).await.expect("both get a cursor");
    messages.sort_by_key(|message| message["id"].to_string());
    let [mut of_all, of_quiet] = messages;
    let place = of_all["event"]["cursor"].take();
    assert_ne!(place, json!(beginning));
    let expected = json!({"type": "subscribed", "id": "quiet", "cursor": place});
    assert_eq!(of_quiet, expected);
    // A known cursor is not repeated, not even for the subscription that got the event.
    let mut pings = 0;
    while pings < 3 {
        match socket.next().await {
            Incoming::Ping => pings += 1,
            other => panic!("got {other:?} without a change"),
        }
    }
    let id = server.accept(99).await;
    for _ in 0..2 {
        assert_eq!(socket.receive().await["event"]["order_id"], id.0);
    }
    server.close().await;
}

#[tokio::test]
async fn a_subscription_resumes_after_its_cursor() {
    let server = ApiServer::open().await;
    let beginning = server.beginning().await;
    let ids = [
        server.accept(1).await,
        server.accept(2).await,
        server.accept(3).await,
    ];
    let mut socket = server.connect().await;
    let begins = socket
        .subscribe("a", json!({"all": true, "after": beginning}))
        .await;
    assert_eq!(begins, beginning);
    let first = socket.receive_event("a").await;
    assert_eq!(first["order_id"], ids[0].0);
    socket
        .send_json(subscribe("b", json!({"all": true, "after": first["cursor"]})))
        .await;
    // The order between the two subscriptions is free, within one it is fixed.
    let mut received = [vec![first["order_id"].clone()], Vec::new()];
    while received.iter().map(Vec::len).sum::<usize>() < 5 {
        let message = socket.receive().await;
        if message["type"] == "event" {
            let of = usize::from(message["id"] == "b");
            received[of].push(message["event"]["order_id"].clone());
        }
    }
    assert_eq!(received[0], ids.map(|id| json!(id.0)));
    assert_eq!(received[1], [json!(ids[1].0), json!(ids[2].0)]);
    server.close().await;
}

#[tokio::test]
async fn a_cursor_outside_the_feed_gets_a_resync() {
    let server = ApiServer::open().await;
    let other = ApiServer::open().await;
    server.accept(1).await;
    let foreign = other.beginning().await;
    assert_resync(&server, &foreign).await;
    other.close().await;
    server.close().await;
}

#[tokio::test]
async fn a_position_before_pruned_orders_gets_a_resync() {
    let server = ApiServer::open().await;
    let too_old = server.beginning().await;
    let gone = server.accept(1).await;
    server.api.harness.cancel(gone).await;
    server.api.harness.prune_all().await;
    server.accept(1).await;
    assert_resync(&server, &too_old).await;
    server.close().await;
}

/// Subscribes with an unusable cursor and asserts that it continues from now.
async fn assert_resync(server: &ApiServer, nowhere: &str) {
    let page = server.api.get("/orders").await;
    let now = page.header("orderly-cursor");
    let mut socket = server.connect().await;
    let fields = json!({"all": true, "after": nowhere});
    let begins = socket.subscribe("a", fields).await;
    assert_eq!(begins, nowhere, "a repeat gets the resync again");
    let resync = socket.receive().await;
    assert_eq!(resync, json!({"type": "resync", "id": "a", "cursor": now}));
    let next = server.accept(2).await;
    assert_eq!(socket.receive_event("a").await["order_id"], next.0);
}

#[tokio::test]
async fn an_ended_subscription_delivers_nothing() {
    let server = ApiServer::open().await;
    let mut socket = server.connect().await;
    socket.subscribe("a", json!({"all": true})).await;
    let mut reader = server.connect().await;
    reader.subscribe("a", json!({"all": true})).await;
    for user_id in 1..=50 {
        server.accept(user_id).await;
        // Events that no subscriber got yet come next, also for a new one.
        reader.receive_event("a").await;
    }
    socket.send_json(unsubscribe("a")).await;
    socket
        .send(Message::Ping(Bytes::from_static(b"ended")))
        .await
        .unwrap();
    while socket.next().await != Incoming::Pong(Bytes::from_static(b"ended")) {}
    until("the subscription has ended", async || server.subscribers() == 1).await;
    // A new subscription under the same name gets none of the first one's events.
    socket.subscribe("a", json!({"all": true})).await;
    let id = server.accept(60).await;
    assert_eq!(socket.receive_event("a").await["order_id"], id.0);
    server.close().await;
}

#[tokio::test]
async fn an_invalid_message_gets_an_error_and_keeps_the_socket_open() {
    let server = ApiServer::open().await;
    let mut socket = server.connect().await;
    for (bad, id, reason) in [
        ("", Value::Null, "not JSON"),
        ("[]", Value::Null, "must be an object"),
        (
            r#"{"type":"subscribe","all":true}"#,
            Value::Null,
            "#/id is required",
        ),
        (
            r#"{"type":"hello","id":"a","colour":1}"#,
            json!("a"),
            "#/colour is not a field of this message; #/type must be",
        ),
        (r#"{"type":"subscribe","id":"a"}"#, json!("a"), "needs order_id"),
        (
            r#"{"type":"subscribe","id":"a","all":true,"after":"1"}"#,
            json!("a"),
            "#/after is not a cursor",
        ),
        (
            r#"{"type":"unsubscribe","id":"a"}"#,
            json!("a"),
            "names no subscription",
        ),
    ] {
        socket.send(Message::from(bad)).await.unwrap();
        let answer = socket.receive().await;
        assert_eq!(
            (&answer["type"], &answer["id"]),
            (&json!("error"), &id),
            "{bad}: {answer}"
        );
        assert!(
            answer["detail"].as_str().unwrap().contains(reason),
            "{bad}: {answer}"
        );
        assert!(answer.get("cursor").is_none(), "{answer}");
    }
    socket.subscribe("a", json!({"all": true})).await;
    socket.send_json(subscribe("a", json!({"user_id": 1}))).await;
    let answer = socket.receive().await;
    assert_eq!(
        (&answer["type"], &answer["id"]),
        (&json!("error"), &json!("a")),
        "{answer}"
    );
    let id = server.accept(1).await;
    assert_eq!(
        socket.receive_event("a").await["order_id"],
        id.0,
        "the first subscription continues"
    );
    server.close().await;
}

#[tokio::test]
async fn a_socket_has_at_most_a_hundred_subscriptions() {
    let server = ApiServer::open().await;
    let mut socket = server.connect().await;
    for number in 1..=100 {
        socket
            .subscribe(&number.to_string(), json!({"user_id": number}))
            .await;
    }
    socket.send_json(subscribe("101", json!({"all": true}))).await;
    let answer = socket.receive().await;
    assert_eq!(answer["type"], "error", "{answer}");
    assert_eq!(server.subscribers(), 100);
    socket.send_json(unsubscribe("1")).await;
    socket.subscribe("101", json!({"user_id": 101})).await;
    server.accept(101).await;
    socket.receive_event("101").await;
    drop(socket);
    until("all subscriptions have ended", async || server.subscribers() == 0).await;
    server.close().await;
}
