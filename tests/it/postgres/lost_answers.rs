//! Lost answers to commits: the client does not know the outcome, repeats the request with the same key, and has one order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;
use orderly::lease::Outcome;
use orderly::order::{OrderId, OrderStatus};
use orderly::store::{Settled, StoreError};
use reqwest::StatusCode;
use serde_json::Value;

use super::setup::{Setup, accept_keyed, has_postgres, node, through, until_ready, warnings_with};
use crate::support::client::{Answer, Request, http, post};
use crate::support::make::{NODE_A, NODE_B, claim_by, failed, retry_after};
use crate::support::postgres::Server;
use crate::support::process::Process;
use crate::support::proxy::{Action, Flight, Proxy};
use crate::support::until;

const ANSWERS_LOST: usize = 200;
const CALLERS: usize = 4;

fn accepts(flight: &Flight) -> bool {
    flight.sql().contains("from orderly.accept")
}

/// Loses the answer to every other flight that accepts while `lose_more` returns true. Returns the number of lost answers.
fn lose_answers(
    proxy: &Proxy,
    lose_more: impl Fn(usize) -> bool + Send + Sync + 'static,
) -> Arc<AtomicUsize> {
    let lost = Arc::new(AtomicUsize::new(0));
    let (counted, seen) = (lost.clone(), AtomicUsize::new(0));
    proxy.on_flight(move |flight| {
        let is_hit = accepts(flight) && seen.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        if is_hit && lose_more(counted.load(Ordering::SeqCst)) {
            counted.fetch_add(1, Ordering::SeqCst);
            return Action::LoseAnswer;
        }
        Action::Forward
    });
    lost
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_lost_answers_leave_one_order_per_key() {
    let Some(setup) = Setup::new().await else { return };
    // Keys whose orders were stored by a commit with a lost answer, and found by the repeated request.
    let replayed = AtomicUsize::new(0);
    let enough = Arc::new(AtomicBool::new(false));
    let is_enough = enough.clone();
    lose_answers(&setup.proxy, move |_| !is_enough.load(Ordering::SeqCst));
    let unknown = AtomicUsize::new(0);
    let lost = || usize::try_from(setup.proxy.lost_answer_count()).expect("a test loses few answers");
    let caller = async |caller: usize| {
        let mut ids = Vec::new();
        while !enough.load(Ordering::SeqCst) {
            let name = format!("order {} of caller {caller}", ids.len());
            ids.push(loop {
                match accept_keyed(&*setup.store, &name).await {
                    Ok(accepted) => {
                        replayed.fetch_add(usize::from(accepted.replayed), Ordering::SeqCst);
                        break accepted.order_ids[0];
                    }
                    Err(StoreError::Unexpected { .. }) => unknown.fetch_add(1, Ordering::SeqCst),
                    Err(other) => panic!("a lost answer is an unknown outcome, not {other}"),
                };
            });
            let replayed = replayed.load(Ordering::SeqCst);
            enough.fetch_or(lost().min(replayed) >= ANSWERS_LOST, Ordering::SeqCst);
        }
        ids
    };
    let mut ids: Vec<OrderId> = join_all((0..CALLERS).map(caller)).await.concat();
    let asked = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), asked, "each key has its own order");
    let stored = setup.number("select count(*) from orderly.orders").await;
    let keys = setup
        .number("select count(distinct reference) from orderly.orders")
        .await;
    assert_eq!((stored, keys), (count(asked), count(asked)));
    let (lost, unknown) = (lost(), unknown.into_inner());
    assert!(
        lost >= ANSWERS_LOST && unknown >= lost,
        "{lost} answers lost, {unknown} calls without one"
    );
    setup.end().await;
}

fn count(orders: usize) -> i64 {
    i64::try_from(orders).expect("a test stores few orders")
}

/// The control: without lost answers no request is repeated, so the other test counts the fault.
#[tokio::test(flavor = "multi_thread")]
async fn without_lost_answers_no_request_is_repeated() {
    let Some(setup) = Setup::new().await else { return };
    let lost = lose_answers(&setup.proxy, |_| false);
    for number in 0..50 {
        let accepted = accept_keyed(&*setup.store, &format!("order {number}")).await;
        assert!(!accepted.unwrap().replayed);
    }
    assert_eq!(lost.load(Ordering::SeqCst), 0);
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_an_unknown_outcome_repeats_and_gets_its_order() {
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

fn settles(flight: &Flight) -> bool {
    flight.sql().contains("from orderly.settle")
}

/// Loses the answers to the next `losses` flights that settle.
fn lose_results(proxy: &Proxy, losses: usize) {
    let seen = AtomicUsize::new(0);
    proxy.on_flight(move |flight| {
        if settles(flight) && seen.fetch_add(1, Ordering::SeqCst) < losses {
            Action::LoseAnswer
        } else {
            Action::Forward
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resent_result_is_recognised_after_a_lost_answer() {
    let Some(setup) = Setup::new().await else { return };
    let store = &*setup.store;
    let start = async |node| {
        let claimed = store.claim(claim_by(node, 1)).await.unwrap().leases;
        claimed[0].key()
    };
    let assert_unknown = async |key, outcome| {
        let lost = store.settle(key, outcome).await;
        assert!(matches!(lost, Err(StoreError::Unexpected { .. })), "{lost:?}");
    };
    for (outcome, status) in [
        (Outcome::COMPLETED, OrderStatus::Completed),
        (failed(), OrderStatus::Failed),
        (retry_after(0), OrderStatus::Pending),
        (Outcome::Released, OrderStatus::Pending),
    ] {
        accept_keyed(store, &format!("{outcome:?}")).await.unwrap();
        let key = start(NODE_A).await;
        lose_results(&setup.proxy, 2);
        assert_unknown(key, outcome.clone()).await;
        // The second attempt finds the attempt ended, and its answer is lost too.
        assert_unknown(key, outcome.clone()).await;
        // A later change of the order does not affect what is known about this attempt.
        let later = match status {
            OrderStatus::Pending => Some(start(NODE_B).await),
            _ => None,
        };
        let again = store.settle(key, outcome.clone()).await.unwrap();
        assert_eq!(again, Settled::Done(status), "{outcome:?}");
        let once_more = store.settle(key, outcome.clone()).await.unwrap();
        assert_eq!(once_more, Settled::Stale, "the result is recognised only once");
        if let Some(later) = later {
            let ended = store.settle(later, Outcome::COMPLETED).await.unwrap();
            assert_eq!(ended, Settled::Done(OrderStatus::Completed));
        }
    }
    setup.end().await;
}

/// The lost answer may have been a refusal.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_result_stays_late_after_a_lost_answer() {
    let Some(setup) = Setup::new().await else { return };
    let store = &*setup.store;
    accept_keyed(store, "cancelled").await.unwrap();
    let lease = store.claim(claim_by(NODE_A, 1)).await.unwrap().leases.remove(0);
    store.cancel(lease.order.order_id, None).await.unwrap();
    accept_keyed(store, "of another").await.unwrap();
    let released = store.claim(claim_by(NODE_A, 1)).await.unwrap().leases.remove(0);
    store.settle(released.key(), Outcome::Released).await.unwrap();
    let taken = store.claim(claim_by(NODE_B, 1)).await.unwrap().leases.remove(0);
    store.settle(taken.key(), Outcome::COMPLETED).await.unwrap();
    for key in [lease.key(), released.key()] {
        lose_results(&setup.proxy, 1);
        let lost = store.settle(key, Outcome::COMPLETED).await;
        assert!(matches!(lost, Err(StoreError::Unexpected { .. })), "{lost:?}");
        let again = store.settle(key, Outcome::COMPLETED).await.unwrap();
        assert_eq!(again, Settled::Stale);
    }
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_counts_a_completed_attempt_despite_a_lost_answer() {
    if !has_postgres() {
        return;
    }
    let server = Server::shared().await;
    let database = server.create_database().await;
    let proxy = Proxy::before(server.address()).await;
    let folder = tempfile::tempdir().unwrap();
    let node = Process::start(node(folder.path(), &through(&proxy, &database))).await;
    until_ready(&node).await;
    lose_results(&proxy, 1);
    let request = Request {
        key: "the only one".to_owned(),
        user_id: 7,
        cents: 100,
    };
    assert!(matches!(
        post(&http(), &node.url, &request).await,
        Answer::Created(_)
    ));
    let metrics = async || {
        let url = format!("{}/metrics/prometheus", node.url);
        let text = http().get(url).send().await.unwrap().text().await.unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    until("the attempt is counted", async || {
        let metrics = metrics().await;
        metrics
            .iter()
            .any(|line| line.starts_with("orderly_attempts_total{") && !line.ends_with(" 0"))
    })
    .await;
    assert_eq!(proxy.lost_answer_count(), 1);
    let metrics = metrics().await;
    for line in [
        "orderly_attempts_total{result=\"completed\"} 1",
        "orderly_stale_results_rejected_total 0",
    ] {
        assert!(
            metrics.iter().any(|found| found == line),
            "{line} in {metrics:#?}"
        );
    }
    assert_eq!(node.terminate().await, Some(0));
    assert_eq!(warnings_with(folder.path(), "came too late").len(), 0);
}
