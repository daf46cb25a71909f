//! Metrics: equal to a recount of the table, in the format the client asks for.

use std::sync::Arc;
use std::time::Duration;

use insta::assert_snapshot;
use orderly::lease::Outcome;
use orderly::order::{OrderId, OrderStatus};
use orderly::processor::simulated::Simulated;
use orderly::retry::RetryPolicy;
use orderly::worker::{Worker, WorkerSettings};
use tokio::time::Instant;

use super::exposition::{Exposition, Format};
use super::in_process::{Answer, Api, JSON, ORDER};
use crate::support::make::{LEASE, NODE_A};

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl Answer {
    #[track_caller]
    pub(super) fn exposition(&self) -> Exposition {
        let format = match self.header("content-type") {
            TEXT => Format::Classic,
            OPEN_METRICS => Format::OpenMetrics,
            other => panic!("{other} is not a text format"),
        };
        Exposition::read(self.text(), format)
    }
}

async fn open_metrics(api: &Api) -> Exposition {
    let accept = ("accept", "application/openmetrics-text;version=1.0.0");
    api.get_with("/metrics", accept).await.exposition()
}

/// Creates a different number of orders in each status.
async fn fill(api: &Api) {
    for (count, status) in (1..).zip(OrderStatus::ALL.into_iter().rev()) {
        for _ in 0..count {
            api.harness.order_in(status).await;
        }
    }
}

#[tokio::test]
async fn metrics_of_an_empty_store_are_zero() {
    let api = Api::open().await;
    assert_snapshot!(api.get("/metrics").await.shown(), @r#"
    200 OK
    content-type: application/json
    vary: Accept

    {
      "total_orders":0,
      "pending_orders":0,
      "processing_orders":0,
      "completed_orders":0,
      "failed_orders":0,
      "cancelled_orders":0,
      "average_processing_time_seconds":"0.00",
      "oldest_waiting_seconds":null,
      "queue_paused":false,
      "blocked_orders":0,
      "oldest_blocked_seconds":null,
      "held_orders":0,
      "scheduled_orders":0
    }
    "#);
    api.close_empty().await;
}

#[tokio::test]
async fn metrics_are_available_as_json() {
    let api = Api::open().await;
    for seconds in [5, 7] {
        let id = api.harness.accept_one().await;
        let lease = api.harness.claim_only(id).await;
        api.harness
            .advance(Duration::from_millis(seconds * 1000 - 245))
            .await;
        api.harness.settle(&lease, Outcome::COMPLETED).await;
    }
    api.harness.accept_one().await;
    api.harness.advance(Duration::from_millis(1500)).await;
    assert_snapshot!(api.get("/metrics").await.text(), @r#"{"total_orders":3,"pending_orders":1,"processing_orders":0,"completed_orders":2,"failed_orders":0,"cancelled_orders":0,"average_processing_time_seconds":"5.76","oldest_waiting_seconds":1.5,"queue_paused":false,"blocked_orders":0,"oldest_blocked_seconds":null,"held_orders":0,"scheduled_orders":0}"#);
    api.close().await;
}

#[tokio::test]
async fn metrics_equal_a_recount_of_the_table_in_every_format() {
    let api = Api::open().await;
    fill(&api).await;
    let counted = api.harness.recount().await;
    assert_eq!(counted.total(), 15);
    let json = api.get("/metrics").await.ok();
    let text = api.get("/metrics/prometheus").await.exposition();
    let open = open_metrics(&api).await;
    assert_eq!(json["total_orders"], counted.total());
    for status in OrderStatus::ALL {
        let field = format!("{}_orders", status.name().to_lowercase());
        assert_eq!(json[&field], counted.of(status), "{field}");
        let sample = format!("orderly_orders{{status=\"{}\"}}", status.name());
        for exposition in [&text, &open] {
            assert_eq!(
                exposition.value(&sample).to_string(),
                counted.of(status).to_string(),
                "{sample}"
            );
        }
    }
    api.close().await;
}

#[tokio::test]
async fn the_accept_header_selects_the_metrics_format() {
    let api = Api::open().await;
    // The headers of Prometheus 3.5, Prometheus 2.40, Grafana Agent and VictoriaMetrics, curl, and a browser.
    let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
        application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
        text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    let prometheus_2 = "application/openmetrics-text;version=1.0.0;q=0.75,\
        application/openmetrics-text;version=0.0.1;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let protobuf_first = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
        encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,\
        application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    let victoria = "text/plain;version=0.0.4;q=1,*/*;q=0.1";
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    for (accept, content_type) in [
        (prometheus_3, OPEN_METRICS),
        (prometheus_2, OPEN_METRICS),
        (protobuf_first, OPEN_METRICS),
        (victoria, TEXT),
        (browser, JSON),
        ("*/*", JSON),
        ("", JSON),
        ("application/json", JSON),
        ("application/json, text/plain;q=0.9", JSON),
        ("application/json;q=0.1, text/plain;q=0.9", TEXT),
        ("application/json;q=0.5, */*;q=0.9", JSON),
        ("text/plain", TEXT),
        ("text/plain;version=0.0.4", TEXT),
        ("TEXT/Plain", TEXT),
        ("text/plain;q=0, */*", JSON),
        ("application/openmetrics-text", OPEN_METRICS),
        (
            "application/openmetrics-text;version=0.0.1,text/plain;q=0.5",
            TEXT,
        ),
        ("image/png", JSON),
        (";;,,q=", JSON),
    ] {
        let answer = api.get_with("/metrics", ("accept", accept)).await;
        assert_eq!(answer.header("content-type"), content_type, "{accept}");
        assert_eq!(answer.header("vary"), "Accept");
        if content_type != JSON {
            answer.exposition();
        }
    }
    let answer = api.get("/metrics").await;
    assert_eq!(answer.header("content-type"), JSON, "without a preference");
    let answer = api.get_with("/metrics/prometheus", ("accept", JSON)).await;
    assert_eq!(answer.header("content-type"), TEXT, "in every case");
    api.close_empty().await;
}

#[tokio::test]
async fn the_set_of_metric_families_is_stable() {
    let api = Api::open().await;
    // Request families appear with the first request.
    api.get("/livez").await.ok();
    let families: Vec<String> = open_metrics(&api)
        .await
        .families
        .iter()
        .map(|family| format!("{} {}", family.kind, family.name))
        .collect();
    assert_snapshot!(families.join("\n"), @r#"
    counter orderly_orders_accepted
    counter orderly_orders_overdue
    counter orderly_orders_started
    counter orderly_attempts
    counter orderly_stale_results_rejected
    counter orderly_leases_lost
    counter orderly_leases_granted
    gauge orderly_lease_requests_waiting
    counter orderly_outside_results
    histogram orderly_order_wait_seconds
    histogram orderly_order_processing_seconds
    gauge orderly_slots_busy
    gauge orderly_slots
    counter orderly_breaker_openings
    histogram orderly_store_group_calls
    histogram orderly_store_commit_seconds
    counter orderly_store_errors
    histogram orderly_store_call_seconds
    counter orderly_reads
    gauge orderly_store_wal_bytes
    counter orderly_http_requests
    histogram orderly_http_request_duration_seconds
    gauge orderly_feed_subscribers
    counter orderly_feed_deliveries
    counter orderly_feed_subscribers_lagged
    gauge orderly_feed_lag_seconds
    gauge orderly_connections
    counter orderly_connections_refused
    counter orderly_log_lines_dropped
    gauge orderly_build_info
    gauge orderly_orders
    gauge orderly_oldest_waiting_seconds
    gauge orderly_blocked_orders
    gauge orderly_held_orders
    gauge orderly_scheduled_orders
    gauge orderly_oldest_blocked_seconds
    gauge orderly_queue_paused
    gauge orderly_store_up
    gauge orderly_store_numbers_age_seconds
    gauge orderly_oldest_processing_seconds
    gauge orderly_oldest_transaction_seconds
    gauge orderly_finding
    counter process_cpu_seconds
    gauge process_start_time_seconds
    gauge process_resident_memory_bytes
    gauge process_virtual_memory_bytes
    gauge process_threads
    gauge process_open_fds
    gauge process_max_fds
    "#);
    api.close_empty().await;
}

#[tokio::test]
async fn requests_are_counted_by_route_not_by_path() {
    let api = Api::open().await;
    for path in ["/orders/1", "/orders/2", "/orders/x", "/nothing/1", "/nothing/2"] {
        assert_eq!(api.get(path).await.status, 404);
    }
    api.ask("BREW", "/orders", &[], "").await;
    let counted = open_metrics(&api).await;
    let count = |labels: &str| {
        counted
            .value(&format!("orderly_http_requests_total{{{labels}}}"))
            .to_string()
    };
    assert_eq!(count(r#"method="GET",route="/orders/{id}",status="404""#), "3");
    assert_eq!(count(r#"method="GET",route="none",status="404""#), "2");
    assert_eq!(count(r#"method="other",route="/orders",status="405""#), "1");
    let took = r#"orderly_http_request_duration_seconds_count{method="GET",route="/orders/{id}"}"#;
    assert_eq!(counted.value(took).to_string(), "3");
    let took = r#"orderly_http_request_duration_seconds_count{method="other",route="/orders"}"#;
    assert_eq!(counted.value(took).to_string(), "1");
    api.close_empty().await;
}

/// A counter that first appears with a count shows no rise (issue 13, point 22).
#[tokio::test]
async fn counters_start_at_zero_before_their_first_event() {
    let api = Api::open().await;
    let counted = open_metrics(&api).await;
    for sample in [
        r#"orderly_attempts_total{result="failed"}"#,
        r#"orderly_attempts_total{result="abandoned"}"#,
        r#"orderly_outside_results_total{result="lost"}"#,
        r#"orderly_http_requests_total{method="POST",route="/orders",status="201"}"#,
        r#"orderly_http_requests_total{method="POST",route="/orders",status="503"}"#,
        r#"orderly_http_requests_total{method="GET",route="/readyz",status="503"}"#,
        r#"orderly_http_requests_total{method="POST",route="/leases/{id}/complete",status="409"}"#,
    ] {
        assert_eq!(counted.value(sample).to_string(), "0", "{sample}");
    }
    api.close_empty().await;
}

#[tokio::test]
async fn process_metrics_report_resource_use() {
    let api = Api::open().await;
    let counted = open_metrics(&api).await;
    for sample in [
        "process_cpu_seconds_total",
        "process_start_time_seconds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_threads",
        "process_open_fds",
        "process_max_fds",
    ] {
        assert!(counted.value(sample) > 0.0, "{sample}");
    }
    assert!(counted.value("process_open_fds") <= counted.value("process_max_fds"));
    api.close_empty().await;
}

/// The simulated processor takes slightly more than 2, 5 or 10 s; interpolated medians must be near that.
#[tokio::test]
async fn histogram_quantiles_of_simulated_attempts_are_accurate() {
    for seconds in [2.0, 5.0, 10.0] {
        let metrics = orderly::metrics::Metrics::new();
        for extra in 0..100 {
            metrics
                .order_processing
                .observe(seconds + f64::from(extra) * 0.0005);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &metrics.registry).unwrap();
        let exposition = Exposition::read(&text, Format::OpenMetrics);
        let family = exposition.families.iter();
        let mut family = family.filter(|family| family.name == "orderly_order_processing_seconds");
        let median = median(&family.next().unwrap().samples);
        assert!((median / seconds - 1.0).abs() < 0.03, "{median} for {seconds}");
    }
}

/// The median by linear interpolation between buckets, as in Prometheus.
fn median(samples: &std::collections::BTreeMap<String, f64>) -> f64 {
    let bound = |name: &str| {
        let bound = name.split_once("le=\"")?.1.trim_end_matches("\"}");
        bound.parse::<f64>().ok()
    };
    let mut buckets: Vec<(f64, f64)> = samples
        .iter()
        .filter_map(|(name, count)| Some((bound(name)?, *count)))
        .collect();
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    let half = buckets.last().unwrap().1 / 2.0;
    let at = buckets.iter().position(|(_, count)| *count >= half).unwrap();
    let ((low, below), (high, within)) = (buckets[at - 1], buckets[at]);
    low + (high - low) * (half - below) / (within - below)
}

/// The histograms hold each order of a running worker once.
#[tokio::test(flavor = "multi_thread")]
async fn each_processed_order_is_counted_once() {
    const ORDERS: usize = 5;
    let api = Api::open().await;
    api.harness.join(NODE_A).await;
    let processor = Simulated {
        speed: 0.0,
        failure_rate: 0.0,
    };
    let settings = WorkerSettings {
        node: NODE_A,
        name: "api".into(),
        slots: 2,
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
    for number in 1..=ORDERS {
        api.post("/orders", ORDER).await.created();
        let done = api
            .get_with(&format!("/orders/{number}"), ("prefer", "wait=60"))
            .await;
        assert_eq!(done.ok()["status"], "Completed");
    }
    worker.drain(Instant::now() + LEASE).await;
    let counted = open_metrics(&api).await;
    for sample in [
        "orderly_orders_accepted_total",
        "orderly_attempts_total{result=\"completed\"}",
        "orderly_order_wait_seconds_count",
        "orderly_order_processing_seconds_count",
        "orderly_orders{status=\"Completed\"}",
    ] {
        assert_eq!(counted.value(sample).to_string(), ORDERS.to_string(), "{sample}");
    }
    assert_eq!(counted.value("orderly_slots").to_string(), "2");
    for (state, shown) in [("closed", "1"), ("open", "0"), ("half_open", "0")] {
        let gauge = format!("orderly_breaker_state{{state=\"{state}\"}}");
        assert_eq!(counted.value(&gauge).to_string(), shown);
    }
    assert_eq!(counted.value("orderly_slots_busy").to_string(), "0");
    api.close().await;
}

#[tokio::test]
async fn a_pause_shows_in_every_metrics_format() {
    let api = Api::open().await;
    api.harness.accept_one().await;
    api.harness.cancel(OrderId(1)).await;
    api.act("/queue/pause").await.ok();
    assert_eq!(api.get("/metrics").await.ok()["queue_paused"], true);
    assert_eq!(
        open_metrics(&api).await.value("orderly_queue_paused").to_string(),
        "1"
    );
    api.close().await;
}
