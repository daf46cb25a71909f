//! Programs that run during a trial, each with its machine, user and log.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::network::{self, Machine};

/// User for PostgreSQL and PgBouncer, which refuse to run as root.
pub const USER: &str = "postgres";
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Folders of servers on Debian; not on every user's path.
const SYSTEM_PROGRAMS: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Clone, Copy)]
pub enum Signal {
    Stop,
    Continue,
    Kill,
    Terminate,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
            Signal::Kill => "KILL",
            Signal::Terminate => "TERM",
        }
    }
}

pub struct Daemon {
    name: String,
    child: Child,
}

impl Daemon {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Returns the exit status if the program has exited.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends SIGTERM and waits for the exit.
    pub fn stop(mut self, time_max: Duration) -> Result<ExitStatus> {
        signal(&[self.id()], Signal::Terminate)?;
        let deadline = Instant::now() + time_max;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} did not stop within {time_max:?} of SIGTERM", self.name);
            }
            sleep(LOOK_INTERVAL);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails only if it has already exited.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// A program to run.
pub struct Program<'a> {
    pub name: &'a str,
    pub path: &'a Path,
    pub arguments: Vec<String>,
    pub environment: Vec<(&'a str, String)>,
    /// Machine to run on; `None` for the namespace of the trials.
    pub machine: Option<Machine>,
    pub user: Option<&'a str>,
}

impl Program<'_> {
    /// Starts the program; its output is appended to `NAME.log` in `logs`.
    pub fn start(self, logs: &Path) -> Result<Daemon> {
        let name = match self.machine {
            Some(machine) => format!("{}-{}", self.name, machine.name()),
            None => self.name.to_owned(),
        };
        let mut words: Vec<String> = Vec::new();
        if let Some(machine) = self.machine {
            words.extend(["ip", "netns", "exec"].map(str::to_owned));
            words.push(machine.name());
        }
        if let Some(user) = self.user {
            words.extend(["setpriv", "--reuid", user, "--regid", user, "--clear-groups"].map(str::to_owned));
        }
        words.push(self.path.display().to_string());
        words.extend(self.arguments);
        let (first, rest) = words.split_first().expect("the list contains the program");
        let log = open_log(&logs.join(format!("{name}.log")))?;
        let child = Command::new(first)
            .args(rest)
            .env("PATH", search_path())
            .envs(self.environment)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("run {name}"))?;
        Ok(Daemon { name, child })
    }
}

fn open_log(path: &PathBuf) -> Result<File> {
    let opened = File::options().create(true).append(true).open(path);
    opened.with_context(|| format!("open {}", path.display()))
}

pub fn search_path() -> String {
    match env::var("PATH") {
        Ok(path) => format!("{path}:{SYSTEM_PROGRAMS}"),
        Err(_) => SYSTEM_PROGRAMS.to_owned(),
    }
}

pub fn signal(processes: &[u32], signal: Signal) -> Result<()> {
    if processes.is_empty() {
        return Ok(());
    }
    // Exited processes make kill fail, which is fine.
    let sent = Command::new("kill")
        .arg("-s")
        .arg(signal.name())
        .args(processes.iter().map(u32::to_string))
        .stderr(Stdio::null())
        .status();
    sent.map(|_| ()).context("run kill")
}

/// Signals the processes of a machine except `spared`, until no new ones appear.
pub fn signal_machine(machine: Machine, sent: Signal, spared: &[u32]) -> Result<()> {
    let mut reached: Vec<u32> = spared.to_vec();
    loop {
        let mut new = network::processes(machine)?;
        new.retain(|process| !reached.contains(process));
        if new.is_empty() {
            return Ok(());
        }
        signal(&new, sent)?;
        reached.extend(new);
    }
}

/// Makes the PostgreSQL user the owner of the folder.
pub fn give_away(folder: &Path) -> Result<()> {
    let status = Command::new("chown").arg(USER).arg(folder).status();
    anyhow::ensure!(
        status.context("run chown")?.success(),
        "chown {}",
        folder.display()
    );
    Ok(())
}

pub fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))
}
