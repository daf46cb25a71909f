//! Report of a run for people: one table per load, the server under test first, then its yardsticks.

use crate::bench::{Kind, KindReport, LatencyFigures, LoadReport, Report, Spread};
use crate::cli::output;

pub fn tables(report: &Report) -> String {
    let mut parts: Vec<String> = report.loads.iter().map(|load| table(report, load)).collect();
    parts.extend(
        report
            .notes
            .iter()
            .map(|note| format!("Note: {}", output::printable(note))),
    );
    parts.join("\n\n")
}

/// Display name of a kind.
pub fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Orderly => "orderly",
        Kind::Nothing => "nothing stored",
        Kind::OneInsert => "one INSERT",
        Kind::Store => "store alone",
        Kind::Disk => "disk syncs",
    }
}

fn table(report: &Report, load: &LoadReport) -> String {
    let rounds = match report.rounds {
        1 => "1 round".to_owned(),
        rounds => format!("{rounds} rounds"),
    };
    let mut text = format!(
        "{}, {}, {} connections, {} users, {rounds} of {} s\n",
        load.load.name(),
        report.store,
        load.connections,
        report.users,
        report.duration_seconds
    );
    let rows: Vec<[String; 6]> = load.kinds.iter().map(row).collect();
    let rate = format!("{} (MIN / MEDIAN / MAX)", load.unit.to_uppercase());
    text += &output::table(
        ["KIND", &rate, "ORDERLY BY IT", "P50 MS", "P99 MS", "MAX MS"],
        &rows,
    );
    for kind in &load.kinds {
        for line in remarks(kind) {
            text += "\n";
            text += &line;
        }
    }
    text
}

fn row(kind: &KindReport) -> [String; 6] {
    let latency = |figure: fn(&LatencyFigures) -> f64| {
        let shown = kind
            .latency
            .as_ref()
            .map(|latency| format!("{:.2}", figure(latency)));
        shown.unwrap_or_default()
    };
    let rate = kind.rate.map(|Spread { min, median, max }| {
        format!("{} / {} / {}", grouped(min), grouped(median), grouped(max))
    });
    let ratio = kind.ratio.map(|ratio| match ratio.median {
        median if median < 10.0 => format!("{median:.2}"),
        median => format!("{median:.1}"),
    });
    [
        name(kind.kind).to_owned(),
        rate.unwrap_or_default(),
        ratio.unwrap_or_default(),
        latency(|latency| latency.p50_ms),
        latency(|latency| latency.p99_ms),
        latency(|latency| latency.max_ms),
    ]
}

/// Returns the remarks that fit no column.
fn remarks(kind: &KindReport) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(processing) = kind.processing {
        match (processing.start_p50_ms, processing.start_p99_ms) {
            (Some(p50), Some(p99)) => remarks.push(format!(
                "Latency from the 201 to the end of processing; to the order's start: p50 {p50:.2} ms, p99 {p99:.2} ms."
            )),
            _ => remarks.push(format!(
                "Accepted {} and completed {} a second; the lower rate counts. The queue {}, by at most {}.",
                grouped(processing.accepted_per_second),
                grouped(processing.completed_per_second),
                if processing.queue_grew { "grew" } else { "did not grow" },
                processing.queue_growth
            )),
        }
    }
    let offered = Spread::of(kind.rounds.iter().filter_map(|round| round.offered));
    if let Some(offered) = offered {
        let unsent: u64 = kind.rounds.iter().map(|round| round.unsent).sum();
        remarks.push(format!(
            "{}: {} requests a second were intended, {unsent} never sent; latencies count from the intended start.",
            name(kind.kind),
            grouped(offered.median)
        ));
    }
    let refused: u64 = kind.rounds.iter().map(|round| round.refused).sum();
    if refused > 0 {
        remarks.push(format!(
            "{}: {refused} requests were REFUSED: its figures are not valid.",
            name(kind.kind)
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
