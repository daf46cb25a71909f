//! Asks the server at the configured address how it is.

use std::net::SocketAddr;

use reqwest::StatusCode;
use serde::Deserialize;
use tokio::time::timeout;

use super::{ASK_TIME_MAX, Check, Finding};
use crate::causes::with_causes;
use crate::cli::client::{http_client, read_up_to};
use crate::config::{Config, on_this_machine};
use crate::diagnosis::Rule;

/// Maximum characters of an answer to show; another program may answer anything.
const ANSWER_CHARS_SHOWN: usize = 500;
/// Maximum bytes of an answer to read: the queue with a thousand nodes.
const ANSWER_BYTES_READ: usize = 1024 * 1024;

/// A server, as it describes itself.
pub struct Server {
    pub finding: Finding,
    /// Its own findings by the rules of `diagnosis`.
    pub findings: Vec<Check>,
    /// The last bad answer of its service.
    pub service_trouble: Option<String>,
}

impl From<Finding> for Server {
    fn from(finding: Finding) -> Server {
        Server {
            finding,
            findings: Vec::new(),
            service_trouble: None,
        }
    }
}

/// Asks the server at the configured address, within [`ASK_TIME_MAX`].
pub async fn look(config: &Config) -> Server {
    const HANGS: &str = "the process hangs, or another program uses the port";
    let Some(address) = config.listen.first().copied().map(on_this_machine) else {
        return Finding::fail("no address to listen on", "set HOST").into();
    };
    let asked = timeout(ASK_TIME_MAX, ask(address, "/readyz?verbose", config));
    let trouble = timeout(ASK_TIME_MAX, service_trouble(address, config));
    let (asked, trouble) = tokio::join!(asked, trouble);
    let (status, body) = match asked {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if error.is_connect() => {
            return Finding::warn(
                format!("no server listens at http://{address}"),
                "start `orderly serve`",
            )
            .into();
        }
        Ok(Err(error)) => {
            let reason = with_causes(&error.without_url());
            return Finding::fail(format!("no answer from http://{address}: {reason}"), HANGS).into();
        }
        Err(_) => {
            let what = format!("no answer from http://{address} within {ASK_TIME_MAX:?}");
            return Finding::fail(what, HANGS).into();
        }
    };
    Server {
        finding: judge(address, status, &body),
        findings: findings(&body),
        service_trouble: trouble.ok().flatten(),
    }
}

/// The answer of a server that is ready.
#[derive(Deserialize)]
struct Ready {
    status: String,
}

fn judge(address: SocketAddr, status: StatusCode, body: &str) -> Finding {
    if status.is_success() {
        return match serde_json::from_str(body) {
            Ok(Ready { status }) if status == "ready" => Finding::ok(format!("ready at http://{address}")),
            Ok(_) | Err(_) => Finding::fail(
                format!("another program answers at http://{address}: {}", shown(body)),
                "end it, or choose another PORT",
            ),
        };
    }
    match reasons(body) {
        Some(reasons) if status == StatusCode::UNAUTHORIZED => Finding::warn(
            format!("the server at http://{address} does not admit this command: {reasons}"),
            "set the server's key in ORDERLY_API_KEY, so that its own findings can be shown",
        ),
        Some(reasons) => Finding::fail(
            format!("not ready at http://{address}: {reasons}"),
            "see the other checks and the log of the server",
        ),
        None => Finding::fail(
            format!("not ready at http://{address}: {status}: {}", shown(body)),
            "another program may use the port",
        ),
    }
}

async fn ask(
    address: SocketAddr,
    path: &str,
    config: &Config,
) -> Result<(StatusCode, String), reqwest::Error> {
    let url = format!("http://{address}{path}");
    let mut request = http_client(&url)?.get(url);
    if let Some(key) = &config.api_key {
        request = request.bearer_auth(key.expose());
    }
    let answer = request.send().await?;
    let status = answer.status();
    let body = read_up_to(answer, ANSWER_BYTES_READ).await?;
    Ok((status, String::from_utf8_lossy(&body.bytes).into_owned()))
}

/// Returns the last bad answer of the service, if the server tells of one.
async fn service_trouble(address: SocketAddr, config: &Config) -> Option<String> {
    let (_, queue) = ask(address, "/queue", config).await.ok()?;
    let queue: serde_json::Value = serde_json::from_str(&queue).ok()?;
    let trouble = &queue["service_trouble"];
    let next = trouble["next_try_at"]
        .as_str()
        .map_or_else(String::new, |at| format!(", next try at {at}"));
    Some(format!(
        "at {}: {}{next}",
        trouble["at"].as_str()?,
        trouble["error"].as_str()?
    ))
}

/// Reads what the server found; nothing if it is not ready, or another program.
fn findings(body: &str) -> Vec<Check> {
    #[derive(Deserialize)]
    struct Verbose {
        #[serde(default)]
        findings: Vec<Found>,
    }
    #[derive(Deserialize)]
    struct Found {
        rule: String,
        severity: String,
        what: String,
        because: Option<String>,
        action: String,
    }
    let Ok(Verbose { findings }) = serde_json::from_str(body) else {
        return Vec::new();
    };
    let check = |found: Found| {
        // A rule of a later version is left out.
        let rule = Rule::ALL.iter().find(|rule| rule.name() == found.rule)?;
        let finding = Finding {
            because: found.because,
            is_minor: found.severity == "warn",
            ..Finding::fail(found.what, found.action)
        };
        Some((rule.name(), finding))
    };
    findings.into_iter().filter_map(check).collect()
}

/// Returns the problem reported by an orderly server; `None` for answers of other programs.
fn reasons(body: &str) -> Option<String> {
    let problem: serde_json::Value = serde_json::from_str(body).ok()?;
    let kind = problem["type"].as_str()?;
    let detail = problem["detail"].as_str()?;
    kind.starts_with("/problems/").then(|| shown(detail))
}

fn shown(body: &str) -> String {
    let words: Vec<&str> = body.split_whitespace().collect();
    words.join(" ").chars().take(ANSWER_CHARS_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_findings_of_a_server_are_read_by_their_rules() {
        let body = r#"{"status":"ready","findings":[
            {"rule":"connections-full","severity":"fail","what":"w","because":null,"action":"a"},
            {"rule":"of-a-later-version","severity":"fail","what":"w","because":null,"action":"a"}]}"#;
        let found: Vec<_> = findings(body).into_iter().map(|(rule, _)| rule).collect();
        assert_eq!(found, ["connections-full"]);
        assert!(findings("<html>").is_empty());
    }

    #[test]
    fn the_problem_of_a_server_is_shown_without_its_json() {
        let body =
            r#"{"type":"/problems/not-ready","title":"x","status":503,"detail":"store: the disk is full"}"#;
        assert_eq!(reasons(body).as_deref(), Some("store: the disk is full"));
        for body in ["<html>", "{}", r#"{"type":"about:blank","detail":"x"}"#] {
            assert_eq!(reasons(body), None, "{body}");
        }
    }
}
