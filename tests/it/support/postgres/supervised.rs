//! A private server program in its own folder. Both are gone when the handle is dropped, and also when the test process
//! is killed: a supervisor process takes care of it. The kind of program is left to the caller.
//!
//! All calls block; a test makes them on a separate thread.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::programs::{Unprivileged, unprivileged};

/// A start that takes longer has failed.
const PATIENCE: Duration = Duration::from_mins(1);
/// Output lines kept to explain a failure.
const LINES_KEPT: usize = 100;
const SUPERVISOR: &str = include_str!("supervisor.sh");

pub struct Supervised {
    supervisor: Child,
    channel: Mutex<Channel>,
    folder: PathBuf,
    user: Unprivileged,
    log: Arc<Log>,
}

struct Channel {
    /// Taken when the handle is dropped: the supervisor waits for the end of this stream.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// Log lines that show the result of a start.
pub struct StartSigns {
    pub ready: &'static str,
    pub failed: &'static str,
}

impl Supervised {
    /// Creates the folder. `signal` ends the program promptly and cleanly.
    pub fn new(name: &str, signal: &str) -> Result<Supervised, String> {
        let user = unprivileged()?;
        // Outside the checkout, which the unprivileged user may be unable to reach.
        let folder = tempfile::Builder::new()
            .prefix(&format!("orderly-{name}-"))
            .tempdir()
            .map_err(|error| format!("make a temporary folder: {error}"))?;
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "supervisor"])
            .arg(folder.path())
            .arg(signal)
            .current_dir("/")
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Protects the supervisor from an interrupt at the terminal, which would end it before its work is done.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("start sh: {error}"))?;
        let folder = folder.keep();
        let log = Arc::new(Log::default());
        let channel = Channel {
            commands: supervisor.stdin.take(),
            answers: BufReader::new(supervisor.stdout.take().expect("stdout is piped")),
        };
        log.clone()
            .follow(supervisor.stderr.take().expect("stderr is piped"));
        let supervised = Supervised {
            supervisor,
            channel: Mutex::new(channel),
            folder,
            user,
            log,
        };
        supervised.hand_over(&supervised.folder)?;
        Ok(supervised)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a file in the folder that only the program can read.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.folder.join(name);
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
            .map_err(|error| format!("write {}: {error}", path.display()))?;
        self.hand_over(&path)?;
        Ok(path)
    }

    fn hand_over(&self, path: &Path) -> Result<(), String> {
        match self.user.owner {
            Some((user, group)) => chown(path, Some(user), Some(group))
                .map_err(|error| format!("give {} away: {error}", path.display())),
            None => Ok(()),
        }
    }

    /// Runs a program to its end.
    pub fn run(&self, command: &[String]) -> Result<(), String> {
        self.log.clear();
        match self.send_command(&format!("run {}", self.line(command)))? {
            0 => Ok(()),
            status => {
                self.log.wait_for(|line| *line == format!("ended with {status}"));
                Err(format!("{} failed:\n{}", command[0], self.log.text()))
            }
        }
    }

    /// Starts the program and waits for the first sign.
    pub fn start(&self, command: &[String], signs: &StartSigns) -> Result<(), String> {
        self.log.clear();
        self.send_command(&format!("start {}", self.line(command)))?;
        let is_sign = |line: &String| line.contains(signs.ready) || line.contains(signs.failed);
        match self.log.wait_for(is_sign) {
            Some(line) if line.contains(signs.ready) => Ok(()),
            Some(_) | None => {
                self.end("KILL")?;
                Err(format!("{} did not start:\n{}", command[0], self.log.text()))
            }
        }
    }

    /// Sends a signal to the program and its children without waiting.
    pub fn signal(&self, signal: &str) -> Result<(), String> {
        self.send_command(&format!("signal {signal}")).map(|_| ())
    }

    /// Ends the program with a signal and waits for its end.
    pub fn end(&self, signal: &str) -> Result<(), String> {
        self.send_command(&format!("end {signal}")).map(|_| ())
    }

    fn line(&self, command: &[String]) -> String {
        let wrapper = self.user.wrapper.iter().map(String::as_str);
        let mut line = String::new();
        for word in wrapper.chain(command.iter().map(String::as_str)) {
            write!(line, " '{}'", word.replace('\'', r"'\''")).expect("a string takes all text");
        }
        line
    }

    fn send_command(&self, command: &str) -> Result<i32, String> {
        let mut channel = self.channel.lock().unwrap();
        let commands = channel.commands.as_mut().expect("present until dropped");
        let mut answer = String::new();
        writeln!(commands, "{command}")
            .and_then(|()| channel.answers.read_line(&mut answer))
            .map_err(|error| format!("speak to the supervisor: {error}"))?;
        let status = answer.trim().parse();
        status.map_err(|_| format!("the supervisor ended:\n{}", self.log.text()))
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if let Ok(channel) = self.channel.get_mut() {
            channel.commands = None;
        }
        if let Err(error) = self.supervisor.wait() {
            eprintln!(
                "cannot wait for the supervisor of {}: {error}",
                self.folder.display()
            );
        }
    }
}

/// The latest output of the program.
#[derive(Default)]
struct Log {
    lines: Mutex<VecDeque<String>>,
    grown: Condvar,
}

impl Log {
    /// Reads until the program and its supervisor have ended.
    fn follow(self: Arc<Log>, stream: ChildStderr) {
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let mut lines = self.lines.lock().unwrap();
                if lines.len() == LINES_KEPT {
                    lines.pop_front();
                }
                lines.push_back(line);
                self.grown.notify_all();
            }
        });
    }

    fn clear(&self) {
        self.lines.lock().unwrap().clear();
    }

    /// The first line that is a sign, or `None` on a timeout.
    fn wait_for(&self, is_sign: impl Fn(&String) -> bool) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| is_sign(line)) {
                return Some(line.clone());
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            (lines, _) = self.grown.wait_timeout(lines, left).unwrap();
        }
    }

    fn text(&self) -> String {
        let lines = self.lines.lock().unwrap();
        lines.iter().flat_map(|line| [line, "\n"]).collect()
    }
}
