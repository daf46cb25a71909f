//! Output for people and programs: results on stdout, messages on stderr, tables, JSON.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::ops::ControlFlow;

use serde::Serialize;

use super::failure::Failure;

/// Returns a user from an answer as a command takes it: a number, or a text without quotes.
pub fn user_text(user: &serde_json::Value) -> String {
    user.as_str().map_or_else(|| user.to_string(), str::to_owned)
}

/// Writes a result and a newline.
pub fn result(text: &str) -> Result<(), Failure> {
    // After a broken pipe no more output is wanted.
    write(&format!("{text}\n")).map(|_| ())
}

/// Writes to stdout and flushes. A closed reader (`| head`) ends the output without a failure.
pub fn write(text: &str) -> Result<ControlFlow<()>, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(Failure::failed("write to stdout", error)),
    }
}

/// Writes a result as JSON.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::failed("write JSON", error))?;
    result(&text)
}

/// Writes a line to stderr. A failed write is ignored: it cannot be reported anywhere.
pub fn message(text: &str) {
    let _ = writeln!(io::stderr(), "orderly: {}", printable(text));
}

/// Returns columns under their headings.
pub fn table<const COLUMNS: usize>(headings: [&str; COLUMNS], rows: &[[String; COLUMNS]]) -> String {
    let headings = headings.map(str::to_owned);
    Table::new(COLUMNS).lines([headings].iter().chain(rows))
}

/// Table whose columns stay aligned over several pages: a column never gets narrower.
pub struct Table {
    widths: Vec<usize>,
}

impl Table {
    pub fn new(columns: usize) -> Table {
        Table {
            widths: vec![0; columns],
        }
    }

    /// Formats the next rows, each with a cell per column.
    pub fn lines<R: AsRef<[String]>>(&mut self, rows: impl IntoIterator<Item = R>) -> String {
        let rows: Vec<Vec<String>> = rows
            .into_iter()
            .map(|row| row.as_ref().iter().map(|cell| printable(cell)).collect())
            .collect();
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let lines: Vec<String> = rows
            .iter()
            .map(|row| {
                let mut line = String::new();
                for (cell, width) in row.iter().zip(&self.widths) {
                    // Writing to a String does not fail.
                    let _ = write!(line, "{cell:width$}  ");
                }
                line.trim_end().to_owned()
            })
            .collect();
        lines.join("\n")
    }
}

/// Replaces control characters: foreign text must not control the terminal.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|character| {
            if character.is_control() {
                '\u{fffd}'
            } else {
                character
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_control_characters_are_replaced() {
        let rows = [
            ["1".to_owned(), "a".to_owned()],
            ["100".to_owned(), "\u{1b}[31mred".to_owned()],
        ];
        assert_eq!(
            table(["ID", "REFERENCE"], &rows),
            "ID   REFERENCE\n1    a\n100  \u{fffd}[31mred"
        );
    }
}
