//! The example workers, run as their users run them.

use std::path::Path;

use serde_json::json;
use tokio::process::Command;

use super::pull::{Fixture, THREADS, breaches};
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
    works_as_documented(in_rust).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_worker_example_works_as_documented() {
    if has_python().await {
        works_as_documented(in_python).await;
    }
}

async fn works_as_documented(worker: impl Fn() -> Command) {
    let mut fixture = Fixture::open(None).await;
    let mut quick = fixture.start_worker(with(worker(), "0.01"));
    completes_refuses_and_tries_again(&mut fixture).await;
    survives_restarts(&mut fixture).await;
    let end = quick.terminate().await;
    assert_eq!(end, Some(0), "the worker exits cleanly");
    // The first three orders were refused or retried on purpose.
    fixture.orders.drain(..3);
    assert_eq!(breaches(&fixture, &quick.taken()).await, [""; 0]);
    keeps_its_lease_and_gives_back(&mut fixture, worker).await;
    let (exit, report) = fixture.close().await;
    assert_eq!(exit, Some(0), "{report}");
}

fn with(mut command: Command, work_seconds: &str) -> Command {
    command
        .env("WORK_SECONDS", work_seconds)
        .env("WORKER_GRACE_SECONDS", "0.1");
    command
}

async fn completes_refuses_and_tries_again(fixture: &mut Fixture) {
    fixture.accept(1, json!({})).await;
    fixture.accept(1, json!({"refuse": true})).await;
    fixture.accept(1, json!({"unlucky": 2})).await;
    fixture.all_ended().await;
    let order = fixture.get("/orders/1").await;
    assert_eq!(order["status"], "Completed");
    assert_eq!(order["result"]["shipped"], "7");
    let key = order["result"]["key"].as_str().unwrap();
    assert!(key.ends_with("-1-0"), "{key}");
    let order = fixture.get("/orders/2").await;
    assert_eq!(
        (&order["status"], &order["attempts"]),
        (&json!("Failed"), &json!(1))
    );
    assert_eq!(order["last_error"], "the card was declined");
    let order = fixture.get("/orders/3").await;
    assert_eq!(
        (&order["status"], &order["attempts"]),
        (&json!("Completed"), &json!(3))
    );
    let kinds = fixture.kinds(3).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "retry_scheduled").count(), 2);
}

async fn survives_restarts(fixture: &mut Fixture) {
    for round in 0..4 {
        fixture.accept(5, json!({})).await;
        if round % 2 == 0 {
            fixture.restart_server().await;
        } else {
            fixture.kill_server().await;
        }
    }
    fixture.accept(1, json!({})).await;
    fixture.all_ended().await;
}

async fn keeps_its_lease_and_gives_back(fixture: &mut Fixture, worker: impl Fn() -> Command) {
    until("the previous worker is gone", async || {
        fixture.waiting().await == 0
    })
    .await;
    // Renewals have seconds of slack on a busy machine.
    fixture.lease_seconds = 3;
    fixture.restart_server().await;
    let mut slow = fixture.start_worker(with(worker(), "7"));
    until("the worker waits", async || fixture.waiting().await == THREADS).await;
    fixture.accept(1, json!({})).await;
    let id = *fixture.orders.last().expect("an order was accepted");
    fixture.all_ended().await;
    assert_eq!(
        fixture.kinds(id).await,
        ["accepted", "started", "completed"],
        "the lease was renewed in between"
    );

    fixture.accept(1, json!({})).await;
    let id = id + 1;
    until("the attempt has begun", async || {
        fixture.get("/queue").await["processing"] == 1
    })
    .await;
    assert_eq!(slow.terminate().await, Some(0));
    until("the order is given back", async || {
        fixture.get("/queue").await["pending"] == 1
    })
    .await;
    let kinds = fixture.kinds(id).await;
    assert_eq!(
        kinds[..3],
        ["accepted", "started", "released"],
        "the worker gave back its order"
    );
    // The server may notice later that the other threads are gone, and then releases the orders they did not take.
    assert!(!kinds.iter().any(|kind| kind == "lease_lost"), "{kinds:?}");
    assert_eq!(fixture.get(&format!("/orders/{id}")).await["attempts"], 0);
}
