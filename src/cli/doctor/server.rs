//! Checks that a server answers at the configured address.

use std::net::SocketAddr;
use std::time::Duration;

use super::Finding;
use crate::causes::with_causes;
use crate::cli::client::{http_client, read_up_to};
use crate::config::{Config, on_this_machine};
/// Readiness is answered from memory; beyond this time the server hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum characters of an answer to show; another program may answer anything.
const ANSWER_CHARS_SHOWN: usize = 500;
/// Maximum bytes of an answer to read: enough for `ANSWER_CHARS_SHOWN`, blanks included.
const ANSWER_BYTES_READ: usize = 16 * 1024;

pub async fn check(config: &Config) -> Finding {
    let Some(address) = config.listen.first().copied().map(on_this_machine) else {
        return Finding::fail("no address to listen on", "set HOST");
    };
    match ask(address).await {
        Ok((status, body)) if status.is_success() => {
            Finding::ok(format!("ready at http://{address}: {}", shown(&body)))
        }
        Ok((status, body)) => match reasons(&body) {
            Some(reasons) => Finding::fail(
                format!("not ready at http://{address}: {reasons}"),
                "see the other checks and the log of the server",
            ),
            None => Finding::fail(
                format!("not ready at http://{address}: {status}: {}", shown(&body)),
                "another program may use the port",
            ),
        },
        Err(error) if error.is_connect() => Finding::warn(
            format!("no server listens at http://{address}"),
            "start `orderly serve`",
        ),
        Err(error) => Finding::fail(
            format!(
                "no answer from http://{address}: {}",
                with_causes(&error.without_url())
            ),
            "the process hangs, or another program uses the port",
        ),
    }
}

async fn ask(address: SocketAddr) -> Result<(reqwest::StatusCode, String), reqwest::Error> {
    let url = format!("http://{address}/readyz?verbose");
    let answer = http_client(&url)?.get(url).timeout(ANSWER_TIMEOUT).send().await?;
    let status = answer.status();
    let body = read_up_to(answer, ANSWER_BYTES_READ).await?;
    Ok((status, String::from_utf8_lossy(&body.bytes).into_owned()))
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
    fn the_problem_of_a_server_is_shown_without_its_json() {
        let body =
            r#"{"type":"/problems/not-ready","title":"x","status":503,"detail":"store: the disk is full"}"#;
        assert_eq!(reasons(body).as_deref(), Some("store: the disk is full"));
        for body in ["<html>", "{}", r#"{"type":"about:blank","detail":"x"}"#] {
            assert_eq!(reasons(body), None, "{body}");
        }
    }
}
