//! Command line: parses it, runs the chosen command and reports how it ended. Results go to stdout, messages to stderr.
//! Each command has its own file.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ContextKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::failure::Failure;
use crate::config::settings::OPENS_THE_SERVER;

mod arguments;
mod bench;
mod client;
mod completions;
mod copy;
mod doctor;
mod failure;
mod fields;
mod flags;
mod migrate;
mod openapi;
mod orders;
mod output;
mod queue;
mod serve;
mod tail;
mod verify;

const FAILED: u8 = 1;
const USAGE: u8 = 2;
/// `EX_CONFIG` of BSD's sysexits.h.
const CONFIGURATION: u8 = 78;

const HELP_END: &str = "\
Without a command it serves, with the settings that `orderly serve --help` lists.
Exit codes: 0 ok, 1 failed, 2 wrong usage, 78 wrong configuration. Results go to stdout, messages to stderr.";

/// Accepts orders, processes them first-in first-out, and never loses one.
#[derive(Parser)]
#[command(name = "orderly", version, args_conflicts_with_subcommands = true, after_help = HELP_END)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Args,
}

#[derive(Subcommand)]
enum Command {
    /// Accept orders over HTTP and process them
    Serve(serve::Args),
    /// Bring the schema of the store up to date
    Migrate(migrate::Args),
    /// Show orders and act on them, through a running server
    #[command(subcommand)]
    Orders(orders::Command),
    /// Show whether a running server is ready, and its queue; exit code 1 if it is not
    Status(queue::Args),
    /// Show the queue: counts, the oldest waiting order, the nodes
    Queue(queue::Args),
    /// Stop starting orders on all nodes, across restarts; orders are still accepted
    Pause(queue::ActionArgs),
    /// Start orders again
    Resume(queue::ActionArgs),
    /// Follow changes of orders as they happen, through a running server
    Tail(tail::Args),
    /// Check every promise against the store; a server may run meanwhile
    Verify(verify::Args),
    /// Move a store to PostgreSQL while no server runs on it
    Copy(copy::Args),
    /// Find out why orderly does not work
    Doctor(doctor::Args),
    /// Measure a temporary or a running server under load
    Bench(bench::Args),
    /// Print the OpenAPI document of the HTTP interface
    Openapi,
    /// Print the completion script of a shell
    Completions(completions::Args),
}

/// Result of a command that did its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// The command found a problem and has reported it.
    Bad,
}

/// Permission bits denied on every file and folder: stored data and logs are for this user only.
const RIGHTS_OF_OTHERS: u32 = 0o077;

/// Parses and runs the command line of this process.
pub fn run() -> ExitCode {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(RIGHTS_OF_OTHERS));
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return answer_without_command(&error),
    };
    match carry_out(cli.command.unwrap_or(Command::Serve(cli.serve))) {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::from(FAILED),
        Err(failure) => {
            for line in failure.lines() {
                output::message(&line);
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn parse(line: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Cli, clap::Error> {
    parse_line(line).map_err(|mut error| {
        // A typo must not lead to an open server.
        let suggested = error.get(ContextKind::SuggestedArg).map(ToString::to_string);
        if suggested.is_some_and(|flag| flag.trim_start_matches('-') == OPENS_THE_SERVER) {
            error.remove(ContextKind::SuggestedArg);
            // The usage line names the flag as well.
            error.remove(ContextKind::Usage);
        }
        error
    })
}

fn parse_line(line: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Cli, clap::Error> {
    // Accepted here too, but listed only under `serve`: they would bury the commands.
    let command = Cli::command().mut_args(|argument| {
        let hidden = argument.get_help_heading() == Some(flags::HEADING);
        argument.hide(hidden)
    });
    Cli::from_arg_matches_mut(&mut command.try_get_matches_from(line)?)
}

/// Prints the parser's answer: `--help` and `--version` are results, anything else is wrong usage.
fn answer_without_command(error: &clap::Error) -> ExitCode {
    match error.print() {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::from(FAILED),
        Ok(()) | Err(_) if error.use_stderr() => ExitCode::from(USAGE),
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}

fn carry_out(command: Command) -> Result<Verdict, Failure> {
    match command {
        // Starts its own kind of log and runtime.
        Command::Serve(args) => serve::run(&args),
        Command::Migrate(args) => run_here(migrate::run(&args)),
        Command::Orders(command) => run_here(orders::run(&command)),
        Command::Status(args) => run_here(queue::status(&args)),
        Command::Queue(args) => run_here(queue::show(&args)),
        Command::Pause(args) => run_here(queue::pause(&args)),
        Command::Resume(args) => run_here(queue::resume(&args)),
        Command::Tail(args) => run_here(tail::run(&args)),
        Command::Verify(args) => run_here(verify::run(&args)),
        Command::Copy(args) => run_here(copy::run(&args)),
        Command::Doctor(args) => run_here(doctor::run(&args)),
        Command::Bench(args) => run_here(bench::run(&args)),
        Command::Openapi => openapi::run(),
        Command::Completions(args) => completions::run(&args),
    }
}

/// Runs a command on this thread, with its log on stderr.
fn run_here(command: impl Future<Output = Result<Verdict, Failure>>) -> Result<Verdict, Failure> {
    crate::telemetry::start_on_stderr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed("start the runtime", error))?;
    let ended = runtime.block_on(command);
    // Does not wait for a write to a stalled terminal.
    runtime.shutdown_background();
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        super::parse(line.split(' '))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_is_serve_with_its_flags() {
        let cli = parse("orderly --port 1 --open").unwrap();
        assert!(cli.command.is_none());
        let port_and_open = [("port", "1".to_owned()), ("open", "on".to_owned())];
        assert_eq!(cli.serve.flags.given(), port_and_open);
        let Some(Command::Serve(args)) = parse("orderly serve --open=off --port=1").unwrap().command else {
            panic!("the command is serve");
        };
        assert_eq!(args.flags.given()[1].1, "off");
    }

    #[test]
    fn a_typo_is_never_corrected_to_the_open_flag() {
        for (line, suggested) in [
            ("orderly serve --opn", None),
            ("orderly serve --openn", None),
            ("orderly --opne", None),
            ("orderly serve --prot 1", Some("'--port'")),
        ] {
            let error = parse(line).err().unwrap().to_string();
            assert!(
                !error.contains("'--open'") && !error.contains("--open["),
                "{error}"
            );
            assert!(suggested.is_none_or(|flag| error.contains(flag)), "{error}");
        }
    }

    #[test]
    fn secrets_are_not_flags() {
        assert!(parse("orderly serve --api-key x").is_err());
    }

    #[test]
    fn commands_take_only_the_settings_they_use() {
        assert!(parse("orderly verify --database-url sqlite:x.db").is_ok());
        assert!(parse("orderly verify --port 1").is_err());
        assert!(parse("orderly copy --from sqlite:x.db --to postgres://h/d").is_ok());
        assert!(parse("orderly copy --from sqlite:x.db").is_ok());
        assert!(parse("orderly copy --to postgres://h/d").is_err());
        assert!(parse("orderly orders list --url http://x").is_ok());
        assert!(parse("orderly orders list --port 1").is_err());
        assert!(parse("orderly tail --order 45 --user 104 --status Failed --json --url http://x").is_ok());
        assert!(parse("orderly tail --port 1").is_err());
    }

    #[test]
    fn retry_takes_one_order_or_a_filter_of_failed_orders() {
        for line in [
            "orderly orders retry 5",
            "orderly orders retry --failed",
            "orderly orders retry --failed --user-id 1 --created-before 2026-01-01T00:00:00Z --dry-run",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        for line in [
            "orderly orders retry",
            "orderly orders retry 5 --failed",
            "orderly orders retry 5 --dry-run",
            "orderly orders retry 0",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn settings_are_listed_only_under_serve() {
        let help = parse("orderly --help").err().unwrap().to_string();
        assert!(!help.contains("--max-attempts"), "{help}");
    }

    #[test]
    fn help_names_the_variable_and_the_default_of_a_setting() {
        let help = parse("orderly serve --help").err().unwrap().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            help.contains("--max-attempts <VALUE> Attempts before an order is Failed, 1 to 1000. [env: ORDERLY_MAX_ATTEMPTS] [default: 5]"),
            "{help}"
        );
    }
}
