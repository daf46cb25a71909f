//! Servers of a run: child processes of this program on free loopback ports, and their folder. Each is ended by its
//! process id when the run is over, however it ends.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::script::Caller;

/// Maximum time until a server reports its address.
const START_TIME_MAX: Duration = Duration::from_mins(1);
/// Variables of the user's own server, which must not reach the one under test.
const OWN_VARIABLES: [&str; 5] = ["ORDERLY_", "DATABASE_", "REDIS_", "HOST", "PORT"];

/// All child processes of a run.
#[derive(Default)]
pub struct Processes(Mutex<Vec<Process>>);

struct Process {
    child: Child,
    /// Listen address, once reported.
    address: Option<SocketAddr>,
}

/// Settings of the server under test.
pub struct Settings<'a> {
    pub database_url: String,
    pub connections: usize,
    /// Variables that override the others.
    pub others: &'a [(String, String)],
}

impl Processes {
    /// Starts the server under test in `folder`.
    pub async fn serve(
        &self,
        program: &Path,
        folder: &Path,
        settings: Settings<'_>,
    ) -> anyhow::Result<Caller> {
        /// Connections beyond those of the load, for reading metrics.
        const CONNECTIONS_BESIDE: usize = 16;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars() {
            if OWN_VARIABLES.iter().any(|own| name.starts_with(own)) {
                command.env_remove(name);
            }
        }
        command
            .arg("serve")
            .current_dir(folder)
            .env("HOST", "127.0.0.1")
            .env("PORT", "0")
            .env("DATABASE_URL", settings.database_url)
            .env("RUST_LOG", "warn")
            .env("ORDERLY_LOG_FORMAT", "json")
            .env("ORDERLY_SIMULATED_SPEED", "0")
            .env(
                "ORDERLY_MAX_CONNECTIONS",
                (settings.connections + CONNECTIONS_BESIDE).to_string(),
            )
            .envs(settings.others.iter().map(|(name, value)| (name, value)));
        self.start(command).await.context("start the server to measure")
    }

    /// Starts a yardstick with the `arguments` of the hidden command.
    pub async fn yardstick(
        &self,
        program: &Path,
        arguments: &[&str],
        database_url: Option<&str>,
    ) -> anyhow::Result<Caller> {
        let mut command = Command::new(program);
        command.arg("bench-yardstick").args(arguments);
        if let Some(url) = database_url {
            // Not an argument, where other users could read the password.
            command.env(super::YARDSTICK_DATABASE_VARIABLE, url);
        }
        self.start(command).await.context("start a yardstick")
    }

    /// Starts a process and waits until it reports its address.
    async fn start(&self, mut command: Command) -> anyhow::Result<Caller> {
        let mut child = command
            // A yardstick exits when this pipe closes, even if this process is killed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            // Keeps interrupts of the terminal from the child; this process handles them.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("start a process")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let id = child.id();
        self.processes().push(Process { child, address: None });
        let mut lines = BufReader::new(stdout).lines();
        let heard = timeout(START_TIME_MAX, address(&mut lines)).await;
        let address = heard.context("the process does not report its address")??;
        for process in &mut *self.processes() {
            if process.child.id() == id {
                process.address = Some(address);
            }
        }
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                log(&line);
            }
        });
        Ok(Caller::of(address))
    }

    /// Ends the process that listens at `address`.
    pub async fn end(&self, address: SocketAddr) {
        let found = {
            let mut processes = self.processes();
            let at = processes
                .iter()
                .position(|process| process.address == Some(address));
            at.map(|at| processes.swap_remove(at))
        };
        if let Some(process) = found {
            process.end().await;
        }
    }

    pub async fn end_all(&self) {
        let processes = std::mem::take(&mut *self.processes());
        for process in processes {
            process.end().await;
        }
    }

    fn processes(&self) -> MutexGuard<'_, Vec<Process>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

impl Process {
    /// Kills the process; its data is discarded anyway.
    async fn end(mut self) {
        // It may have exited by itself.
        if let Err(error) = self.child.kill().await {
            tracing::debug!(%error, "a process had already exited");
        }
    }
}

async fn address(lines: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<SocketAddr> {
    while let Some(line) = lines.next_line().await.context("read its output")? {
        let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if let Some(address) = said["address"].as_str() {
            return address.parse().context("read the reported address");
        }
        log(&line);
    }
    bail!("the process exited before it listened")
}

/// Logs a line of a child's log.
fn log(line: &str) {
    let said: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    tracing::warn!("the server says: {}", said["message"].as_str().unwrap_or(line));
}

/// A new folder, removed with its contents on drop.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new_in(parent: &Path) -> anyhow::Result<Folder> {
        let path = std::path::absolute(parent)?.join(format!(
            "orderly-bench-{}-{:08x}",
            std::process::id(),
            rand::random::<u32>()
        ));
        std::fs::create_dir(&path).with_context(|| format!("create the folder {}", path.display()))?;
        Ok(Folder(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Creates a folder inside.
    pub fn inside(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.0.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("create the folder {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "cannot remove the folder {}", self.0.display());
        }
    }
}
