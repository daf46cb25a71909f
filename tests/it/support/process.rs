//! The real program as a process on loopback, killed by its id with the handle.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orderly::lease::NodeId;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// A start or stop that takes longer has failed.
const PATIENCE: Duration = Duration::from_mins(1);
/// Output lines kept to explain a failure.
const LINES_KEPT: usize = 200;

pub struct Process {
    child: Child,
    pub url: String,
    /// The log line of the start of listening, as JSON.
    announcement: Value,
    output: Arc<Mutex<VecDeque<String>>>,
    /// Changed with every new line.
    grown: watch::Receiver<()>,
}

/// `orderly` with its files in `folder` and a free port.
pub fn orderly(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orderly"));
    configure(&mut command, folder);
    command
}

/// Sets the same environment for any program that serves.
pub fn configure(command: &mut Command, folder: &Path) {
    for (name, _) in std::env::vars() {
        let is_ours = ["ORDERLY_", "DATABASE_", "REDIS_", "SSL_CERT_", "PGPASS", "PGS"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        if is_ours || ["HOST", "PORT", "RUST_LOG"].contains(&&*name) {
            command.env_remove(name);
        }
    }
    command
        .current_dir(folder)
        .env("PORT", "0")
        .env(
            "DATABASE_URL",
            format!("sqlite:{}", folder.join("orderly.db").display()),
        )
        .env("ORDERLY_LOG_FORMAT", "json")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
}

impl Process {
    /// Waits until the log names the address.
    pub async fn start(mut command: Command) -> Process {
        super::redis::put_under(&mut command).await;
        let mut child = command.spawn().expect("the program can be started");
        let output = Arc::new(Mutex::new(VecDeque::new()));
        let (said, mut announcement) = watch::channel(None);
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let (heard, grown) = watch::channel(());
        tokio::spawn(keep(stdout, output.clone(), heard.clone(), Some(said)));
        tokio::spawn(keep(stderr, output.clone(), heard, None));
        let heard = tokio::time::timeout(PATIENCE, announcement.wait_for(Option::is_some)).await;
        let heard: Option<Value> = heard.ok().and_then(Result::ok).and_then(|heard| heard.clone());
        let Some(announcement) = heard else {
            panic!("the server did not start: {:#?}", output.lock().unwrap());
        };
        Process {
            child,
            url: format!("http://{}", announcement["address"].as_str().unwrap_or_default()),
            announcement,
            output,
            grown,
        }
    }

    /// The node id.
    pub fn node(&self) -> NodeId {
        let said = self.announcement["node"].as_str();
        let node = said.and_then(|text| u64::from_str_radix(text, 16).ok());
        NodeId(node.expect("the announcement names the node"))
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("the process was not waited for")
    }

    /// Sends SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("the process can be killed");
    }

    pub async fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([format!("-{name}"), self.id().to_string()])
            .status()
            .await;
        assert!(sent.expect("kill can be run").success());
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended
            .unwrap_or_else(|_| panic!("the process did not end: {:#?}", self.output.lock().unwrap()))
            .expect("the process can be waited for")
    }

    /// Sends SIGTERM and returns the exit code.
    pub async fn terminate(mut self) -> Option<i32> {
        self.signal("TERM").await;
        self.ended().await.code()
    }

    /// Waits until the text is in the output.
    pub async fn until_logged(&self, text: &str) {
        let mut grown = self.grown.clone();
        let heard = tokio::time::timeout(PATIENCE, grown.wait_for(|()| self.has_logged(text))).await;
        let heard = heard.is_ok_and(|heard| heard.is_ok());
        assert!(
            heard,
            "{text:?} is not in the output: {:#?}",
            self.output.lock().unwrap()
        );
    }

    pub fn has_logged(&self, text: &str) -> bool {
        self.times_logged(text) > 0
    }

    /// Number of kept lines that contain the text.
    pub fn times_logged(&self, text: &str) -> usize {
        let output = self.output.lock().unwrap();
        output.iter().filter(|line| line.contains(text)).count()
    }
}

async fn keep(
    stream: BufReader<impl tokio::io::AsyncRead + Unpin>,
    output: Arc<Mutex<VecDeque<String>>>,
    grows: watch::Sender<()>,
    said: Option<watch::Sender<Option<Value>>>,
) {
    let mut lines = stream.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let json = serde_json::from_str::<Value>(&line).ok();
        {
            let mut output = output.lock().unwrap();
            if output.len() == LINES_KEPT {
                output.pop_front();
            }
            output.push_back(line);
        }
        grows.send_replace(());
        // After the line is kept: a test that waits for the address may look for earlier lines.
        if let (Some(said), Some(json)) = (&said, json)
            && json.get("address").is_some_and(Value::is_string)
        {
            said.send_replace(Some(json));
        }
    }
}

/// Runs a command of the program to its end: exit code and output.
pub async fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = tokio::time::timeout(PATIENCE, orderly(folder).args(arguments).output()).await;
    let output = output
        .expect("a command ends in time")
        .expect("the program can be run");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.code(), text)
}
