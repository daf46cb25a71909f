//! `orderly copy`: moves a store to PostgreSQL while no server runs, shows progress and reports whether the copy is
//! exact.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::json;

use super::failure::Failure;
use super::flags::{Flags, Store};
use super::{Verdict, output};
use crate::config::{Database, PasswordSources, PostgresDatabase};
use crate::store::copy::{self, Copied, Progress, Step};
use crate::store::open;

/// Interval between progress messages; a shorter copy prints none.
const MESSAGE_INTERVAL: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub struct Args {
    /// Store to copy: sqlite:PATH or a PostgreSQL URL. No server may run on it
    #[arg(long, value_name = "URL")]
    from: String,
    /// Empty PostgreSQL database to copy into; without it, the database of the settings. Other users of the machine can
    /// see a password given here, but not one in `DATABASE_URL`
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags<Store>,
}

pub async fn run(args: &Args) -> Result<Verdict, Failure> {
    let passwords = args.flags.layers().passwords;
    let from = database("--from", &args.from, &passwords)?;
    let to = match &args.to {
        Some(url) => postgres("--to", database("--to", url, &passwords)?)?,
        None => postgres("DATABASE_URL", args.flags.database()?)?,
    };
    let copied = copy::copy(&from, &to, &mut messages()).await?;
    let good = copied.differences.is_empty();
    if args.json {
        output::json(&as_json(&copied, &from, &to))?;
    } else if good {
        output::result(&format!(
            "copied {} orders, {} events, {} idempotency keys to {}: nothing differs",
            copied.orders, copied.events, copied.keys, to.url.location
        ))?;
    } else {
        output::result(&differences(&copied))?;
    }
    Ok(if good { Verdict::Good } else { Verdict::Bad })
}

/// Parses the URL of a flag and prints its warnings to stderr.
fn database(flag: &str, url: &str, passwords: &PasswordSources) -> Result<Database, Failure> {
    let parsed = Database::parse(url, passwords);
    let (database, warnings) = parsed.map_err(|problem| wrong(flag, &problem))?;
    for warning in warnings {
        output::message(&format!("{flag}: {warning}"));
    }
    Ok(database)
}

fn postgres(name: &str, database: Database) -> Result<PostgresDatabase, Failure> {
    match database {
        Database::Postgres(database) => Ok(*database),
        Database::Sqlite(_) => Err(wrong(
            name,
            "names a SQLite file: orders are copied into PostgreSQL only; use --to postgres://HOST/DATABASE",
        )),
    }
}

fn wrong(name: &str, problem: &str) -> Failure {
    Failure::Configuration(vec![format!("{name}: {problem}")])
}

/// Returns a progress callback that prints to stderr at intervals.
fn messages() -> impl FnMut(Progress) {
    let mut last = Instant::now();
    move |progress| {
        if last.elapsed() < MESSAGE_INTERVAL {
            return;
        }
        last = Instant::now();
        let (verb, noun) = match progress.step {
            Step::CopyOrders => ("copied", "orders"),
            Step::CopyEvents => ("copied", "events"),
            Step::CopyKeys => ("copied", "idempotency keys"),
            Step::CompareOrders => ("compared", "orders"),
            Step::CompareEvents => ("compared", "events"),
            Step::CompareKeys => ("compared", "idempotency keys"),
        };
        let total = match progress.total {
            Some(total) => format!(" of {total}"),
            None => String::new(),
        };
        output::message(&format!("{verb} {}{total} {noun}", progress.done));
    }
}

fn differences(copied: &Copied) -> String {
    let noun = match copied.differences.total {
        1 => "difference",
        _ => "differences",
    };
    let mut text = format!("{} {noun}: nothing was copied", copied.differences.total);
    for difference in &copied.differences.shown {
        // Writing to a String does not fail.
        let _ = write!(text, "\n  {}", output::printable(difference));
    }
    let unshown = copied.differences.total - copied.differences.shown.len() as u64;
    if unshown > 0 {
        let _ = write!(text, "\nand {unshown} more");
    }
    text
}

fn as_json(copied: &Copied, from: &Database, to: &PostgresDatabase) -> serde_json::Value {
    json!({
        "copied": copied.differences.is_empty(),
        "from": open::location(from),
        "to": to.url.location,
        "orders": copied.orders,
        "events": copied.events,
        "keys": copied.keys,
        "differences_total": copied.differences.total,
        "differences": copied.differences.shown,
    })
}
