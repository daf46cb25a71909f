//! A full disk of PostgreSQL. Only the tables are on it, so the server itself keeps running.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::setup::{self, has_postgres, number, status_of, until_ready};
use crate::support::client::{Answer, Log, Request, http, post_body};
use crate::support::postgres::{Options, Server, TestDatabase};
use crate::support::process::Process;
use crate::support::small_disk::SmallDisk;
use crate::support::until;

/// Far more orders than the disk has room for.
const ORDERS_MAX: u64 = 100_000;
/// Orders sent after the first one that found the disk full.
const SENT_WHILE_FULL: u64 = 10;
/// Free space on the disk before the first order.
const FREE_BYTES: u64 = 512 * 1024;

/// Moves all tables of a database to the disk. No session may use the database.
async fn move_to(disk: &SmallDisk, admin: &Client, database: &TestDatabase) {
    let setting = "select current_setting('data_directory')";
    let data: String = admin.query_one(setting, &[]).await.unwrap().get(0);
    let owner = fs::metadata(data).unwrap();
    let folder = disk.path.join("tables");
    fs::create_dir(&folder).unwrap();
    chown(&folder, Some(owner.uid()), Some(owner.gid())).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    // The server requires a transaction of its own for each statement.
    for statement in [
        format!("create tablespace small location '{}'", folder.display()),
        format!("alter database {} set tablespace small", database.name()),
    ] {
        admin.batch_execute(&statement).await.unwrap();
    }
}

/// A large order.
fn large(request: &Request) -> Value {
    // Random text, which cannot be compressed.
    let parts: Vec<String> = (0..500)
        .map(|_| format!("{:016x}", rand::random::<u64>()))
        .collect();
    let mut body = request.body();
    body["metadata"] = json!({ "note": parts.concat() });
    body
}

fn request(number: u64) -> Request {
    Request {
        key: format!("order {number}"),
        user_id: 1,
        cents: number,
    }
}

/// Sends an order with its key, so that a repetition is the same order.
async fn send(url: &str, request: &Request, body: &Value, log: &Log) -> Answer {
    let answer = post_body(&http(), url, &request.key, body).await;
    if let Answer::Created(order) = &answer {
        log.acknowledge(request, order);
    }
    answer
}

async fn problem_of(url: &str, body: &Value) -> (StatusCode, Value) {
    let posted = http().post(format!("{url}/orders")).json(body);
    let answer = posted.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

fn reachable(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_tablespace_refuses_orders_and_loses_none() {
    if !has_postgres() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    reachable(folder.path());
    let Some(disk) = SmallDisk::mount(folder.path()).await else {
        return;
    };
    let server = Server::start(Options::default()).await;
    let (database, other) = (server.create_database().await, server.create_database().await);
    move_to(&disk, &other.admin().await, &database).await;
    let files = tempfile::tempdir().unwrap();
    let node = setup::node(files.path(), &database.url());
    let node = Process::start(node).await;
    until_ready(&node).await;
    disk.leave_free(FREE_BYTES);

    let log = Log::default();
    let mut refused = Vec::new();
    for number in 1..ORDERS_MAX {
        let request = request(number);
        let body = large(&request);
        match send(&node.url, &request, &body, &log).await {
            Answer::Created(_) => {}
            Answer::Refused(status) => {
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
                refused.push((request, body));
                break;
            }
            Answer::Unknown => panic!("order {number} is certainly not stored"),
        }
    }
    assert!(log.len() > 0, "some orders came before the disk was full");
    until("the node is not ready", async || {
        status_of(&node, "/readyz").await == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    let (status, problem) = problem_of(&node.url, &refused[0].1).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        problem["type"].as_str().unwrap().ends_with("/disk-full"),
        "{problem}"
    );
    for number in 0..SENT_WHILE_FULL {
        let request = request(ORDERS_MAX + number);
        let body = large(&request);
        let answer = send(&node.url, &request, &body, &log).await;
        assert!(
            matches!(answer, Answer::Refused(StatusCode::SERVICE_UNAVAILABLE)),
            "{answer:?}"
        );
        refused.push((request, body));
    }
    assert_eq!(status_of(&node, "/orders/1").await, StatusCode::OK);

    disk.free();
    until_ready(&node).await;
    for (request, body) in &refused {
        let answer = send(&node.url, request, body, &log).await;
        assert!(matches!(answer, Answer::Created(_)), "{answer:?}");
    }
    assert_eq!(log.compare(&http(), &node.url).await, [""; 0]);
    let admin = database.admin().await;
    let orders = number(&admin, "select count(*) from orderly.orders").await;
    assert_eq!(
        usize::try_from(orders),
        Ok(log.len()),
        "no refused order was stored"
    );
    assert_eq!(node.terminate().await, Some(0));
    let mut verify = setup::node(files.path(), &database.url());
    let verified = verify.arg("verify").output().await.unwrap();
    assert!(verified.status.success(), "{verified:?}");
}
