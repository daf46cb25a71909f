//! A server with external workers, their processes, and checks of the final orders.

use std::sync::{Arc, Mutex};

use orderly::epoch::FENCE_BITS;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::support::client::http;
use crate::support::cutter::{ANYWHERE, Cutter};
use crate::support::postgres::TestDatabase;
use crate::support::process::{Process, configure, orderly};
use crate::support::until;

/// The shortest possible lease: orders of a killed worker come back soon.
pub const LEASE_SECONDS: u64 = 1;

/// Number of orders that one worker processes at once.
pub const THREADS: u64 = 2;

/// A server that may be killed, behind an address that stays.
pub struct Fixture {
    folder: TempDir,
    pub database: Option<TestDatabase>,
    /// URL of the database, unless the server connects directly.
    database_url: Option<String>,
    server: Option<Process>,
    /// Forwards all requests to the current server.
    proxy: Option<Cutter>,
    http: reqwest::Client,
    /// Lease of servers started from now on.
    pub lease_seconds: u64,
    pub orders: Vec<u64>,
}

impl Fixture {
    /// Uses SQLite unless a database is given.
    pub async fn open(database: Option<TestDatabase>) -> Fixture {
        Fixture::open_at(database, None).await
    }

    /// Uses the test's own route to the database.
    pub async fn open_at(database: Option<TestDatabase>, database_url: Option<String>) -> Fixture {
        let mut fixture = Fixture {
            folder: tempfile::tempdir().expect("a temporary folder"),
            database,
            database_url,
            server: None,
            proxy: None,
            http: http(),
            lease_seconds: LEASE_SECONDS,
            orders: Vec::new(),
        };
        fixture.start().await;
        let proxy = Cutter::before(&fixture.server().url, 0, ANYWHERE, 0).await;
        fixture.proxy = Some(proxy);
        fixture
    }

    /// The address for workers, independent of the current server.
    pub fn url(&self) -> &str {
        &self.proxy.as_ref().expect("the proxy runs until close").url
    }

    pub fn server(&self) -> &Process {
        self.server.as_ref().expect("the server runs")
    }

    async fn start(&mut self) {
        let server = Process::start(self.program()).await;
        if let Some(proxy) = &self.proxy {
            proxy.set_server(&server.url);
        }
        self.server = Some(server);
    }

    pub async fn kill_server(&mut self) {
        self.server.take().expect("the server runs").kill().await;
        self.start().await;
    }

    /// Stops the server with SIGTERM and starts another on the same store.
    pub async fn restart_server(&mut self) {
        let server = self.server.take().expect("the server runs");
        assert_eq!(server.terminate().await, Some(0));
        self.start().await;
    }

    /// Accepts a batch of orders with the metadata.
    pub async fn accept(&mut self, count: usize, metadata: Value) {
        let order = json!({"user_id": 1, "item_ids": [7], "total_amount": 1, "metadata": metadata});
        let url = format!("{}/orders/batch", self.server().url);
        let orders = json!({"orders": vec![order; count]});
        let answer = self
            .http
            .post(url)
            .json(&orders)
            .send()
            .await
            .expect("the server answers");
        assert_eq!(answer.status(), StatusCode::CREATED);
        let answer: Value = answer.json().await.expect("JSON");
        let accepted = answer["orders"].as_array().expect("the orders").iter();
        self.orders
            .extend(accepted.map(|order| order["order_id"].as_u64().expect("a number")));
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self.http.get(format!("{}{path}", self.server().url)).send().await;
        answer.expect("the server answers").json().await.expect("JSON")
    }

    /// Number of lease requests that wait, according to the server.
    pub async fn waiting(&self) -> u64 {
        const NAME: &str = "orderly_lease_requests_waiting ";
        let url = format!("{}/metrics/prometheus", self.server().url);
        let answer = self.http.get(url).send().await.expect("the server answers");
        let text = answer.text().await.expect("metrics are text");
        let sample = text.lines().find_map(|line| line.strip_prefix(NAME));
        sample
            .expect("the metric is exposed")
            .parse()
            .expect("a whole number")
    }

    /// Posts a body and returns status and answer.
    pub async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        let url = format!("{}{path}", self.server().url);
        let answer = self
            .http
            .post(url)
            .json(&body)
            .send()
            .await
            .expect("the server answers");
        let status = answer.status();
        (status, answer.json().await.expect("JSON"))
    }

    pub async fn kinds(&self, id: u64) -> Vec<String> {
        let history = self.get(&format!("/orders/{id}/events")).await;
        let events = history["events"].as_array().expect("events").iter();
        events
            .map(|event| event["kind"].as_str().expect("a kind").to_owned())
            .collect()
    }

    pub async fn all_ended(&self) {
        until("every order has ended", async || {
            let queue = self.get("/queue").await;
            queue["pending"] == 0 && queue["processing"] == 0
        })
        .await;
    }

    /// Starts a worker process for this server.
    pub fn start_worker(&self, mut command: Command) -> WorkerProcess {
        configure(&mut command, self.folder.path());
        command
            .env("ORDERLY_URL", self.url())
            .env("WORKER_LEASE_SECONDS", self.lease_seconds.to_string())
            .env("WORKER_THREADS", THREADS.to_string());
        WorkerProcess::start(command)
    }

    /// Stops the server and verifies its store.
    pub async fn close(mut self) -> (Option<i32>, String) {
        let server = self.server.take().expect("the server runs");
        assert_eq!(server.terminate().await, Some(0));
        let mut verify = self.program();
        if let Some(database) = &self.database {
            verify.env("DATABASE_URL", database.url());
        }
        let verified = verify
            .arg("verify")
            .output()
            .await
            .expect("the program can be run");
        (
            verified.status.code(),
            String::from_utf8_lossy(&verified.stdout).into_owned(),
        )
    }

    fn program(&self) -> Command {
        let mut command = orderly(self.folder.path());
        command.envs([
            ("ORDERLY_PROCESSOR", "pull"),
            ("ORDERLY_RETRY_BASE", "10ms"),
            // Workers are killed often here, and orders must not be poisoned by that.
            ("ORDERLY_MAX_CRASHES", "1000"),
            ("RUST_LOG", "info,orderly::worker=error,orderly::janitor=error"),
        ]);
        command.env("ORDERLY_LEASE", format!("{}s", self.lease_seconds));
        if let Some(database) = &self.database {
            command.env("DATABASE_URL", database.url());
        }
        if let Some(url) = &self.database_url {
            command.env("DATABASE_URL", url);
        }
        command
    }
}

/// An external worker process, killed when dropped.
pub struct WorkerProcess {
    child: Child,
    printed: Arc<Mutex<Vec<String>>>,
    /// Number of lines printed.
    lines: watch::Receiver<usize>,
}

/// A result that the server accepted, as printed by a worker: `45 Completed fence 7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedResult {
    pub order_id: u64,
    pub status: String,
    pub fence: u64,
}

impl WorkerProcess {
    fn start(mut command: Command) -> WorkerProcess {
        let mut child = command.spawn().expect("the program can be started");
        let printed: Arc<Mutex<Vec<String>>> = Arc::default();
        let (count, lines) = watch::channel(0);
        let stdout = child.stdout.take().expect("stdout is piped");
        tokio::spawn(keep(stdout, printed.clone(), count));
        let stderr = child.stderr.take().expect("stderr is piped");
        tokio::spawn(drain(stderr));
        WorkerProcess {
            child,
            printed,
            lines,
        }
    }

    pub fn taken(&self) -> Vec<AcceptedResult> {
        let printed = self.printed.lock().unwrap();
        printed
            .iter()
            .filter_map(|line| AcceptedResult::read(line))
            .collect()
    }

    pub fn lines(&self) -> usize {
        *self.lines.borrow()
    }

    pub async fn signal(&self, name: &str) {
        let id = self
            .child
            .id()
            .expect("the process was not waited for")
            .to_string();
        let sent = Command::new("kill").args([format!("-{name}"), id]).status().await;
        assert!(sent.expect("kill can be run").success());
    }

    /// Sends SIGKILL; the output is kept.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("the process can be killed");
    }

    /// Sends SIGTERM and returns the exit code.
    pub async fn terminate(&mut self) -> Option<i32> {
        self.signal("TERM").await;
        let ended = tokio::time::timeout(crate::support::PATIENCE, self.child.wait()).await;
        ended
            .expect("the worker ends in time")
            .expect("the process can be waited for")
            .code()
    }
}

impl AcceptedResult {
    fn read(line: &str) -> Option<AcceptedResult> {
        let words: Vec<&str> = line.split(' ').collect();
        let [order_id, status, "fence", fence] = words[..] else {
            return None;
        };
        Some(AcceptedResult {
            order_id: order_id.parse().ok()?,
            status: status.to_owned(),
            fence: fence.parse().ok()?,
        })
    }
}

async fn keep(stream: impl AsyncRead + Unpin, kept: Arc<Mutex<Vec<String>>>, count: watch::Sender<usize>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        kept.lock().unwrap().push(line);
        count.send_modify(|count| *count += 1);
    }
}

async fn drain(stream: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        eprintln!("{line}");
    }
}

/// Breaches unless every order was completed once under the fence of its last lease and no other completion was
/// accepted.
pub async fn breaches(fixture: &Fixture, taken: &[AcceptedResult]) -> Vec<String> {
    let mut breaches = Vec::new();
    for &id in &fixture.orders {
        let kinds = fixture.kinds(id).await;
        let count = |kind: &str| kinds.iter().filter(|found| *found == kind).count();
        let (completed, started) = (count("completed"), count("started"));
        if completed != 1 || kinds.last().is_none_or(|last| last != "completed") {
            breaches.push(format!("once: order {id} has {kinds:?}"));
        }
        let accepted: Vec<u64> = taken
            .iter()
            .filter(|taken| taken.order_id == id && taken.status == "Completed")
            .map(|taken| taken.fence % (1 << FENCE_BITS))
            .collect();
        // Each lease raises the fence by one. A killed worker may not have printed its result.
        if accepted.len() > 1
            || accepted
                .iter()
                .any(|fence| usize::try_from(*fence) != Ok(started))
        {
            breaches.push(format!(
                "fenced: order {id} was started {started} times, and completed by {accepted:?}"
            ));
        }
    }
    breaches
}
