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

/// Word of the statements that claim or start orders.
const CLAIMS: &str = "claimed, exhausted";
/// Linux counts processor time in hundredths of a second.
const MICROS_PER_TICK: f64 = 10_000.0;

/// Waits for locks of a millisecond or more.
#[derive(Clone, Copy, Debug, Default)]
pub struct LockWaits {
    pub all: u64,
    pub of_claims: u64,
}

pub struct Server {
    process: Child,
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
}

impl Server {
    /// Starts a server with new data in `folder`, which must not exist.
    pub fn start(folder: &Path) -> Result<Server> {
        Server::start_with(folder, &[])
    }

    /// Starts a server with more settings than those of every measurement.
    pub fn start_with(folder: &Path, settings: &[&str]) -> Result<Server> {
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
        for setting in SETTINGS.iter().chain(settings) {
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

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the answer to a statement, as plain text.
    pub fn query(&self, database: &str, statement: &str) -> Result<String> {
        let mut command = Command::new(self.programs.join("psql"));
        command.args([
            "-X",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            database,
            "-c",
            statement,
        ]);
        let output = command.output().with_context(|| format!("run {command:?}"))?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{statement} failed: {error}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Counts the waits for locks that the log has so far.
    pub fn lock_waits(&self) -> Result<LockWaits> {
        let log = fs::read(self.folder.join("log")).context("read the server's log")?;
        Ok(lock_waits_of(&String::from_utf8_lossy(&log)))
    }

    /// Returns the processor time that the server has taken, with all its sessions.
    pub fn cpu_micros(&self) -> Result<f64> {
        let own = self.process.id();
        let mut ticks = 0;
        for process in fs::read_dir("/proc")
            .context("read /proc")?
            .filter_map(Result::ok)
        {
            // Gone in between, or not a process.
            let Ok(stat) = fs::read_to_string(process.path().join("stat")) else {
                continue;
            };
            ticks += ticks_of(&stat, own).unwrap_or(0);
        }
        Ok(ticks as f64 * MICROS_PER_TICK)
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

/// Counts the waits in a log. The statement of a wait follows it, in lines that begin with a tab after the first.
fn lock_waits_of(log: &str) -> LockWaits {
    let mut waits = LockWaits::default();
    let (mut is_wait, mut is_statement) = (false, false);
    for line in log.lines() {
        if !line.starts_with('\t') {
            is_statement = line.contains("STATEMENT:");
            is_wait = line.contains("still waiting for")
                || is_wait
                    && [" DETAIL:", " CONTEXT:", " STATEMENT:"]
                        .iter()
                        .any(|part| line.contains(part));
            waits.all += u64::from(line.contains("still waiting for"));
        }
        if is_wait && is_statement && line.contains(CLAIMS) {
            waits.of_claims += 1;
            is_wait = false;
        }
    }
    waits
}

/// Returns the ticks of a process of the server by its `/proc/PID/stat`; of the first one with those of ended sessions.
fn ticks_of(stat: &str, server: u32) -> Option<u64> {
    let (head, tail) = stat.rsplit_once(')')?;
    let pid: u32 = head.split_once(' ')?.0.parse().ok()?;
    // The state comes first.
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let parent: u32 = fields.get(1)?.parse().ok()?;
    let used = if pid == server {
        11..15
    } else if parent == server {
        11..13
    } else {
        return None;
    };
    fields
        .get(used)?
        .iter()
        .map(|field| field.parse::<u64>().ok())
        .sum()
}

/// Returns a command that runs as another user if this one is root, which PostgreSQL refuses.
pub fn as_user(program: &Path) -> Result<Command> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_of_claims_are_told_by_their_statement() {
        let log = "at [7] LOG:  process 7 still waiting for ExclusiveLock on advisory lock after 1.0 ms\n\
                   at [7] DETAIL:  Process holding the lock: 8. Wait queue: 7.\n\
                   at [7] STATEMENT:  begin;\n\tselect claimed, exhausted::int\n\tcommit\n\
                   at [7] LOG:  process 7 acquired ExclusiveLock\n\
                   at [9] LOG:  process 9 still waiting for ShareLock on transaction 1 after 1.0 ms\n\
                   at [9] STATEMENT:  select settle\n";
        let waits = lock_waits_of(log);
        assert_eq!((waits.all, waits.of_claims), (2, 1));
    }

    #[test]
    fn sessions_count_for_their_server() {
        let stat = |pid, parent| {
            format!("{pid} (postgres: a ) b) S {parent} 1 1 0 -1 0 0 0 0 0 100 20 3 4 20 0 1 0 99 0 0")
        };
        assert_eq!(ticks_of(&stat(7, 1), 7), Some(127));
        assert_eq!(ticks_of(&stat(8, 7), 7), Some(120));
        assert_eq!(ticks_of(&stat(9, 1), 7), None);
    }
}
