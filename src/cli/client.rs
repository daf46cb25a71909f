//! Client of a running server: sends requests and turns problem documents into errors for people.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use crate::causes::with_causes;
use crate::config::{ClientConfig, url_names_this_machine};

const LAST_EVENT_ID: &str = "Last-Event-ID";
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const EVENT_STREAM: &str = "text/event-stream";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Above the duration of any single call of the server.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);
/// Maximum size of an answer: twice a page of the 500 longest orders of about 30 kB. Another program may answer anything.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Three keep-alives of a stream; beyond that the connection counts as lost.
const STREAM_SILENCE_MAX: Duration = Duration::from_secs(45);

pub struct Client {
    http: reqwest::Client,
    config: ClientConfig,
}

/// A stream of server-sent events.
pub struct Following(reqwest::Response);

/// The reason there is no stream.
pub enum Refusal {
    /// The server is away or overloaded.
    ForNow(Failure),
    ForGood(Failure),
}

/// Members of a problem document (RFC 9457) that people read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    errors: Vec<FieldProblem>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FieldProblem {
    pointer: String,
    detail: String,
}

/// Reports whether the server may have carried out the request that failed.
pub fn may_have_changed_something(failure: &Failure) -> bool {
    let Failure::Failed(error) = failure else {
        return false;
    };
    match (Refused::of(failure), error.downcast_ref::<reqwest::Error>()) {
        (Some(refused), _) => !refused.changed_nothing,
        (None, Some(error)) => !error.is_connect(),
        (None, None) => true,
    }
}

/// An answer with an error status.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    message: String,
    /// Detail from a problem document.
    pub detail: Option<String>,
    /// Set when the request certainly changed nothing; otherwise it may have been carried out.
    changed_nothing: bool,
    /// Set on 503: the server answers but cannot serve the request at the moment.
    pub is_unavailable: bool,
}

impl Refused {
    /// Returns `None` if no answer came.
    pub fn of(failure: &Failure) -> Option<&Refused> {
        match failure {
            Failure::Failed(error) => error.downcast_ref(),
            Failure::Configuration(_) => None,
        }
    }
}

impl Client {
    pub fn new(config: ClientConfig) -> Result<Client, Failure> {
        let http = http_client(&config.url).map_err(|error| Failure::failed("make an HTTP client", error))?;
        Ok(Client { http, config })
    }

    /// Returns the body of a successful answer. Encodes the pairs of `query`.
    pub async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<String, Failure> {
        let request = self.request(Method::GET, &with_query(path, query));
        text(self.answer(request).await?).await
    }

    /// Opens a stream of the events after the one with the id `last_id`.
    pub async fn follow(
        &self,
        path: &str,
        query: &[(&str, String)],
        last_id: Option<&str>,
    ) -> Result<Following, Refusal> {
        let http = stream_client(&self.config.url)
            .map_err(|error| Refusal::ForGood(Failure::failed("make an HTTP client", error)))?;
        let mut request = http
            .get(format!("{}{}", self.config.url, with_query(path, query)))
            .header(ACCEPT, EVENT_STREAM);
        if let Some(last_id) = last_id {
            request = request.header(LAST_EVENT_ID, last_id);
        }
        let answer = self.answer(request).await.map_err(Refusal::ForNow)?;
        let status = answer.status();
        let is_stream = answer
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(EVENT_STREAM.as_bytes()));
        if status == StatusCode::OK && is_stream {
            return Ok(Following(answer));
        }
        let failure = match text(answer).await {
            Ok(_) => Failure::Failed(anyhow::anyhow!(
                "the answer is not an event stream: does ORDERLY_URL name an orderly server?"
            )),
            Err(failure) => failure,
        };
        // As in the browsers' EventSource, except for refusals that are temporary by definition.
        let passes = status.is_server_error()
            || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
        Err(if passes {
            Refusal::ForNow(failure)
        } else {
            Refusal::ForGood(failure)
        })
    }

    pub async fn post(&self, path: &str, body: Option<&impl Serialize>) -> Result<String, Failure> {
        let mut request = self.request(Method::POST, path);
        if let Some(body) = body {
            request = request.json(body);
        }
        text(self.answer(request).await?).await
    }

    /// Posts a JSON text under an idempotency key.
    pub async fn post_keyed(&self, path: &str, body: String, key: &str) -> Result<String, Failure> {
        let request = self
            .request(Method::POST, path)
            .header(CONTENT_TYPE, "application/json")
            .header(IDEMPOTENCY_KEY, key)
            .body(body);
        text(self.answer(request).await?).await
    }

    /// Returns the server's address without secrets.
    pub fn shown_url(&self) -> String {
        crate::config::without_password(&self.config.url)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.config.url))
    }

    async fn answer(&self, mut request: RequestBuilder) -> Result<Response, Failure> {
        if let Some(key) = &self.config.api_key {
            request = request.bearer_auth(key.expose());
        }
        let answer = request.send().await.map_err(reqwest::Error::without_url);
        let answer = answer.with_context(|| {
            let url = self.shown_url();
            format!("no answer from {url} (ORDERLY_URL names the server; `orderly serve` starts one)")
        })?;
        Ok(answer)
    }
}

/// Returns the body of a successful answer, or its problem as an error.
async fn text(answer: Response) -> Result<String, Failure> {
    let status = answer.status();
    let body = read_up_to(answer, ANSWER_BYTES_MAX)
        .await
        .map_err(|error| Failure::failed("read the answer", error.without_url()))?;
    if !body.is_whole {
        return Err(Failure::Failed(anyhow::anyhow!(
            "the answer is longer than {ANSWER_BYTES_MAX} bytes: does ORDERLY_URL name an orderly server?"
        )));
    }
    let text = String::from_utf8_lossy(&body.bytes).into_owned();
    if status.is_success() {
        Ok(text)
    } else {
        Err(Failure::Failed(anyhow::Error::new(Refused {
            message: message(status, &text),
            detail: problem(&text).detail,
            is_unavailable: status == StatusCode::SERVICE_UNAVAILABLE,
            // On a 409 the first request may still be running.
            changed_nothing: (status.is_client_error() && status != StatusCode::CONFLICT)
                || status == StatusCode::SERVICE_UNAVAILABLE,
        })))
    }
}

impl Following {
    /// Returns the next chunk, `None` at the end of the stream, or the reason why the connection was lost.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        let next = self.0.chunk().await;
        next.map_err(|error| with_causes(&error.without_url()))
    }
}

fn with_query(path: &str, query: &[(&str, String)]) -> String {
    if query.is_empty() {
        return path.to_owned();
    }
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(query)
        .finish();
    format!("{path}?{query}")
}

/// An answer's body, or its beginning.
pub struct Body {
    pub bytes: Vec<u8>,
    pub is_whole: bool,
}

/// Reads at most the first `bytes_max` bytes of a body.
pub async fn read_up_to(mut answer: Response, bytes_max: usize) -> Result<Body, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        let room = bytes_max - bytes.len();
        bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return Ok(Body {
                bytes,
                is_whole: false,
            });
        }
    }
    Ok(Body {
        bytes,
        is_whole: true,
    })
}

/// Returns a client for requests to one address, with time limits.
pub fn http_client(url: &str) -> Result<reqwest::Client, reqwest::Error> {
    builder(url).timeout(REQUEST_TIMEOUT).build()
}

/// Returns a client for endless answers that fails only when no bytes arrive.
fn stream_client(url: &str) -> Result<reqwest::Client, reqwest::Error> {
    builder(url).read_timeout(STREAM_SILENCE_MAX).build()
}

fn builder(url: &str) -> reqwest::ClientBuilder {
    // Fails if the first client has installed it already: the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none());
    // A proxy cannot reach the loopback of the machine it serves.
    if url_names_this_machine(url) {
        builder = builder.no_proxy();
    }
    builder
}

/// Reads an answer; another program may have sent it.
pub fn read<T: DeserializeOwned>(answer: &str) -> Result<T, Failure> {
    serde_json::from_str(answer)
        .map_err(|error| Failure::failed("read the answer; is it from an orderly server?", error))
}

fn problem(body: &str) -> Problem {
    serde_json::from_str(body).unwrap_or_default()
}

/// Returns a refusal in words, on one line.
fn message(status: StatusCode, body: &str) -> String {
    let problem = problem(body);
    let mut line = problem.title.unwrap_or_else(|| {
        let reason = status.canonical_reason().unwrap_or("refused");
        format!("{} {reason}", status.as_u16())
    });
    let fields = problem
        .errors
        .iter()
        .map(|error| format!("{} {}", error.pointer, error.detail));
    let mut separator = ": ";
    for part in problem.detail.into_iter().chain(fields) {
        // The detail often names the only bad field itself.
        if !line.contains(&part) {
            line.push_str(separator);
            line.push_str(&part);
            separator = "; ";
        }
    }
    if status == StatusCode::UNAUTHORIZED {
        line.push_str(" (ORDERLY_API_KEY holds the key)");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_document_becomes_a_line() {
        let body = r#"{"type":"/problems/x","title":"Not possible now","status":409,"detail":"order 5 is Completed"}"#;
        assert_eq!(
            message(StatusCode::CONFLICT, body),
            "Not possible now: order 5 is Completed"
        );
        let body = r##"{"title":"Bad fields","detail":"#/a is missing","errors":[{"pointer":"#/a","detail":"is missing"}]}"##;
        assert_eq!(
            message(StatusCode::UNPROCESSABLE_ENTITY, body),
            "Bad fields: #/a is missing"
        );
        assert_eq!(message(StatusCode::BAD_GATEWAY, "<html>"), "502 Bad Gateway");
        assert!(message(StatusCode::UNAUTHORIZED, "").contains("ORDERLY_API_KEY"));
    }

    #[test]
    fn requests_to_this_machine_bypass_the_proxy() {
        for url in ["http://127.0.0.1:5000", "http://[::1]:5000", "http://localhost"] {
            assert!(url_names_this_machine(url), "{url}");
        }
        assert!(!url_names_this_machine("https://orders.example"));
    }
}
