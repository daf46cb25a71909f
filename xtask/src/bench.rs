//! `cargo xtask bench`: measures this program in turns with others and compares the rates round by round. On one machine
//! absolute rates drift from hour to hour; ratios of the same minutes do not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::run;

mod peers;
mod redis;
mod shop;
mod yardsticks;

const USAGE: &str = "\
cargo xtask bench peers [ROUNDS]
cargo xtask bench redis [ROUNDS]
cargo xtask bench yardsticks [LOAD]... [--postgres] [--OPTION VALUE]...
  loads:   accept (the default), batch, status, mixed, end-to-end
  options: --rounds, and of `orderly bench`: --connections, --duration, --users, --batch-size, --set, --program";
const ROUNDS_DEFAULT: usize = 5;
/// A round of `redis` takes about four minutes.
const REDIS_ROUNDS_DEFAULT: usize = 2;
const ROUNDS_MAX: usize = 100;
/// Folder of the data of a run; its disk is measured.
const FOLDER: &str = "target/bench";
/// Folder of the programs built here.
const BUILT: &str = "target/release";

pub fn bench(root: &Path, arguments: &[String]) -> Result<()> {
    match arguments {
        [what] if what == "peers" => peers::bench(root, ROUNDS_DEFAULT),
        [what, count] if what == "peers" => peers::bench(root, rounds(count)?),
        [what] if what == "redis" => redis::bench(root, REDIS_ROUNDS_DEFAULT),
        [what, count] if what == "redis" => redis::bench(root, rounds(count)?),
        [what, options @ ..] if what == "yardsticks" => yardsticks::bench(root, options),
        _ => bail!("usage:\n{USAGE}"),
    }
}

fn rounds(text: &str) -> Result<usize> {
    let rounds = text.parse().ok();
    let rounds = rounds.filter(|rounds| (1..=ROUNDS_MAX).contains(rounds));
    rounds.with_context(|| format!("the number of rounds must be from 1 to {ROUNDS_MAX}"))
}

/// Builds a program of the package with release settings.
fn build(target: [&str; 2]) -> Result<()> {
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "--locked", "--package", "orderly"]);
    build.args(target);
    run(build)
}

/// Returns the folder for a run, without the data of an interrupted one.
fn new_folder(root: &Path) -> Result<PathBuf> {
    let folder = root.join(FOLDER);
    if folder.exists() {
        fs::remove_dir_all(&folder).context("remove the data of an interrupted run")?;
    }
    fs::create_dir_all(&folder).context("create a folder for the run")?;
    Ok(folder)
}

/// Returns the rate of one round of `orderly bench` with these arguments.
fn rate_of_bench(root: &Path, arguments: &[&str]) -> Result<f64> {
    let mut command = Command::new(root.join(BUILT).join("orderly"));
    command.args(["bench", "--json", "--rounds", "1"]).args(arguments);
    let report: serde_json::Value = serde_json::from_str(&output(&mut command)?)?;
    let rate = report.pointer("/loads/0/rounds/0/rate");
    let rate = rate.and_then(serde_json::Value::as_f64);
    rate.with_context(|| format!("no rate in the report: {report}"))
}

/// Returns the rate that a program prints.
fn printed_rate(command: &mut Command) -> Result<f64> {
    let printed = output(command)?;
    let rate = printed.trim().parse();
    rate.with_context(|| format!("{command:?} printed no rate: {printed}"))
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("run {command:?}"))?;
    let printed = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success(),
        "{command:?} failed: {}\n{printed}",
        output.status
    );
    Ok(printed)
}

/// One row of a table.
struct Subject<'a> {
    name: String,
    /// Returns the rate per second in one round.
    measure: Box<dyn Fn() -> Result<f64> + 'a>,
}

impl<'a> Subject<'a> {
    fn new(name: &str, measure: impl Fn() -> Result<f64> + 'a) -> Subject<'a> {
        Subject {
            name: name.to_owned(),
            measure: Box::new(measure),
        }
    }
}

/// Computes a ratio from the rate of the first subject and that of another.
type Ratio = fn(f64, f64) -> f64;

/// Measures every subject in every round and prints a table, whose last column has the ratios.
fn compare(title: &str, heading: &str, ratio: Ratio, subjects: &[Subject<'_>], rounds: usize) -> Result<()> {
    let mut rates = vec![Vec::new(); subjects.len()];
    for round in 1..=rounds {
        for (subject, rates) in subjects.iter().zip(&mut rates) {
            let rate = (subject.measure)().with_context(|| format!("measure {}", subject.name))?;
            println!("round {round}: {:<22} {rate:>8.0}/s", subject.name);
            rates.push(rate);
        }
    }
    let spreads = "min / median / max";
    println!("\n| {title} | per second: {spreads} | {heading}: {spreads} |\n|---|---|---|");
    for (subject, of_subject) in subjects.iter().zip(&rates) {
        println!("| {} |{}", subject.name, cells(&rates[0], of_subject, ratio));
    }
    println!();
    Ok(())
}

/// Returns the cells of a row: rates and ratios.
fn cells(first: &[f64], own: &[f64], ratio: Ratio) -> String {
    let ratios: Vec<f64> = first
        .iter()
        .zip(own)
        .map(|(first, own)| ratio(*first, *own))
        .collect();
    let rates = spread(own).map(|rate| format!("{rate:.0}")).join(" / ");
    let ratios = spread(&ratios).map(|ratio| format!("{ratio:.2}")).join(" / ");
    format!(" {rates} | {ratios} |")
}

/// Returns the lowest figure, the median and the highest, of at least one figure.
fn spread(figures: &[f64]) -> [f64; 3] {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len() - 1;
    // Of an even number, the mean of the two in the middle.
    let median = f64::midpoint(sorted[last / 2], sorted[sorted.len() / 2]);
    [sorted[0], median, sorted[last]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_the_mean_of_the_middle_two() {
        assert_eq!(spread(&[4.0, 1.0, 3.0, 2.0]), [1.0, 2.5, 4.0]);
        assert_eq!(spread(&[3.0, 1.0, 2.0]), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn a_ratio_compares_rates_of_the_same_round() {
        let cells = cells(&[50.0, 30.0, 80.0], &[100.0, 50.0, 100.0], |first, own| {
            first / own
        });
        assert_eq!(cells, " 50 / 100 / 100 | 0.50 / 0.60 / 0.80 |");
    }
}
