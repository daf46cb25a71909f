//! Rounds of a run: each measures the server under test and every yardstick in turn.

use super::environment::Environment;
use super::raw_store::RawStore;
use super::report::{LoadReport, Report};
use super::script::Caller;
use super::subjects::{Scripts, Subjects};
use super::{Load, Plan, Progress, Target};
use crate::store::ORDERS_WAITING_MAX;

pub async fn measure(
    plan: &Plan,
    environment: &Environment,
    progress: &mut (dyn FnMut(&Progress) + Send),
) -> anyhow::Result<Report> {
    let mut notes = Vec::new();
    let nothing = environment.forgetful(plan).await?;
    let one_insert = environment.one_insert(plan).await?;
    if one_insert.is_none() {
        notes.push(
            "one INSERT per request was not measured: --yardstick-database-url names a PostgreSQL server for it"
                .to_owned(),
        );
    }
    let mut loads = Vec::new();
    let mut failures = Vec::new();
    for (number, &load) in plan.loads.iter().enumerate() {
        let servers = Servers {
            nothing: &nothing,
            one_insert: one_insert.as_ref(),
            number,
        };
        match measure_load(plan, environment, load, servers, progress, &mut notes).await {
            Ok(report) => loads.push(report),
            // A failed load does not affect the others.
            Err(error) => failures.push(error.context(format!("measure {}", load.name()))),
        }
    }
    if loads.is_empty()
        && let Some(error) = failures.pop()
    {
        return Err(error);
    }
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        store: match plan.target {
            Target::Sqlite => "sqlite",
            Target::Postgres(_) => "postgresql",
            Target::Running(_) => "unknown",
        },
        connections: plan.connections,
        users: plan.users,
        duration_seconds: plan.time.as_secs_f64(),
        rounds: plan.rounds,
        settings: plan
            .settings
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect(),
        loads,
        notes,
        failures: failures.iter().map(|error| format!("{error:#}")).collect(),
    })
}

/// Yardsticks shared by all loads, and the load's place in the plan.
#[derive(Clone, Copy)]
struct Servers<'a> {
    nothing: &'a Caller,
    one_insert: Option<&'a Caller>,
    number: usize,
}

async fn measure_load(
    plan: &Plan,
    environment: &Environment,
    load: Load,
    servers: Servers<'_>,
    progress: &mut (dyn FnMut(&Progress) + Send),
    notes: &mut Vec<String>,
) -> anyhow::Result<LoadReport> {
    let Servers {
        nothing,
        one_insert,
        number,
    } = servers;
    let name = format!("{number}-{}", load.name());
    let orderly = environment.server(plan, &name).await?;
    let subjects = Subjects {
        plan,
        load,
        connections: connections(plan, load),
        scripts: Scripts::of(plan, load, &orderly, nothing, one_insert).await?,
        store: raw_store(plan, environment, load, &name).await?,
        orderly,
        folder: environment.folder.path(),
    };
    let kinds = subjects.kinds();
    let steps = plan.rounds * kinds.len();
    subjects.warm_up().await?;
    let mut rounds = Vec::new();
    for round in 1..=plan.rounds {
        let mut measured = Vec::new();
        let rate = subjects.rate().await?;
        for &kind in &kinds {
            let of_load = (round - 1) * kinds.len() + measured.len();
            progress(&Progress {
                // Assumes that all loads have as many kinds.
                done: number * steps + of_load,
                total: steps * plan.loads.len(),
                load,
                kind,
                round,
            });
            measured.push((kind, subjects.measure_alone(kind, rate, notes).await?));
        }
        rounds.push(measured);
    }
    if let Some(store) = &subjects.store {
        store.close().await;
    }
    if !matches!(plan.target, Target::Running(_)) {
        environment.end(&subjects.orderly).await;
    }
    Ok(LoadReport::of(load, subjects.connections, &rounds))
}

/// Returns the number of connections, limited so that waiting orders fill at most half of the room for commits: some room
/// is freed only a moment after the answer.
fn connections(plan: &Plan, load: Load) -> usize {
    match load {
        Load::Batch => plan
            .connections
            .min(ORDERS_WAITING_MAX / 2 / plan.batch_size)
            .max(1),
        Load::Accept | Load::Status | Load::Mixed | Load::EndToEnd | Load::Drain | Load::Pickup => {
            plan.connections
        }
    }
}

/// Opens the store yardstick for loads that have it.
async fn raw_store(
    plan: &Plan,
    environment: &Environment,
    load: Load,
    name: &str,
) -> anyhow::Result<Option<RawStore>> {
    let is_of_load = match load {
        Load::Accept | Load::Batch | Load::EndToEnd => true,
        Load::Status | Load::Mixed | Load::Drain | Load::Pickup => false,
    };
    if !is_of_load || matches!(plan.target, Target::Running(_)) {
        return Ok(None);
    }
    let url = environment.new_store(plan, &format!("{name}-store")).await?;
    Ok(Some(RawStore::open(&url).await?))
}
