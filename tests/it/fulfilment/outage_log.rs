//! Log lines about a service that is down (issue 13, point 19).

use serde_json::{Value, json};

use super::receiver::{Receiver, answer};
use crate::postgres::setup::log_in;
use crate::support::client::http;
use crate::support::process::{Process, orderly};
use crate::support::until;

/// Enough for all probes of the test.
const ANSWERS: usize = 200;
const ORDERS: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_logs_few_lines_without_text_from_the_service() {
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut command = orderly(folder.path());
    command.envs([
        ("ORDERLY_PROCESSOR", "http"),
        ("ORDERLY_PROCESSOR_URL", &receiver.url()),
        ("ORDERLY_RETRY_BASE", "0s"),
    ]);
    let server = Process::start(command).await;
    let away = answer(503, "", "customer 4711 is on holiday");
    for number in 0..ORDERS {
        let reference = format!("order {number}");
        receiver.set_reactions(&reference, vec![away.clone(); ANSWERS]);
        let order = json!({"user_id": 1, "item_ids": [1], "total_amount": 1, "reference": reference});
        let sent = http().post(format!("{}/orders", server.url)).json(&order).send();
        assert_eq!(sent.await.unwrap().status(), 201);
    }
    until("the breaker is open", async || {
        let queue = http().get(format!("{}/queue", server.url)).send().await.unwrap();
        let queue: Value = queue.json().await.unwrap();
        queue["nodes"][0]["breaker"] == "open"
    })
    .await;
    let tries = receiver.deliveries().len();
    until("a probe was sent", async || receiver.deliveries().len() > tries).await;
    assert_eq!(server.terminate().await, Some(0));
    let lines = log_in(folder.path());
    let text = json!(lines).to_string();
    assert!(!text.contains("4711"), "{text}");
    let logged: Vec<&Value> = lines
        .iter()
        .filter(|line| line["fields"]["reason"].is_string() || line["reason"].is_string())
        .collect();
    let named = logged.iter().filter(|line| line.to_string().contains("503"));
    assert_eq!(named.count(), logged.len(), "{logged:#?}");
    assert!(
        (2..=3).contains(&logged.len()),
        "not one line of each kind: {logged:#?}"
    );
}
