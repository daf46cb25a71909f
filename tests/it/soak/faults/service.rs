//! Faults of the service that processes the orders.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::{Shop, order_named, place_all};
use crate::fulfilment::receiver::{Reaction, Receiver, answer};
use crate::support::client::http;
use crate::support::process::Process;
use crate::support::until;

async fn shop_of(url: &str, more: &[(&'static str, &str)]) -> (Shop, Process) {
    let settings = [("ORDERLY_PROCESSOR", "http"), ("ORDERLY_PROCESSOR_URL", url)];
    let settings: Vec<_> = settings.into_iter().chain(more.iter().copied()).collect();
    let shop = Shop::new(&settings);
    let node = shop.node().await;
    (shop, node)
}

/// Places orders, and waits until the node's breaker has opened.
pub async fn place_until_down(node: &Process) {
    // One order alone never opens it.
    place_all(node, (0..5).map(|_| order_named("any"))).await;
    until("the breaker is open", async || {
        let queue = http().get(format!("{}/queue", node.url)).send().await;
        let queue: serde_json::Value = queue.expect("the node answers").json().await.expect("JSON");
        queue["nodes"][0]["breaker"] == "open"
    })
    .await;
}

pub async fn the_service_is_down() {
    let receiver = Receiver::start().await;
    let url = receiver.url();
    receiver.stop().await;
    let (shop, node) = shop_of(&url, &[]).await;
    place_until_down(&node).await;
    shop.is_named(Some(&node), "processor", &["refused", "start the service"])
        .await;
}

pub async fn the_service_hangs() {
    let receiver = Receiver::start().await;
    receiver.set_reactions("any", vec![Reaction::Hold; 100]);
    let (shop, node) = shop_of(&receiver.url(), &[("ORDERLY_CONCURRENCY", "3")]).await;
    place_all(&node, (0..10).map(|_| order_named("any"))).await;
    shop.is_named(Some(&node), "slots-full", &["the service"]).await;
}

/// A wrong secret: the service refuses every order.
pub async fn the_service_answers_401() {
    let receiver = Receiver::start().await;
    receiver.set_reactions("any", vec![answer(401, "", "wrong signature"); 100]);
    let (shop, node) = shop_of(&receiver.url(), &[]).await;
    place_all(&node, (0..5).map(|_| order_named("any"))).await;
    shop.is_named(Some(&node), "service-down", &["401", "ORDERLY_PROCESSOR_SECRET"])
        .await;
}

pub async fn the_service_answers_503_with_a_reason() {
    let receiver = Receiver::start().await;
    receiver.set_reactions(
        "any",
        vec![answer(503, "", "maintenance until 06:00, ask ops-billing"); 100],
    );
    let (shop, node) = shop_of(&receiver.url(), &[]).await;
    place_all(&node, (0..5).map(|_| order_named("any"))).await;
    shop.is_named(
        Some(&node),
        "service-down",
        &["maintenance until 06:00, ask ops-billing"],
    )
    .await;
}

pub async fn one_kind_of_item_fails() {
    let receiver = Receiver::start().await;
    receiver.set_reactions("42", vec![answer(422, "", "no rate for item 42"); 100]);
    let (shop, node) = shop_of(&receiver.url(), &[]).await;
    let orders = (0..20).map(|number| order_named(if number % 4 == 0 { "42" } else { "other" }));
    place_all(&node, orders).await;
    shop.is_named(
        Some(&node),
        "many-failed",
        &["no rate for item 42", "orderly orders retry --failed"],
    )
    .await;
}

pub async fn the_service_never_calls_back() {
    let receiver = Receiver::start().await;
    receiver.set_reactions("any", vec![answer(202, "", ""); 100]);
    let (shop, node) = shop_of(&receiver.url(), &[("ORDERLY_LEASE", "5m")]).await;
    place_all(&node, [order_named("any")]).await;
    shop.is_named(Some(&node), "no-report", &["order 1", "202"]).await;
}

pub async fn the_service_speaks_no_tls() {
    // Like most servers, this one answers a handshake as a bad request.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let url = format!("https://{}/orders", listener.local_addr().expect("it listens"));
    let _answering = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // The client may be gone.
            let _ = stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                .await;
        }
    }));
    let (shop, node) = shop_of(&url, &[]).await;
    place_until_down(&node).await;
    shop.is_named(Some(&node), "processor", &["does not speak TLS", "http://"])
        .await;
}
