//! Faults in how the nodes are run.

use serde_json::json;
use tokio::net::TcpListener;

use super::{Shop, order_named, order_of, place_all};
use crate::fulfilment::receiver::{Reaction, Receiver, answer};
use crate::support::client::http;
use crate::support::postgres;
use crate::support::required;

pub async fn the_queue_is_paused() {
    let shop = Shop::new(&[]);
    let node = shop.node().await;
    let paused = http().post(format!("{}/queue/pause", node.url)).send().await;
    assert!(paused.expect("the node answers").status().is_success());
    place_all(&node, [order_of(1)]).await;
    shop.is_named(Some(&node), "paused", &["orderly resume"]).await;
}

pub async fn no_node_runs() {
    let shop = Shop::new(&[]);
    let node = shop.node().await;
    let paused = http().post(format!("{}/queue/pause", node.url)).send().await;
    assert!(paused.expect("the node answers").status().is_success());
    place_all(&node, [order_of(1)]).await;
    let resumed = http().post(format!("{}/queue/resume", node.url)).send().await;
    assert!(resumed.expect("the node answers").status().is_success());
    place_all(&node, (0..3).map(order_named_by_number)).await;
    node.kill().await;
    shop.is_named(None, "no-node", &["orderly serve"]).await;
}

fn order_named_by_number(number: u64) -> serde_json::Value {
    order_of(number + 1)
}

pub async fn no_worker_asks() {
    let shop = Shop::new(&[("ORDERLY_PROCESSOR", "pull")]);
    let node = shop.node().await;
    place_all(&node, [order_of(1)]).await;
    shop.is_named(Some(&node), "no-worker", &["POST /leases"]).await;
}

pub async fn workers_have_a_wrong_key() {
    let key = "a-key-of-the-shop-that-nobody-guesses";
    let shop = Shop::new(&[("ORDERLY_PROCESSOR", "pull"), ("ORDERLY_API_KEY", key)]);
    let node = shop.node().await;
    let placed = http()
        .post(format!("{}/orders", node.url))
        .bearer_auth(key)
        .json(&order_of(1))
        .send()
        .await;
    assert_eq!(placed.expect("the node answers").status().as_u16(), 201);
    let asked = http()
        .post(format!("{}/leases", node.url))
        .bearer_auth("another-key-of-the-shop")
        .json(&json!({"max": 1}))
        .send()
        .await;
    assert_eq!(asked.expect("the node answers").status().as_u16(), 401);
    shop.is_named(
        Some(&node),
        "no-worker",
        &["1 request for leases had a wrong key", "401"],
    )
    .await;
}

pub async fn all_slots_hang() {
    let receiver = Receiver::start().await;
    receiver.set_reactions("hangs", vec![Reaction::Hold; 10]);
    let url = receiver.url();
    let shop = Shop::new(&[
        ("ORDERLY_PROCESSOR", "http"),
        ("ORDERLY_PROCESSOR_URL", &url),
        ("ORDERLY_CONCURRENCY", "2"),
    ]);
    let node = shop.node().await;
    place_all(&node, (0..4).map(|_| order_named("hangs"))).await;
    shop.is_named(
        Some(&node),
        "slots-full",
        &["all 2 slots", "order 1", "ORDERLY_CONCURRENCY"],
    )
    .await;
}

pub async fn too_few_slots() {
    let shop = Shop::new(&[("ORDERLY_CONCURRENCY", "2")]);
    let node = shop.node().await;
    place_all(&node, (0..120).map(|user| order_of(user + 1))).await;
    shop.is_named(Some(&node), "behind", &["ORDERLY_CONCURRENCY", "2 of 2 slots"])
        .await;
}

pub async fn the_rate_limit_is_too_low() {
    let shop = Shop::new(&[("ORDERLY_RATE_LIMIT", "0.5"), ("ORDERLY_SIMULATED_SPEED", "0")]);
    let node = shop.node().await;
    place_all(&node, (0..100).map(|user| order_of(user + 1))).await;
    shop.is_named(Some(&node), "behind", &["ORDERLY_RATE_LIMIT"])
        .await;
}

/// Orders of user 1 wait for one that was answered so.
async fn blocked_by(reaction: Reaction, attempts: &str) {
    let receiver = Receiver::start().await;
    receiver.set_reactions("first", vec![reaction; 5]);
    let url = receiver.url();
    let shop = Shop::new(&[
        ("ORDERLY_PROCESSOR", "http"),
        ("ORDERLY_PROCESSOR_URL", &url),
        ("ORDERLY_ORDERING", "user"),
        ("ORDERLY_ORDERING_ON_FAILURE", "block"),
        ("ORDERLY_MAX_ATTEMPTS", attempts),
        ("ORDERLY_RETRY_BASE", "5m"),
    ]);
    let node = shop.node().await;
    place_all(&node, [order_named("first"), order_named("second")]).await;
    shop.is_named(
        Some(&node),
        "user-blocked",
        &["order 1", "orderly orders retry 1"],
    )
    .await;
}

pub async fn a_failed_order_blocks_its_user() {
    blocked_by(answer(422, "", "not for sale"), "1").await;
}

pub async fn an_order_in_backoff_blocks_its_user() {
    blocked_by(answer(500, "Retry-After: 600\r\n", "later"), "5").await;
}

pub async fn a_node_is_frozen() {
    if !required("PostgreSQL", postgres::is_installed()) {
        return;
    }
    let database = super::durable().await.create_database().await;
    let shop = Shop::new(&[("DATABASE_URL", &database.url()), ("ORDERLY_LEASE", "2s")]);
    let node = shop.node().await;
    let frozen = shop.node_with(&[("ORDERLY_NODE_NAME", "shop-2")]).await;
    place_all(&node, [order_of(1)]).await;
    frozen.signal("STOP").await;
    shop.is_named(Some(&node), "node-silent", &["shop-2"]).await;
    frozen.signal("CONT").await;
}

async fn one_of_two(settings: &[(&'static str, &str)], word: &str) {
    if !required("PostgreSQL", postgres::is_installed()) {
        return;
    }
    let database = super::durable().await.create_database().await;
    let shop = Shop::new(&[("DATABASE_URL", &database.url())]);
    let node = shop.node().await;
    let settings: Vec<_> = settings
        .iter()
        .copied()
        .chain([("ORDERLY_NODE_NAME", "shop-2")])
        .collect();
    let _other = shop.node_with(&settings).await;
    shop.is_named(Some(&node), "node-differs", &["shop-2", word])
        .await;
}

pub async fn a_node_has_another_processor() {
    one_of_two(&[("ORDERLY_PROCESSOR", "pull")], "ORDERLY_PROCESSOR").await;
}

pub async fn a_node_has_another_ordering() {
    one_of_two(&[("ORDERLY_ORDERING", "user")], "ORDERLY_ORDERING").await;
}

/// Workers take the order and never report.
pub async fn workers_fall_silent() {
    let shop = Shop::new(&[("ORDERLY_PROCESSOR", "pull"), ("ORDERLY_LEASE", "1s")]);
    let node = shop.node().await;
    place_all(&node, [order_of(1)]).await;
    for _ in 0..2 {
        let mut taken = 0;
        while taken == 0 {
            let asked = http()
                .post(format!("{}/leases", node.url))
                .json(&json!({"max": 1, "lease": 1, "wait": 10}))
                .send()
                .await
                .expect("the node answers")
                .error_for_status()
                .expect("a request for leases");
            let body: serde_json::Value = asked.json().await.expect("leases are JSON");
            taken = body["leases"].as_array().map_or(0, Vec::len);
        }
    }
    shop.is_named(Some(&node), "leases-lost", &["order 1", "orderly orders get 1"])
        .await;
}

pub async fn the_port_is_taken() {
    let other = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let shop = Shop::new(&[]);
    let node = shop.node().await;
    assert_eq!(node.terminate().await, Some(0));
    let port = other.local_addr().expect("it listens").port().to_string();
    let shop = Shop {
        settings: vec![("PORT", port.clone())],
        ..shop
    };
    let mut command = shop.command(&[("PORT", &port)]);
    let output = command
        .args(["doctor", "--json"])
        .output()
        .await
        .expect("the doctor can be run");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let report: serde_json::Value = serde_json::from_str(&said).expect("a report");
    assert_eq!(report["checks"][0]["name"], "server", "{report:#}");
    assert!(
        report["checks"][0]["advice"]
            .to_string()
            .contains("another program"),
        "{report:#}"
    );
}
