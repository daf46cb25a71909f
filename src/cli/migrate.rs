//! `orderly migrate`: brings the schema up to date, or shows what is missing; turns a restored backup into a store of its
//! own.

use serde_json::json;

use super::failure::Failure;
use super::flags::{Flags, Store};
use super::{Verdict, output};
use crate::store::NewEpoch;
use crate::store::open::{self, Migration};

#[derive(clap::Args)]
pub struct Args {
    /// Show missing migrations and change nothing
    #[arg(long)]
    dry_run: bool,
    /// The store was restored from a backup and no server runs on it yet: invalidate everything issued since the backup
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
        // The migration would create a missing store or change one that is in use.
        open::require_unused(&database).await?;
    }
    let migrations = open::migrate(&database, args.dry_run).await?;
    let begun = if args.restored {
        Some(open::begin_epoch(&database).await?)
    } else {
        None
    };
    if args.json {
        output::json(&json!({
            "location": open::location(&database),
            "dry_run": args.dry_run,
            "restored": args.restored,
            "epoch": begun.as_ref().map(epoch_as_json),
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
        if let Some(begun) = begun {
            output::result(&epoch_as_text(&begun))?;
        }
    }
    Ok(Verdict::Good)
}

fn epoch_as_text(begun: &NewEpoch) -> String {
    let NewEpoch {
        number,
        first_order_id,
        after,
        ..
    } = begun;
    let until = begun
        .stored_until_text()
        .map_or("no event is stored".to_owned(), |until| {
            format!("the last event in the feed is from {until}")
        });
    format!(
        "epoch {number} began with order {first_order_id}, after position {} of the feed; {until}. Order ids, leases, idempotency \
         keys of deliveries and cursors issued since the backup are refused and not issued again",
        after.0
    )
}

fn epoch_as_json(begun: &NewEpoch) -> serde_json::Value {
    json!({
        "number": begun.number,
        "first_order_id": begun.first_order_id.0,
        "after_position": begun.after.0,
        "stored_until": begun.stored_until_text(),
    })
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
