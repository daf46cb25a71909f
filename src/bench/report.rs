//! Report of a run. The command shows it.

use serde::Serialize;

use super::Load;
use super::statistics::{LatencyFigures, Spread};

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub version: &'static str,
    /// Store of the server: `sqlite`, `postgresql`, or `unknown` for a running server.
    pub store: &'static str,
    /// Number of users; orders were spread over them in turn.
    pub users: usize,
    pub duration_seconds: f64,
    pub rounds: usize,
    pub settings: Vec<String>,
    pub loads: Vec<LoadReport>,
    /// Remarks for the reader.
    pub notes: Vec<String>,
    /// Loads that could not be measured, and why.
    pub failures: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct LoadReport {
    pub load: Load,
    pub connections: usize,
    pub unit: &'static str,
    pub rate: Option<Spread>,
    /// Medians over the rounds; the maximum over all.
    pub latency: Option<LatencyFigures>,
    pub processing: Option<Processing>,
    pub rounds: Vec<Round>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Round {
    pub rate: f64,
    /// Number of successful answers or orders.
    pub count: u64,
    pub refused: u64,
    /// Requests of an open loop that were never sent, because the server was too slow.
    pub unsent: u64,
    /// Intended requests per second of an open loop.
    pub offered: Option<f64>,
    pub latency: Option<LatencyFigures>,
    pub processing: Option<Processing>,
}

/// Processing of the orders during a round.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Processing {
    pub accepted_per_second: f64,
    pub completed_per_second: f64,
    /// Growth of Pending and Processing orders over the round.
    pub queue_growth: i64,
    /// Set if it grew by more than the usual number of running orders.
    pub queue_grew: bool,
    /// Latency from the 201 to the start stored in the order, which is set within the claim, before its commit. Medians
    /// in milliseconds, only for `pickup`.
    pub start_p50_ms: Option<f64>,
    pub start_p99_ms: Option<f64>,
}

impl Report {
    /// Reports whether all was measured and every figure is valid.
    pub fn is_good(&self) -> bool {
        let mut rounds = self.loads.iter().flat_map(|load| &load.rounds);
        self.failures.is_empty() && rounds.all(|round| round.refused == 0)
    }
}

impl LoadReport {
    pub fn of(load: Load, connections: usize, rounds: Vec<Round>) -> LoadReport {
        LoadReport {
            load,
            connections,
            unit: load.unit(),
            rate: Spread::of(rounds.iter().map(|round| round.rate)),
            latency: median_latency(&rounds),
            processing: median_processing(&rounds),
            rounds,
        }
    }
}

fn median(figures: impl Iterator<Item = f64>) -> Option<f64> {
    Spread::of(figures).map(|spread| spread.median)
}

fn median_latency(rounds: &[Round]) -> Option<LatencyFigures> {
    let all = || rounds.iter().filter_map(|round| round.latency);
    Some(LatencyFigures {
        p50_ms: median(all().map(|latency| latency.p50_ms))?,
        p99_ms: median(all().map(|latency| latency.p99_ms))?,
        max_ms: Spread::of(all().map(|latency| latency.max_ms))?.max,
    })
}

fn median_processing(rounds: &[Round]) -> Option<Processing> {
    let all = || rounds.iter().filter_map(|round| round.processing);
    Some(Processing {
        accepted_per_second: median(all().map(|processing| processing.accepted_per_second))?,
        completed_per_second: median(all().map(|processing| processing.completed_per_second))?,
        queue_growth: all().map(|processing| processing.queue_growth).max()?,
        queue_grew: all().any(|processing| processing.queue_grew),
        start_p50_ms: median(all().filter_map(|processing| processing.start_p50_ms)),
        start_p99_ms: median(all().filter_map(|processing| processing.start_p99_ms)),
    })
}
