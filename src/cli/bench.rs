//! `orderly bench`: builds the plan of a run, shows its progress and prints the report as a table or JSON. `bench.rs` of
//! the library measures.

use std::io::{IsTerminal, Write};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::failure::Failure;
use super::{Verdict, output};
use crate::bench::{self, Caller, Databases, Load, Plan, Progress, Rate, Target};
use crate::config::{Database, Layers, PasswordSources, Sources, names_this_machine};

mod table;

/// Maximum number of connections; beyond that one machine runs out of ports and descriptors.
const CONNECTIONS: RangeInclusive<i64> = 1..=10_000;
const ROUNDS: RangeInclusive<i64> = 1..=1_000;
const ORDERS: RangeInclusive<i64> = 1..=10_000_000;
/// Bounded by the largest batch request of the API.
const BATCH: RangeInclusive<i64> = 1..=1_000;
/// Every user has a request prepared in memory.
const USERS: RangeInclusive<i64> = 1..=100_000;
const DURATION: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_mins(10);
/// Requests per second of an open loop.
const RATE: RangeInclusive<f64> = 1.0..=10_000_000.0;
const BAR_WIDTH: usize = 24;

#[derive(clap::Args)]
pub struct Args {
    /// Load to send to the server
    #[arg(value_enum, value_name = "LOAD", default_value = "accept")]
    loads: Vec<Load>,
    /// Concurrent connections
    #[arg(long, value_name = "COUNT", default_value = "64", value_parser = count(CONNECTIONS))]
    connections: usize,
    /// Measuring time of each round
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    duration: Duration,
    /// Rounds of each load
    #[arg(long, value_name = "COUNT", default_value = "5", value_parser = count(ROUNDS))]
    rounds: usize,
    /// Requests per second, or a share of the peak rate (50%), sent without waiting for earlier answers
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<Rate>,
    /// Orders waiting at the start of drain
    #[arg(long, value_name = "COUNT", default_value = "100000", value_parser = count(ORDERS))]
    orders: usize,
    /// Orders per request of batch
    #[arg(long, value_name = "COUNT", default_value = "1000", value_parser = count(BATCH))]
    batch_size: usize,
    /// Number of users; orders are spread over them in turn
    #[arg(long, value_name = "COUNT", default_value = "1000", value_parser = count(USERS))]
    users: usize,
    /// PostgreSQL server to measure on instead of a SQLite file: creates databases beside the named one and drops them
    #[arg(long, value_name = "URL", conflicts_with = "url")]
    database_url: Option<String>,
    /// Running server to measure instead of a temporary one; it keeps the orders
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Allow load on other machines
    #[arg(long)]
    allow_remote: bool,
    /// Variable for the server under test, such as `ORDERLY_CONCURRENCY=200`
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting, conflicts_with = "url")]
    settings: Vec<(String, String)>,
    /// Another build of this program to run as the server under test
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    program: Option<PathBuf>,
    /// Parent of the temporary server's folder; its disk is measured [default: the folder for temporary files]
    #[arg(long, value_name = "PATH")]
    folder: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &Args) -> Result<Verdict, Failure> {
    let plan = plan(args).await?;
    let listen = |kind| signal(kind).map_err(|error| Failure::failed("listen for signals", error));
    let (mut terminated, mut interrupted) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let stopped = async {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
    };
    let bar = Bar::on_terminal();
    let report = bench::run(&plan, &mut |progress| bar.show(progress), stopped).await;
    bar.clear();
    let report = report?;
    if args.json {
        output::json(&report)?;
    } else {
        output::result(&table::of(&report))?;
    }
    for failure in &report.failures {
        output::message(failure);
    }
    Ok(if report.is_good() {
        Verdict::Good
    } else {
        Verdict::Bad
    })
}

async fn plan(args: &Args) -> Result<Plan, Failure> {
    if let Some(url) = &args.database_url {
        check_database(url, args.allow_remote)?;
    }
    let needs_its_own = [Load::Drain, Load::Pickup];
    if args.url.is_some()
        && let Some(load) = args.loads.iter().find(|load| needs_its_own.contains(load))
    {
        return Err(wrong(
            "--url",
            &format!("{} needs a server of its own without other work", load.name()),
        ));
    }
    Ok(Plan {
        loads: args.loads.clone(),
        target: match (&args.url, &args.database_url) {
            (Some(url), _) => Target::Running(caller(url, args.allow_remote).await?),
            (None, Some(url)) => Target::Postgres(url.clone()),
            (None, None) => Target::Sqlite,
        },
        program: match &args.program {
            Some(path) => std::path::absolute(path)
                .map_err(|error| Failure::failed("find the program to measure", error))?,
            None => std::env::current_exe().map_err(|error| Failure::failed("find this program", error))?,
        },
        folder: args.folder.clone().unwrap_or_else(std::env::temp_dir),
        settings: args.settings.clone(),
        connections: args.connections,
        time: args.duration,
        rounds: args.rounds,
        rate: args.rate,
        orders: args.orders,
        batch_size: args.batch_size,
        users: args.users,
    })
}

fn check_database(url: &str, allow_remote: bool) -> Result<(), Failure> {
    const FLAG: &str = "--database-url";
    match Database::parse(url, &PasswordSources::default()) {
        Ok((Database::Postgres(_), _)) => {}
        Ok((Database::Sqlite(_), _)) => {
            return Err(wrong(
                FLAG,
                "names a SQLite file: leave it out to create a new one; --folder says where",
            ));
        }
        Err(problem) => return Err(wrong(FLAG, &problem)),
    }
    let databases = Databases::beside(url).map_err(|problem| wrong(FLAG, &problem))?;
    if !databases.is_local() && !allow_remote {
        return Err(wrong(FLAG, &remote(databases.location())));
    }
    Ok(())
}

/// Returns the running server at a URL, with the API key of the settings.
async fn caller(url: &str, allow_remote: bool) -> Result<Caller, Failure> {
    let given = vec![("url", url.to_owned())];
    let config = Layers::gather(&Sources::of_process(given, None)).client()?;
    let parsed = reqwest::Url::parse(&config.url).map_err(|error| wrong("--url", &error.to_string()))?;
    let host = parsed.host_str().unwrap_or_default();
    if parsed.scheme() != "http" || parsed.path() != "/" {
        return Err(wrong("--url", "must be http://HOST:PORT: the load is plain HTTP"));
    }
    if !names_this_machine(host) && !allow_remote {
        return Err(wrong("--url", &remote(host)));
    }
    let port = parsed.port_or_known_default().unwrap_or(80);
    let found = tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await;
    let mut found = found.map_err(|error| Failure::failed("find the server of --url", error))?;
    let address = found.next();
    Ok(Caller {
        address: address.ok_or_else(|| wrong("--url", "leads to no address"))?,
        api_key: config.api_key,
    })
}

fn remote(host: &str) -> String {
    format!("{host} is not this machine and the load may overwhelm it: pass --allow-remote to send it anyway")
}

fn wrong(flag: &str, problem: &str) -> Failure {
    Failure::Configuration(vec![format!("{flag}: {problem}")])
}

fn count(range: RangeInclusive<i64>) -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser;
    clap::value_parser!(i64).range(range).try_map(usize::try_from)
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if !DURATION.contains(&duration) {
        return Err("must be 50ms to 10m".to_owned());
    }
    Ok(duration)
}

fn rate(text: &str) -> Result<Rate, String> {
    let expected = "must be requests per second, or a share of the peak of 1% to 100%";
    let number = |text: &str| text.trim().parse::<f64>().map_err(|_| expected.to_owned());
    if let Some(share) = text.strip_suffix('%') {
        let share = number(share)? / 100.0;
        let is_share = (0.01..=1.0).contains(&share);
        return is_share
            .then_some(Rate::OfPeak(share))
            .ok_or_else(|| expected.to_owned());
    }
    let rate = number(text)?;
    let is_rate = RATE.contains(&rate);
    is_rate
        .then_some(Rate::PerSecond(rate))
        .ok_or_else(|| expected.to_owned())
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("must be NAME=VALUE".to_owned()),
    }
}

/// Progress line on stderr, redrawn in place; hidden unless stderr is a terminal.
struct Bar {
    shown: bool,
}

impl Bar {
    fn on_terminal() -> Bar {
        Bar {
            shown: std::io::stderr().is_terminal(),
        }
    }

    fn show(&self, progress: &Progress) {
        let Progress {
            done,
            total,
            load,
            round,
        } = progress;
        let filled = BAR_WIDTH * done / (*total).max(1);
        let bar = format!("{}{}", "#".repeat(filled), ".".repeat(BAR_WIDTH - filled));
        self.write(&format!("[{bar}] {}, round {round}", load.name()));
    }

    fn clear(&self) {
        self.write("");
    }

    fn write(&self, line: &str) {
        if self.shown {
            // A failure to draw the bar cannot be shown anywhere.
            let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_or_a_share_of_the_peak() {
        assert_eq!(rate("12000"), Ok(Rate::PerSecond(12_000.0)));
        assert_eq!(rate("50%"), Ok(Rate::OfPeak(0.5)));
        for text in ["", "0", "-1", "NaN", "inf", "0%", "101%", "%", "half"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
