//! A worker that returns after its order was taken over is refused, also when the server is killed between any two
//! steps. The control rewrites the statements on the wire to skip the fence check, which must be detected.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::pull::{AcceptedResult, Fixture, THREADS, breaches};
use super::pull_examples::in_rust;
use crate::support::make::FIRST_FENCE;
use crate::support::postgres::{self, Server};
use crate::support::proxy::{Action, Proxy};
use crate::support::{required, until};

/// The settle function, a copy without its fence check, and that check.
const SETTLE: &str = "orderly.settle_";
const UNFENCED: &str = "orderly.unfenced_settle_";
const FENCE_CHECKS: [&str; 1] = [" and l.fence = result.fence"];
/// The statement that reads the latest claim, and a variant that returns the first token.
const LATEST_CLAIM: &str = ", token, node, handed_out from orderly.order_state where order_id = $1";
const FIRST_TOKEN: &str = ", 1::int8, node, handed_out from orderly.order_state where order_id = $1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fencing {
    AsShipped,
    /// The check is removed between the server and the database.
    TakenOut,
}

/// Takes the only lease, once it is available.
async fn take(fixture: &Fixture, lease: u64) -> Value {
    loop {
        let (status, mut answer) = fixture.post("/leases", json!({"wait": 20, "lease": lease})).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        if answer["leases"][0].is_object() {
            return answer["leases"][0].take();
        }
    }
}

/// The answer to a completion, and the accepted result, if any.
async fn complete(fixture: &Fixture, lease: &Value, result: &str) -> (StatusCode, Option<AcceptedResult>) {
    let id = lease["order"]["order_id"].as_u64().expect("a number");
    let body = json!({"token": lease["token"], "result": result});
    let (status, answer) = fixture.post(&format!("/leases/{id}/complete"), body).await;
    let accepted = (status == StatusCode::OK).then(|| AcceptedResult {
        order_id: id,
        status: answer["status"].as_str().expect("a status").to_owned(),
        fence: lease["fence"].as_u64().expect("a number"),
    });
    (status, accepted)
}

/// The first worker falls silent, another takes its order, and both post a result: the late one first.
async fn a_late_worker_returns(fixture: &mut Fixture) -> (StatusCode, Vec<AcceptedResult>) {
    fixture.accept(1, json!({})).await;
    let first = take(fixture, 1).await;
    let second = take(fixture, 60).await;
    assert_eq!(
        (&first["fence"], &second["fence"]),
        (&json!(FIRST_FENCE), &json!(FIRST_FENCE + 1))
    );
    let (late, told_first) = complete(fixture, &first, "late").await;
    let (_, told_then) = complete(fixture, &second, "in time").await;
    (late, told_first.into_iter().chain(told_then).collect())
}

async fn on_postgresql(fencing: Fencing) -> Option<(StatusCode, Vec<String>)> {
    if !required("a private PostgreSQL", postgres::is_installed()) {
        return None;
    }
    let server = Server::shared().await;
    let database = server.create_database().await;
    let proxy = Proxy::before(server.address()).await;
    proxy.on_flight(move |flight| {
        let sql = flight.sql();
        let rewrite = |from: &str, to: &str| Action::Rewrite {
            from: from.to_owned(),
            to: to.to_owned(),
        };
        match fencing {
            Fencing::TakenOut if sql.contains(&format!("from {SETTLE}")) => rewrite(SETTLE, UNFENCED),
            Fencing::TakenOut if sql.contains(LATEST_CLAIM) => rewrite(LATEST_CLAIM, FIRST_TOKEN),
            Fencing::TakenOut | Fencing::AsShipped => Action::Forward,
        }
    });
    let url = database.url_at("127.0.0.1", proxy.address().port());
    let mut fixture = Fixture::open_at(Some(database), Some(url)).await;
    let database = fixture.database.as_ref().expect("a database was given");
    database.copy_function(SETTLE, UNFENCED, &FENCE_CHECKS).await;
    let (late, taken) = a_late_worker_returns(&mut fixture).await;
    Some((late, breaches(&fixture, &taken).await))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_result_is_refused_on_postgresql() {
    let Some((late, breaches)) = on_postgresql(Fencing::AsShipped).await else {
        return;
    };
    assert_eq!(late, StatusCode::CONFLICT);
    assert_eq!(breaches, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oracle_detects_a_server_that_does_not_check_tokens() {
    let Some((late, breaches)) = on_postgresql(Fencing::TakenOut).await else {
        return;
    };
    assert_eq!(late, StatusCode::OK, "the control must accept the late result");
    assert!(
        breaches.iter().any(|breach| breach.starts_with("fenced")),
        "{breaches:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_result_is_refused_on_sqlite() {
    let mut fixture = Fixture::open(None).await;
    let (late, taken) = a_late_worker_returns(&mut fixture).await;
    assert_eq!(late, StatusCode::CONFLICT);
    assert_eq!(breaches(&fixture, &taken).await, [""; 0]);
    assert_eq!(fixture.get("/orders/1").await["result"], "in time");
    let (exit, report) = fixture.close().await;
    assert_eq!(exit, Some(0), "{report}");
}

/// The server is killed between any two steps of a worker; earlier answers stay valid.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_kill_between_any_two_steps_keeps_every_answer_valid() {
    let mut fixture = Fixture::open(None).await;
    fixture.accept(1, json!({})).await;
    fixture.kill_server().await;
    let (_, answer) = fixture.post("/leases", json!({"lease": 60})).await;
    let lease = answer["leases"][0].clone();
    assert_eq!(lease["fence"], FIRST_FENCE, "accepted before the kill: {answer}");
    fixture.kill_server().await;
    let (status, renewed) = fixture
        .post("/leases/1/renew", json!({"token": lease["token"], "lease": 90}))
        .await;
    assert_eq!(status, StatusCode::OK, "{renewed}");
    fixture.kill_server().await;
    assert_eq!(
        fixture.kinds(1).await,
        ["accepted", "started"],
        "the lease survives the server"
    );
    let (status, first) = fixture
        .post(
            "/leases/1/complete",
            json!({"token": lease["token"], "result": 7}),
        )
        .await;
    assert_eq!(status, StatusCode::OK, "{first}");
    fixture.kill_server().await;
    // The repeat of a completion whose answer might have been lost.
    let (status, again) = fixture
        .post(
            "/leases/1/complete",
            json!({"token": lease["token"], "result": 7}),
        )
        .await;
    assert_eq!((status, again), (StatusCode::OK, first));
    assert_eq!(fixture.kinds(1).await, ["accepted", "started", "completed"]);
    let (exit, report) = fixture.close().await;
    assert_eq!(exit, Some(0), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_while_waiting_loses_no_order() {
    let mut fixture = Fixture::open(None).await;
    let waiting = fixture.start_worker(in_rust());
    until("the worker's threads wait", async || {
        fixture.waiting().await == THREADS
    })
    .await;
    drop(waiting);
    until("no lease request waits", async || fixture.waiting().await == 0).await;
    fixture.accept(1, json!({})).await;
    let lease = take(&fixture, 60).await;
    assert_eq!(
        (&lease["fence"], &lease["attempt"]),
        (&json!(FIRST_FENCE), &json!(1))
    );
}
