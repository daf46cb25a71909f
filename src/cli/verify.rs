//! `orderly verify`: opens the store, checks every promise and shows the report.

use serde_json::json;

use super::failure::Failure;
use super::flags::{Flags, Store};
use super::{Verdict, output};
use crate::store::open;
use crate::verify::{Breach, Report, verify};

#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags<Store>,
}

pub async fn run(args: &Args) -> Result<Verdict, Failure> {
    let database = args.flags.database()?;
    let mut snapshot = open::open_snapshot(&database).await?;
    let report = verify(&mut *snapshot).await?;
    if args.json {
        output::json(&as_json(&report))?;
    } else {
        output::result(&report.to_string())?;
    }
    Ok(if report.is_sound() {
        Verdict::Good
    } else {
        Verdict::Bad
    })
}

fn as_json(report: &Report) -> serde_json::Value {
    let breach = |breach: &Breach| {
        json!({
            "promise": breach.promise.name(),
            "order_id": breach.order_id.map(|id| id.0),
            "detail": breach.detail,
        })
    };
    json!({
        "sound": report.is_sound(),
        "orders": report.orders,
        "events": report.events,
        "keys": report.keys,
        "breaches_total": report.breaches_total,
        "breaches": report.breaches.iter().map(breach).collect::<Vec<_>>(),
    })
}
