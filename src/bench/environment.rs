//! Environment of a run: its folder, its databases, and the server under test, a child process on a free loopback port.
//! All of it is removed when the run is over, however it ends.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::databases::Databases;
use super::script::Caller;
use super::{Plan, Target};

/// Minimum connection limit of the server.
const CONNECTIONS_MIN: usize = 1_024;
/// Connections beyond those of the load, for reading metrics.
const CONNECTIONS_BESIDE: usize = 16;
/// Maximum time until the server reports its address.
const START_TIME_MAX: Duration = Duration::from_mins(1);
/// Variables of the user's own server, which must not reach the one under test.
const OWN_VARIABLES: [&str; 5] = ["ORDERLY_", "DATABASE_", "REDIS_", "HOST", "PORT"];

pub struct Environment {
    folder: Folder,
    databases: Option<Databases>,
    server: Mutex<Option<Child>>,
}

impl Environment {
    pub fn new(plan: &Plan) -> anyhow::Result<Environment> {
        let databases = match &plan.target {
            Target::Postgres(url) => Some(Databases::beside(url).map_err(anyhow::Error::msg)?),
            Target::Sqlite | Target::Running(_) => None,
        };
        Ok(Environment {
            databases,
            folder: Folder::new_in(&plan.folder)?,
            server: Mutex::default(),
        })
    }

    /// Starts the server under test on new data in a folder of this name, or returns the running one.
    pub async fn server(&self, plan: &Plan, name: &str) -> anyhow::Result<Caller> {
        if let Target::Running(caller) = &plan.target {
            return Ok(caller.clone());
        }
        let folder = self.folder.inside(name)?;
        let database_url = match &self.databases {
            Some(databases) => databases.make().await?,
            None => format!("sqlite:{}", folder.join("orderly.db").display()),
        };
        let mut command = Command::new(&plan.program);
        for (name, _) in std::env::vars() {
            if OWN_VARIABLES.iter().any(|own| name.starts_with(own)) {
                command.env_remove(name);
            }
        }
        let connections = plan.connections.max(CONNECTIONS_MIN) + CONNECTIONS_BESIDE;
        command
            .arg("serve")
            .current_dir(folder)
            .env("HOST", "127.0.0.1")
            .env("PORT", "0")
            .env("DATABASE_URL", database_url)
            .env("RUST_LOG", "warn")
            .env("ORDERLY_LOG_FORMAT", "json")
            .env("ORDERLY_SIMULATED_SPEED", "0")
            .env("ORDERLY_MAX_CONNECTIONS", connections.to_string())
            .envs(plan.settings.iter().map(|(name, value)| (name, value)));
        let started = self.start(command).await;
        Ok(Caller::of(started.context("start the server to measure")?))
    }

    /// Starts a process and returns the address it reports.
    async fn start(&self, mut command: Command) -> anyhow::Result<SocketAddr> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            // Keeps interrupts of the terminal from the child; this process handles them.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("start a process")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        *self.held() = Some(child);
        let mut lines = BufReader::new(stdout).lines();
        let heard = timeout(START_TIME_MAX, address(&mut lines)).await;
        let address = heard.context("the process does not report its address")??;
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                log(&line);
            }
        });
        Ok(address)
    }

    fn held(&self) -> MutexGuard<'_, Option<Child>> {
        self.server
            .lock()
            .expect("no code panics while it holds this lock")
    }

    /// Kills the server that the run started; its data is discarded anyway.
    pub async fn end_server(&self) {
        let server = self.held().take();
        if let Some(mut server) = server
            && let Err(error) = server.kill().await
        {
            tracing::debug!(%error, "the server had already exited");
        }
    }

    /// Ends the server and removes everything.
    pub async fn clear(self) {
        self.end_server().await;
        if let Some(databases) = self.databases {
            databases.drop_all().await;
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

/// Logs a line of the server's log.
fn log(line: &str) {
    let said: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    tracing::warn!("the server says: {}", said["message"].as_str().unwrap_or(line));
}

/// A new folder, removed with its contents on drop.
struct Folder(PathBuf);

impl Folder {
    fn new_in(parent: &Path) -> anyhow::Result<Folder> {
        let path = std::path::absolute(parent)?.join(format!(
            "orderly-bench-{}-{:08x}",
            std::process::id(),
            rand::random::<u32>()
        ));
        std::fs::create_dir(&path).with_context(|| format!("create the folder {}", path.display()))?;
        Ok(Folder(path))
    }

    /// Creates a folder inside.
    fn inside(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.0.join(name);
        std::fs::create_dir(&path).with_context(|| format!("create the folder {}", path.display()))?;
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
