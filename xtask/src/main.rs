//! Project tasks: `cargo xtask test` runs all tests on a fresh Debian machine, `cargo xtask ci` checks a change. People
//! and CI use the same commands.

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

mod bench;
mod clients;
mod debian;
mod ha;
mod needs;
mod server;

use needs::Mounts;

/// Modules of `tests/it/soak`.
const SOAKS: [&str; 5] = ["faults", "model", "races", "redis", "stuck"];

const USAGE: &str = "\
usage: cargo xtask <command>

  test [ARGS]  install what the tests need and run all of them, none skipped; ARGS go to cargo test
  soak NAME    run the long test of this name in full; without a name, all of them
  bench peers [ROUNDS]  compare this program with other queues on PostgreSQL over 100,000 jobs; 5 rounds
  bench redis [ROUNDS]  compare nodes with Redis and without, on PostgreSQL; 2 rounds
  bench yardsticks [LOAD...] [--postgres] [--OPTION VALUE]...  compare this program with its yardsticks
  ha [SCENARIO...] [--way WAY]...  test that orders survive failures of a highly available PostgreSQL; as root
  ci           formatting, lints and all tests, as .ci/run does";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let Some((command, rest)) = arguments.split_first() {
        match command.as_str() {
            "ha" => return exit(ha::ha(root(), rest)),
            ha::INSIDE_COMMAND => return exit(ha::inside(rest)),
            _ => {}
        }
    }
    let done = match arguments.split_first() {
        Some((command, rest)) if command == "test" => test(rest),
        Some((command, [])) if command == "soak" => soak(None),
        Some((command, [name])) if command == "soak" => soak(Some(name)),
        Some((command, rest)) if command == "bench" => bench::bench(root(), rest),
        Some((command, [])) if command == "ci" => run(Command::new(root().join(".ci/run"))),
        Some((command, [])) if ["help", "--help", "-h"].contains(&command.as_str()) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some(_) | None => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    exit(done.map(|()| ExitCode::SUCCESS))
}

fn exit(done: Result<ExitCode>) -> ExitCode {
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs the tests of `tests/it/soak` in full; an ordinary run covers a part.
fn soak(name: Option<&String>) -> Result<()> {
    if let Some(name) = name
        && !SOAKS.contains(&name.as_str())
    {
        bail!("there is no soak {name}; there are: {}", SOAKS.join(", "));
    }
    let tests = name.map_or("soak::".to_owned(), |name| format!("soak::{name}::"));
    let arguments = [
        "--package",
        "orderly",
        "--test",
        "it",
        "--",
        &tests,
        "--nocapture",
    ];
    let mounts = needs::bring()?;
    cargo_test(mounts, &arguments.map(str::to_owned), &[("ORDERLY_SOAK", "1")])?;
    if name.is_none_or(|name| name == "redis") {
        // Tests of real servers once more, with Redis under every one on PostgreSQL. The oracle's own test needs the order by id.
        let arguments = [
            "--package",
            "orderly",
            "--test",
            "it",
            "--",
            "cluster::",
            "fulfilment::",
            "--skip",
            "oracle::",
        ];
        cargo_test(
            mounts,
            &arguments.map(str::to_owned),
            &[("ORDERLY_TEST_REDIS", "1")],
        )?;
    }
    Ok(())
}

fn test(arguments: &[String]) -> Result<()> {
    let mounts = needs::bring()?;
    clients::bring(root())?;
    cargo_test(mounts, &[&["--workspace".to_owned()], arguments].concat(), &[])
}

/// Runs `cargo test` so that tests that would be skipped fail.
fn cargo_test(mounts: Mounts, arguments: &[String], environment: &[(&str, &str)]) -> Result<()> {
    let (wrapper, options) = mounts.wrapper().split_first().expect("a wrapper is a program");
    let mut cargo = Command::new(wrapper);
    cargo
        .args(options)
        .arg(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["test", "--locked"])
        .args(arguments)
        .envs(environment.iter().copied())
        .env("ORDERLY_TEST_REQUIRE_ALL", "1");
    run(cargo)
}

/// Runs a command in the root of the repository.
fn run(mut command: Command) -> Result<()> {
    let status = command
        .current_dir(root())
        .status()
        .with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

fn root() -> &'static Path {
    let own_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    own_folder.parent().expect("xtask lies in the repository")
}
