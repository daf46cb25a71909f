//! The example workers, run as their users run them.

use std::path::Path;

use serde_json::json;
use tokio::process::Command;

use super::pull::{Shop, THREADS, breaches};
use crate::support::until;

/// The example program, compiled into the tests and run in a child process.
#[path = "../../../examples/pull_worker.rs"]
mod pull_worker;

/// Set only in the child process.
const WORK: &str = "ORDERLY_TEST_PULL_WORKER";

/// Does nothing in an ordinary run. In a child process it runs the example.
#[test]
fn work_as_child_process_of_another_test() {
    if std::env::var_os(WORK).is_some() {
        pull_worker::main();
    }
}

/// The Rust example as a separate process.
pub fn in_rust() -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the test binary has a path"));
    let test = "fulfilment::pull_examples::work_as_child_process_of_another_test";
    command.args([test, "--exact", "--nocapture"]).env(WORK, "1");
    command
}

/// The Python example.
pub fn in_python() -> Command {
    let mut command = Command::new("python3");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/workers/worker.py"));
    command
}

/// Only the example needs Python, not the server.
pub async fn has_python() -> bool {
    let asked = Command::new("python3").arg("--version").output().await;
    let present = asked.is_ok_and(|asked| asked.status.success());
    if !present {
        println!("skipped: worker.py is not possible here");
    }
    present
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_worker_example_works_as_documented() {
    works_as_told(in_rust).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_worker_example_works_as_documented() {
    if has_python().await {
        works_as_told(in_python).await;
    }
}

async fn works_as_told(worker: impl Fn() -> Command) {
    let mut shop = Shop::open(None).await;
    let mut quick = shop.employ(with(worker(), "0.01"));
    completes_refuses_and_tries_again(&mut shop).await;
    survives_restarts(&mut shop).await;
    let end = quick.terminate().await;
    assert_eq!(end, Some(0), "the worker exits cleanly");
    // The first three orders were refused or retried on purpose.
    shop.orders.drain(..3);
    assert_eq!(breaches(&shop, &quick.taken()).await, [""; 0]);
    keeps_its_lease_and_gives_back(&mut shop, worker).await;
    let (exit, report) = shop.close().await;
    assert_eq!(exit, Some(0), "{report}");
}

fn with(mut command: Command, work_seconds: &str) -> Command {
    command
        .env("WORK_SECONDS", work_seconds)
        .env("WORKER_GRACE_SECONDS", "0.1");
    command
}

async fn completes_refuses_and_tries_again(shop: &mut Shop) {
    shop.accept(1, json!({})).await;
    shop.accept(1, json!({"refuse": true})).await;
    shop.accept(1, json!({"unlucky": 2})).await;
    shop.all_ended().await;
    let order = shop.get("/orders/1").await;
    assert_eq!(order["status"], "Completed");
    assert_eq!(order["result"]["shipped"], "7");
    let key = order["result"]["key"].as_str().unwrap();
    assert!(key.ends_with("-1-0"), "{key}");
    let order = shop.get("/orders/2").await;
    assert_eq!(
        (&order["status"], &order["attempts"]),
        (&json!("Failed"), &json!(1))
    );
    assert_eq!(order["last_error"], "the card was declined");
    let order = shop.get("/orders/3").await;
    assert_eq!(
        (&order["status"], &order["attempts"]),
        (&json!("Completed"), &json!(3))
    );
    let kinds = shop.kinds(3).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "retry_scheduled").count(), 2);
}

async fn survives_restarts(shop: &mut Shop) {
    for round in 0..4 {
        shop.accept(5, json!({})).await;
        if round % 2 == 0 {
            shop.restart_server().await;
        } else {
            shop.kill_server().await;
        }
    }
    shop.accept(1, json!({})).await;
    shop.all_ended().await;
}

async fn keeps_its_lease_and_gives_back(shop: &mut Shop, worker: impl Fn() -> Command) {
    until("the previous worker is gone", async || shop.waiting().await == 0).await;
    let mut slow = shop.employ(with(worker(), "2.5"));
    until("the worker waits", async || shop.waiting().await == THREADS).await;
    shop.accept(1, json!({})).await;
    let id = *shop.orders.last().expect("an order was accepted");
    shop.all_ended().await;
    assert_eq!(
        shop.kinds(id).await,
        ["accepted", "started", "completed"],
        "the lease was renewed in between"
    );

    shop.accept(1, json!({})).await;
    let id = id + 1;
    until("the attempt has begun", async || {
        shop.get("/queue").await["processing"] == 1
    })
    .await;
    assert_eq!(slow.terminate().await, Some(0));
    until("the order is given back", async || {
        shop.get("/queue").await["pending"] == 1
    })
    .await;
    let kinds = shop.kinds(id).await;
    assert_eq!(
        kinds[..3],
        ["accepted", "started", "released"],
        "the worker gave back its order"
    );
    // The server may notice later that the other threads are gone, and then releases the orders they did not take.
    assert!(!kinds.iter().any(|kind| kind == "lease_lost"), "{kinds:?}");
    assert_eq!(shop.get(&format!("/orders/{id}")).await["attempts"], 0);
}
