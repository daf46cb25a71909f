//! `cargo xtask bench peers`: compares the time that this program and fast PostgreSQL queues take to drain the same
//! number of no-op jobs, in turns on one server.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::server::Server;
use crate::{needs, run};

const JOBS: usize = 100_000;
const ROUNDS_DEFAULT: usize = 5;
const ROUNDS_MAX: usize = 100;
/// Folder of the scripts that run the peers, and of their package list.
const SCRIPTS: &str = "benches/peers";
/// Folder where their packages are installed.
const PACKAGES: &str = "target/peers";
const SERVER: &str = "target/peers/server";
const PROGRAM: &str = "target/release/orderly";

enum Subject {
    /// Name of a script for Node.js.
    Peer(&'static str),
    /// This program with a number of slots.
    Orderly { slots: usize },
}

/// Subjects in measuring order; ratios are relative to the first.
const SUBJECTS: [Subject; 4] = [
    Subject::Peer("graphile-worker"),
    Subject::Peer("pg-boss"),
    Subject::Orderly { slots: 100 },
    Subject::Orderly { slots: 1_000 },
];

pub fn bench(root: &Path, rounds: Option<&String>) -> Result<()> {
    let rounds = match rounds {
        Some(text) => text
            .parse()
            .ok()
            .filter(|rounds| (1..=ROUNDS_MAX).contains(rounds)),
        None => Some(ROUNDS_DEFAULT),
    };
    let rounds = rounds.with_context(|| format!("the number of rounds must be from 1 to {ROUNDS_MAX}"))?;
    needs::bring()?;
    bring_packages(&root.join(SCRIPTS), &root.join(PACKAGES))?;
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "--locked", "--package", "orderly"]);
    run(build)?;
    let folder = root.join(SERVER);
    if folder.exists() {
        fs::remove_dir_all(&folder).context("remove the data of an interrupted run")?;
    }
    let server = Server::start(&folder)?;
    let mut rates: [Vec<f64>; SUBJECTS.len()] = Default::default();
    for round in 1..=rounds {
        for (subject, rates) in SUBJECTS.iter().zip(&mut rates) {
            let rate = server.with_database(|url| subject.drain(root, url))?;
            println!("round {round}: {:<22} {rate:>8.0}/s", subject.name());
            rates.push(rate);
        }
    }
    print_table(&rates);
    Ok(())
}

fn bring_packages(lists: &Path, packages: &Path) -> Result<()> {
    fs::create_dir_all(packages).context("create a folder for the peers")?;
    for list in ["package.json", "package-lock.json"] {
        fs::copy(lists.join(list), packages.join(list)).with_context(|| format!("copy {list}"))?;
    }
    let mut install = Command::new("npm");
    install.args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]);
    install.current_dir(packages).stdout(Stdio::null());
    let status = install.status().context("run npm")?;
    ensure!(status.success(), "npm cannot install the peers: {status}");
    Ok(())
}

impl Subject {
    fn name(&self) -> String {
        match self {
            Subject::Peer(name) => (*name).to_owned(),
            Subject::Orderly { slots } => format!("orderly, {slots} slots"),
        }
    }

    /// Returns the jobs per second.
    fn drain(&self, root: &Path, database_url: &str) -> Result<f64> {
        let jobs = JOBS.to_string();
        match self {
            Subject::Peer(name) => {
                let script = root.join(SCRIPTS).join(format!("{name}.mjs"));
                let mut command = Command::new("node");
                command
                    .current_dir(root.join(PACKAGES))
                    .arg(script)
                    .args([database_url, &jobs]);
                let printed = output(&mut command)?;
                let rate = printed.trim().parse();
                rate.with_context(|| format!("{name} printed no rate: {printed}"))
            }
            Subject::Orderly { slots } => {
                let slots = format!("ORDERLY_CONCURRENCY={slots}");
                let mut command = Command::new(root.join(PROGRAM));
                command.args(["bench", "drain", "--json", "--rounds", "1", "--duration", "1s"]);
                command.args(["--orders", &jobs, "--set", &slots, "--database-url", database_url]);
                let report: serde_json::Value = serde_json::from_str(&output(&mut command)?)?;
                let rate = report.pointer("/loads/0/kinds/0/rounds/0/rate");
                let rate = rate.and_then(serde_json::Value::as_f64);
                rate.with_context(|| format!("no rate in the report: {report}"))
            }
        }
    }
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn print_table(rates: &[Vec<f64>]) {
    let compared = &SUBJECTS[0];
    println!(
        "\n| {JOBS} jobs drained | jobs/s: median (min to max) | against {} |",
        compared.name()
    );
    println!("|---|---|---|");
    for (subject, of_subject) in SUBJECTS.iter().zip(rates) {
        // Round by round, so that a slow minute of the machine affects all of them.
        let ratios: Vec<f64> = of_subject
            .iter()
            .zip(&rates[0])
            .map(|(rate, base)| rate / base)
            .collect();
        let (low, middle, high) = spread(of_subject);
        println!(
            "| {} | {middle:.0} ({low:.0} to {high:.0}) | {:.2} |",
            subject.name(),
            spread(&ratios).1
        );
    }
}

/// Returns the lowest figure, the median and the highest, of at least one figure.
fn spread(figures: &[f64]) -> (f64, f64, f64) {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median = if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    };
    (sorted[0], median, sorted[sorted.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_the_mean_of_the_middle_two() {
        assert_eq!(spread(&[4.0, 1.0, 3.0, 2.0]), (1.0, 2.5, 4.0));
        assert_eq!(spread(&[3.0, 1.0, 2.0]), (1.0, 2.0, 3.0));
    }
}
