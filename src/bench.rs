//! Load generator of `orderly bench`: sends loads to a server in rounds, and reports rates and latencies. The server is a
//! new process of this program on new data, or a running one. `cli/bench.rs` parses arguments and shows the report;
//! `cargo xtask bench` compares the rates with yardsticks and other programs.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

mod connection;
mod databases;
mod environment;
mod load;
mod measurement;
mod pace;
mod report;
mod script;
mod statistics;
mod target;

pub use databases::Databases;
use environment::Environment;
use measurement::Measurement;
pub use report::{LoadReport, Processing, Report, Round};
pub use script::Caller;
pub use statistics::{LatencyFigures, Spread, per_second};

use crate::store::ORDERS_WAITING_MAX;

/// Load on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// One order per request, while the queue is paused
    Accept,
    /// Many orders per request, while the queue is paused
    Batch,
    /// Reads of single orders
    Status,
    /// Orders with three reads each, while orders are processed
    Mixed,
    /// One order per request, while orders are processed: accepted, claimed and settled
    EndToEnd,
    /// Processing of waiting orders until all are completed
    Drain,
    /// One order at a time on an idle server
    Pickup,
}

impl Load {
    pub fn name(self) -> &'static str {
        match self {
            Load::Accept => "accept",
            Load::Batch => "batch",
            Load::Status => "status",
            Load::Mixed => "mixed",
            Load::EndToEnd => "end-to-end",
            Load::Drain => "drain",
            Load::Pickup => "pickup",
        }
    }

    /// Returns the unit of its rates.
    pub fn unit(self) -> &'static str {
        match self {
            Load::Accept | Load::Batch | Load::EndToEnd | Load::Drain | Load::Pickup => "orders/s",
            Load::Status | Load::Mixed => "requests/s",
        }
    }

    /// Reports whether it supports an open loop.
    fn takes_rate(self) -> bool {
        match self {
            Load::Accept | Load::Batch | Load::Status | Load::Mixed | Load::EndToEnd => true,
            Load::Drain | Load::Pickup => false,
        }
    }
}

/// Request rate of an open loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    PerSecond(f64),
    /// Share, 0 to 1, of the rate of a closed loop measured just before.
    OfPeak(f64),
}

/// The server to measure.
#[derive(Clone)]
pub enum Target {
    /// A new server on a new file.
    Sqlite,
    /// A new server on a new database beside the one of the URL.
    Postgres(String),
    Running(Caller),
}

#[derive(Clone)]
pub struct Plan {
    pub loads: Vec<Load>,
    pub target: Target,
    /// Program of the server under test.
    pub program: PathBuf,
    /// Parent of the run's own folder; its disk is measured.
    pub folder: PathBuf,
    /// Variables of the server under test.
    pub settings: Vec<(String, String)>,
    pub connections: usize,
    /// Measuring time of each round.
    pub time: Duration,
    pub rounds: usize,
    /// `None` for a closed loop.
    pub rate: Option<Rate>,
    /// Number of waiting orders for `drain`.
    pub orders: usize,
    /// Orders per request of `batch`.
    pub batch_size: usize,
    /// Number of users; orders are spread over them in turn.
    pub users: usize,
}

/// The next step of a run.
pub struct Progress {
    pub done: usize,
    pub total: usize,
    pub load: Load,
    pub round: usize,
}

/// Runs the plan until it ends or `interrupted` resolves. Either way everything temporary is removed.
pub async fn run(
    plan: &Plan,
    progress: &mut dyn FnMut(&Progress),
    interrupted: impl Future<Output = ()>,
) -> anyhow::Result<Report> {
    let environment = Environment::new(plan)?;
    let measured = tokio::select! {
        measured = measure(plan, &environment, progress) => measured,
        () = interrupted => Err(anyhow::anyhow!("interrupted")),
    };
    environment.clear().await;
    measured
}

async fn measure(
    plan: &Plan,
    environment: &Environment,
    progress: &mut dyn FnMut(&Progress),
) -> anyhow::Result<Report> {
    let mut notes = Vec::new();
    let mut loads = Vec::new();
    let mut failures = Vec::new();
    for (number, &load) in plan.loads.iter().enumerate() {
        let measured = measure_load(plan, environment, number, progress, &mut notes).await;
        match measured.with_context(|| format!("measure {}", load.name())) {
            Ok(report) => loads.push(report),
            // A failed load does not affect the others.
            Err(error) => failures.push(error),
        }
        environment.end_server().await;
    }
    if loads.is_empty()
        && let Some(error) = failures.pop()
    {
        return Err(error);
    }
    let settings = plan.settings.iter();
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        store: match plan.target {
            Target::Sqlite => "sqlite",
            Target::Postgres(_) => "postgresql",
            Target::Running(_) => "unknown",
        },
        users: plan.users,
        duration_seconds: plan.time.as_secs_f64(),
        rounds: plan.rounds,
        settings: settings.map(|(name, value)| format!("{name}={value}")).collect(),
        loads,
        notes,
        failures: failures.iter().map(|error| format!("{error:#}")).collect(),
    })
}

/// Measures a load in all rounds; `number` is its place in the plan.
async fn measure_load(
    plan: &Plan,
    environment: &Environment,
    number: usize,
    progress: &mut dyn FnMut(&Progress),
    notes: &mut Vec<String>,
) -> anyhow::Result<LoadReport> {
    let load = plan.loads[number];
    let server = environment
        .server(plan, &format!("{number}-{}", load.name()))
        .await?;
    let measurement = Measurement::prepare(plan, load, server).await?;
    let mut rounds = Vec::new();
    for round in 1..=plan.rounds {
        progress(&Progress {
            done: number * plan.rounds + round - 1,
            total: plan.loads.len() * plan.rounds,
            load,
            round,
        });
        rounds.push(measurement.round(notes).await?);
    }
    Ok(LoadReport::of(load, measurement.connections, rounds))
}

/// Returns the number of connections, limited so that waiting orders fill at most half of the room for commits: some room
/// is freed only a moment after the answer.
pub fn connections_for_batches(connections: usize, batch_size: usize) -> usize {
    connections.min(ORDERS_WAITING_MAX / 2 / batch_size).max(1)
}
