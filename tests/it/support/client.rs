//! A client that sends orders, repeats requests of unknown outcome, and logs its answers for a later comparison with
//! the table.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

const REQUEST_TIME_MAX: Duration = Duration::from_secs(90);

pub fn http() -> reqwest::Client {
    http_within(REQUEST_TIME_MAX)
}

/// A client that waits at most this long for an answer.
pub fn http_within(time_max: Duration) -> reqwest::Client {
    // The client needs a TLS provider although these tests use none. It may be installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(time_max)
        .build()
        .expect("a client with a provider of TLS")
}

/// A request that is repeated under the same key until it is answered.
#[derive(Clone, Debug)]
pub struct Request {
    pub key: String,
    pub user_id: u64,
    pub cents: u64,
}

impl Request {
    pub fn body(&self) -> Value {
        let amount = format!("{}.{:02}", self.cents / 100, self.cents % 100);
        json!({"user_id": self.user_id, "item_ids": [self.user_id, 7], "total_amount": amount, "reference": self.key})
    }
}

#[derive(Debug)]
pub enum Answer {
    Created(Value),
    /// Certainly not stored.
    Refused(StatusCode),
    /// Stored or not: to be repeated with the same key.
    Unknown,
}

pub async fn post(http: &reqwest::Client, url: &str, request: &Request) -> Answer {
    post_body(http, url, &request.key, &request.body()).await
}

/// Posts any order.
pub async fn post_body(http: &reqwest::Client, url: &str, key: &str, body: &Value) -> Answer {
    let sent = http
        .post(format!("{url}/orders"))
        .header("Idempotency-Key", key)
        .json(body)
        .send()
        .await;
    let Ok(response) = sent else {
        return Answer::Unknown;
    };
    match response.status() {
        StatusCode::CREATED => match response.json().await {
            Ok(order) => Answer::Created(order),
            Err(_) => Answer::Unknown,
        },
        StatusCode::CONFLICT => Answer::Unknown,
        status if status.is_client_error() || status == StatusCode::SERVICE_UNAVAILABLE => {
            Answer::Refused(status)
        }
        _ => Answer::Unknown,
    }
}

/// Acknowledged orders.
#[derive(Default)]
pub struct Log {
    acknowledged: Mutex<HashMap<String, (Request, Vec<i64>)>>,
}

impl Log {
    pub fn acknowledge(&self, request: &Request, order: &Value) {
        let id = order["order_id"].as_i64().expect("an answer names its order");
        let mut acknowledged = self.acknowledged.lock().unwrap();
        let entry = acknowledged
            .entry(request.key.clone())
            .or_insert_with(|| (request.clone(), Vec::new()));
        if !entry.1.contains(&id) {
            entry.1.push(id);
        }
    }

    pub fn len(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Waits until every acknowledged order is final and returns the differences.
    pub async fn compare(&self, http: &reqwest::Client, url: &str) -> Vec<String> {
        let acknowledged: Vec<_> = self.acknowledged.lock().unwrap().values().cloned().collect();
        let mut wrong = Vec::new();
        let mut seen = HashMap::new();
        for (request, ids) in acknowledged {
            let [id] = ids[..] else {
                wrong.push(format!("duplicated: key {} has the orders {ids:?}", request.key));
                continue;
            };
            if let Some(other) = seen.insert(id, request.key.clone()) {
                wrong.push(format!(
                    "shared: order {id} answers the keys {other} and {}",
                    request.key
                ));
            }
            match read(http, url, id).await {
                None => wrong.push(format!("lost: order {id} of key {}", request.key)),
                // The id was assigned again, which is only possible when its first order is gone.
                Some(order) if order["reference"] != request.key => wrong.push(format!(
                    "lost: order {id} of key {} is now that of {}",
                    request.key, order["reference"]
                )),
                Some(order) => wrong.extend(differences(&request, &order)),
            }
        }
        wrong
    }
}

/// The order once it is final; `None` if unknown.
async fn read(http: &reqwest::Client, url: &str, id: i64) -> Option<Value> {
    let response = http
        .get(format!("{url}/orders/{id}"))
        .header("Prefer", "wait=60")
        .send()
        .await
        .expect("the server answers once the faults are over");
    match response.status() {
        StatusCode::NOT_FOUND => None,
        StatusCode::OK => Some(response.json().await.expect("an order is JSON")),
        status => panic!("reading order {id} was answered {status}"),
    }
}

fn differences(request: &Request, order: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let id = &order["order_id"];
    let sent = request.body();
    let items = format!("{},7", request.user_id);
    let amount = sent["total_amount"].as_str().unwrap_or_default();
    if order["user_id"] != sent["user_id"]
        || order["item_ids"] != json!(items)
        || order["total_amount"].as_f64() != amount.parse().ok()
    {
        wrong.push(format!("diverged: order {id} is {order}, sent was {sent}"));
    }
    if !["Completed", "Failed"].contains(&order["status"].as_str().unwrap_or_default()) {
        wrong.push(format!("unfinished: order {id} is {}", order["status"]));
    }
    wrong
}
