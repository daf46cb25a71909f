//! Report of a run for people: a table with a row per load, and remarks.

use crate::bench::{LatencyFigures, LoadReport, Report, Spread};
use crate::cli::output;

pub fn of(report: &Report) -> String {
    let rounds = match report.rounds {
        1 => "1 round".to_owned(),
        rounds => format!("{rounds} rounds"),
    };
    let (store, users, seconds) = (report.store, report.users, report.duration_seconds);
    let headings = [
        "LOAD",
        "CONNECTIONS",
        "RATE (MIN / MEDIAN / MAX)",
        "P50 MS",
        "P99 MS",
        "MAX MS",
    ];
    let rows: Vec<[String; 6]> = report.loads.iter().map(row).collect();
    let mut text = format!("{store}, {users} users, {rounds} of {seconds} s\n");
    text += &output::table(headings, &rows);
    let notes = report.notes.iter().map(|note| output::printable(note));
    for line in report.loads.iter().flat_map(remarks).chain(notes) {
        text += "\n";
        text += &line;
    }
    text
}

fn row(load: &LoadReport) -> [String; 6] {
    let latency = |figure: fn(&LatencyFigures) -> f64| {
        let shown = load
            .latency
            .as_ref()
            .map(|latency| format!("{:.2}", figure(latency)));
        shown.unwrap_or_default()
    };
    let rate = load.rate.map(|Spread { min, median, max }| {
        format!(
            "{} / {} / {} {}",
            grouped(min),
            grouped(median),
            grouped(max),
            load.unit
        )
    });
    [
        load.load.name().to_owned(),
        load.connections.to_string(),
        rate.unwrap_or_default(),
        latency(|latency| latency.p50_ms),
        latency(|latency| latency.p99_ms),
        latency(|latency| latency.max_ms),
    ]
}

/// Returns the remarks that fit no column.
fn remarks(load: &LoadReport) -> Vec<String> {
    let name = load.load.name();
    let mut remarks = Vec::new();
    if let Some(processing) = load.processing {
        remarks.push(match (processing.start_p50_ms, processing.start_p99_ms) {
            (Some(p50), Some(p99)) => format!(
                "{name}: latency from the 201 to the end of processing; to the order's start: p50 {p50:.2} ms, p99 {p99:.2} ms."
            ),
            _ => format!(
                "{name}: accepted {} and completed {} a second; the lower rate counts. The queue {}, by at most {}.",
                grouped(processing.accepted_per_second),
                grouped(processing.completed_per_second),
                if processing.queue_grew { "grew" } else { "did not grow" },
                processing.queue_growth
            ),
        });
    }
    if let Some(offered) = Spread::of(load.rounds.iter().filter_map(|round| round.offered)) {
        let unsent: u64 = load.rounds.iter().map(|round| round.unsent).sum();
        remarks.push(format!(
            "{name}: {} requests a second were intended, {unsent} never sent; latencies count from the intended start.",
            grouped(offered.median)
        ));
    }
    let refused: u64 = load.rounds.iter().map(|round| round.refused).sum();
    if refused > 0 {
        remarks.push(format!(
            "{name}: {refused} requests were REFUSED: its figures are not valid."
        ));
    }
    remarks
}

/// Formats 51234.5 as `51,235`.
fn grouped(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated_by_commas() {
        for (figure, expected) in [
            (0.4, "0"),
            (999.0, "999"),
            (1_000.0, "1,000"),
            (1_234_567.2, "1,234,567"),
        ] {
            assert_eq!(grouped(figure), expected);
        }
    }
}
