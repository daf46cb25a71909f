//! The answer to a commit is lost: whoever asked does not know, asks again under the same key, and has one order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use orderly::order::OrderId;
use orderly::store::StoreError;
use reqwest::StatusCode;
use serde_json::Value;

use super::scene::{Scene, accept_keyed, has_postgres, node, through, until_ready};
use crate::support::client::{Request, http};
use crate::support::postgres::Server;
use crate::support::process::Process;
use crate::support::proxy::{Action, Flight, Proxy};

const ANSWERS_LOST: usize = 200;
const CALLERS: usize = 4;

fn accepts(flight: &Flight) -> bool {
    flight.sql().contains("insert into orderly.orders")
}

/// Loses the answer to every other flight that accepts, as long as `go_on` says so, and counts them.
fn lose_answers(proxy: &Proxy, go_on: impl Fn(usize) -> bool + Send + Sync + 'static) -> Arc<AtomicUsize> {
    let lost = Arc::new(AtomicUsize::new(0));
    let (counted, seen) = (lost.clone(), AtomicUsize::new(0));
    proxy.on_flight(move |flight| {
        let is_hit = accepts(flight) && seen.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        if is_hit && go_on(counted.load(Ordering::SeqCst)) {
            counted.fetch_add(1, Ordering::SeqCst);
            return Action::LoseAnswer;
        }
        Action::Forward
    });
    lost
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_lost_commits_leave_one_order_for_each_key() {
    let Some(scene) = Scene::new().await else { return };
    // Keys whose orders were stored by a commit whose answer was lost: the repetition found them.
    let replayed = Arc::new(AtomicUsize::new(0));
    let so_far = replayed.clone();
    let lost = lose_answers(&scene.proxy, move |_| {
        so_far.load(Ordering::SeqCst) < ANSWERS_LOST
    });
    let unknown = AtomicUsize::new(0);
    let caller = async |caller: usize| {
        let mut ids = Vec::new();
        while replayed.load(Ordering::SeqCst) < ANSWERS_LOST {
            let name = format!("order {} of caller {caller}", ids.len());
            ids.push(loop {
                match accept_keyed(&*scene.store, &name).await {
                    Ok(accepted) => {
                        replayed.fetch_add(usize::from(accepted.replayed), Ordering::SeqCst);
                        break accepted.order_ids[0];
                    }
                    Err(StoreError::Unexpected { .. }) => unknown.fetch_add(1, Ordering::SeqCst),
                    Err(other) => panic!("a lost answer is no certain one: {other}"),
                };
            });
        }
        ids
    };
    let mut ids: Vec<OrderId> = join_all((0..CALLERS).map(caller)).await.concat();
    let asked = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), asked, "no order answers two keys");
    let stored = scene.number("select count(*) from orderly.orders").await;
    let keys = scene
        .number("select count(distinct reference) from orderly.orders")
        .await;
    assert_eq!((stored, keys), (count(asked), count(asked)));
    let lost = lost.load(Ordering::SeqCst);
    // A flight carries the call of one caller at least, and of all at most.
    assert!(
        lost * CALLERS >= ANSWERS_LOST && unknown.into_inner() >= ANSWERS_LOST,
        "{lost} answers lost"
    );
    scene.end().await;
}

fn count(orders: usize) -> i64 {
    i64::try_from(orders).expect("a test stores few orders")
}

/// Without the loss the same story has no repetition in it: what the other test counts is the fault.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_loss_nothing_is_repeated() {
    let Some(scene) = Scene::new().await else { return };
    let lost = lose_answers(&scene.proxy, |_| false);
    for number in 0..50 {
        let accepted = accept_keyed(&*scene.store, &format!("order {number}")).await;
        assert!(!accepted.unwrap().replayed);
    }
    assert_eq!(lost.load(Ordering::SeqCst), 0);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_know_is_told_so_and_repeats() {
    if !has_postgres() {
        return;
    }
    let server = Server::shared().await;
    let database = server.create_database().await;
    let proxy = Proxy::before(server.address()).await;
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &through(&proxy, &database))).await;
    until_ready(&node).await;
    lose_answers(&proxy, |lost| lost == 0);
    let request = Request {
        key: "the only one".to_owned(),
        user_id: 7,
        cents: 100,
    };
    let send = async || {
        let sent = http()
            .post(format!("{}/orders", node.url))
            .header("Idempotency-Key", &request.key)
            .json(&request.body());
        sent.send().await.unwrap()
    };
    assert_eq!(send().await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let repeated = send().await;
    assert_eq!(repeated.status(), StatusCode::CREATED);
    assert_eq!(repeated.headers()["idempotent-replayed"], "true");
    let order: Value = repeated.json().await.unwrap();
    assert_eq!(order["reference"], request.key);
    let listed = http().get(format!("{}/orders", node.url)).send().await.unwrap();
    let listed: Value = listed.json().await.unwrap();
    assert_eq!(listed["orders"].as_array().unwrap().len(), 1);
    assert_eq!(node.terminate().await, Some(0));
}
