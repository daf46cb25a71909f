//! Results as a Markdown table, as in `docs/OPERATIONS.md`.

use std::time::Duration;

use super::judge::Row;

const HEAD: &str = "\
| failure | way | primary back after | longest time without a 201, part after recovery | 201s | other answers | slowest answer | lost | stored or ended twice | feed events missing / duplicated | wrongly ready |
|---|---|---|---|---|---|---|---|---|---|---|";

pub fn table(rows: &[Row]) -> String {
    let lines: Vec<String> = rows.iter().map(line).collect();
    format!("{HEAD}\n{}", lines.join("\n"))
}

pub fn line(row: &Row) -> String {
    let refusals: Vec<String> = row
        .refusals
        .iter()
        .map(|(status, count)| format!("{count}× {status}"))
        .collect();
    let refusals = if refusals.is_empty() {
        "-".to_owned()
    } else {
        refusals.join(", ")
    };
    format!(
        "| {} | {} | {} | {}, {} | {} | {refusals} | {} | {} | {} | {} / {} | {} |",
        row.scenario.name(),
        row.way.name(),
        seconds(row.leads),
        seconds(row.pause),
        seconds(row.pause_after),
        row.accepted,
        seconds(row.slowest),
        row.lost,
        row.stored_twice + row.ended_twice,
        row.feed_missing,
        row.feed_twice,
        seconds(row.ready_in_vain),
    )
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
