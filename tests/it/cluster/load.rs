//! Clients of a cluster: they send orders to any server, repeat requests of unknown outcome elsewhere under the same
//! key, cancel some orders, and record the times of all answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use orderly::order::OrderId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::nodes::order_id;
use crate::support::client::{Answer, http_within, post_body};

/// A client does not wait for a frozen server but asks another.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(500);
/// Orders with more than ten items take longest.
const LONG_ITEMS: u64 = 11;

/// URLs of the servers not known to be dead.
#[derive(Clone, Default)]
pub struct Urls(Arc<Mutex<Vec<String>>>);

impl Urls {
    pub fn open(&self, url: &str) {
        self.0.lock().unwrap().push(url.to_owned());
    }

    pub fn close(&self, url: &str) {
        self.0.lock().unwrap().retain(|open| open != url);
    }

    fn any(&self, rng: &mut StdRng) -> String {
        let urls = self.0.lock().unwrap();
        urls[rng.random_range(0..urls.len())].clone()
    }
}

/// An acknowledged order.
#[derive(Clone, Debug)]
pub struct AcceptedOrder {
    pub key: String,
    pub body: Value,
    pub order_id: OrderId,
    /// The time of the first request.
    pub sent: Instant,
    /// The time of the first 201.
    pub answered: Instant,
    /// True when a cancel was answered with 200.
    pub cancelled: bool,
}

impl AcceptedOrder {
    pub fn item_ids(&self) -> String {
        let items = self.body["item_ids"].as_array().expect("the items");
        let items: Vec<String> = items.iter().map(Value::to_string).collect();
        items.join(",")
    }
}

/// The orders that a client sends.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Prefix of the idempotency keys, unique within a test.
    pub name: &'static str,
    pub orders: usize,
    /// Share of the orders that take longer than a lease.
    pub long_share: f64,
    /// Share of the orders cancelled right after their acceptance.
    pub cancelled_share: f64,
}

pub struct LoadSource {
    urls: Urls,
    workload: Workload,
    seed: u64,
    keys: AtomicUsize,
    /// One permit for every order that may be sent by now.
    demand: Semaphore,
    accepted_orders: Mutex<Vec<AcceptedOrder>>,
}

impl LoadSource {
    /// Sends each order once [`LoadSource::demand`] allows it.
    pub fn new(urls: &Urls, workload: Workload, seed: u64) -> Arc<LoadSource> {
        Arc::new(LoadSource {
            urls: urls.clone(),
            workload,
            seed,
            keys: AtomicUsize::new(0),
            demand: Semaphore::new(0),
            accepted_orders: Mutex::default(),
        })
    }

    pub fn demand(&self, orders: usize) {
        self.demand.add_permits(orders);
    }

    pub fn accepted_orders(&self) -> Vec<AcceptedOrder> {
        self.accepted_orders.lock().unwrap().clone()
    }

    /// Runs this many concurrent clients until all orders are acknowledged.
    pub async fn run(self: &Arc<LoadSource>, clients: u64) {
        let mut running = JoinSet::new();
        for number in 0..clients {
            let client = Client {
                rng: StdRng::seed_from_u64(self.seed.wrapping_add(number)),
                http: http_within(ANSWER_TIME_MAX),
                source: self.clone(),
            };
            running.spawn(client.run());
        }
        running.join_all().await;
    }
}

struct Client {
    rng: StdRng,
    http: reqwest::Client,
    source: Arc<LoadSource>,
}

impl Client {
    async fn run(mut self) {
        loop {
            let number = self.source.keys.fetch_add(1, Ordering::SeqCst);
            let Workload {
                name,
                orders,
                cancelled_share,
                ..
            } = self.source.workload;
            if number >= orders {
                return;
            }
            let demand = self.source.demand.acquire().await;
            demand.expect("the semaphore is never closed").forget();
            let mut accepted = self.place_orders(format!("{name}-{number}")).await;
            if self.rng.random_bool(cancelled_share) {
                accepted.cancelled = self.cancel(accepted.order_id).await;
            }
            self.source.accepted_orders.lock().unwrap().push(accepted);
        }
    }

    async fn place_orders(&mut self, key: String) -> AcceptedOrder {
        let long = self.rng.random_bool(self.source.workload.long_share);
        let items = if long { LONG_ITEMS } else { 1 };
        let body = json!({
            "user_id": self.rng.random_range(1..50),
            "item_ids": (1..=items).collect::<Vec<_>>(),
            "total_amount": format!("{}.{:02}", self.rng.random_range(0..10_000), self.rng.random_range(0..100)),
            "reference": key,
        });
        let sent = Instant::now();
        let order_id = loop {
            let url = self.source.urls.any(&mut self.rng);
            match post_body(&self.http, &url, &key, &body).await {
                Answer::Created(order) => break order_id(&order),
                Answer::Refused(StatusCode::SERVICE_UNAVAILABLE) | Answer::Unknown => {}
                Answer::Refused(status) => panic!("a good order was refused: {status}"),
            }
        };
        AcceptedOrder {
            key,
            body,
            order_id,
            sent,
            answered: Instant::now(),
            cancelled: false,
        }
    }

    /// Reports whether the cancel came in time.
    async fn cancel(&mut self, id: OrderId) -> bool {
        loop {
            let url = self.source.urls.any(&mut self.rng);
            let sent = self.http.post(format!("{url}/orders/{id}/cancel")).send().await;
            match sent.map(|response| response.status()) {
                Ok(StatusCode::OK) => return true,
                Ok(StatusCode::CONFLICT) => return false,
                Ok(status) => assert!(status.is_server_error(), "a cancel was answered {status}"),
                Err(_) => {}
            }
        }
    }
}
