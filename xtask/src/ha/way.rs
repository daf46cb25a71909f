//! Ways from a node to the primary: several hosts in the URL, HAProxy, or PgBouncer with HAProxy behind it; and the node
//! that uses each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::cluster::{PASSWORD, write_filled};
use super::daemon::{self, Daemon, Program, USER};
use super::http;
use super::network::{HERE, Link, MACHINES};

const HAPROXY: &str = include_str!("../../../deploy/ha/haproxy.cfg");
const PGBOUNCER: &str = include_str!("../../../deploy/ha/pgbouncer.ini");
/// Folder of the proxies' settings.
const FOLDER: &str = "/run/ha-ways";
/// Ports in `deploy/ha`.
const HAPROXY_PORT: u16 = 5000;
const PGBOUNCER_PORT: u16 = 6432;
const READY_TIME_MAX: Duration = Duration::from_secs(60);
/// Above `ORDERLY_SHUTDOWN_GRACE`, 25 s.
const STOP_TIME_MAX: Duration = Duration::from_secs(40);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Hosts,
    Haproxy,
    Pgbouncer,
}

pub const WAYS: [Way; 3] = [Way::Hosts, Way::Haproxy, Way::Pgbouncer];

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Way::Hosts => "hosts",
            Way::Haproxy => "haproxy",
            Way::Pgbouncer => "pgbouncer",
        }
    }

    pub fn named(name: &str) -> Option<Way> {
        WAYS.into_iter().find(|way| way.name() == name)
    }

    /// Returns the maximum time that a node may store nothing after a new leader is there.
    pub fn pause_max(self) -> Duration {
        Duration::from_secs(match self {
            Way::Hosts => 3,
            // After two checks of HAProxy, within 4 s.
            Way::Haproxy => 8,
            // After PgBouncer's next login too.
            Way::Pgbouncer => 12,
        })
    }

    fn port(self) -> u16 {
        match self {
            Way::Hosts => 5100,
            Way::Haproxy => 5101,
            Way::Pgbouncer => 5102,
        }
    }

    fn database_url(self) -> String {
        let here = Link::Clients.address(HERE);
        let (hosts, parameters) = match self {
            Way::Hosts => {
                let hosts = MACHINES.map(|machine| machine.address(Link::Clients));
                (
                    hosts.join(","),
                    "?target_session_attrs=read-write&connect_timeout=2",
                )
            }
            Way::Haproxy => (format!("{here}:{HAPROXY_PORT}"), "?connect_timeout=3"),
            Way::Pgbouncer => (format!("{here}:{PGBOUNCER_PORT}"), "?connect_timeout=3"),
        };
        format!("postgres://orderly:{PASSWORD}@{hosts}/orderly{parameters}")
    }

    /// Returns the variables with the node's database URLs.
    pub fn environment(self) -> Vec<(&'static str, String)> {
        let mut environment = vec![("DATABASE_URL", self.database_url())];
        if self == Way::Pgbouncer {
            environment.push(("DATABASE_DIRECT_URL", Way::Haproxy.database_url()));
        }
        environment
    }
}

pub fn start_haproxy(logs: &Path) -> Result<Daemon> {
    let file = Path::new(FOLDER).join("haproxy.cfg");
    daemon::make_folder(Path::new(FOLDER))?;
    fs::write(&file, HAPROXY).context("write haproxy.cfg")?;
    let program = Program {
        name: "haproxy",
        path: Path::new("haproxy"),
        arguments: vec!["-db".to_owned(), "-f".to_owned(), file.display().to_string()],
        environment: Vec::new(),
        machine: None,
        user: None,
    };
    program.start(logs)
}

pub fn start_pgbouncer(logs: &Path) -> Result<Daemon> {
    let folder = Path::new(FOLDER).join("pgbouncer");
    daemon::make_folder(&folder)?;
    let file = folder.join("pgbouncer.ini");
    write_filled(&file, PGBOUNCER, &[("@FOLDER@", folder.display().to_string())])?;
    let users = format!("\"orderly\" \"{PASSWORD}\"\n");
    fs::write(folder.join("userlist.txt"), users).context("write userlist.txt")?;
    let program = Program {
        name: "pgbouncer",
        path: Path::new("pgbouncer"),
        arguments: vec![file.display().to_string()],
        environment: Vec::new(),
        machine: None,
        user: Some(USER),
    };
    program.start(logs)
}

/// An orderly server that uses one of the ways.
pub struct Node {
    pub way: Way,
    program: PathBuf,
    daemon: Daemon,
    folder: PathBuf,
}

impl Node {
    /// Starts a node and waits until it is ready.
    pub fn start(program: &Path, way: Way, logs: &Path) -> Result<Node> {
        let folder = Path::new(FOLDER).join(way.name());
        daemon::make_folder(&folder)?;
        let mut environment = way.environment();
        environment.extend([
            ("PORT", way.port().to_string()),
            ("ORDERLY_SIMULATED_SPEED", "0".to_owned()),
            ("ORDERLY_LOG_DIR", folder.join("logs").display().to_string()),
            ("ORDERLY_LOG_FORMAT", "json".to_owned()),
        ]);
        let run = Program {
            name: &format!("orderly-{}", way.name()),
            path: program,
            arguments: vec!["serve".to_owned()],
            environment,
            machine: None,
            user: None,
        };
        let mut node = Node {
            way,
            program: program.to_owned(),
            daemon: run.start(logs)?,
            folder,
        };
        let deadline = Instant::now() + READY_TIME_MAX;
        while !node.is_ready() {
            let ended = node.daemon.ended()?;
            ensure!(ended.is_none(), "orderly exited at its start: {ended:?}");
            ensure!(
                Instant::now() < deadline,
                "orderly is not ready with {}",
                way.name()
            );
            sleep(LOOK_INTERVAL);
        }
        Ok(node)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.way.port())
    }

    pub fn is_ready(&self) -> bool {
        let answer = http::get(&self.url("/readyz"), ANSWER_TIME_MAX);
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// Returns the exit code and the output of `orderly verify` over the same way.
    pub fn verify(&self) -> Result<(Option<i32>, String)> {
        let output = Command::new(&self.program)
            .arg("verify")
            .envs(self.way.environment())
            .current_dir(&self.folder)
            .output()
            .context("run orderly verify")?;
        let printed = [output.stdout, output.stderr].concat();
        Ok((
            output.status.code(),
            String::from_utf8_lossy(&printed).into_owned(),
        ))
    }

    /// Returns the exit code after SIGTERM; `None` if it did not stop in time and was killed.
    pub fn stop(self) -> Option<i32> {
        let stopped = self.daemon.stop(STOP_TIME_MAX).ok();
        stopped.and_then(|status| status.code())
    }
}
