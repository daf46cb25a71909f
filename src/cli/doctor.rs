//! `orderly doctor`: why are orders not processed, and what to do about it, within three seconds. Shows the worst first.
//! `verify` checks the promises about stored orders.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, OptionFuture, join_all};
use tokio::time::timeout;

use super::failure::Failure;
use super::flags::{Flags, Server};
use super::{Verdict, output};
use crate::config::{Config, ConfigError, Database, Layers, Loaded, PostgresDatabase};
use crate::diagnosis::{self, Local, Looker, Severity};
use crate::store::QueueState;
use crate::store::open;
use crate::store::survey::Survey;

mod advice;
mod feed;
mod processor;
mod redis;
mod room;
mod server;
mod servers;
mod shown;
mod standby;
mod store;

/// Time for each thing that is asked; all are asked at once.
const ASK_TIME_MAX: Duration = Duration::from_millis(2_500);
const MEBIBYTE: u64 = 1024 * 1024;

#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show the settings and their origins, too
    #[arg(long)]
    settings: bool,
    #[command(flatten)]
    flags: Flags<Server>,
}

/// All checks: the name, and the judge of what it needs. Of checks with the same result the first is shown first.
#[rustfmt::skip] // one line per check
const CHECKS: [(&str, Judge); 17] = {
    use Judge::{Flow, Local, Node, Server, Servers, Store};
    [
        ("disk", Local),
        ("store", Store(|facts, _| facts.contents.clone())),
        ("writes", Store(|facts, database| Some(store::judge_writes(database, facts.only_reads.as_ref()?)))),
        ("processor", Node(|config| Box::pin(processor::check(config)))),
        ("flow", Flow),
        // Behind the sessions that may be its cause.
        ("store", Store(|facts, _| facts.unread.clone())),
        ("durability", Store(|facts, _| Some(store::judge_durability(facts.weaknesses.as_ref()?)))),
        ("standby", Store(|facts, _| Some(standby::judge(facts.standbys?)))),
        ("server", Server),
        ("redis", Node(|config| Box::pin(redis::check(config)))),
        ("hosts", Servers(|survey, database| servers::judge_hosts(&survey.hosts, database))),
        ("direct way", Servers(|survey, _| Some(servers::judge_direct(survey.direct.as_ref()?)))),
        ("read way", Servers(|survey, _| Some(servers::judge_read(survey.read.as_ref()?)))),
        ("pooler", Servers(|survey, _| Some(servers::judge_pgbouncer(survey.pgbouncer.as_ref()?)))),
        ("connections", Store(|facts, _| Some(room::judge(facts.room.as_ref()?, facts.queue()?)))),
        ("feed", Store(|facts, _| Some(feed::judge(facts.feed.as_ref()?, facts.queue()?)))),
        ("clock", Store(|facts, database| Some(store::judge_clock(database, facts.ahead?)))),
    ]
};

/// Judges what a check needs; skipped without it. `None` if there is nothing to report.
enum Judge {
    /// This machine, by the rules of `diagnosis`.
    Local,
    /// The flow of orders, by the rules of `diagnosis`.
    Flow,
    /// The server at the configured address, with what it finds itself.
    Server,
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
    /// The cause, where it is known.
    because: Option<String>,
    /// Remedy; `None` if all is well.
    advice: Option<String>,
    /// Shown after others of its state: some orders are concerned, or none yet.
    is_minor: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// Somebody has to act: the command fails.
    Fail,
    Warn,
    Ok,
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
            because: None,
            advice: None,
            is_minor: false,
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

impl From<diagnosis::Finding> for Finding {
    /// Whatever the rules find needs a person.
    fn from(found: diagnosis::Finding) -> Finding {
        Finding {
            because: found.because,
            is_minor: found.severity == Severity::Warn,
            ..Finding::fail(found.what, found.action)
        }
    }
}

pub async fn run(args: &Args) -> Result<Verdict, Failure> {
    let layers = args.flags.layers();
    let checks = Box::pin(examine(&layers)).await;
    let healthy = checks.iter().all(|(_, finding)| finding.state != State::Fail);
    let settings = if args.settings || args.json {
        layers.shown()
    } else {
        Vec::new()
    };
    if args.json {
        output::json(&shown::as_json(&checks, &settings, healthy))?;
    } else {
        output::result(&shown::as_text(&checks, &settings))?;
    }
    Ok(if healthy { Verdict::Good } else { Verdict::Bad })
}

/// Runs all checks, as far as earlier failures allow, so that one run shows everything: the worst first.
async fn examine(layers: &Layers) -> Vec<Check> {
    let loaded = layers.server();
    let config = loaded.as_ref().ok().map(|loaded| &loaded.config);
    // Migration at start is the default; the setting cannot be read here.
    let migrates = config.is_none_or(|config| config.migrate);
    // The warnings of the database are among those of the configuration.
    let database = layers.database().ok().map(|(database, _)| database);
    let reading = database
        .as_ref()
        .map(|database| store::Facts::of(database, migrates));
    let surveying = match &database {
        Some(Database::Postgres(database)) => Some(timeout(ASK_TIME_MAX, open::survey(database))),
        Some(Database::Sqlite(_)) | None => None,
    };
    let asking = CHECKS.iter().filter_map(|(name, judge)| match judge {
        Judge::Node(judge) => Some(ask(name, *judge, config?)),
        Judge::Local | Judge::Flow | Judge::Server | Judge::Store(_) | Judge::Servers(_) => None,
    });
    let settings = Arc::new(settings_of(config, database.as_ref()));
    let looker = Looker::default();
    let (facts, survey, answers, server, local) = tokio::join!(
        OptionFuture::from(reading),
        OptionFuture::from(surveying),
        join_all(asking),
        OptionFuture::from(config.map(server::look)),
        looker.look(&settings)
    );
    // A server that does not answer in time is the finding of another check.
    let survey = survey.and_then(Result::ok);
    let mut checks: Vec<Check> = judge_settings(&loaded)
        .map(|finding| ("configuration", finding))
        .collect();
    for (name, judge) in CHECKS {
        match judge {
            Judge::Local => checks.extend(judge_local(&local)),
            Judge::Flow => checks.extend(facts.iter().flat_map(|facts| facts.flow(&settings))),
            Judge::Server => checks.extend(server.iter().map(|server| (name, server.finding.clone()))),
            Judge::Store(judge) => {
                let known = facts.as_ref().zip(database.as_ref());
                let found = known.and_then(|(facts, database)| judge(facts, database));
                checks.extend(found.map(|found| (name, found)));
            }
            Judge::Servers(judge) => {
                if let (Some(survey), Some(Database::Postgres(database))) = (&survey, &database) {
                    checks.extend(judge(survey, database).map(|found| (name, found)));
                }
            }
            Judge::Node(_) => {
                let answered = answers.iter().flatten().filter(|(asked, _)| *asked == name);
                checks.extend(answered.cloned());
            }
        }
    }
    if let (Some(facts), Some(Database::Sqlite(file))) = (&facts, &database)
        && let Some(queue) = facts.queue()
    {
        name_the_server_of(file, queue, &mut checks);
    }
    if let Some(server) = server {
        add_what_the_server_knows(server, &mut checks);
    }
    checks.sort_by_key(|(name, finding)| {
        let is_about_settings = finding.state == State::Warn && *name == "configuration";
        (finding.state, finding.is_minor || is_about_settings)
    });
    checks
}

fn settings_of(config: Option<&Config>, database: Option<&Database>) -> diagnosis::Settings {
    let settings = config.map(diagnosis::Settings::of).unwrap_or_default();
    diagnosis::Settings {
        store_file: match database {
            Some(Database::Sqlite(path)) => Some(path.clone()),
            Some(Database::Postgres(_)) | None => None,
        },
        ..settings
    }
}

fn judge_local(local: &Local) -> Vec<Check> {
    let found = diagnosis::diagnose_local(local);
    let mut checks: Vec<Check> = found
        .into_iter()
        .map(|found| (found.rule.name(), Finding::from(found)))
        .collect();
    if checks.is_empty() {
        let disks = [("orders", &local.store), ("log", &local.log)];
        let room: Vec<String> = disks
            .into_iter()
            .filter_map(|(what, disk)| {
                let disk = disk.as_ref()?;
                let free = disk.free.as_ref().ok()? / MEBIBYTE;
                Some(format!(
                    "{free} MiB free for the {what} at {}",
                    disk.folder.display()
                ))
            })
            .collect();
        checks.extend((!room.is_empty()).then(|| ("disk", Finding::ok(room.join(", ")))));
    }
    checks
}

/// Names the server that has the file, where none listens at the configured address: a second one cannot open it.
fn name_the_server_of(file: &Path, queue: &QueueState, checks: &mut [Check]) {
    let Some(node) = queue.nodes.iter().find(|node| node.alive) else {
        return;
    };
    let not_listening = |(name, finding): &&mut Check| *name == "server" && finding.state == State::Warn;
    if let Some((_, finding)) = checks.iter_mut().find(not_listening) {
        let what = format!(
            "{}, but node {} has {} open",
            finding.text,
            node.name,
            file.display()
        );
        *finding = Finding::fail(
            what,
            "use the address of that server (HOST, PORT), or another DATABASE_URL: one server per file",
        );
    }
}

/// Adds the findings of the server, which knows its last minute and its connections, and the last bad answer of its service.
fn add_what_the_server_knows(server: server::Server, checks: &mut Vec<Check>) {
    for (rule, finding) in server.findings {
        match checks.iter_mut().find(|(known, _)| *known == rule) {
            Some((_, known)) => *known = finding,
            None => checks.push((rule, finding)),
        }
    }
    if let Some(trouble) = server.service_trouble {
        let down = diagnosis::Rule::ServiceDown.name();
        for (_, finding) in checks.iter_mut().filter(|(name, _)| *name == down) {
            if let Some(remedy) = diagnosis::remedy_of_service(&trouble) {
                finding.advice = Some(remedy.to_owned());
            }
            finding.because = Some(format!("its last answer, {trouble}"));
        }
    }
    // A session that holds locks is why the store could not be read.
    let locked = diagnosis::Rule::Locked.name();
    if checks.iter().any(|(name, _)| *name == locked) {
        checks.retain(|(name, finding)| *name != "store" || finding.state == State::Ok);
    }
}

/// Asks something outside the store, within [`ASK_TIME_MAX`].
async fn ask(
    name: &'static str,
    judge: for<'a> fn(&'a Config) -> BoxFuture<'a, Option<Finding>>,
    config: &Config,
) -> Option<Check> {
    let found = timeout(ASK_TIME_MAX, judge(config)).await;
    let late = |_| {
        Some(Finding::fail(
            format!("no answer within {ASK_TIME_MAX:?}"),
            "it takes connections and hangs, or the network drops what is sent to it",
        ))
    };
    found.unwrap_or_else(late).map(|found| (name, found))
}

fn judge_settings(loaded: &Result<Loaded, ConfigError>) -> impl Iterator<Item = Finding> {
    let found: Vec<Finding> = match loaded {
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
    };
    found.into_iter()
}
