//! `orderly doctor`: checks everything that orders need to flow and gives advice on problems. `verify` checks the
//! promises about stored orders.

use serde_json::json;

use super::failure::Failure;
use super::flags::{Flags, Server};
use super::{Verdict, output};
use crate::config::{Layers, Shown};

mod advice;
mod agreement;
mod breaker;
mod disk;
mod feed;
mod log;
mod processor;
mod room;
mod server;
mod servers;
mod standby;
mod store;

#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags<Server>,
}

/// Result of one check.
struct Check {
    name: &'static str,
    state: State,
    finding: String,
    /// Remedy; `None` if all is well.
    advice: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    Warn,
    Fail,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "fail",
        }
    }
}

impl Check {
    fn ok(name: &'static str, finding: impl Into<String>) -> Check {
        Check {
            name,
            state: State::Ok,
            finding: finding.into(),
            advice: None,
        }
    }

    fn warn(name: &'static str, finding: impl Into<String>, advice: impl Into<String>) -> Check {
        Check {
            state: State::Warn,
            advice: Some(advice.into()),
            ..Check::ok(name, finding)
        }
    }

    fn fail(name: &'static str, finding: impl Into<String>, advice: impl Into<String>) -> Check {
        Check {
            state: State::Fail,
            advice: Some(advice.into()),
            ..Check::ok(name, finding)
        }
    }
}

pub async fn run(args: &Args) -> Result<Verdict, Failure> {
    let layers = args.flags.layers();
    let checks = examine(&layers).await;
    let healthy = checks.iter().all(|check| check.state != State::Fail);
    if args.json {
        output::json(&as_json(&checks, &layers.shown(), healthy))?;
    } else {
        output::result(&as_text(&checks, &layers.shown()))?;
    }
    Ok(if healthy { Verdict::Good } else { Verdict::Bad })
}

/// Runs all checks, as far as earlier failures allow, so that one run shows everything.
async fn examine(layers: &Layers) -> Vec<Check> {
    let loaded = layers.server();
    let mut checks = match &loaded {
        Ok(loaded) if loaded.warnings.is_empty() => vec![Check::ok("configuration", "complete")],
        Ok(loaded) => loaded
            .warnings
            .iter()
            .map(|warning| Check::warn("configuration", warning, "change it, or keep it on purpose"))
            .collect(),
        Err(error) => error
            .problems
            .iter()
            .map(|problem| {
                Check::fail(
                    "configuration",
                    problem,
                    "correct it: the server does not start until then",
                )
            })
            .collect(),
    };
    // The warnings of the database are among those of the configuration.
    if let Ok((database, _)) = layers.database() {
        checks.extend(disk::check(&database));
        // Migration at start is the default; the setting cannot be read here.
        let migrates = loaded.as_ref().map_or(true, |loaded| loaded.config.migrate);
        checks.extend(store::check(&database, migrates).await);
        checks.extend(servers::check(&database).await);
    }
    if let Ok(loaded) = &loaded {
        checks.push(log::check(&loaded.config.log.dir));
        checks.extend(processor::check(&loaded.config).await);
        checks.push(server::check(&loaded.config).await);
    }
    checks
}

fn as_json(checks: &[Check], settings: &[Shown], healthy: bool) -> serde_json::Value {
    let check = |check: &Check| {
        json!({
            "name": check.name,
            "state": check.state.name(),
            "finding": check.finding,
            "advice": check.advice,
        })
    };
    let setting = |setting: &Shown| {
        json!({
            "name": setting.variable,
            "value": setting.value,
            "origin": setting.origin,
        })
    };
    json!({
        "healthy": healthy,
        "checks": checks.iter().map(check).collect::<Vec<_>>(),
        "settings": settings.iter().map(setting).collect::<Vec<_>>(),
    })
}

fn as_text(checks: &[Check], settings: &[Shown]) -> String {
    let mut lines = Vec::new();
    for check in checks {
        let finding = output::printable(&check.finding);
        lines.push(format!("{:4}  {:13}  {finding}", check.state.name(), check.name));
        if let Some(advice) = &check.advice {
            lines.push(format!("{:21}{advice}", ""));
        }
    }
    let rows: Vec<[String; 3]> = settings
        .iter()
        .map(|setting| {
            [
                setting.variable.to_owned(),
                setting.value.clone().unwrap_or_else(|| "-".to_owned()),
                setting.origin.clone(),
            ]
        })
        .collect();
    lines.push(String::new());
    lines.push(output::table(["SETTING", "VALUE", "ORIGIN"], &rows));
    lines.join("\n")
}
