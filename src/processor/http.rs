//! HTTP processor: each attempt is one POST of the order to the user's service, and the answer is its outcome.
//! `http/answer.rs` interprets answers; `worker` schedules retries.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, USER_AGENT};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder};
use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use tokio::time::{Instant, timeout};

use super::{Attempt, Cause, Processed, ProcessingError, Processor, Reason};
use crate::certificates::{Noting, Peer};
use crate::config::HttpService;
use crate::lease::{NO_ANSWER, ProcessorKind};
use crate::order::Order;
use crate::order_json::OrderBody;
use crate::tls_roots::roots_of_machine;
use lookup::Lookups;

mod answer;
mod lookup;
mod signature;

/// Below the idle timeouts of services (gunicorn 2 s, Node and uvicorn 5 s): a connection closed while it is reused costs
/// an attempt.
const CONNECTION_IDLE_MAX: Duration = Duration::from_secs(1);
/// Maximum number of headers of an answer, above what frameworks and proxies add. hyper limits their bytes to about 400
/// KiB.
const HEADERS_MAX: usize = 100;
/// Part of an attempt's time reserved for storing its completion if the body of the answer does not end.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// Processor that calls an HTTP service.
pub struct Http {
    client: Client,
    service: HttpService,
    attempt_timeout: Duration,
}

impl Http {
    /// Creates a client for at most `slots` concurrent attempts of at most `attempt_timeout`. Reads the root
    /// certificates, so it blocks for some milliseconds.
    pub fn new(service: HttpService, slots: u32, attempt_timeout: Duration) -> Result<Http, reqwest::Error> {
        let client = Client::builder()
            .tls_backend_preconfigured(tls())
            .dns_resolver(Arc::new(Lookups::new()))
            // Orders go only where the operator said: no redirects, no proxy from environment variables meant for other
            // programs.
            .redirect(Policy::none())
            .no_proxy()
            .http1_only()
            .http1_max_headers(HEADERS_MAX)
            .connect_timeout(service.connect_timeout)
            .pool_idle_timeout(CONNECTION_IDLE_MAX)
            .pool_max_idle_per_host(slots as usize)
            .build()?;
        Ok(Http {
            client,
            service,
            attempt_timeout,
        })
    }

    fn request(
        &self,
        order: &Order,
        attempt: Attempt,
        trace: Trace,
    ) -> Result<RequestBuilder, ProcessingError> {
        let body =
            serde_json::to_vec(&OrderBody::from(order)).map_err(|error| ProcessingError::Permanent {
                error: format!("the order cannot be sent: {error}").into(),
            })?;
        let key = attempt.key.to_string();
        // A clock before 1970 is as wrong as 1970.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp = now.as_secs();
        let mut request = self
            .client
            .post(self.service.url.expose().clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("orderly/", env!("CARGO_PKG_VERSION")))
            .header("Idempotency-Key", &key)
            .header("Orderly-Attempt", attempt.number)
            .header("Orderly-Fence", attempt.fence)
            .header("Orderly-Token", attempt.token.to_string())
            .header("traceparent", trace.to_string())
            .header("webhook-id", &key)
            .header("webhook-timestamp", timestamp);
        if let Some(signature) = signature::header(&self.service.signing_keys, &key, timestamp, &body) {
            request = request.header("webhook-signature", signature);
        }
        Ok(request.body(body))
    }

    async fn call(&self, order: &Order, request: RequestBuilder) -> Result<Processed, ProcessingError> {
        let began = Instant::now();
        let response_timeout = self.service.response_timeout;
        let answer = match timeout(response_timeout, request.send()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(no_answer(&error)),
            Err(_) => {
                return Err(ProcessingError::Ailing {
                    error: Cause::new(
                        Reason::AnswerTimeout,
                        format!("the service did not answer within {response_timeout:?}"),
                    ),
                    retry_after: None,
                });
            }
        };
        // A completed answer must not be lost to the attempt timeout.
        let read_until = began + self.attempt_timeout.saturating_sub(SETTLE_TIME);
        answer::meaning(order.order_id, answer, read_until).await
    }
}

#[async_trait]
impl Processor for Http {
    async fn process(&self, order: &Order, attempt: Attempt) -> Result<Processed, ProcessingError> {
        let trace = Trace::random();
        let order_id = order.order_id;
        let request = self.request(order, attempt, trace)?;
        let ended = self.call(order, request).await;
        tracing::debug!(order.id = %order_id, attempt = attempt.number, trace.id = trace.id(), end = outcome_name(&ended),
                "sent attempt {} of order {order_id} to the service", attempt.number);
        ended
    }

    fn kind(&self) -> ProcessorKind {
        ProcessorKind::Http
    }
}

/// Returns the TLS settings for a service behind `https://`. Reads the root certificates, so it blocks for some
/// milliseconds.
pub fn tls() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring knows the versions of TLS");
    let roots = Arc::new(roots_of_machine());
    match WebPkiServerVerifier::builder_with_provider(roots.clone(), provider).build() {
        Ok(inner) => config
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Noting {
                inner,
                peer: Peer::Service,
            })),
        // Without roots every certificate is refused, with a reason that names it.
        Err(_) => config.with_root_certificates(roots),
    }
    .with_no_client_auth()
}

/// Turns a failed request into its processing error. The innermost source is specific; the outer ones repeat generic
/// text.
fn no_answer(error: &reqwest::Error) -> ProcessingError {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if error.is_connect() {
        let reason = no_connection(error, cause);
        ProcessingError::Unreachable {
            error: Cause::new(reason, format!("the service cannot be reached: {cause}")),
        }
    } else {
        ProcessingError::Ailing {
            error: Cause::new(Reason::NoAnswer, format!("{NO_ANSWER}: {cause}")),
            retry_after: None,
        }
    }
}

fn no_connection(error: &reqwest::Error, cause: &(dyn std::error::Error + 'static)) -> Reason {
    if error.is_timeout() {
        return Reason::ConnectTimeout;
    }
    if cause.is::<rustls::Error>() {
        return Reason::Tls;
    }
    match cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionRefused) => Reason::ConnectionRefused,
        _ => Reason::NoConnection,
    }
}

/// Returns the name of an outcome for the log.
fn outcome_name(ended: &Result<Processed, ProcessingError>) -> &'static str {
    match ended {
        Ok(Processed::Completed { .. }) => "completed",
        Ok(Processed::HandedOver) => "handed over",
        Err(ProcessingError::Transient { .. }) => "to be tried again",
        Err(ProcessingError::Unreachable { .. }) => "unreachable",
        Err(ProcessingError::Unavailable { .. }) => "unavailable",
        Err(ProcessingError::Denied { .. }) => "denied",
        Err(ProcessingError::Ailing { .. }) => "ailing",
        Err(ProcessingError::Permanent { .. }) => "refused",
    }
}

/// Trace id of an attempt in the service's traces: W3C Trace Context, version 00.
#[derive(Clone, Copy)]
struct Trace {
    trace_id: u128,
    parent_id: u64,
}

impl Trace {
    fn random() -> Trace {
        Trace {
            // Zero is not a valid id.
            trace_id: rand::random::<u128>().max(1),
            parent_id: rand::random::<u64>().max(1),
        }
    }

    fn id(self) -> String {
        format!("{:032x}", self.trace_id)
    }
}

impl fmt::Display for Trace {
    /// Marks the trace as sampled, so that a search for one attempt finds it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "00-{:032x}-{:016x}-01", self.trace_id, self.parent_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_follows_the_w3c_format() {
        let trace = Trace {
            trace_id: 0xA1,
            parent_id: 0xB2,
        };
        assert_eq!(
            trace.to_string(),
            "00-000000000000000000000000000000a1-00000000000000b2-01"
        );
    }
}
