//! Yardsticks of `cargo xtask bench yardsticks`, from `examples/yardstick`, as it uses them: `orderly bench` sends its load
//! to those that serve. The measured speed is not checked.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::bench::{bench, only_load};
use crate::support::postgres::{self, Server};
use crate::support::required;

#[path = "../../../examples/yardstick/forgetful.rs"]
mod forgetful;
#[path = "../../../examples/yardstick/one_insert.rs"]
mod one_insert;
#[path = "../../../examples/yardstick/store.rs"]
mod store;

/// The shortest possible measurement.
const TIME: Duration = Duration::from_millis(50);

/// Listens on a free port; returns the URL as well.
async fn listening() -> (TcpListener, String) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_that_stores_nothing_answers_the_loads() {
    let folder = tempfile::tempdir().unwrap();
    let (listener, url) = listening().await;
    let _serving = AbortOnDropHandle::new(tokio::spawn(forgetful::serve(listener)));
    for load in ["accept", "batch --batch-size 10", "status", "mixed"] {
        only_load(&bench(&folder, &format!("{load} --url {url}")).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_insert_per_request_stores_each_order() {
    if !required("a private PostgreSQL", postgres::is_installed()) {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let folder = tempfile::tempdir().unwrap();
    let (listener, url) = listening().await;
    let database_url = database.url();
    let serving = async move { one_insert::serve(listener, &database_url).await };
    let _serving = AbortOnDropHandle::new(tokio::spawn(serving));
    let load = only_load(&bench(&folder, &format!("accept --url {url}")).await);
    let admin = database.admin().await;
    let counted = admin.query_one("select count(*) from bench.orders", &[]).await;
    let stored: i64 = counted.unwrap().get(0);
    let rounds = load["rounds"].as_array().expect("a list of rounds");
    let answered: i64 = rounds.iter().filter_map(|round| round["count"].as_i64()).sum();
    // The warm-up is not counted.
    assert!(stored > answered, "{stored} of {answered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_alone_accepts_orders_one_by_one_and_in_batches() {
    let folder = tempfile::tempdir().unwrap();
    for batch_size in [1, 10] {
        let callers = store::Callers {
            connections: 4,
            batch_size,
            users: 7,
        };
        let file = folder.path().join(format!("{batch_size}.db"));
        let rate = store::rate(&format!("sqlite:{}", file.display()), callers, TIME).await;
        assert!(rate.unwrap() > 0.0);
    }
}
