//! Five hundred orders from thirty-two concurrent clients against the real program: counts are exact at every moment,
//! and every order runs once, in order of acceptance.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::Client;
use serde_json::Value;
use tokio::task::JoinSet;

use super::exposition::{Exposition, Format};
use crate::support::client::{Answer, Request, http, post};
use crate::support::process::{Process, orderly, run};

const ORDERS: u64 = 500;
const CLIENTS: u64 = 32;
const STATES: [&str; 5] = ["Pending", "Processing", "Completed", "Failed", "Cancelled"];

/// The clients' knowledge: the table holds at least the acknowledged orders, at most the sent ones.
#[derive(Default)]
struct Progress {
    sent: AtomicU64,
    acknowledged: AtomicU64,
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_concurrent_orders_run_once_in_order_with_exact_counts() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = orderly(folder.path());
    command.envs([
        ("ORDERLY_SIMULATED_SPEED", "1000"),
        ("ORDERLY_SIMULATED_FAILURE_RATE", "0"),
    ]);
    let server = Process::start(command).await;
    let progress = Arc::new(Progress::default());
    let clients = send(&server.url, &progress);
    let ((), partial) = tokio::join!(clients, scrape_until_all_are_final(&server.url, &progress));
    println!("{partial} scrapes saw part of the orders");
    assert!(partial > 0, "no scrape ran while orders arrived");

    let http = http();
    let orders = all_orders(&http, &server.url).await;
    let ids: Vec<u64> = orders
        .iter()
        .map(|order| order["order_id"].as_u64().unwrap())
        .collect();
    assert!(ids.iter().copied().eq(1..=ORDERS), "{ids:?}");
    let starts: Vec<&str> = orders
        .iter()
        .map(|order| order["processing_at"].as_str().unwrap())
        .collect();
    assert!(
        starts.is_sorted(),
        "not started in order of acceptance: {starts:#?}"
    );
    for order in &orders {
        assert_eq!(order["status"], "Completed", "{order}");
        assert_eq!(order["attempts"], 1, "{order}");
        assert_processed_once(&http, &server.url, order).await;
    }
    let metrics = get(&http, &format!("{}/metrics", server.url)).await;
    assert_eq!(metrics["completed_orders"], ORDERS);
    assert_eq!(metrics["average_processing_time_seconds"], average(&orders));

    assert_eq!(server.terminate().await, Some(0));
    let (exit, report) = run(folder.path(), &["verify"]).await;
    assert_eq!(exit, Some(0), "{report}");
}

/// Starts the clients; resolves once all orders are accepted.
fn send(url: &str, progress: &Arc<Progress>) -> impl Future<Output = ()> {
    let mut clients = JoinSet::new();
    let next = Arc::new(AtomicU64::new(0));
    for user_id in 1..=CLIENTS {
        let (url, progress, next) = (url.to_owned(), progress.clone(), next.clone());
        clients.spawn(async move {
            let http = http();
            loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                if number >= ORDERS {
                    return;
                }
                let request = Request {
                    key: format!("order-{number}"),
                    user_id,
                    cents: number,
                };
                progress.sent.fetch_add(1, Ordering::SeqCst);
                let answer = post(&http, &url, &request).await;
                assert!(matches!(answer, Answer::Created(_)), "{answer:?}");
                progress.acknowledged.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    async { drop(clients.join_all().await) }
}

/// Returns the number of scrapes that saw part of the orders.
async fn scrape_until_all_are_final(url: &str, progress: &Progress) -> usize {
    let http = http();
    let mut partial = 0;
    loop {
        for scrape in [
            Scrape::json(&http, url, progress).await,
            Scrape::text(&http, url, progress).await,
        ] {
            let sum: u64 = scrape.states.iter().sum();
            assert!(scrape.total.is_none_or(|total| total == sum), "{scrape:?}");
            assert!(scrape.possible.contains(&sum), "{scrape:?}");
            let [_, _, completed, failed, cancelled] = scrape.states;
            assert_eq!((failed, cancelled), (0, 0), "{scrape:?}");
            if completed == ORDERS {
                return partial;
            }
            partial += usize::from((1..ORDERS).contains(&sum));
        }
    }
}

/// One scrape while orders arrive.
#[derive(Debug)]
struct Scrape {
    /// The total as shown. The text formats have none.
    total: Option<u64>,
    states: [u64; 5],
    /// Range from the orders acknowledged before to those sent until after.
    possible: RangeInclusive<u64>,
}

impl Scrape {
    async fn json(http: &Client, url: &str, progress: &Progress) -> Scrape {
        let acknowledged = progress.acknowledged.load(Ordering::SeqCst);
        let metrics = get(http, &format!("{url}/metrics")).await;
        let sent = progress.sent.load(Ordering::SeqCst);
        let number = |name: &str| metrics[name].as_u64().expect("counts are numbers");
        Scrape {
            total: Some(number("total_orders")),
            states: STATES.map(|state| number(&format!("{}_orders", state.to_lowercase()))),
            possible: acknowledged..=sent,
        }
    }

    async fn text(http: &Client, url: &str, progress: &Progress) -> Scrape {
        let acknowledged = progress.acknowledged.load(Ordering::SeqCst);
        let url = format!("{url}/metrics/prometheus");
        let text = http
            .get(url)
            .send()
            .await
            .expect("the server answers")
            .text()
            .await;
        let sent = progress.sent.load(Ordering::SeqCst);
        let exposition = Exposition::read(&text.expect("the answer is whole"), Format::Classic);
        Scrape {
            total: None,
            states: STATES.map(|state| {
                let shown = exposition.value(&format!("orderly_orders{{status=\"{state}\"}}"));
                shown.to_string().parse().expect("counts are integers")
            }),
            possible: acknowledged..=sent,
        }
    }
}

/// All orders by rising id, read page by page.
async fn all_orders(http: &Client, url: &str) -> Vec<Value> {
    let mut orders = Vec::new();
    let mut cursor = String::new();
    loop {
        let mut page = get(http, &format!("{url}/orders?limit=100{cursor}")).await;
        orders.append(page["orders"].as_array_mut().unwrap());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    orders.reverse();
    orders
}

async fn assert_processed_once(http: &Client, url: &str, order: &Value) {
    let history = get(http, &format!("{url}/orders/{}/events", order["order_id"])).await;
    let events = history["events"].as_array().unwrap();
    let kinds: Vec<&str> = events
        .iter()
        .map(|event| event["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["accepted", "started", "completed"], "{history}");
    assert_eq!(events[0]["at"], order["created_at"]);
    assert_eq!(events[1]["at"], order["processing_at"]);
    assert_eq!(events[2]["at"], order["completed_at"]);
}

/// The mean that the metrics must show, computed from the orders.
fn average(orders: &[Value]) -> String {
    let micros = |time: &Value| {
        let instant: jiff::Timestamp = time.as_str().unwrap().parse().unwrap();
        i128::from(instant.as_microsecond())
    };
    let sum: i128 = orders
        .iter()
        .map(|order| micros(&order["completed_at"]) - micros(&order["processing_at"]))
        .sum();
    let divisor = orders.len() as i128 * 10_000;
    let hundredths = (sum + divisor / 2) / divisor;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

async fn get(http: &Client, url: &str) -> Value {
    let response = http.get(url).send().await.expect("the server answers");
    assert!(response.status().is_success(), "{url}: {}", response.status());
    response.json().await.expect("answers are JSON")
}
