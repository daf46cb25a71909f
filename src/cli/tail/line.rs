//! Formats a change of an order as a line for people.

use std::fmt::Write as _;

use clap::builder::styling::{AnsiColor, Style};
use serde::Deserialize;
use serde_json::Value;

use crate::cli::output::{printable, user_text};
use crate::order::OrderStatus;

/// A change as sent by the server.
#[derive(Deserialize)]
pub struct Line {
    at: String,
    order_id: i64,
    user_id: Value,
    version: u32,
    kind: String,
    status: String,
    error: Option<String>,
    reason: Option<String>,
}

impl Line {
    pub fn read(json: &str) -> Result<Line, serde_json::Error> {
        serde_json::from_str(json)
    }

    /// Returns the line. Fixed column widths fit usual values, so that no line waits for another.
    pub fn text(&self, coloured: bool) -> String {
        let style = if coloured {
            style(&self.status)
        } else {
            Style::new()
        };
        let user = user_text(&self.user_id);
        let mut text = format!(
            "{}  order {:<8} user {:<8} v{:<3} {:<15} {style}{:<10}{style:#}",
            printable(&self.at),
            self.order_id,
            printable(&user),
            self.version,
            printable(&self.kind),
            printable(&self.status),
        );
        if let Some(reason) = &self.reason {
            // Writing to a String does not fail.
            let _ = write!(text, "  ({})", printable(reason));
        }
        if let Some(error) = &self.error {
            // Writing to a String does not fail.
            let _ = write!(text, "  {}", printable(error));
        }
        text.truncate(text.trim_end().len());
        text
    }
}

fn style(status: &str) -> Style {
    let colour = match OrderStatus::ALL.into_iter().find(|known| known.name() == status) {
        Some(OrderStatus::Pending) => AnsiColor::Yellow,
        Some(OrderStatus::Processing) => AnsiColor::Blue,
        Some(OrderStatus::Completed) => AnsiColor::Green,
        Some(OrderStatus::Failed) => AnsiColor::Red,
        Some(OrderStatus::Cancelled) => AnsiColor::Magenta,
        None => return Style::new(),
    };
    colour.on_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: &str = r#"{"cursor":"x","order_id":45,"user_id":104,"version":3,"kind":"failed","status":"Failed",
        "at":"2030-01-31T12:00:05.000000Z","attempt":1,"node":"00c0ffee00c0ffee","error":"refused\u001b[2J"}"#;
    const ACCEPTED: &str = r#"{"cursor":"x","order_id":1045,"user_id":7,"version":1,"kind":"accepted",
        "status":"Pending","at":"2030-01-31T12:00:00.000000Z","attempt":0,"node":null,"error":null}"#;

    #[test]
    fn columns_align_and_control_characters_are_replaced() {
        let lines = [ACCEPTED, FAILED].map(|json| Line::read(json).unwrap().text(false));
        assert_eq!(
            lines,
            [
                "2030-01-31T12:00:00.000000Z  order 1045     user 7        v1   accepted        Pending",
                "2030-01-31T12:00:05.000000Z  order 45       user 104      v3   failed          Failed      \
                 refused\u{fffd}[2J",
            ]
        );
    }

    #[test]
    fn a_status_is_coloured_where_colours_are_supported() {
        let line = Line::read(FAILED).unwrap().text(true);
        assert!(line.contains("\u{1b}[31mFailed    \u{1b}[0m"), "{line:?}");
    }
}
