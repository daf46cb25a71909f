//! How long the calls of the store take, as an operator reads it.

use std::sync::Arc;
use std::time::Duration;

use orderly::processor::simulated::Simulated;
use orderly::retry::RetryPolicy;
use orderly::worker::{Worker, WorkerSettings};
use tokio::time::Instant;

use super::door::{Door, ORDER};
use super::exposition::{Exposition, Format};
use crate::support::make::{LEASE, NODE_A};

async fn scraped(door: &Door) -> Exposition {
    let answer = door.get("/metrics/prometheus").await;
    Exposition::read(answer.text(), Format::Classic)
}

fn calls(scraped: &Exposition, what: &str, verb: &str, outcome: &str) -> f64 {
    scraped.value(&format!(
        r#"orderly_store_call_seconds_{what}{{verb="{verb}",outcome="{outcome}"}}"#
    ))
}

/// Issue 14, point 5.
#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_served_order_are_timed_by_verb_and_outcome() {
    let door = Door::open().await;
    door.harness.join(NODE_A).await;
    let processor = Simulated {
        speed: 0.0,
        failure_rate: 0.0,
    };
    let settings = WorkerSettings {
        node: NODE_A,
        slots: 1,
        lease: LEASE,
        attempt_timeout: LEASE,
        retry: RetryPolicy {
            attempts_max: 1,
            base: Duration::ZERO,
            cap: Duration::ZERO,
        },
        rate_limit: None,
        idle_sleep: false,
    };
    let (store, metrics) = (door.harness.store().clone(), door.harness.metrics().clone());
    let worker = Worker::start(store, Arc::new(processor), settings, metrics);
    door.post_keyed("/orders", "k", ORDER).await.created();
    let done = door.get_with("/orders/1", ("prefer", "wait=60")).await;
    assert_eq!(done.ok()["status"], "Completed");
    let other = ORDER.replace("250.75", "250.76");
    let reused = door.post_keyed("/orders", "k", other).await;
    reused.assert_refused(422, "idempotency-key-reused");
    worker.drain(Instant::now() + LEASE).await;

    let scraped = scraped(&door).await;
    for (verb, outcome) in [
        ("accept", "ok"),
        ("accept", "refused"),
        ("settle", "ok"),
        ("queue", "ok"),
    ] {
        let count = calls(&scraped, "count", verb, outcome);
        assert_eq!(count.to_string(), "1", "{verb} {outcome}");
    }
    for (verb, outcome) in [
        ("join", "ok"),
        ("accept", "ok"),
        ("accept", "refused"),
        ("claim", "ok"),
        ("settle", "ok"),
        ("order_view", "ok"),
        ("queue", "ok"),
    ] {
        assert!(calls(&scraped, "sum", verb, outcome) > 0.0, "{verb} {outcome}");
    }
    door.close().await;
}
