//! A real browser: headless Chromium driven over the `WebDriver` HTTP API (W3C), and killed with its handle.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::client::http;

const CHROMIUM: &str = "/usr/bin/chromium";
const DRIVER: &str = "/usr/bin/chromedriver";
/// A start that takes longer has failed.
const PATIENCE: Duration = Duration::from_mins(1);

pub fn is_installed() -> bool {
    [CHROMIUM, DRIVER]
        .iter()
        .all(|program| Path::new(program).is_file())
}

pub struct Browser {
    session: String,
    http: reqwest::Client,
    /// The browser's process id, since it is no child of ours. `None` once it is closed.
    process: Option<u64>,
    driver: Child,
    _profile: TempDir,
}

impl Browser {
    pub async fn start() -> Browser {
        let mut driver = Command::new(DRIVER)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the driver can be started");
        let lines = BufReader::new(driver.stdout.take().expect("stdout is piped")).lines();
        let port = tokio::time::timeout(PATIENCE, port(lines)).await;
        let port = port.expect("the driver starts in time");

        let profile = tempfile::tempdir().unwrap();
        let profile_argument = format!("--user-data-dir={}", profile.path().display());
        let options = json!({
            "binary": CHROMIUM,
            "args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage",
                "--no-first-run", "--disable-background-networking", "--disable-component-update",
                "--disable-sync", profile_argument,
            ],
        });
        let http = http();
        let asked = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}});
        let base = format!("http://127.0.0.1:{port}/session");
        let session = ask(&http, &base, &asked).await;
        Browser {
            session: format!("{base}/{}", session["sessionId"].as_str().expect("a session")),
            process: session["capabilities"]["goog:processID"].as_u64(),
            http,
            driver,
            _profile: profile,
        }
    }

    pub async fn visit(&self, url: &str) {
        ask(&self.http, &format!("{}/url", self.session), &json!({"url": url})).await;
    }

    /// Runs a function body in the page and returns its value.
    pub async fn run(&self, script: &str, arguments: Value) -> Value {
        let asked = json!({"script": script, "args": arguments});
        ask(&self.http, &format!("{}/execute/sync", self.session), &asked).await
    }

    pub async fn close(mut self) {
        let closed = self.http.delete(&self.session).send().await;
        assert!(closed.is_ok_and(|answer| answer.status().is_success()));
        self.process = None;
        self.driver.kill().await.expect("the driver can be killed");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its helper processes end with it.
        if let Some(process) = self.process {
            let _ = std::process::Command::new("kill")
                .args(["-KILL", &process.to_string()])
                .status();
        }
    }
}

/// The port on which the driver listens. Its later output is read too, so that it never blocks.
async fn port(mut lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>) -> u16 {
    while let Some(line) = lines.next_line().await.expect("the driver's output is text") {
        let text = line
            .strip_suffix('.')
            .unwrap_or(&line)
            .rsplit_once("successfully on port ");
        if let Some((_, port)) = text {
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return port.parse().expect("a port");
        }
    }
    panic!("the driver did not print its port");
}

async fn ask(http: &reqwest::Client, url: &str, body: &Value) -> Value {
    let answer = http
        .post(url)
        .json(body)
        .send()
        .await
        .expect("the driver answers");
    let status = answer.status();
    let mut answer: Value = answer.json().await.expect("the driver answers in JSON");
    assert!(status.is_success(), "{answer}");
    answer["value"].take()
}
