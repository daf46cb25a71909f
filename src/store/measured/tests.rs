//! Every call is measured, whatever its outcome.

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
use crate::order::{OrderId, Reason};
use crate::store::layer::NoStore;
use crate::store::{Acted, RedriveOptions};

/// A layer that never answers a cancel.
struct NeverCancels;

impl Layer for NeverCancels {
    async fn cancel(
        &self,
        _inner: &dyn Store,
        _id: OrderId,
        _reason: Option<Reason>,
    ) -> Result<Acted, StoreError> {
        pending().await
    }
}

fn measured_store(metrics: &Metrics) -> Arc<dyn Store> {
    let store = Layered::new(Arc::new(NoStore), NeverCancels);
    measured(Arc::new(store), metrics.store_call.clone())
}

/// Labels and count of every kind of call measured so far.
fn counted(metrics: &Metrics) -> Vec<String> {
    let mut exposition = String::new();
    text::encode(&mut exposition, &metrics.registry).unwrap();
    let counts = exposition
        .lines()
        .filter_map(|line| line.strip_prefix("orderly_store_call_seconds_count"));
    counts.map(str::to_owned).collect()
}

#[test]
fn an_outcome_shows_whether_the_store_is_to_blame() {
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
fn a_call_dropped_by_its_caller_counts_as_abandoned() {
    let metrics = Metrics::new();
    let store = measured_store(&metrics);
    drop(store.cancel(OrderId(1), None));
    assert_eq!(counted(&metrics), [""; 0], "it was never begun");
    assert!(store.cancel(OrderId(1), None).now_or_never().is_none());
    assert_eq!(counted(&metrics), [r#"{verb="cancel",outcome="abandoned"} 1"#]);
}

/// Target, name and field of each span that is opened.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> tracing_subscriber::Layer<S> for Spans {
    fn on_new_span(&self, span: &Attributes<'_>, _id: &Id, _log: Context<'_, S>) {
        let metadata = span.metadata();
        span.record(&mut FieldRecorder(
            self,
            format!("{} {}", metadata.target(), metadata.name()),
        ));
    }
}

struct FieldRecorder<'s>(&'s Spans, String);

impl Visit for FieldRecorder<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{} {field}={value:?}", self.1);
        self.0.0.lock().unwrap().push(text);
    }
}

#[test]
fn a_call_has_one_span_at_debug_level_and_none_above() {
    for (level, expected) in [
        (
            LevelFilter::DEBUG,
            &["orderly::store::measured store verb=\"redrive\""][..],
        ),
        (LevelFilter::INFO, &[]),
    ] {
        let spans = Spans::default();
        let log = tracing_subscriber::registry().with(spans.clone()).with(level);
        let store = measured_store(&Metrics::new());
        tracing::subscriber::with_default(log, || {
            let answer = store
                .redrive(OrderId(1), RedriveOptions::default())
                .now_or_never();
            assert!(matches!(answer, Some(Err(StoreError::Closed))));
        });
        assert_eq!(*spans.0.lock().unwrap(), expected);
    }
}
