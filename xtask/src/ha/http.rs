//! HTTP requests of the trials: one connection each, with a time limit.

use std::io::{BufReader, Read};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use ureq::Agent;

/// Maximum size of an answer; a page of events is smaller.
const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;

pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {}", self.body))
    }
}

fn agent(time_max: Option<Duration>) -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_idle_connections(0)
        .timeout_connect(time_max)
        .timeout_global(time_max)
        .build()
        .into()
}

/// Gets the URL; an error if no complete answer came in time.
pub fn get(url: &str, time_max: Duration) -> Result<Answer> {
    let response = agent(Some(time_max))
        .get(url)
        .header("Accept", "application/json")
        .call()?;
    read(response)
}

pub fn post(url: &str, headers: &[(&str, &str)], body: &str, time_max: Duration) -> Result<Answer> {
    let mut request = agent(Some(time_max))
        .post(url)
        .header("Content-Type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    read(request.send(body)?)
}

pub fn patch(url: &str, body: &str, time_max: Duration) -> Result<Answer> {
    read(agent(Some(time_max)).patch(url).send(body)?)
}

/// Opens a stream of server-sent events, which ends only with its connection.
pub fn follow(url: &str, cursor: &str) -> Result<BufReader<impl Read + use<>>> {
    let response = agent(None)
        .get(url)
        .header("Accept", "text/event-stream")
        .header("Last-Event-ID", cursor)
        .call()?;
    let status = response.status().as_u16();
    anyhow::ensure!(status == 200, "{status} for {url}");
    Ok(BufReader::new(response.into_body().into_reader()))
}

fn read(mut response: ureq::http::Response<ureq::Body>) -> Result<Answer> {
    let status = response.status().as_u16();
    let body = response
        .body_mut()
        .with_config()
        .limit(BODY_BYTES_MAX)
        .read_to_string()?;
    Ok(Answer { status, body })
}
