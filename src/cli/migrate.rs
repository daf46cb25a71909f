//! `orderly migrate`: brings the schema up to date, or shows what that would do; makes a restored backup a store of its own.

use serde_json::json;

use super::failure::Failure;
use super::flags::{Flags, Store};
use super::{Verdict, output};
use crate::store::open::{self, Migration};

#[derive(clap::Args)]
pub struct Args {
    /// Change nothing, show what is missing
    #[arg(long)]
    dry_run: bool,
    /// The store was restored from a backup and no server runs on it yet: what was given out since the backup counts no more
    #[arg(long, conflicts_with = "dry_run")]
    restored: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags<Store>,
}

pub async fn run(args: &Args) -> Result<Verdict, Failure> {
    let database = args.flags.database()?;
    if args.restored {
        // The next line would make a store where there is none, and change one that is in use.
        open::require_unused(&database).await?;
    }
    let migrations = open::migrate(&database, args.dry_run).await?;
    if args.restored {
        open::begin_epoch(&database).await?;
    }
    if args.json {
        output::json(&json!({
            "location": open::location(&database),
            "dry_run": args.dry_run,
            "restored": args.restored,
            "migrations": migrations.iter().map(as_json(args.dry_run)).collect::<Vec<_>>(),
        }))?;
    } else {
        let rows: Vec<[String; 3]> = migrations
            .iter()
            .map(|migration| {
                [
                    format!("{:04}", migration.number),
                    migration.name.to_owned(),
                    state(migration, args.dry_run).to_owned(),
                ]
            })
            .collect();
        output::result(&output::table(["NUMBER", "NAME", "STATE"], &rows))?;
        if args.restored {
            output::result(
                "an epoch began: what was given out since the backup - order numbers, leases, idempotency keys of deliveries, \
                 cursors - is refused and not given out again",
            )?;
        }
    }
    Ok(Verdict::Good)
}

fn as_json(dry_run: bool) -> impl Fn(&Migration) -> serde_json::Value {
    move |migration| {
        json!({
            "number": migration.number,
            "name": migration.name,
            "state": state(migration, dry_run),
        })
    }
}

fn state(migration: &Migration, dry_run: bool) -> &'static str {
    match (migration.applied, dry_run) {
        (true, _) => "applied",
        (false, true) => "missing",
        (false, false) => "applied now",
    }
}
