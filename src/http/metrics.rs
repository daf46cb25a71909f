//! `GET /metrics`: the counts of orders from the store and this process's own metrics, as JSON, Prometheus text or
//! OpenMetrics.

use std::fmt::Write;

use axum::body::Body;
use axum::http::header::{ACCEPT, AGE, CONTENT_TYPE, VARY};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use prometheus_client::encoding::text;
use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::negotiation::{self, Form};
use super::problem::Problem;
use super::{Shared, body};
use crate::diagnosis::Known;
use crate::metrics::process;
use crate::store::{Counters, QueueState};

mod store;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Read the metrics
#[utoipa::path(get, operation_id = "readMetrics", path = "/metrics", tag = "operation",
    responses((status = 200, description = "The metrics in the format that Accept prefers", content(
        (MetricsBody = "application/json"),
        (String = "text/plain"),
        (String = "application/openmetrics-text"),
    ))))]
pub async fn negotiated(call: Call) -> Result<Response, Problem> {
    let shared = &call.shared;
    let accept = call
        .headers()
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut response = match negotiation::choose(accept) {
        Form::Json => {
            let known = shared.monitor.read().await?;
            let mut response = body::json(StatusCode::OK, &MetricsBody::from(&known.vitals.queue))?;
            tell_age(&known, &mut response);
            response
        }
        Form::Text => exposition(shared, TEXT).await?,
        Form::OpenMetrics => exposition(shared, OPEN_METRICS).await?,
    };
    response
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

/// Says how old the numbers are, unless they are fresh.
fn tell_age(known: &Known, response: &mut Response) {
    if !known.is_fresh {
        let seconds = HeaderValue::from(known.age.as_secs());
        response.headers_mut().insert(AGE, seconds);
    }
}

/// Read the metrics as Prometheus text
#[utoipa::path(get, operation_id = "readPrometheusMetrics", path = "/metrics/prometheus", tag = "operation",
    responses((status = 200, description = "Prometheus text format 0.0.4", body = String, content_type = "text/plain")))]
pub async fn prometheus(call: Call) -> Result<Response, Problem> {
    exposition(&call.shared, TEXT).await
}

/// Counts of orders, from one snapshot of the store.
#[derive(Serialize, ToSchema)]
#[schema(as = Metrics)]
struct MetricsBody {
    total_orders: u64,
    pending_orders: u64,
    processing_orders: u64,
    completed_orders: u64,
    failed_orders: u64,
    cancelled_orders: u64,
    /// Mean time from the start of the completing attempt to its completion, with two decimals.
    #[schema(example = "5.75")]
    average_processing_time_seconds: String,
    #[schema(required)]
    oldest_waiting_seconds: Option<f64>,
    queue_paused: bool,
    /// Pending orders that wait for an earlier order of their user; at most 10,000 are counted.
    blocked_orders: u64,
    /// Longest wait of a blocked order; null if there is none.
    #[schema(required)]
    oldest_blocked_seconds: Option<f64>,
    /// Pending orders that are held.
    held_orders: u64,
    /// Other Pending orders that wait for their `start_after`.
    scheduled_orders: u64,
}

impl From<&QueueState> for MetricsBody {
    fn from(state: &QueueState) -> MetricsBody {
        let counters = &state.counters;
        MetricsBody {
            total_orders: counters.total(),
            pending_orders: counters.pending,
            processing_orders: counters.processing,
            completed_orders: counters.completed,
            failed_orders: counters.failed,
            cancelled_orders: counters.cancelled,
            average_processing_time_seconds: average_seconds(counters),
            oldest_waiting_seconds: state.oldest_waiting.map(|age| age.as_secs_f64()),
            queue_paused: state.pause.is_some(),
            blocked_orders: state.blocked.orders,
            oldest_blocked_seconds: state.blocked.oldest_age.map(|age| age.as_secs_f64()),
            held_orders: counters.held,
            scheduled_orders: counters.scheduled,
        }
    }
}

/// Formats the mean with two decimals, half up; `0.00` if no order is Completed.
fn average_seconds(counters: &Counters) -> String {
    const MICROS_PER_HUNDREDTH: u128 = 10_000;
    let divisor = u128::from(counters.completed) * MICROS_PER_HUNDREDTH;
    let hundredths = (u128::from(counters.processing_micros) + divisor / 2)
        .checked_div(divisor)
        .unwrap_or(0);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// Shows the process's own metrics even if the store cannot be read, when they are needed most.
async fn exposition(shared: &Shared, content_type: &'static str) -> Result<Response, Problem> {
    let known = match shared.monitor.read().await {
        Ok(known) => Some(known),
        Err(error) => {
            tracing::warn!(%error, "cannot read the store; this scrape lacks the metrics of orders. `orderly doctor` says why");
            None
        }
    };
    let mut text = String::new();
    text::encode_registry(&mut text, &shared.metrics.registry).map_err(Problem::unexpected)?;
    let of_store = store::registry(known.as_ref(), &shared.monitor);
    text::encode_registry(&mut text, &of_store).map_err(Problem::unexpected)?;
    text::encode_registry(&mut text, &process::registry()).map_err(Problem::unexpected)?;
    text::encode_eof(&mut text).map_err(Problem::unexpected)?;
    if content_type == TEXT {
        text = classic(&text).map_err(Problem::unexpected)?;
    }
    let mut response = Response::new(Body::from(text));
    if let Some(known) = &known {
        tell_age(known, &mut response);
    }
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    Ok(response)
}

/// Rewrites OpenMetrics as Prometheus text 0.0.4: counter families are named like their samples, units and the end mark
/// are dropped.
fn classic(open_metrics: &str) -> Result<String, std::fmt::Error> {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, help)) = help.take().filter(|(helped, _)| *helped == name) {
                writeln!(text, "# HELP {name}{suffix} {help}")?;
            }
            writeln!(text, "# TYPE {name}{suffix} {kind}")?;
        } else if !line.starts_with('#') {
            writeln!(text, "{line}")?;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{DurationLabels, Metrics, RequestLabels};
    use crate::store::{Blocked, Pause};
    use crate::time::Timestamp;
    use std::collections::BTreeSet;
    use std::time::Duration;

    fn state() -> QueueState {
        QueueState {
            counters: Counters {
                pending: 5,
                processing: 3,
                completed: 42,
                processing_micros: 241_500_000,
                ..Counters::default()
            },
            pause: Some(Pause {
                at: Timestamp::from_micros(0),
                reason: None,
            }),
            handout: None,
            oldest_waiting: Some(Duration::from_millis(1_500)),
            blocked: Blocked {
                orders: 2,
                oldest_age: Some(Duration::from_mins(1)),
            },
            nodes: Vec::new(),
        }
    }

    fn open_metrics() -> String {
        let metrics = Metrics::new();
        let labels = RequestLabels {
            method: "GET",
            route: "/orders/{id}",
            status: 200,
        };
        metrics.http_requests.get_or_create(&labels).inc();
        let labels = DurationLabels {
            method: labels.method,
            route: labels.route,
        };
        metrics
            .http_request_duration
            .get_or_create(&labels)
            .observe(0.001);
        let mut text = String::new();
        text::encode_registry(&mut text, &metrics.registry).unwrap();
        text::encode_registry(&mut text, &store::of_queue(Some(&state()))).unwrap();
        text::encode_eof(&mut text).unwrap();
        text
    }

    /// Returns the families of an exposition and asserts that every sample belongs to the family above it.
    fn families(text: &str, counter_suffix: &str) -> Vec<String> {
        let mut families = Vec::new();
        let mut samples: Vec<String> = Vec::new();
        for line in text.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                samples = match kind {
                    "counter" => vec![format!("{name}{counter_suffix}")],
                    "gauge" => vec![name.to_owned()],
                    "histogram" => ["_bucket", "_sum", "_count"]
                        .map(|suffix| format!("{name}{suffix}"))
                        .into(),
                    other => panic!("{name} has type {other}"),
                };
                families.push(name.to_owned());
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                assert!(
                    samples.iter().any(|sample| sample == name),
                    "{line} is outside {samples:?}"
                );
                assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
            }
        }
        let unique: BTreeSet<_> = families.iter().collect();
        assert_eq!(unique.len(), families.len(), "a family appears twice");
        families
    }

    #[test]
    fn open_metrics_has_every_family_once_and_one_end() {
        let text = open_metrics();
        assert!(text.ends_with("# EOF\n"));
        assert_eq!(text.matches("# EOF").count(), 1);
        let families = families(&text, "_total");
        assert!(
            families
                .iter()
                .all(|name| name.starts_with("orderly_") && !name.ends_with("_total"))
        );
        for line in [
            "orderly_orders{status=\"Pending\"} 5\n",
            "orderly_orders{status=\"Cancelled\"} 0\n",
            "orderly_oldest_waiting_seconds 1.5\n",
            "orderly_queue_paused 1\n",
            "orderly_blocked_orders 2\n",
            "orderly_oldest_blocked_seconds 60.0\n",
            concat!(
                "orderly_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1\n"
            ),
        ] {
            assert!(text.contains(line), "{line}");
        }
    }

    #[test]
    fn classic_text_names_counters_like_their_samples() {
        let text = classic(&open_metrics()).unwrap();
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
        families(&text, "");
        assert!(text.contains("# HELP orderly_http_requests_total Requests answered.\n"));
        assert!(text.contains("# TYPE orderly_http_requests_total counter\n"));
        assert!(text.contains(
            "orderly_http_requests_total{method=\"GET\",route=\"/orders/{id}\",status=\"200\"} 1\n"
        ));
    }

    #[test]
    fn the_average_has_two_decimals() {
        assert_eq!(average_seconds(&state().counters), "5.75");
        assert_eq!(average_seconds(&Counters::default()), "0.00");
        let of = |completed, processing_micros| {
            average_seconds(&Counters {
                completed,
                processing_micros,
                ..Counters::default()
            })
        };
        assert_eq!(of(3, 5_000), "0.00");
        assert_eq!(of(1, 5_000), "0.01");
        assert_eq!(of(1, u64::MAX), "18446744073709.55");
    }

    #[test]
    fn the_json_shape_is_fixed() {
        assert_eq!(
            serde_json::to_string(&MetricsBody::from(&state())).unwrap(),
            concat!(
                r#"{"total_orders":50,"pending_orders":5,"processing_orders":3,"completed_orders":42,"#,
                r#""failed_orders":0,"cancelled_orders":0,"average_processing_time_seconds":"5.75","#,
                r#""oldest_waiting_seconds":1.5,"queue_paused":true,"blocked_orders":2,"oldest_blocked_seconds":60.0,"#,
                r#""held_orders":0,"scheduled_orders":0}"#
            )
        );
    }
}
