//! External worker that pulls orders from a running `orderly serve` over HTTP and processes them until SIGTERM; then it
//! lets running orders finish for a while, gives the rest back, and exits. Start the server with `ORDERLY_PROCESSOR=pull`
//! and put your own step in `handle`.
//!
//!     ORDERLY_URL=http://127.0.0.1:5000 cargo run --example pull_worker

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Time one lease request waits at the server.
const WAIT_SECONDS: u64 = 20;
/// Maximum time for an answer, beyond that wait.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Result of the business step; a failed attempt is retried, a refused order is not.
enum Ended {
    Completed(Value),
    Failed(String),
    Refused(String),
}

/// The business step. It runs at least once: give external effects the key, which all attempts share.
async fn handle(order: &Value, idempotency_key: &str, attempt: u64, takes: Duration) -> Ended {
    let metadata = &order["metadata"];
    if metadata["refuse"] == true {
        return Ended::Refused("the card was declined".to_owned());
    }
    if attempt <= metadata["unlucky"].as_u64().unwrap_or(0) {
        return Ended::Failed("the warehouse did not answer".to_owned());
    }
    sleep(takes).await;
    Ended::Completed(json!({"shipped": order["item_ids"], "key": idempotency_key}))
}

struct Worker {
    http: reqwest::Client,
    url: String,
    key: Option<String>,
    /// Duration of a lease without renewal, after which others get the order if this process dies.
    lease_seconds: u64,
    /// Simulated duration of the step.
    takes: Duration,
    /// Cancelled to take no more orders.
    stopping: CancellationToken,
    /// Cancelled to give running orders back.
    given_up: CancellationToken,
}

/// The order was cancelled or leased to another worker, or this process stops; the text says which.
struct Lost(String);

impl Worker {
    /// Repeats a request until it is answered, with growing pauses while the server is away; gives up when this process
    /// stops.
    async fn post(&self, path: &str, body: &Value) -> Result<Value, Lost> {
        let mut pause = PAUSE_MIN;
        loop {
            let mut request = self.http.post(format!("{}{path}", self.url)).json(body);
            if let Some(key) = &self.key {
                request = request.bearer_auth(key);
            }
            let reason = match request.send().await {
                Ok(answer) if answer.status() == StatusCode::OK => match answer.json().await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error.to_string(),
                },
                Ok(answer) => {
                    let status = answer.status();
                    let text = answer.text().await.unwrap_or_default();
                    let passes = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
                    if status.is_client_error() && !passes.contains(&status) {
                        return Err(Lost(format!("{status} {text}")));
                    }
                    format!("{status} {text}")
                }
                Err(error) => error.to_string(),
            };
            if self.stopping.is_cancelled() {
                return Err(Lost(reason));
            }
            eprintln!("{reason}; retrying");
            tokio::select! {
                () = sleep(pause.mul_f64(rand::random_range(0.5..=1.0))) => {}
                () = self.stopping.cancelled() => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn about(&self, lease: &Value, action: &str, mut body: Value) -> Result<Value, Lost> {
        body["token"] = lease["token"].clone();
        self.post(&format!("/leases/{}/{action}", lease["order"]["order_id"]), &body)
            .await
    }

    /// Renews the lease; returns when it is lost.
    async fn keep(&self, lease: &Value) {
        loop {
            sleep(Duration::from_secs(self.lease_seconds) / 3).await;
            let renewed = self
                .about(lease, "renew", json!({"lease": self.lease_seconds}))
                .await;
            if renewed.is_err() {
                return;
            }
        }
    }

    async fn attempt(&self, lease: &Value) {
        let order = &lease["order"];
        let key = lease["idempotency_key"].as_str().unwrap_or_default();
        let attempt = lease["attempt"].as_u64().unwrap_or(1);
        let (action, body) = tokio::select! {
            ended = handle(order, key, attempt, self.takes) => match ended {
                Ended::Completed(result) => ("complete", json!({"result": result})),
                Ended::Failed(error) => ("fail", json!({"error": error})),
                Ended::Refused(error) => ("fail", json!({"error": error, "permanent": true})),
            },
            // Another worker has it or will get it; the work so far is dropped.
            () = self.keep(lease) => return,
            () = self.given_up.cancelled() => ("release", json!({})),
        };
        let id = &order["order_id"];
        match self.about(lease, action, body).await {
            Ok(order) => println!(
                "{id} {} fence {}",
                order["status"].as_str().unwrap_or_default(),
                lease["fence"]
            ),
            Err(Lost(reason)) => eprintln!("{id}: {action} was refused: {reason}"),
        }
    }

    async fn work(&self) {
        let asked = json!({"max": 1, "wait": WAIT_SECONDS, "lease": self.lease_seconds});
        while !self.stopping.is_cancelled() {
            // Dropping a waiting request loses nothing: the server notices and gives the order to others.
            let taken = tokio::select! {
                taken = self.post("/leases", &asked) => taken,
                () = self.stopping.cancelled() => return,
            };
            match taken {
                Ok(taken) => {
                    for lease in taken["leases"].as_array().into_iter().flatten() {
                        self.attempt(lease).await;
                    }
                }
                Err(Lost(reason)) => {
                    eprintln!("cannot get an order: {reason}");
                    return;
                }
            }
        }
    }
}

fn setting<T: FromStr>(name: &str, default: T) -> T {
    let given = std::env::var(name).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::main]
pub async fn main() {
    // The client needs a TLS provider even without TLS.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder()
        .timeout(Duration::from_secs(WAIT_SECONDS) + ANSWER_TIME_MAX)
        .build()
        .expect("the client has a TLS provider");
    let worker = Arc::new(Worker {
        http,
        url: setting("ORDERLY_URL", "http://127.0.0.1:5000".to_owned()),
        key: std::env::var("ORDERLY_API_KEY").ok(),
        lease_seconds: setting("WORKER_LEASE_SECONDS", 30),
        takes: Duration::from_secs_f64(setting("WORK_SECONDS", 0.1)),
        stopping: CancellationToken::new(),
        given_up: CancellationToken::new(),
    });
    let mut terminated = signal(SignalKind::terminate()).expect("signals can be listened to");
    let mut at_work = JoinSet::new();
    for _ in 0..setting("WORKER_THREADS", 4) {
        let worker = worker.clone();
        at_work.spawn(async move { worker.work().await });
    }
    tokio::select! {
        // Each worker has printed its reason.
        () = async { while at_work.join_next().await.is_some() {} } => std::process::exit(1),
        _ = terminated.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    worker.stopping.cancel();
    let grace = Duration::from_secs_f64(setting("WORKER_GRACE_SECONDS", 10.0));
    let finished = async { while at_work.join_next().await.is_some() {} };
    if timeout(grace, finished).await.is_err() {
        worker.given_up.cancel();
        while at_work.join_next().await.is_some() {}
    }
}
