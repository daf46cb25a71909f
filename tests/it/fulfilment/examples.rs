//! The example programs work as documented.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use orderly::metrics::Metrics;
use orderly::serve::Server;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::support::client::http;
use crate::support::config::config;
use crate::support::process::{Process, orderly};
use crate::support::{Harness, required};

#[allow(dead_code, reason = "its main is not called here")]
#[path = "../../../examples/own_processor.rs"]
mod own_processor;

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_processor_example_completes_refuses_and_retries() {
    let harness = Harness::sqlite().await;
    let mut config = config();
    config.retry.base = Duration::ZERO;
    config.retry.cap = Duration::ZERO;
    let warehouse = Arc::new(own_processor::Warehouse::default());
    let server = Server::start(&config, harness.store().clone(), warehouse, Metrics::new())
        .await
        .unwrap();
    let url = format!("http://{}", server.addresses()[0]);
    let again = order(&url, "7,8").await;
    let [completed, refused] = [order(&url, "101,102,103").await, order(&url, "13").await];
    assert_eq!(
        ended(&url, completed).await["result"],
        json!({"parcel": 1, "items": 3})
    );
    let refused = ended(&url, refused).await;
    assert_eq!(
        (&refused["status"], &refused["last_error"]),
        (&"Failed".into(), &"item 13 is not for sale".into())
    );
    harness.advance(Duration::from_secs(1)).await;
    let again = ended(&url, again).await;
    assert_eq!(
        (&again["status"], &again["attempts"]),
        (&"Completed".into(), &2.into())
    );
    server
        .stop(Duration::from_secs(10), std::future::pending::<()>())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_service_example_completes_refuses_and_retries() {
    let asked = Command::new("python3").arg("--version").output().await;
    if !required("Python", asked.is_ok_and(|asked| asked.status.success())) {
        return;
    }
    let mut receiver = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/fulfilment/receiver.py"))
        .arg("0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut output = BufReader::new(receiver.stdout.take().unwrap()).lines();
    let line = output
        .next_line()
        .await
        .unwrap()
        .expect("the service prints its address");
    let folder = tempfile::tempdir().unwrap();
    let mut command = orderly(folder.path());
    command.envs([
        ("ORDERLY_PROCESSOR", "http"),
        (
            "ORDERLY_PROCESSOR_URL",
            line.strip_prefix("listening on ").unwrap(),
        ),
        ("ORDERLY_RETRY_BASE", "0s"),
    ]);
    let server = Process::start(command).await;
    let url = server.url.clone();
    let [completed, refused, again] = [
        order(&url, "101,102,103").await,
        order(&url, "13").await,
        order(&url, "7").await,
    ];
    let completed = ended(&url, completed).await;
    assert_eq!(
        (&completed["status"], &completed["attempts"]),
        (&"Completed".into(), &1.into())
    );
    let parcel = completed["result"]["parcel"].as_str().unwrap();
    assert!(parcel.ends_with("-1-0"), "{parcel}");
    let refused = ended(&url, refused).await;
    assert_eq!(refused["status"], "Failed");
    assert_eq!(
        refused["last_error"],
        "the service answered 422: item 13 is not for sale"
    );
    let again = ended(&url, again).await;
    assert_eq!(
        (&again["status"], &again["attempts"]),
        (&"Completed".into(), &2.into())
    );
    assert_eq!(server.terminate().await, Some(0));
}

async fn order(url: &str, item_ids: &str) -> i64 {
    let order = json!({"user_id": 104, "item_ids": item_ids, "total_amount": 1});
    let answer = http()
        .post(format!("{url}/orders"))
        .json(&order)
        .send()
        .await
        .unwrap();
    answer.json::<Value>().await.unwrap()["order_id"]
        .as_i64()
        .unwrap()
}

/// Waits until the order is final and returns it.
async fn ended(url: &str, id: i64) -> Value {
    let asked = http()
        .get(format!("{url}/orders/{id}"))
        .header("Prefer", "wait=60")
        .send();
    asked.await.unwrap().json().await.unwrap()
}
