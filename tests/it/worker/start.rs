//! Starts while the database is unavailable.

use std::sync::Arc;
use std::time::Duration;

use orderly::metrics::Metrics;
use orderly::processor::simulated::Simulated;
use orderly::serve::{ServeError, Server};
use orderly::store::Store;
use reqwest::StatusCode;

use super::store_link::{Call, StoreLink};
use crate::support::Harness;
use crate::support::client::http;
use crate::support::config::config;
use crate::support::layers::layered;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_without_its_store_and_works_once_it_returns() {
    let harness = Harness::sqlite().await;
    let link = StoreLink::new();
    link.cut_all();
    let server = start(layered(harness.store().clone(), link.clone()))
        .await
        .unwrap();
    let url = format!("http://{}", server.addresses()[0]);
    let http = http();
    for (probe, status) in [
        ("readyz", StatusCode::SERVICE_UNAVAILABLE),
        ("livez", StatusCode::OK),
    ] {
        let answer = http.get(format!("{url}/{probe}")).send().await.unwrap();
        assert_eq!(answer.status(), status, "{probe}");
    }
    let order = r#"{"user_id":104,"item_ids":[101],"total_amount":1}"#;
    let create = || {
        let request = http.post(format!("{url}/orders"));
        request
            .header("content-type", "application/json")
            .body(order)
            .send()
    };
    let refused = create().await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    link.restore();
    assert_eq!(create().await.unwrap().status(), StatusCode::CREATED);
    let done = http
        .get(format!("{url}/orders/1"))
        .header("prefer", "wait=60")
        .send()
        .await
        .unwrap();
    let done: serde_json::Value = serde_json::from_str(&done.text().await.unwrap()).unwrap();
    assert_eq!(done["status"], "Completed");
    server
        .stop(Duration::from_secs(10), std::future::pending::<()>())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ready_store_that_refuses_the_node_ends_the_start() {
    let harness = Harness::sqlite().await;
    let link = StoreLink::new();
    link.cut(&[Call::Other]);
    let refused = start(layered(harness.store().clone(), link)).await;
    assert!(matches!(refused.err(), Some(ServeError::Join(_))));
    harness.store().close().await;
}

async fn start(store: Arc<dyn Store>) -> Result<Server, ServeError> {
    let processor = Arc::new(Simulated {
        speed: 0.0,
        failure_rate: 0.0,
    });
    Server::start(&config(), store, processor, Metrics::new()).await
}
