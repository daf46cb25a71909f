//! PostgreSQL server for measurements: new data on the disk of the repository, loopback only, stopped when its value is
//! dropped.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{debian, needs};

const START_TIME_MAX: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Large enough that figures do not depend on disk reads.
const SETTINGS: [&str; 2] = ["shared_buffers=1GB", "max_wal_size=4GB"];
/// User that the server runs as if the measurement runs as root.
const USER: &str = "postgres";

pub struct Server {
    process: Child,
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
}

impl Server {
    /// Starts a server with new data in `folder`, which must not exist.
    pub fn start(folder: &Path) -> Result<Server> {
        let programs = needs::newest_postgres()?;
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        if debian::is_root()? {
            finish(Command::new("chown").arg(USER).arg(folder))?;
        }
        let data = folder.join("data");
        let options = [
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--no-locale",
        ];
        finish(
            as_user(&programs.join("initdb"))?
                .args(options)
                .arg("-D")
                .arg(&data)
                .stdout(Stdio::null()),
        )?;
        // Freed here; the server takes it a moment later.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut command = as_user(&programs.join("postgres"))?;
        command
            .arg("-D")
            .arg(&data)
            .args(["-h", "127.0.0.1", "-p", &port.to_string()]);
        command.arg("-k").arg(folder);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        let log = fs::File::create(folder.join("log")).context("create the server's log")?;
        command.stdout(Stdio::null()).stderr(log);
        let process = command.spawn().with_context(|| format!("run {command:?}"))?;
        let server = Server {
            process,
            programs,
            folder: folder.to_owned(),
            port,
        };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + START_TIME_MAX;
        loop {
            let mut asked = Command::new(self.programs.join("pg_isready"));
            asked.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
            if asked.status().context("run pg_isready")?.success() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "PostgreSQL does not start; its log is {}",
                self.folder.join("log").display()
            );
            sleep(LOOK_INTERVAL);
        }
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs the measurement on a new, empty database.
    pub fn with_database<T>(&self, measure: impl FnOnce(&str) -> Result<T>) -> Result<T> {
        const NAME: &str = "measured";
        finish(self.command("createdb").arg(NAME))?;
        let measured = measure(&self.url(NAME));
        finish(self.command("dropdb").args(["--force", NAME]))?;
        measured
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &self.port.to_string()]);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killed, since SIGTERM waits for sessions and the data is discarded anyway.
        let ended = self.process.kill().and_then(|()| self.process.wait());
        let removed = fs::remove_dir_all(&self.folder);
        if let Err(error) = ended.map(drop).and(removed) {
            eprintln!(
                "xtask: cannot remove all of the server in {}: {error}",
                self.folder.display()
            );
        }
    }
}

/// Returns a command that runs as another user if this one is root, which PostgreSQL refuses.
fn as_user(program: &Path) -> Result<Command> {
    if !debian::is_root()? {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", USER, "--regid", USER, "--clear-groups"])
        .arg(program);
    Ok(command)
}

fn finish(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}
