//! Talks to a running server: one request, one answer, and problem documents as errors for people.

use std::time::Duration;

use anyhow::Context;
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::failure::Failure;
use crate::config::ClientConfig;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than any single call of the server takes.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);
/// Twice a page of the 500 longest orders there can be, each some 30 kB; another program may answer anything.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

pub struct Client {
    http: reqwest::Client,
    config: ClientConfig,
}

/// The parts of a problem document (RFC 9457) that people read.
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

impl Client {
    pub fn new(config: ClientConfig) -> Result<Client, Failure> {
        let http = http_client(&config.url).map_err(|error| Failure::failed("make an HTTP client", error))?;
        Ok(Client { http, config })
    }

    /// The body of a good answer; `query` pairs are encoded here.
    pub async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<String, Failure> {
        let mut path = path.to_owned();
        if !query.is_empty() {
            let query = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(query)
                .finish();
            path = format!("{path}?{query}");
        }
        self.send(Method::GET, &path, None).await
    }

    pub async fn post(&self, path: &str, body: Option<&serde_json::Value>) -> Result<String, Failure> {
        self.send(Method::POST, path, body).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<String, Failure> {
        let mut request = self.http.request(method, format!("{}{path}", self.config.url));
        if let Some(key) = &self.config.api_key {
            request = request.bearer_auth(key.expose());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(reqwest::Error::without_url);
        let answer = answer.with_context(|| {
            let url = crate::config::without_password(&self.config.url);
            format!("no answer from {url} (ORDERLY_URL names the server; `orderly serve` starts one)")
        })?;
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
            Err(Failure::Failed(anyhow::anyhow!(told(status, &text))))
        }
    }
}

/// The beginning of an answer, or all of it.
pub struct Body {
    pub bytes: Vec<u8>,
    pub is_whole: bool,
}

/// Reads a body as far as its first `bytes_max` bytes.
pub async fn read_up_to(mut answer: reqwest::Response, bytes_max: usize) -> Result<Body, reqwest::Error> {
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

/// A client for requests to one address, with limits on the time they take.
pub fn http_client(url: &str) -> Result<reqwest::Client, reqwest::Error> {
    // An error says that one is installed already, by the first client: the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none());
    if is_this_machine(url) {
        builder = builder.no_proxy();
    }
    builder.build()
}

/// A proxy cannot reach the loopback of the machine it serves.
fn is_this_machine(url: &str) -> bool {
    let host = reqwest::Url::parse(url).ok().and_then(|url| {
        let host = url.host_str()?;
        Some(host.trim_matches(['[', ']']).to_owned())
    });
    host.is_some_and(|host| {
        host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    })
}

/// A refusal in words, on one line.
fn told(status: StatusCode, body: &str) -> String {
    let problem: Problem = serde_json::from_str(body).unwrap_or_default();
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
            told(StatusCode::CONFLICT, body),
            "Not possible now: order 5 is Completed"
        );
        let body = r##"{"title":"Bad fields","detail":"#/a is missing","errors":[{"pointer":"#/a","detail":"is missing"}]}"##;
        assert_eq!(
            told(StatusCode::UNPROCESSABLE_ENTITY, body),
            "Bad fields: #/a is missing"
        );
        assert_eq!(told(StatusCode::BAD_GATEWAY, "<html>"), "502 Bad Gateway");
        assert!(told(StatusCode::UNAUTHORIZED, "").contains("ORDERLY_API_KEY"));
    }

    #[test]
    fn no_proxy_stands_between_a_machine_and_itself() {
        for url in ["http://127.0.0.1:5000", "http://[::1]:5000", "http://localhost"] {
            assert!(is_this_machine(url), "{url}");
        }
        assert!(!is_this_machine("https://orders.example"));
    }
}
