//! A server in this process that delivers its orders to a receiver. The store's clock stands still.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use orderly::config::{Config, HttpService, ServiceUrl, SigningKey};
use orderly::lease::ProcessorKind;
use orderly::metrics::Metrics;
use orderly::order::{Order, OrderId};
use orderly::processor::http::Http;
use orderly::processor::{Attempt, Processed, ProcessingError, Processor};
use orderly::serve::Server;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::receiver::RESPONSE_TIMEOUT;
use crate::support::client::http;
use crate::support::config::config;
use crate::support::{Harness, until};

pub fn service(url: &str) -> HttpService {
    HttpService {
        url: ServiceUrl::parse(url).unwrap(),
        signing_keys: Vec::new(),
        connect_timeout: Duration::from_secs(10),
        response_timeout: RESPONSE_TIMEOUT,
    }
}

pub fn signed(url: &str, secrets: &str) -> HttpService {
    HttpService {
        signing_keys: SigningKey::parse_all(secrets).unwrap(),
        ..service(url)
    }
}

/// A service with a long timeout, for held requests.
pub fn patient(url: &str) -> HttpService {
    HttpService {
        response_timeout: Duration::from_mins(5),
        ..service(url)
    }
}

pub struct Fixture {
    pub harness: Harness,
    pub metrics: Metrics,
    pub url: String,
    http: reqwest::Client,
    server: Server,
    calls: Arc<Calls>,
}

impl Fixture {
    /// Failed attempts are retried at once, unless the service requests a wait.
    pub async fn open(service: HttpService, change: impl FnOnce(&mut Config)) -> Fixture {
        let harness = Harness::sqlite().await;
        let mut config = config();
        config.retry.base = Duration::ZERO;
        config.retry.cap = Duration::ZERO;
        change(&mut config);
        let calls = Arc::new(Calls {
            http: Http::new(service, config.concurrency, config.attempt_timeout).unwrap(),
            failures: Mutex::default(),
        });
        let metrics = Metrics::new();
        let server = Server::start(&config, harness.store().clone(), calls.clone(), metrics.clone())
            .await
            .unwrap();
        Fixture {
            url: format!("http://{}", server.addresses()[0]),
            harness,
            metrics,
            http: http(),
            server,
            calls,
        }
    }

    pub async fn order(&self, reference: &str) -> i64 {
        let order = json!({
            "user_id": 104, "item_ids": [101, 102], "total_amount": 250.7,
            "reference": reference, "metadata": {"a": [1, "é"]},
        });
        let answer = self.http.post(format!("{}/orders", self.url)).json(&order);
        let answer = answer.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        answer.json::<Value>().await.unwrap()["order_id"]
            .as_i64()
            .unwrap()
    }

    /// The JSON text of the order.
    pub async fn text(&self, id: i64, wait: bool) -> String {
        let mut request = self.http.get(format!("{}/orders/{id}", self.url));
        if wait {
            request = request.header("Prefer", "wait=60");
        }
        request.send().await.unwrap().text().await.unwrap()
    }

    /// Waits until the order is final and returns it.
    pub async fn ended(&self, id: i64) -> Value {
        let order: Value = serde_json::from_str(&self.text(id, true).await).unwrap();
        assert!(
            ["Completed", "Failed", "Cancelled"].contains(&order["status"].as_str().unwrap()),
            "{order}"
        );
        order
    }

    pub async fn now(&self, id: i64) -> Value {
        serde_json::from_str(&self.text(id, false).await).unwrap()
    }

    pub async fn act(&self, id: i64, action: &str) {
        let answer = self
            .http
            .post(format!("{}/orders/{id}/{action}", self.url))
            .send();
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    }

    /// Errors of the order's failed attempts, oldest first.
    pub fn failures(&self, id: i64) -> Vec<ProcessingError> {
        let failures = self.calls.failures.lock().unwrap();
        failures.get(&OrderId(id)).cloned().unwrap_or_default()
    }

    /// Stops without grace time and gives back running orders.
    pub async fn stop_at_once(self) -> Harness {
        self.server
            .stop(Duration::from_secs(10), std::future::ready(()))
            .await;
        self.harness
    }

    pub async fn close(self) {
        until("no slot is in use", async || self.metrics.slots_busy.get() == 0).await;
        self.harness.assert_sound().await;
        self.server
            .stop(Duration::from_secs(10), std::future::pending::<()>())
            .await;
    }
}

/// Calls the service and records the results.
struct Calls {
    http: Http,
    failures: Mutex<HashMap<OrderId, Vec<ProcessingError>>>,
}

#[async_trait]
impl Processor for Calls {
    async fn process(&self, order: &Order, attempt: Attempt) -> Result<Processed, ProcessingError> {
        let ended = self.http.process(order, attempt).await;
        if let Err(error) = &ended {
            let mut failures = self.failures.lock().unwrap();
            failures.entry(order.order_id).or_default().push(error.clone());
        }
        ended
    }

    fn kind(&self) -> ProcessorKind {
        self.http.kind()
    }
}
