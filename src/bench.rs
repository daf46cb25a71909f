//! Measures a server against yardsticks taken in the same run, in turns, round by round: on one machine figures drift
//! from hour to hour, ratios do not. What is measured is a server of its own, a process of this program on new data, or
//! one that runs already. How it is asked for and shown is left to `cli/bench.rs`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

mod connection;
mod databases;
mod disk;
pub mod forgetful;
mod load;
pub mod one_insert;
mod pace;
mod process;
mod raw_store;
mod report;
mod rounds;
mod scene;
mod script;
mod statistics;
mod subjects;
mod target;

pub use databases::Databases;
pub use report::{KindReport, LoadReport, Processing, Report, Round};
pub use script::Caller;
pub use statistics::{LatencyFigures, Spread};

/// Tells a yardstick its database.
pub const YARDSTICK_DATABASE_VARIABLE: &str = "BENCH_DATABASE_URL";

/// What is done to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// One order a request, while the queue is paused
    Accept,
    /// Many orders a request, while the queue is paused
    Batch,
    /// Reads of the status of orders
    Status,
    /// Orders, and three reads of the status of each, while orders are processed
    Mixed,
    /// One order a request, while orders are processed: accepted, claimed and settled
    EndToEnd,
    /// Orders that wait, until all are completed
    Drain,
    /// One order at a time on a server that has nothing else to do
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

    /// What its rates count.
    pub fn unit(self) -> &'static str {
        match self {
            Load::Accept | Load::Batch | Load::EndToEnd | Load::Drain | Load::Pickup => "orders/s",
            Load::Status | Load::Mixed => "requests/s",
        }
    }

    /// Whether it makes sense at a rate of its own.
    fn takes_rate(self) -> bool {
        match self {
            Load::Accept | Load::Batch | Load::Status | Load::Mixed | Load::EndToEnd => true,
            Load::Drain | Load::Pickup => false,
        }
    }
}

/// What a rate is measured of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The server under test.
    Orderly,
    /// The same HTTP side over a store that forgets.
    Nothing,
    /// One INSERT per request, see [`one_insert`].
    OneInsert,
    /// The store alone, called directly.
    Store,
    /// The disk: one append with a sync.
    Disk,
}

/// Requests of an open loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    PerSecond(f64),
    /// Of the rate of a closed loop just before, 0 to 1.
    OfPeak(f64),
}

/// Which server is measured.
#[derive(Clone)]
pub enum Target {
    /// A new one on a new file.
    Sqlite,
    /// A new one on a new database beside the one of the URL.
    Postgres(String),
    Running(Caller),
}

#[derive(Clone)]
pub struct Plan {
    pub loads: Vec<Load>,
    pub target: Target,
    /// The PostgreSQL server of the yardstick that needs one, as a URL.
    pub yardstick_database: Option<String>,
    /// The server under test.
    pub program: PathBuf,
    /// This program, for the yardsticks.
    pub yardstick_program: PathBuf,
    /// Where the run makes a folder of its own; its disk is what is measured.
    pub folder: PathBuf,
    /// Variables for the server under test.
    pub settings: Vec<(String, String)>,
    pub connections: usize,
    /// Of each kind in each round.
    pub time: Duration,
    pub rounds: usize,
    /// `None` for a closed loop.
    pub rate: Option<Rate>,
    /// That wait for `drain`.
    pub orders: usize,
    /// Orders per request of `batch`.
    pub batch_size: usize,
    /// Whose orders they are, in turns.
    pub users: usize,
}

/// What comes next in a run.
pub struct Progress {
    pub done: usize,
    pub total: usize,
    pub load: Load,
    pub kind: Kind,
    pub round: usize,
}

/// Carries the plan out, unless `interrupted` resolves before the end. Either way nothing is left behind.
pub async fn run(
    plan: &Plan,
    progress: &mut (dyn FnMut(&Progress) + Send),
    interrupted: impl Future<Output = ()>,
) -> anyhow::Result<Report> {
    let scene = scene::Scene::new(plan)?;
    let measured = tokio::select! {
        measured = rounds::measure(plan, &scene, progress) => measured,
        () = interrupted => Err(anyhow::anyhow!("interrupted")),
    };
    scene.clear().await;
    measured
}
