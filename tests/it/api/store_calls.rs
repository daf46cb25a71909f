//! Durations of store calls as metrics.

use std::sync::Arc;
use std::time::Duration;

use orderly::lease::ProcessorKind;
use orderly::processor::simulated::Simulated;
use orderly::retry::RetryPolicy;
use orderly::store::ClaimRequest;
use orderly::worker::{Worker, WorkerSettings};
use tokio::time::Instant;

use super::exposition::{Exposition, Format};
use super::in_process::{Api, ORDER};
use crate::support::make::{LEASE, NODE_A, claim_by};

async fn scraped(api: &Api) -> Exposition {
    let answer = api.get("/metrics/prometheus").await;
    Exposition::read(answer.text(), Format::Classic)
}

fn calls(scraped: &Exposition, what: &str, verb: &str, outcome: &str) -> f64 {
    scraped.value(&format!(
        r#"orderly_store_call_seconds_{what}{{verb="{verb}",outcome="{outcome}"}}"#
    ))
}

/// Issue 14, point 5.
#[tokio::test(flavor = "multi_thread")]
async fn store_calls_are_timed_by_verb_and_outcome() {
    let api = Api::open().await;
    api.harness.join(NODE_A).await;
    let processor = Simulated {
        speed: 0.0,
        failure_rate: 0.0,
    };
    let settings = WorkerSettings {
        node: NODE_A,
        name: "api".into(),
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
    let (store, metrics) = (api.harness.store().clone(), api.harness.metrics().clone());
    let worker = Worker::start(store, Arc::new(processor), settings, metrics);
    api.post_keyed("/orders", "k", ORDER).await.created();
    let done = api.get_with("/orders/1", ("prefer", "wait=60")).await;
    assert_eq!(done.ok()["status"], "Completed");
    let other = ORDER.replace("250.75", "250.76");
    let reused = api.post_keyed("/orders", "k", other).await;
    reused.assert_refused(422, "idempotency-key-reused");
    worker.drain(Instant::now() + LEASE).await;

    let scraped = scraped(&api).await;
    for (verb, outcome) in [
        ("accept", "ok"),
        ("accept", "refused"),
        ("settle", "ok"),
        ("vitals", "ok"),
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
        ("vitals", "ok"),
    ] {
        assert!(calls(&scraped, "sum", verb, outcome) > 0.0, "{verb} {outcome}");
    }
    api.close().await;
}

/// The number of all store calls so far.
async fn calls_in_all(api: &Api) -> f64 {
    let text = api.get("/metrics/prometheus").await.text().to_owned();
    let samples = text.lines().filter_map(|line| {
        let counted = line.strip_prefix("orderly_store_call_seconds_count{")?;
        counted.rsplit(' ').next()
    });
    samples.map(|count| count.parse::<f64>().expect("a count")).sum()
}

/// Issue 14, point 7.
#[tokio::test]
async fn a_completion_by_an_external_worker_is_one_call() {
    let api = Api::open().await;
    // A scrape queries the store too.
    let of_a_scrape = {
        let before = calls_in_all(&api).await;
        calls_in_all(&api).await - before
    };
    for (action, rest, calls) in [
        ("complete", "", 1.0),
        ("complete", r#","result":7"#, 1.0),
        ("release", "", 1.0),
        // The backoff depends on the attempts of the order.
        ("fail", r#","error":"no","permanent":true"#, 2.0),
    ] {
        let id = api.harness.accept_one().await;
        let delivering = ClaimRequest {
            processor: Some(ProcessorKind::Http),
            ..claim_by(NODE_A, 1)
        };
        let claimed = api.harness.store().claim(delivering).await.unwrap();
        let body = format!("{{\"token\":\"{}\"{rest}}}", claimed.leases[0].token);
        let path = format!("/leases/{id}/{action}");
        let before = calls_in_all(&api).await;
        api.post(&path, body).await.ok();
        let counted = calls_in_all(&api).await - before - of_a_scrape;
        assert_eq!(counted.to_string(), calls.to_string(), "{action}");
        if action == "release" {
            api.harness.cancel(id).await;
        }
    }
    api.close().await;
}
