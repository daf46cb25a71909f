//! Report of a run. The command shows it.

use serde::Serialize;

use super::statistics::{LatencyFigures, Spread};
use super::{Kind, Load};

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub version: &'static str,
    /// Store of the server: `sqlite`, `postgresql`, or `unknown` for a running server.
    pub store: &'static str,
    pub connections: usize,
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
    /// The server under test, then the yardsticks.
    pub kinds: Vec<KindReport>,
}

#[derive(Clone, Debug, Serialize)]
pub struct KindReport {
    pub kind: Kind,
    pub rate: Option<Spread>,
    /// The server's rate divided by this kind's, round by round; only for yardsticks with a comparable rate.
    pub ratio: Option<Spread>,
    /// Medians over the rounds; the maximum over all.
    pub latency: Option<LatencyFigures>,
    pub processing: Option<Processing>,
    pub rounds: Vec<Round>,
}

/// One kind in one round.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    pub rate: f64,
    /// Number of successful answers, orders or syncs.
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
        let kinds = self.loads.iter().flat_map(|load| &load.kinds);
        let mut rounds = kinds.flat_map(|kind| &kind.rounds);
        self.failures.is_empty() && rounds.all(|round| round.refused == 0)
    }
}

impl LoadReport {
    /// Summarizes all rounds; the server under test comes first.
    pub fn of(load: Load, connections: usize, rounds: &[Vec<(Kind, Round)>]) -> LoadReport {
        let kinds = rounds.first().map(Vec::as_slice).unwrap_or_default();
        let kinds = kinds.iter().map(|(kind, _)| {
            let mut report = KindReport::of(*kind, rounds);
            if load == Load::Pickup {
                // One order at a time with pauses: its rate is its own choice.
                report.ratio = None;
            }
            report
        });
        LoadReport {
            load,
            connections,
            unit: load.unit(),
            kinds: kinds.collect(),
        }
    }
}

impl KindReport {
    fn of(kind: Kind, rounds: &[Vec<(Kind, Round)>]) -> KindReport {
        let of_kind = |wanted: Kind| {
            let all = rounds.iter().flatten();
            all.filter(move |(kind, _)| *kind == wanted)
                .map(|(_, round)| round)
        };
        let pairs = of_kind(Kind::Orderly).zip(of_kind(kind));
        // No ratio against a yardstick that did nothing in a round.
        let ratios = pairs
            .filter(|(_, yardstick)| yardstick.rate > 0.0)
            .map(|(own, yardstick)| own.rate / yardstick.rate);
        let own: Vec<Round> = of_kind(kind).cloned().collect();
        KindReport {
            kind,
            rate: Spread::of(own.iter().map(|round| round.rate)),
            ratio: Spread::of(ratios).filter(|_| kind != Kind::Orderly),
            latency: median_latency(&own),
            processing: median_processing(&own),
            rounds: own,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn round(rate: f64) -> Round {
        Round {
            rate,
            count: 1,
            refused: 0,
            unsent: 0,
            offered: None,
            latency: None,
            processing: None,
        }
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_ratios() {
        let rounds = [(50.0, 100.0), (30.0, 100.0), (80.0, 100.0)]
            .map(|(own, yardstick)| vec![(Kind::Orderly, round(own)), (Kind::Nothing, round(yardstick))]);
        let report = LoadReport::of(Load::Accept, 64, &rounds);
        assert_eq!(report.kinds.len(), 2);
        assert_eq!(report.kinds[0].ratio, None);
        let ratio = report.kinds[1].ratio.unwrap();
        assert_eq!((ratio.min, ratio.median, ratio.max), (0.3, 0.5, 0.8));
    }
}
