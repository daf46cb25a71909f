//! A call is measured whatever becomes of it.

use std::future::pending;
use std::sync::Mutex;

use futures_util::FutureExt;
use prometheus_client::encoding::text;
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{Context, SubscriberExt};

use super::*;
use crate::metrics::Metrics;
use crate::order::OrderId;
use crate::store::Acted;
use crate::store::layer::NoStore;

/// Answers no cancel.
struct NeverCancels;

impl Layer for NeverCancels {
    async fn cancel(&self, _inner: &dyn Store, _id: OrderId) -> Result<Acted, StoreError> {
        pending().await
    }
}

fn measured_store(metrics: &Metrics) -> Arc<dyn Store> {
    let store = Layered::new(Arc::new(NoStore), NeverCancels);
    measured(Arc::new(store), metrics.store_calls.clone())
}

/// Labels and count of every kind of call that was measured.
fn counted(metrics: &Metrics) -> Vec<String> {
    let mut exposition = String::new();
    text::encode(&mut exposition, &metrics.registry).unwrap();
    let counts = exposition
        .lines()
        .filter_map(|line| line.strip_prefix("orderly_store_call_seconds_count"));
    counts.map(str::to_owned).collect()
}

#[test]
fn an_outcome_says_whether_the_store_is_to_blame() {
    let attempted = "cancel an order";
    let source = || anyhow::anyhow!("no");
    let refused = StoreError::Refused {
        attempted,
        reason: "23514".to_owned(),
        source: source(),
    };
    let unavailable = StoreError::Unavailable {
        attempted,
        source: source(),
    };
    let unexpected = StoreError::Unexpected {
        attempted,
        source: source(),
    };
    for (answer, expected) in [
        (Ok(()), StoreCallOutcome::ok),
        (Err(StoreError::Busy), StoreCallOutcome::refused),
        (Err(StoreError::QueueFull), StoreCallOutcome::refused),
        (Err(StoreError::Closed), StoreCallOutcome::refused),
        (Err(StoreError::KeyReused), StoreCallOutcome::refused),
        (Err(refused), StoreCallOutcome::refused),
        (Err(StoreError::DiskFull), StoreCallOutcome::failed),
        (Err(unavailable), StoreCallOutcome::failed),
        (Err(unexpected), StoreCallOutcome::failed),
    ] {
        assert_eq!(outcome(&answer), expected, "{answer:?}");
    }
}

#[test]
fn a_call_that_its_caller_drops_is_measured_as_abandoned() {
    let metrics = Metrics::new();
    let store = measured_store(&metrics);
    drop(store.cancel(OrderId(1)));
    assert_eq!(counted(&metrics), [""; 0], "it was never begun");
    assert!(store.cancel(OrderId(1)).now_or_never().is_none());
    assert_eq!(counted(&metrics), [r#"{verb="cancel",outcome="abandoned"} 1"#]);
}

/// Target, name and field of each span that is opened.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> tracing_subscriber::Layer<S> for Spans {
    fn on_new_span(&self, span: &Attributes<'_>, _id: &Id, _log: Context<'_, S>) {
        let of = span.metadata();
        span.record(&mut Told(self, format!("{} {}", of.target(), of.name())));
    }
}

struct Told<'s>(&'s Spans, String);

impl Visit for Told<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let told = format!("{} {field}={value:?}", self.1);
        self.0.0.lock().unwrap().push(told);
    }
}

#[test]
fn a_call_has_one_span_at_debug_level_and_none_above() {
    for (level, expected) in [
        (
            LevelFilter::DEBUG,
            // The log knows the spans by this target (`telemetry/requests.rs`).
            &["orderly::store::measured store verb=\"redrive\""][..],
        ),
        (LevelFilter::INFO, &[]),
    ] {
        let spans = Spans::default();
        let log = tracing_subscriber::registry().with(spans.clone()).with(level);
        let store = measured_store(&Metrics::new());
        tracing::subscriber::with_default(log, || {
            let answer = store.redrive(OrderId(1)).now_or_never();
            assert!(matches!(answer, Some(Err(StoreError::Closed))));
        });
        assert_eq!(*spans.0.lock().unwrap(), expected);
    }
}
