//! The servers of a run: child processes of this program on free loopback ports, and the folder they work in. Each is
//! ended by its id when the run is over, however that came.

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

/// For a server to say where it listens.
const START_TIME_MAX: Duration = Duration::from_mins(1);
/// Variables of a user's own server are not meant for the one that is measured.
const OWN_VARIABLES: [&str; 5] = ["ORDERLY_", "DATABASE_", "REDIS_", "HOST", "PORT"];

/// All that a run started.
#[derive(Default)]
pub struct Processes(Mutex<Vec<Process>>);

struct Process {
    child: Child,
    /// Where it listens, once it said so.
    address: Option<SocketAddr>,
}

/// What the server reads its orders from and how it is set up.
pub struct Settings<'a> {
    pub database_url: String,
    pub connections: usize,
    /// By the names of their variables; these win.
    pub others: &'a [(String, String)],
}

impl Processes {
    /// The server under test, working in `folder`.
    pub async fn serve(
        &self,
        program: &Path,
        folder: &Path,
        settings: Settings<'_>,
    ) -> anyhow::Result<Caller> {
        /// Beside those of the load: for looks at the numbers.
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

    /// A yardstick: `arguments` of the hidden command that serves it.
    pub async fn yardstick(
        &self,
        program: &Path,
        arguments: &[&str],
        database_url: Option<&str>,
    ) -> anyhow::Result<Caller> {
        let mut command = Command::new(program);
        command.arg("bench-yardstick").args(arguments);
        if let Some(url) = database_url {
            // Not among the arguments, where everybody could read the password.
            command.env(super::YARDSTICK_DATABASE_VARIABLE, url);
        }
        self.start(command).await.context("start a yardstick")
    }

    /// Waits until it says where it listens.
    async fn start(&self, mut command: Command) -> anyhow::Result<Caller> {
        let mut child = command
            // A yardstick ends at the end of this pipe, should this process be killed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            // An interrupt from the terminal is this process's to act on.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("start a process")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let id = child.id();
        self.processes().push(Process { child, address: None });
        let mut lines = BufReader::new(stdout).lines();
        let heard = timeout(START_TIME_MAX, address(&mut lines)).await;
        let address = heard.context("it does not say where it listens")??;
        for process in &mut *self.processes() {
            if process.child.id() == id {
                process.address = Some(address);
            }
        }
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                tell(&line);
            }
        });
        Ok(Caller::of(address))
    }

    /// Ends the one that listens there.
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
    /// What it stored is thrown away anyway, so it is not waited for.
    async fn end(mut self) {
        // One that ended by itself needs no more than that.
        if let Err(error) = self.child.kill().await {
            tracing::debug!(%error, "a process was gone already");
        }
    }
}

async fn address(lines: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<SocketAddr> {
    while let Some(line) = lines.next_line().await.context("read what it says")? {
        let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if let Some(address) = said["address"].as_str() {
            return address.parse().context("it says where it listens");
        }
        tell(&line);
    }
    bail!("it ended before it listened")
}

/// A line of its log.
fn tell(line: &str) {
    let said: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    tracing::warn!("the server says: {}", said["message"].as_str().unwrap_or(line));
}

/// A new folder; gone with this, and with everything in it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new_in(parent: &Path) -> anyhow::Result<Folder> {
        let path = std::path::absolute(parent)?.join(format!(
            "orderly-bench-{}-{:08x}",
            std::process::id(),
            rand::random::<u32>()
        ));
        std::fs::create_dir(&path).with_context(|| format!("make the folder {}", path.display()))?;
        Ok(Folder(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A folder of its own inside.
    pub fn inside(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.0.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("make the folder {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "could not remove the folder {}", self.0.display());
        }
    }
}
