//! `orderly doctor`: checks everything that orders need to flow and gives advice on problems. `verify` checks the
//! promises about stored orders.

use futures_util::future::BoxFuture;
use serde_json::json;

use super::failure::Failure;
use super::flags::{Flags, Server};
use super::{Verdict, output};
use crate::config::{Config, ConfigError, Database, Layers, Loaded, PostgresDatabase, Shown};
use crate::store::open;
use crate::store::survey::Survey;

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

/// All checks, in the order in which they are shown: the name, and the judge of what it needs.
#[rustfmt::skip] // one line per check
const CHECKS: [(&str, Judge); 20] = {
    use Judge::{Node, Place, Servers, Settings, Store};
    [
        ("configuration", Settings(judge_settings)),
        ("disk", Place(disk::check)),
        ("store", Store(|facts, _| facts.contents.clone())),
        ("writes", Store(|facts, database| Some(store::judge_writes(database, facts.only_reads.as_ref()?)))),
        ("durability", Store(|facts, _| Some(store::judge_durability(facts.weaknesses.as_ref()?)))),
        ("standby", Store(|facts, _| Some(standby::judge(facts.standbys?)))),
        ("queue", Store(|facts, _| Some(store::judge_queue(facts.queue.as_ref()?)))),
        ("agreement", Store(|facts, _| agreement::judge(facts.queue.as_ref()?))),
        ("breaker", Store(|facts, _| Some(breaker::judge(facts.queue.as_ref()?)))),
        ("connections", Store(|facts, _| Some(room::judge(facts.room.as_ref()?, facts.queue.as_ref()?)))),
        ("feed", Store(|facts, _| Some(feed::judge(facts.feed.as_ref()?, facts.queue.as_ref()?)))),
        ("clock", Store(|facts, database| Some(store::judge_clock(database, facts.ahead?)))),
        ("store", Store(|facts, _| facts.unread.clone())),
        ("hosts", Servers(|survey, database| servers::judge_hosts(&survey.hosts, database))),
        ("direct way", Servers(|survey, _| Some(servers::judge_direct(survey.direct.as_ref()?)))),
        ("read way", Servers(|survey, _| Some(servers::judge_read(survey.read.as_ref()?)))),
        ("pooler", Servers(|survey, _| Some(servers::judge_pgbouncer(survey.pgbouncer.as_ref()?)))),
        ("log", Node(|config| Box::pin(async move { Some(log::check(&config.log.dir)) }))),
        ("processor", Node(|config| Box::pin(processor::check(config)))),
        ("server", Node(|config| Box::pin(async move { Some(server::check(config).await) }))),
    ]
};

/// Judges what a check needs; skipped without it. `None` if there is nothing to report.
enum Judge {
    Settings(fn(&Result<Loaded, ConfigError>) -> Vec<Finding>),
    Place(fn(&Database) -> Option<Finding>),
    Store(fn(&store::Facts, &Database) -> Option<Finding>),
    Servers(fn(&Survey, &PostgresDatabase) -> Option<Finding>),
    Node(for<'c> fn(&'c Config) -> BoxFuture<'c, Option<Finding>>),
}

/// A check and what it found.
type Check = (&'static str, Finding);

/// Result of a check.
#[derive(Clone)]
struct Finding {
    state: State,
    text: String,
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

impl Finding {
    fn ok(text: impl Into<String>) -> Finding {
        Finding {
            state: State::Ok,
            text: text.into(),
            advice: None,
        }
    }

    fn warn(text: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding {
            state: State::Warn,
            advice: Some(advice.into()),
            ..Finding::ok(text)
        }
    }

    fn fail(text: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding {
            state: State::Fail,
            advice: Some(advice.into()),
            ..Finding::ok(text)
        }
    }
}

pub async fn run(args: &Args) -> Result<Verdict, Failure> {
    let layers = args.flags.layers();
    let checks = examine(&layers).await;
    let healthy = checks.iter().all(|(_, finding)| finding.state != State::Fail);
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
    // Migration at start is the default; the setting cannot be read here.
    let migrates = loaded.as_ref().map_or(true, |loaded| loaded.config.migrate);
    // The warnings of the database are among those of the configuration.
    let database = layers.database().ok().map(|(database, _)| database);
    let (mut facts, mut survey) = (None, None);
    if let Some(database) = &database {
        facts = Some((store::Facts::of(database, migrates).await, database));
    }
    if let Some(Database::Postgres(database)) = &database {
        survey = Some((open::survey(database).await, &**database));
    }
    let mut checks = Vec::new();
    for (name, judge) in CHECKS {
        let found = match judge {
            Judge::Settings(judge) => judge(&loaded),
            Judge::Place(judge) => database.iter().filter_map(judge).collect(),
            Judge::Store(judge) => facts.iter().filter_map(|(facts, of)| judge(facts, of)).collect(),
            Judge::Servers(judge) => survey
                .iter()
                .filter_map(|(survey, of)| judge(survey, of))
                .collect(),
            Judge::Node(judge) => match &loaded {
                Ok(loaded) => judge(&loaded.config).await.into_iter().collect(),
                Err(_) => Vec::new(),
            },
        };
        checks.extend(found.into_iter().map(|finding| (name, finding)));
    }
    checks
}

fn judge_settings(loaded: &Result<Loaded, ConfigError>) -> Vec<Finding> {
    match loaded {
        Ok(loaded) if loaded.warnings.is_empty() => vec![Finding::ok("complete")],
        Ok(loaded) => {
            let warnings = loaded.warnings.iter();
            let warn = |warning: &String| Finding::warn(warning, "change it, or keep it on purpose");
            warnings.map(warn).collect()
        }
        Err(error) => {
            let advice = "correct it: the server does not start until then";
            let fail = |problem: &String| Finding::fail(problem, advice);
            error.problems.iter().map(fail).collect()
        }
    }
}

fn as_json(checks: &[Check], settings: &[Shown], healthy: bool) -> serde_json::Value {
    let check = |(name, finding): &Check| {
        json!({
            "name": name,
            "state": finding.state.name(),
            "finding": finding.text,
            "advice": finding.advice,
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
    for (name, finding) in checks {
        let text = output::printable(&finding.text);
        lines.push(format!("{:4}  {name:13}  {text}", finding.state.name()));
        if let Some(advice) = &finding.advice {
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
