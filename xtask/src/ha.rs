//! `cargo xtask ha`: tests that orders survive failures of a server, network or proxy in a highly available PostgreSQL
//! (Patroni, etcd, HAProxy, PgBouncer). Runs on one machine, in separate namespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{debian, needs, run};

mod cluster;
mod daemon;
mod follower;
mod http;
mod isolation;
mod judge;
mod load;
mod network;
mod scenario;

mod table;
mod trial;
mod watch;
mod way;

use scenario::{SCENARIOS, Scenario};
use way::{WAYS, Way};

/// Command that this program runs itself with in the namespaces.
pub const INSIDE_COMMAND: &str = "ha-inside";
/// Variable with the program under test; built if unset.
const PROGRAM: &str = "ORDERLY_BIN";
const BUILT: &str = "target/debug/orderly";
/// Parent folder of the logs, one folder per scenario.
const LOGS: &str = "target/ha";
/// Maximum duration of a trial.
const TRIAL_TIME_MAX: Duration = Duration::from_mins(10);

/// Selection on the command line.
struct Choice {
    scenarios: Vec<Scenario>,
    ways: Vec<Way>,
}

pub fn usage() -> String {
    let scenarios = SCENARIOS.map(Scenario::name).join(", ");
    let ways = WAYS.map(Way::name).join(", ");
    format!("scenarios: {scenarios}\nways: {ways}")
}

/// Runs the named scenarios, or all, over the named ways, or all.
pub fn ha(root: &Path, arguments: &[String]) -> Result<ExitCode> {
    parse(arguments)?;
    if !debian::is_root()? {
        bail!("the trials create network namespaces: run as root");
    }
    needs::bring_for_ha()?;
    let program = match std::env::var_os(PROGRAM) {
        Some(program) => PathBuf::from(program),
        None => build(root)?,
    };
    let program = program
        .canonicalize()
        .with_context(|| format!("find {}", program.display()))?;
    let (program, logs) = (
        program.display().to_string(),
        root.join(LOGS).display().to_string(),
    );
    let fixed = [INSIDE_COMMAND, &program, &logs];
    let given = arguments.iter().map(String::as_str);
    isolation::enter(&fixed.into_iter().chain(given).collect::<Vec<_>>())
}

fn build(root: &Path) -> Result<PathBuf> {
    let mut build = Command::new("cargo");
    build.args(["build", "--locked", "--package", "orderly"]);
    run(build)?;
    Ok(root.join(BUILT))
}

fn parse(arguments: &[String]) -> Result<Choice> {
    let (mut scenarios, mut ways) = (Vec::new(), Vec::new());
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if word == "--way" {
            let name = words.next().map_or("", String::as_str);
            let way = Way::named(name).with_context(|| format!("no way {name:?}\n{}", usage()))?;
            ways.push(way);
        } else {
            let scenario =
                Scenario::named(word).with_context(|| format!("no scenario {word:?}\n{}", usage()))?;
            scenarios.push(scenario);
        }
    }
    if scenarios.is_empty() {
        scenarios.extend(SCENARIOS);
    }
    if ways.is_empty() {
        ways.extend(WAYS);
    }
    Ok(Choice { scenarios, ways })
}

/// Runs inside the namespaces; takes the program, the folder of logs, and the original arguments.
pub fn inside(arguments: &[String]) -> Result<ExitCode> {
    let [program, logs, typed @ ..] = arguments else {
        bail!("{INSIDE_COMMAND} is called by `cargo xtask ha`");
    };
    isolation::prepare()?;
    network::create()?;
    let choice = parse(typed)?;
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for scenario in choice.scenarios {
        println!("{} …", scenario.name());
        let logs = Path::new(logs).join(scenario.name());
        match bounded(scenario, &choice.ways, Path::new(program), &logs) {
            Ok(trial) => {
                for row in &trial {
                    println!("{}", table::line(row));
                }
                rows.extend(trial);
            }
            Err(error) => {
                println!("{}: {error:#}", scenario.name());
                failures.push(format!("{}: {error:#}", scenario.name()));
            }
        }
    }
    println!("\n{}", table::table(&rows));
    let broken = rows.iter().flat_map(|row| {
        let broken = row.broken.iter();
        broken.map(|broken| format!("{}, {}: {broken}", row.scenario.name(), row.way.name()))
    });
    let broken: Vec<String> = broken.chain(failures).collect();
    if broken.is_empty() {
        println!("all promises were kept");
        return Ok(ExitCode::SUCCESS);
    }
    println!("broken:\n  {}", broken.join("\n  "));
    Ok(ExitCode::FAILURE)
}

/// Runs a trial; exits this program, and with it everything it started, if the trial does not end.
fn bounded(scenario: Scenario, ways: &[Way], program: &Path, logs: &Path) -> Result<Vec<judge::Row>> {
    if logs.exists() {
        fs::remove_dir_all(logs).context("remove the logs of an earlier trial")?;
    }
    let (done, waits) = std::sync::mpsc::channel::<()>();
    let guard = thread::spawn(move || {
        if waits.recv_timeout(TRIAL_TIME_MAX) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            println!("{} did not end within {TRIAL_TIME_MAX:?}", scenario.name());
            std::process::exit(1);
        }
    });
    let tried = trial::run(scenario, ways, program, logs);
    drop(done);
    // The thread only waits and ends.
    let _ended = guard.join();
    tried
}
