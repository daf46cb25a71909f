//! PostgreSQL cluster on three machines under Patroni and etcd, created for each trial from `deploy/ha`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::daemon::{self, Daemon, Program, Signal, USER};
use super::http;
use super::network::{self, Link, MACHINES, Machine};
use crate::needs;

const PATRONI: &str = include_str!("../../../deploy/ha/patroni.yml");
/// Data folder in memory, so that trials do not depend on a shared disk; removed afterwards.
const DATA: &str = "/run/ha";
/// Password of every role, since nothing else is on this network.
pub const PASSWORD: &str = "orderly";
const START_TIME_MAX: Duration = Duration::from_mins(2);
const END_TIME_MAX: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
/// Maximum time of a switchover; Patroni answers when it is done.
const SWITCHOVER_TIME_MAX: Duration = Duration::from_secs(60);

pub struct Cluster {
    members: [Member; 3],
    programs: PathBuf,
    logs: PathBuf,
}

struct Member {
    machine: Machine,
    etcd: Option<Daemon>,
    patroni: Option<Daemon>,
}

impl Cluster {
    /// Starts a cluster with new data and waits until both standbys stream and one is synchronous. With `strict` the
    /// primary stores nothing without a standby.
    pub fn start(logs: &Path, strict: bool) -> Result<Cluster> {
        let members = MACHINES.map(|machine| Member {
            machine,
            etcd: None,
            patroni: None,
        });
        let mut cluster = Cluster {
            members,
            programs: needs::newest_postgres()?,
            logs: logs.to_owned(),
        };
        if Path::new(DATA).exists() {
            fs::remove_dir_all(DATA).context("remove the data of a failed trial")?;
        }
        for machine in MACHINES {
            let folder = folder(machine);
            daemon::make_folder(&folder)?;
            daemon::give_away(&folder)?;
            cluster.configure(machine, strict)?;
        }
        cluster.start_etcd()?;
        for machine in MACHINES {
            cluster.start_patroni(machine)?;
        }
        cluster.wait_until_whole(START_TIME_MAX)?;
        Ok(cluster)
    }

    fn configure(&self, machine: Machine, strict: bool) -> Result<()> {
        let folder = folder(machine);
        let values = [
            ("@NAME@", machine.name()),
            ("@BACKEND@", machine.address(Link::Backend)),
            ("@FOLDER@", folder.display().to_string()),
            ("@PROGRAMS@", self.programs.display().to_string()),
            ("@STRICT@", strict.to_string()),
            ("@SUPERUSER_PASSWORD@", PASSWORD.to_owned()),
            ("@REPLICATION_PASSWORD@", PASSWORD.to_owned()),
            ("@REWIND_PASSWORD@", PASSWORD.to_owned()),
        ];
        write_filled(&folder.join("patroni.yml"), PATRONI, &values)
    }

    /// Starts etcd on machines where it does not run.
    pub fn start_etcd(&mut self) -> Result<()> {
        let peers: Vec<String> = MACHINES
            .iter()
            .map(|machine| {
                format!(
                    "{}=http://{}:2380",
                    machine.name(),
                    machine.address(Link::Backend)
                )
            })
            .collect();
        for member in self.members.iter_mut().filter(|member| member.etcd.is_none()) {
            let machine = member.machine;
            let address = machine.address(Link::Backend);
            let arguments = format!(
                "--name {} --data-dir {}/etcd --enable-v2 --initial-cluster {} \
                 --listen-peer-urls http://{address}:2380 --initial-advertise-peer-urls http://{address}:2380 \
                 --listen-client-urls http://{address}:2379 --advertise-client-urls http://{address}:2379",
                machine.name(),
                folder(machine).display(),
                peers.join(",")
            );
            let program = Program {
                name: "etcd",
                path: Path::new("etcd"),
                arguments: arguments.split_whitespace().map(str::to_owned).collect(),
                environment: Vec::new(),
                machine: Some(machine),
                user: Some(USER),
            };
            member.etcd = Some(program.start(&self.logs)?);
        }
        Ok(())
    }

    pub fn kill_etcd(&mut self) -> Result<()> {
        for member in &mut self.members {
            if let Some(etcd) = member.etcd.take() {
                etcd.kill()?;
            }
        }
        Ok(())
    }

    pub fn start_patroni(&mut self, machine: Machine) -> Result<()> {
        let program = Program {
            name: "patroni",
            path: Path::new("patroni"),
            arguments: vec![folder(machine).join("patroni.yml").display().to_string()],
            environment: vec![("HOME", DATA.to_owned()), ("LC_ALL", "C.UTF-8".to_owned())],
            machine: Some(machine),
            user: Some(USER),
        };
        let patroni = program.start(&self.logs)?;
        self.member(machine).patroni = Some(patroni);
        Ok(())
    }

    /// Kills the main process of PostgreSQL; the others exit by themselves.
    pub fn kill_postmaster(&self, machine: Machine) -> Result<()> {
        let file = folder(machine).join("data/postmaster.pid");
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let process = text.lines().next().and_then(|line| line.trim().parse().ok());
        let process = process.with_context(|| format!("no process in {}", file.display()))?;
        daemon::signal(&[process], Signal::Kill)
    }

    /// Kills Patroni and PostgreSQL, but not etcd.
    pub fn kill_member(&mut self, machine: Machine) -> Result<()> {
        if let Some(patroni) = self.member(machine).patroni.take() {
            patroni.kill()?;
        }
        self.signal_database(machine, Signal::Kill)
    }

    /// Signals Patroni and PostgreSQL, but not etcd.
    pub fn signal_database(&mut self, machine: Machine, signal: Signal) -> Result<()> {
        let etcd = self.member(machine).etcd.as_ref().map(Daemon::id);
        daemon::signal_machine(machine, signal, etcd.as_slice())
    }

    fn member(&mut self, machine: Machine) -> &mut Member {
        let found = self.members.iter_mut().find(|member| member.machine == machine);
        found.expect("every machine has a member")
    }

    pub fn wait_until_whole(&self, time_max: Duration) -> Result<()> {
        let deadline = Instant::now() + time_max;
        while !self.is_whole() {
            ensure!(
                Instant::now() < deadline,
                "the cluster is not complete within {time_max:?}; its logs are in {}",
                self.logs.display()
            );
            sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// Reports whether one machine leads and both others stream from it, at least one synchronously.
    fn is_whole(&self) -> bool {
        leader().is_some_and(|leader| {
            self.standbys(leader)
                .is_ok_and(|(streaming, synchronous)| streaming == 2 && synchronous >= 1)
        })
    }

    /// Waits until the primary has a synchronous standby.
    pub fn wait_for_synchronous(&self, leader: Machine, time_max: Duration) -> Result<()> {
        let deadline = Instant::now() + time_max;
        while !self
            .standbys(leader)
            .is_ok_and(|(_, synchronous)| synchronous >= 1)
        {
            ensure!(
                Instant::now() < deadline,
                "no synchronous standby within {time_max:?}"
            );
            sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// Waits until the leader takes writes. Patroni reports a leader even while its PostgreSQL is away.
    pub fn wait_for_writes(&self, time_max: Duration) -> Result<()> {
        let deadline = Instant::now() + time_max;
        let writes = |machine| {
            let answer = self.ask(machine, "postgres", "select not pg_is_in_recovery()");
            answer.is_ok_and(|answer| answer == "t")
        };
        while !leader().is_some_and(writes) {
            ensure!(
                Instant::now() < deadline,
                "no server takes writes within {time_max:?}"
            );
            sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// Returns the numbers of streaming and of synchronous standbys.
    fn standbys(&self, leader: Machine) -> Result<(usize, usize)> {
        let counts = "select count(*) filter (where state = 'streaming'), \
                      count(*) filter (where state = 'streaming' and sync_state <> 'async') \
                      from pg_stat_replication";
        let line = self.ask(leader, "postgres", counts)?;
        let counts = line.split_once('|').context("two counts")?;
        Ok((counts.0.parse()?, counts.1.parse()?))
    }

    /// Runs a statement as PostgreSQL's superuser and returns its output.
    pub fn ask(&self, machine: Machine, database: &str, statement: &str) -> Result<String> {
        let output = Command::new(self.programs.join("psql"))
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres"])
            .args([
                "-h",
                &machine.address(Link::Backend),
                "-d",
                database,
                "-c",
                statement,
            ])
            .env("PGPASSWORD", PASSWORD)
            .env("PGCONNECT_TIMEOUT", "2")
            .env("PGOPTIONS", "-c statement_timeout=5s")
            .output()
            .context("run psql")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{statement}: {}", error.trim());
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Ends every process of the machines, including Patroni's children, and removes the data.
    pub fn end(self) -> Result<()> {
        drop(self);
        let deadline = Instant::now() + END_TIME_MAX;
        for machine in MACHINES {
            while !network::processes(machine)?.is_empty() {
                ensure!(Instant::now() < deadline, "{} has processes left", machine.name());
                sleep(LOOK_INTERVAL);
            }
        }
        fs::remove_dir_all(DATA).context("remove the data")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for machine in MACHINES {
            if let Err(error) = daemon::signal_machine(machine, Signal::Kill, &[]) {
                println!("cannot end the processes of {}: {error:#}", machine.name());
            }
        }
    }
}

/// Returns the machine whose Patroni reports itself as leader.
pub fn leader() -> Option<Machine> {
    MACHINES.into_iter().find(|machine| leads(*machine))
}

pub fn leads(machine: Machine) -> bool {
    let answer = http::get(&rest(machine, "primary"), ANSWER_TIME_MAX);
    answer.is_ok_and(|answer| answer.status == 200)
}

/// Switches over to a standby chosen by Patroni.
pub fn switch_over(leader: Machine) -> Result<()> {
    let body = format!(r#"{{"leader": "{}"}}"#, leader.name());
    let answer = http::post(&rest(leader, "switchover"), &[], &body, SWITCHOVER_TIME_MAX)?;
    if answer.status != 200 {
        bail!(
            "Patroni refuses to switch over: {} {}",
            answer.status,
            answer.body
        );
    }
    Ok(())
}

/// Changes a setting of the whole cluster; members apply it at their next loop.
pub fn set(leader: Machine, setting: &str, value: u32) -> Result<()> {
    let body = format!(r#"{{"{setting}": {value}}}"#);
    let answer = http::patch(&rest(leader, "config"), &body, SWITCHOVER_TIME_MAX)?;
    ensure!(
        answer.status == 200,
        "Patroni does not change {setting}: {}",
        answer.body
    );
    Ok(())
}

fn rest(machine: Machine, path: &str) -> String {
    format!("http://{}:8008/{path}", machine.address(Link::Backend))
}

fn folder(machine: Machine) -> PathBuf {
    Path::new(DATA).join(machine.name())
}

pub fn write_filled(path: &Path, template: &str, values: &[(&str, String)]) -> Result<()> {
    let filled = values.iter().fold(template.to_owned(), |text, (name, value)| {
        text.replace(name, value)
    });
    fs::write(path, filled).with_context(|| format!("write {}", path.display()))
}
