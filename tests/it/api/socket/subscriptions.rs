//! Messages after the handshake.

use std::time::Duration;

use orderly::event::EventKind;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::{CONNECTIONS_MAX, Hall};
use crate::api::door::Door;
use crate::support::socket::{Said, subscribe, unsubscribe};
use crate::support::{PATIENCE, until};

#[tokio::test]
async fn each_subscription_of_a_socket_gets_its_own_events() {
    let hall = Hall::open().await;
    let mut socket = hall.connect().await;
    socket.subscribe("user", json!({"user_id": 7})).await;
    hall.accept(8).await;
    let id = hall.accept(7).await;
    let event = socket.hear_event("user").await;
    assert_eq!(event, hall.history(id).await[0]);

    let fields = json!({"order_id": id.0, "user_id": 7, "status": "Cancelled"});
    socket.subscribe("order", fields).await;
    socket.say(unsubscribe("user")).await;
    hall.door.harness.cancel(id).await;
    let cancelled = socket.hear_event("order").await;
    assert_eq!(cancelled, hall.history(id).await[1]);
    assert_eq!(cancelled["kind"], EventKind::Cancelled.name());

    socket
        .subscribe("all", json!({"all": true, "user_id": null}))
        .await;
    let other = hall.accept(9).await;
    assert_eq!(socket.hear_event("all").await["order_id"], other.0);
    hall.close().await;
}

#[tokio::test]
async fn an_idle_subscription_gets_a_new_cursor_once_with_a_heartbeat() {
    // The client reads at least this often, or the server would disconnect it.
    let heartbeat = Duration::from_millis(100);
    let hall = Hall::before(Door::with_heartbeat(heartbeat).await, CONNECTIONS_MAX);
    let mut socket = hall.connect().await;
    let beginning = socket.subscribe("quiet", json!({"user_id": 99})).await;
    socket.subscribe("all", json!({"all": true})).await;
    hall.accept(1).await;
    let told = async { [socket.hear().await, socket.hear().await] };
    // Pings keep coming.
    let mut told = timeout(PATIENCE, told).await.expect("both get a cursor");
    told.sort_by_key(|message| message["id"].to_string());
    let [mut of_all, of_quiet] = told;
    let place = of_all["event"]["cursor"].take();
    assert_ne!(place, json!(beginning));
    let expected = json!({"type": "subscribed", "id": "quiet", "cursor": place});
    assert_eq!(of_quiet, expected);
    // A known cursor is not repeated, not even for the subscription that got the event.
    let mut pings = 0;
    while pings < 3 {
        match socket.next().await {
            Said::Ping => pings += 1,
            said => panic!("got {said:?} without a change"),
        }
    }
    let id = hall.accept(99).await;
    for _ in 0..2 {
        assert_eq!(socket.hear().await["event"]["order_id"], id.0);
    }
    hall.close().await;
}

#[tokio::test]
async fn a_subscription_resumes_after_its_cursor() {
    let hall = Hall::open().await;
    let beginning = hall.beginning().await;
    let ids = [hall.accept(1).await, hall.accept(2).await, hall.accept(3).await];
    let mut socket = hall.connect().await;
    let begins = socket
        .subscribe("a", json!({"all": true, "after": beginning}))
        .await;
    assert_eq!(begins, beginning);
    let first = socket.hear_event("a").await;
    assert_eq!(first["order_id"], ids[0].0);
    socket
        .say(subscribe("b", json!({"all": true, "after": first["cursor"]})))
        .await;
    // The order between the two subscriptions is free, within one it is fixed.
    let mut heard = [vec![first["order_id"].clone()], Vec::new()];
    while heard.iter().map(Vec::len).sum::<usize>() < 5 {
        let message = socket.hear().await;
        if message["type"] == "event" {
            let of = usize::from(message["id"] == "b");
            heard[of].push(message["event"]["order_id"].clone());
        }
    }
    assert_eq!(heard[0], ids.map(|id| json!(id.0)));
    assert_eq!(heard[1], [json!(ids[1].0), json!(ids[2].0)]);
    hall.close().await;
}

#[tokio::test]
async fn a_cursor_outside_the_feed_gets_a_resync() {
    let hall = Hall::open().await;
    let other = Hall::open().await;
    hall.accept(1).await;
    let foreign = other.beginning().await;
    assert_resync(&hall, &foreign).await;
    other.close().await;
    hall.close().await;
}

#[tokio::test]
async fn a_position_before_pruned_orders_gets_a_resync() {
    let hall = Hall::open().await;
    let too_old = hall.beginning().await;
    let gone = hall.accept(1).await;
    hall.door.harness.cancel(gone).await;
    hall.door.harness.prune_all().await;
    hall.accept(1).await;
    assert_resync(&hall, &too_old).await;
    hall.close().await;
}

/// Subscribes with an unusable cursor and asserts that it continues from now.
async fn assert_resync(hall: &Hall, nowhere: &str) {
    let page = hall.door.get("/orders").await;
    let now = page.header("orderly-cursor");
    let mut socket = hall.connect().await;
    let fields = json!({"all": true, "after": nowhere});
    let begins = socket.subscribe("a", fields).await;
    assert_eq!(begins, nowhere, "a repeat gets the resync again");
    let resync = socket.hear().await;
    assert_eq!(resync, json!({"type": "resync", "id": "a", "cursor": now}));
    let next = hall.accept(2).await;
    assert_eq!(socket.hear_event("a").await["order_id"], next.0);
}

#[tokio::test]
async fn an_ended_subscription_delivers_nothing() {
    let hall = Hall::open().await;
    let mut socket = hall.connect().await;
    socket.subscribe("a", json!({"all": true})).await;
    let mut reader = hall.connect().await;
    reader.subscribe("a", json!({"all": true})).await;
    for user_id in 1..=50 {
        hall.accept(user_id).await;
        // Events that no subscriber got yet come next, also for a new one.
        reader.hear_event("a").await;
    }
    socket.say(unsubscribe("a")).await;
    socket
        .send(Message::Ping(Bytes::from_static(b"ended")))
        .await
        .unwrap();
    while socket.next().await != Said::Pong(Bytes::from_static(b"ended")) {}
    until("the subscription has ended", async || hall.subscribers() == 1).await;
    // A new subscription under the same name gets none of the first one's events.
    socket.subscribe("a", json!({"all": true})).await;
    let id = hall.accept(60).await;
    assert_eq!(socket.hear_event("a").await["order_id"], id.0);
    hall.close().await;
}

#[tokio::test]
async fn an_invalid_message_gets_an_error_and_keeps_the_socket_open() {
    let hall = Hall::open().await;
    let mut socket = hall.connect().await;
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
        let answer = socket.hear().await;
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
    socket.say(subscribe("a", json!({"user_id": 1}))).await;
    let answer = socket.hear().await;
    assert_eq!(
        (&answer["type"], &answer["id"]),
        (&json!("error"), &json!("a")),
        "{answer}"
    );
    let id = hall.accept(1).await;
    assert_eq!(
        socket.hear_event("a").await["order_id"],
        id.0,
        "the first subscription continues"
    );
    hall.close().await;
}

#[tokio::test]
async fn a_socket_has_at_most_a_hundred_subscriptions() {
    let hall = Hall::open().await;
    let mut socket = hall.connect().await;
    for number in 1..=100 {
        socket
            .subscribe(&number.to_string(), json!({"user_id": number}))
            .await;
    }
    socket.say(subscribe("101", json!({"all": true}))).await;
    let answer = socket.hear().await;
    assert_eq!(answer["type"], "error", "{answer}");
    assert_eq!(hall.subscribers(), 100);
    socket.say(unsubscribe("1")).await;
    socket.subscribe("101", json!({"user_id": 101})).await;
    hall.accept(101).await;
    socket.hear_event("101").await;
    drop(socket);
    until("all subscriptions have ended", async || hall.subscribers() == 0).await;
    hall.close().await;
}
