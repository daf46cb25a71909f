//! Benchmark: measures a server and its yardsticks in turn, round by round: on one machine absolute figures drift from
//! hour to hour, ratios do not. The server is a new process of this program on new data, or a running one. `cli/bench.rs`
//! parses arguments and shows the report.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

mod connection;
mod databases;
mod disk;
mod environment;
pub mod forgetful;
mod load;
pub mod one_insert;
mod pace;
mod process;
mod raw_store;
mod report;
mod rounds;
mod script;
mod statistics;
mod subjects;
mod target;

pub use databases::Databases;
pub use report::{KindReport, LoadReport, Processing, Report, Round};
pub use script::Caller;
pub use statistics::{LatencyFigures, Spread};

/// Variable with a yardstick's database URL.
pub const YARDSTICK_DATABASE_VARIABLE: &str = "BENCH_DATABASE_URL";

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

/// Subject of a measurement: the server under test or a yardstick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The server under test.
    Orderly,
    /// `orderly` with the same HTTP side over a store that discards everything.
    Nothing,
    /// One INSERT per request, see [`one_insert`].
    OneInsert,
    /// The store alone, called directly.
    Store,
    /// The disk: one append with a sync at a time.
    Disk,
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
    /// URL of the PostgreSQL server for the one-INSERT yardstick.
    pub yardstick_database: Option<String>,
    /// Program of the server under test.
    pub program: PathBuf,
    /// This program, which serves the yardsticks.
    pub yardstick_program: PathBuf,
    /// Parent of the run's own folder; its disk is measured.
    pub folder: PathBuf,
    /// Variables of the server under test.
    pub settings: Vec<(String, String)>,
    pub connections: usize,
    /// Measuring time of each kind in each round.
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
    pub kind: Kind,
    pub round: usize,
}

/// Runs the plan until it ends or `interrupted` resolves. Either way everything temporary is removed.
pub async fn run(
    plan: &Plan,
    progress: &mut (dyn FnMut(&Progress) + Send),
    interrupted: impl Future<Output = ()>,
) -> anyhow::Result<Report> {
    let environment = environment::Environment::new(plan)?;
    let measured = tokio::select! {
        measured = rounds::measure(plan, &environment, progress) => measured,
        () = interrupted => Err(anyhow::anyhow!("interrupted")),
    };
    environment.clear().await;
    measured
}
