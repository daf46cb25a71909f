//! Programs that run for the length of a trial: where they run, as which user, and what they leave in their logs.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::network::{self, Machine};

/// PostgreSQL and PgBouncer refuse to run as root.
pub const USER: &str = "postgres";
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Where Debian has servers; not on every user's path.
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

    /// Returns the exit status when the program ended by itself.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends SIGTERM and waits.
    pub fn stop(mut self, time_max: Duration) -> Result<ExitStatus> {
        signal(&[self.id()], Signal::Terminate)?;
        let deadline = Instant::now() + time_max;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} does not stop within {time_max:?} of SIGTERM", self.name);
            }
            sleep(LOOK_INTERVAL);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails only where it ended before.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// What is run, and where.
pub struct Program<'a> {
    pub name: &'a str,
    pub path: &'a Path,
    pub arguments: Vec<String>,
    pub environment: Vec<(&'a str, String)>,
    /// Beside the trials where `None`.
    pub machine: Option<Machine>,
    pub user: Option<&'a str>,
}

impl Program<'_> {
    /// Appends what it prints to `NAME.log` in the folder.
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
        let (first, rest) = words.split_first().expect("the program itself is among them");
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
    // One that has ended meanwhile is no fault, though kill says that it is.
    let sent = Command::new("kill")
        .arg("-s")
        .arg(signal.name())
        .args(processes.iter().map(u32::to_string))
        .stderr(Stdio::null())
        .status();
    sent.map(|_| ()).context("run kill")
}

/// Sends the signal to the processes of a machine, but for those `spared`, until no new one has come meanwhile.
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

/// Gives the folder to the user that PostgreSQL runs as.
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
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))
}
