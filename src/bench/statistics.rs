//! Statistics: latencies of one round, and the spread of a figure over the rounds.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Maximum recorded latency; longer ones count as this.
const LATENCY_MAX: Duration = Duration::from_mins(5);
/// Significant digits of a latency.
const DIGITS: u8 = 3;

/// Latencies of one round, or of a part of it.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Latencies {
        let histogram = Histogram::new_with_max(micros(LATENCY_MAX), DIGITS);
        Latencies(histogram.expect("the bounds are valid"))
    }
}

impl Latencies {
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(micros(latency));
    }

    pub fn add(&mut self, others: &Latencies) {
        let added = self.0.add(&others.0);
        added.expect("all have the same bounds");
    }

    /// Returns `None` if there are no latencies.
    pub fn figures(&self) -> Option<LatencyFigures> {
        let millis = |micros: u64| Duration::from_micros(micros).as_secs_f64() * 1_000.0;
        (!self.0.is_empty()).then(|| LatencyFigures {
            p50_ms: millis(self.0.value_at_quantile(0.5)),
            p99_ms: millis(self.0.value_at_quantile(0.99)),
            max_ms: millis(self.0.max()),
        })
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct LatencyFigures {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// Spread of one figure over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    /// Returns `None` without figures. The median of an even number is the mean of the two in the middle.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let upper = figures.get(figures.len() / 2)?;
        let lower = figures.get((figures.len() - 1) / 2)?;
        Some(Spread {
            min: *figures.first()?,
            median: f64::midpoint(*lower, *upper),
            max: *figures.last()?,
        })
    }
}

/// Returns a rate; counts are small enough to be exact as floats.
#[allow(clippy::cast_precision_loss)]
pub fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_lies_in_the_middle() {
        assert_eq!(Spread::of([]), None);
        let of = |figures: &[f64]| {
            let spread = Spread::of(figures.iter().copied()).unwrap();
            (spread.min, spread.median, spread.max)
        };
        assert_eq!(of(&[3.0]), (3.0, 3.0, 3.0));
        assert_eq!(of(&[4.0, 1.0]), (1.0, 2.5, 4.0));
        assert_eq!(of(&[9.0, 1.0, 2.0]), (1.0, 2.0, 9.0));
    }

    #[test]
    fn latencies_of_all_parts_are_combined() {
        let mut all = Latencies::default();
        assert!(all.figures().is_none());
        let mut other = Latencies::default();
        for millis in 1..=98 {
            all.record(Duration::from_millis(millis));
        }
        other.record(Duration::from_millis(500));
        other.record(Duration::from_hours(1));
        all.add(&other);
        let figures = all.figures().unwrap();
        let close = |found: f64, expected: f64| (found / expected - 1.0).abs() < 0.002;
        assert!(close(figures.p50_ms, 50.0), "{figures:?}");
        assert!(close(figures.p99_ms, 500.0), "{figures:?}");
        assert!(close(figures.max_ms, 300_000.0), "{figures:?}");
    }
}
